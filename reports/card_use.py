"""Part of a model card with the code that loads the model, rendered when the card is written and when it is pushed."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from ..configuration import UniSRecConfig
from ..modeling_unisrec import UniSRecProcessor
from . import card_tables


# In the root of a checkout, and inside the package of an installation: both are one above this folder.
TEMPLATE = Path(__file__).parents[1] / "model_card.md"
# Lines around this part of the card. They contain a slash, and names of files and folders do not.
START, END = "<!-- unisrec/use -->\n", "<!-- /unisrec/use -->\n"


@dataclass(frozen=True)
class UseFacts:
    r"""
    Facts that the examples of a card depend on.

    Args:
        name (`str`): Folder or Hub id that the examples load.
        has_adapters (`bool`): Whether the checkpoint is a PEFT adapter.
        has_catalogue (`bool`): Whether it contains a catalogue.
        reads_text (`bool`): Whether it can encode item texts.
        is_inductive (`bool`): Whether it represents items by their text alone.
        fits_text_space (`bool`): Whether it reads texts in the text space of each catalogue.
        catalogue_withheld (`bool`): Whether it has a catalogue that is not shared.
    """

    name: str
    has_adapters: bool
    has_catalogue: bool
    reads_text: bool
    is_inductive: bool
    fits_text_space: bool = False
    catalogue_withheld: bool = False

    @classmethod
    def of_model(
        cls,
        name: str,
        config: UniSRecConfig,
        processor: UniSRecProcessor | None,
        has_text_encoder: bool,
        has_adapters: bool,
    ) -> "UseFacts":
        """Returns the facts of a model that is being saved."""
        return cls(
            name,
            has_adapters,
            processor is not None and processor.catalogue is not None,
            has_text_encoder and config.item_text and processor is not None and processor.tokenizer is not None,
            config.item_text and config.num_items is None,
            config.text_space == "catalogue",
        )

    @classmethod
    def of_folder(cls, folder: Path, name: str, catalogue: bool = True) -> "UseFacts":
        """Returns the facts of a checkpoint folder. Without `catalogue`, its items are not shared."""
        has_adapters = (folder / "adapter_config.json").is_file()
        settings = {} if has_adapters else json.loads((folder / "config.json").read_text(encoding="utf-8"))
        has_text_encoder = has_adapters or settings.get("text_config") is not None
        has_catalogue = (folder / "catalogue" / "items.parquet").is_file()
        item_text = settings.get("item_text", True)
        return cls(
            name,
            has_adapters,
            has_catalogue,
            has_text_encoder and item_text and (folder / "tokenizer_config.json").is_file(),
            item_text and settings.get("num_items") is None,
            settings.get("text_space") == "catalogue",
            catalogue_withheld=has_catalogue and not catalogue,
        )


def load_template(file: Path = TEMPLATE) -> Template:
    """Loads the template of the card with its filters."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters |= {name: getattr(card_tables, name) for name in card_tables.__all__}
    environment.filters |= {"python": python_literal, "shell": shell_word}
    return environment.from_string(file.read_text(encoding="utf-8"))


def replace_use(card: str, facts: UseFacts) -> str | None:
    r"""
    Renders the part of a card that loads the model again.

    Args:
        card (`str`): Text of the card.
        facts ([`UseFacts`]): Facts that the examples depend on.

    Returns:
        `str` or `None`: The new card, or `None` if the card does not contain both lines around that part exactly once.
    """
    if card.count(START) != 1 or card.count(END) != 1 or card.index(END) < card.index(START):
        return None
    template = load_template()
    part = "".join(template.blocks["use"](template.new_context({"use": facts})))
    return card[: card.index(START)] + part.strip("\n") + "\n" + card[card.index(END) + len(END) :]


def python_literal(text: str) -> str:
    """Formats a text as a Python literal in double quotes, on one line."""
    literal = json.dumps(text, ensure_ascii=False)
    return literal if literal.isprintable() else json.dumps(text)


def shell_word(text: str) -> str:
    """Quotes a text as one word of a shell command, on one line. It cannot be taken for an option."""
    if text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.encode("utf-8", "surrogateescape").decode("latin-1").encode("unicode_escape").decode("ascii")
    return "$'" + escaped.replace("'", r"\'") + "'"


__all__ = ["END", "START", "TEMPLATE", "UseFacts", "load_template", "replace_use"]
