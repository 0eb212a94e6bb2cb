"""Processor of UniSRec: tokenizer and item catalogue, which convert histories of ids and texts to a model batch."""

import itertools
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import TensorType, cached_file, logging

from ..configuration.configuration_unisrec import AUTO_MAP, copy_code, copy_endpoint_files
from .item_catalogue import ItemCatalogue, check_unicode


logger = logging.get_logger(__name__)


def check_histories(histories: Sequence[Sequence[str | Mapping[str, str]]], allow_empty: bool = False) -> None:
    """Raises `ValueError` if histories are no lists, or one is empty unless that is allowed."""
    if isinstance(histories, str):
        raise ValueError(
            f"the histories are the string {histories!r}: expected a list of histories, [[{histories!r}]] for one of one item."
        )
    for position, history in enumerate(histories):
        if isinstance(history, str):
            raise ValueError(f"history {position} is the string {history!r}: a history is a list, also of one item.")
        if len(history) == 0 and not allow_empty:
            raise ValueError(f"history {position} is empty: give at least one item.")


class UniSRecProcessor(ProcessorMixin):
    r"""
    Converts histories of item ids and raw texts to a batch of *distinct items + index matrix*.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Tokenizer of the text encoder. Without one, only items of the catalogue can be given.
        catalogue ([`ItemCatalogue`], *optional*):
            The items known by id.
        max_history_length (`int`, *optional*, defaults to 50):
            Maximum length of a history, in items; the latest are used. At most `max_position_embeddings` of the model.
        max_text_length (`int`, *optional*, defaults to 512):
            Maximum number of tokens of a text; longer texts are truncated.
        text_prompt (`str`, *optional*, defaults to `""`):
            Text put before each item text, the `text_prompt` of the model's configuration.

    Raises:
        ValueError: If a length is not a positive integer.

    Example:

    ```python
    >>> from unisrec import ItemCatalogue, UniSRecProcessor

    >>> catalogue = ItemCatalogue(["A1", "A2"], ["red pen", "blue pen"], torch.randn(2, 384))
    >>> processor = UniSRecProcessor(catalogue=catalogue)
    >>> processor([["A2", "A1", "A2"], ["A1"]])["item_index"]
    tensor([[1, 2, 1],
            [2, 0, 0]])

    ```
    """

    is_of_pipeline = False  # loaded by `pipeline` itself

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        catalogue: ItemCatalogue | None = None,
        max_history_length: int = 50,
        max_text_length: int = 512,
        text_prompt: str = "",
    ):
        for name, value in (("max_history_length", max_history_length), ("max_text_length", max_text_length)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number from 1.")
        # ProcessorMixin wants every part to be there; ours works without a tokenizer (embeddings-only models).
        self.tokenizer = tokenizer
        self.catalogue = catalogue
        self.max_history_length = max_history_length
        self.max_text_length = max_text_length
        self.text_prompt = text_prompt
        self.chat_template = None

    @property
    def model_input_names(self) -> list[str]:
        """Names of the arguments of [`UniSRecModel.forward`] that the processor may return."""
        return ["item_index", "text_embeds", "input_ids", "attention_mask", "id_rows"]

    def parse(self, entry: str | Mapping[str, str]) -> tuple[int | None, str]:
        r"""
        Parses an entry of a history.

        Args:
            entry (`str` or `Mapping[str, str]`):
                An id of the catalogue, as a string or as `{"item_id": ...}`, or an item given by its text as
                `{"text": ...}`, whether or not the catalogue has it.

        Returns:
            `tuple[int | None, str]`: Row in the catalogue, `None` for an item given by its text or sold no more, and the
                text.

        Raises:
            KeyError: For an unknown id, naming the nearest known ones.
            ValueError: If a text is empty, a mapping has other keys, or an id or text is not a string.
        """
        if not all(isinstance(value, str) for value in (entry.values() if isinstance(entry, Mapping) else [entry])):
            hint = "give one item" if isinstance(entry, Sequence) else "write a number as '12'"
            raise ValueError(f"ids and texts of items are strings, not {entry!r}: {hint}.")
        if isinstance(entry, str):
            return self._known(entry)
        if set(entry) == {"item_id"}:
            return self._known(entry["item_id"])
        if set(entry) != {"text"}:
            raise ValueError(f"an item is given as {{'item_id': ...}} or {{'text': ...}}, not as {dict(entry)!r}.")
        if not entry["text"].strip():
            raise ValueError("the text of an item is empty: give a few words, such as its title.")
        check_unicode([entry["text"]])
        return None, entry["text"]

    def _known(self, item_id: str) -> tuple[int, str]:
        if self.catalogue is None:
            raise KeyError(
                f"item id {item_id!r}: this processor has no catalogue; give items as {{'text': ...}} or set one."
            )
        if item_id in self.catalogue.former:
            return None, self.catalogue.former[item_id].text
        try:
            row = self.catalogue.row(item_id)
        except KeyError as error:
            raise KeyError(
                f"{error.args[0]} An item that is not in it can be given by its text: {{'text': '...'}} in Python, "
                "'text:...' on the command line."
            ) from None
        return row, self.catalogue.texts[row]

    def parse_histories(
        self, histories: Sequence[Sequence[str | Mapping[str, str]]], allow_empty: bool = False
    ) -> list[list[tuple[int | None, str]]]:
        r"""
        Parses all entries of histories.

        Args:
            histories (`Sequence[Sequence[str | Mapping[str, str]]]`): Entries as for [`~UniSRecProcessor.parse`].
            allow_empty (`bool`, *optional*, defaults to `False`): Whether a history may have no entries.

        Returns:
            `list[list[tuple[int | None, str]]]`: Row and text of each entry.

        Raises:
            KeyError: For an unknown id.
            ValueError: For an empty history unless it is allowed, one that is no list, and as `parse`.
        """
        check_histories(histories, allow_empty)
        return [[self.parse(entry) for entry in history] for history in histories]

    def __call__(self, histories: Sequence[Sequence[str | Mapping[str, str]]], **kwargs) -> BatchFeature:
        r"""
        Prepares a model batch from histories.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`):
                Oldest item first; see [`~UniSRecProcessor.parse`] for the forms of an item.
            kwargs: `return_tensors`, which must be `"pt"`.

        Returns:
            `BatchFeature`: `item_index` `(batch_size, length)`, `id_rows` `(num_items,)`, and for the items
            `text_embeds` (of the catalogue) and, behind them, `input_ids` and `attention_mask` (of texts); as
            [`UniSRecModel`] takes them.

        Raises:
            KeyError: For an unknown id.
            TypeError: For another keyword.
            ValueError: For an empty history, one that is no list, a text where there is no tokenizer, or tensors of
                another kind.
        """
        if (kind := kwargs.pop("return_tensors", "pt")) not in (None, "pt", TensorType.PYTORCH):
            raise ValueError(f"return_tensors is {kind!r}: a batch is of torch tensors, 'pt'.")
        if kwargs:
            raise TypeError(
                f"a batch of histories takes no {', '.join(kwargs)}; set it on the processor or tokenizer."
            )
        item_index, rows, texts = self.distinct_items(self.parse_histories(histories))
        batch = {"item_index": item_index, "id_rows": rows + 1}
        if self.catalogue is not None:
            batch["id_rows"] = self.catalogue.id_rows_of(rows)
        if len(rows) > len(texts):
            batch["text_embeds"] = self.catalogue.item_embeddings[rows[: len(rows) - len(texts)]]
        if texts:
            batch.update(self.tokenize(texts))
        return BatchFeature(batch)

    def distinct_items(
        self, parsed: Sequence[Sequence[tuple[int | None, str]]]
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        r"""
        Finds the distinct items of the latest `max_history_length` entries of histories.

        Args:
            parsed (`Sequence` of `Sequence` of `tuple`): Result of [`~UniSRecProcessor.parse_histories`].

        Returns:
            `tuple`: `item_index` `(batch_size, length)`; for each distinct item its catalogue row, -1 for none,
            `(num_items,)`; the texts of the last of them, whose vectors are not in the catalogue.
        """
        rows: set[int] = set()  # catalogue rows whose vectors are taken
        # Items with the same text may differ in their id: (catalogue row, text) -> position after the known ones.
        texts: dict[tuple[int | None, str], int] = {}
        embeddings = None if self.catalogue is None else self.catalogue.item_embeddings
        parsed = [entries[-self.max_history_length :] for entries in parsed]
        for row, text in itertools.chain.from_iterable(parsed):
            if row is None or embeddings is None:
                texts.setdefault((row, text), len(texts))
            else:
                rows.add(row)

        known = {row: place for place, row in enumerate(sorted(rows))}
        item_index = torch.zeros(len(parsed), max(map(len, parsed), default=0), dtype=torch.long)
        for history_row, entries in enumerate(parsed):
            places = [known[row] if row in known else len(known) + texts[row, text] for row, text in entries]
            item_index[history_row, : len(places)] = torch.tensor(places) + 1
        all_rows = [*known, *(-1 if row is None else row for row, _ in texts)]
        return item_index, torch.tensor(all_rows, dtype=torch.long), [text for _, text in texts]

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Tokenizes `texts`. Returns `input_ids` and `attention_mask`, each `(num_texts, num_tokens)`."""
        if self.tokenizer is None:
            raise ValueError(
                f"no tokenizer to read {texts[0]!r} with: this checkpoint takes items of its catalogue only; "
                "set `processor.tokenizer` to the one of its text encoder."
            )
        # Pad on the right regardless of the tokenizer: a training step cuts columns that are padding in all of its texts.
        encoded = self.tokenizer(
            [self.text_prompt + text for text in texts],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_text_length,
            return_tensors="pt",
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def to_dict(self) -> dict:
        """Returns the content of `processor_config.json`."""
        return {
            "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
            "processor_class": type(self).__name__,
            "max_history_length": self.max_history_length,
            "max_text_length": self.max_text_length,
            "text_prompt": self.text_prompt,
        }

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Writes `processor_config.json`, the tokenizer files, `catalogue/` with the files of an Inference Endpoint, and
        the code to `save_directory`, uploads them with `push_to_hub`, and returns the names of the files."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(directory)
            _drop_paths(directory / "tokenizer_config.json")
        if self.catalogue is not None:
            self.catalogue.save(directory / "catalogue")
            copy_endpoint_files(directory)
        config_file = directory / "processor_config.json"
        config_file.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        copy_code(directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", directory.name), **kwargs)
        return [str(config_file)]

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads the files written by `save_pretrained` to `repo_id` and returns the address of the commit."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*about to commit a data file")
            return super().push_to_hub(repo_id, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "UniSRecProcessor":
        r"""
        Reads a processor from a folder or the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id.
            kwargs:
                The download options `cache_dir`, `force_download`, `local_files_only`, `token` and `revision`;
                `trust_remote_code` for the tokenizer; `max_history_length`, `max_text_length` and `text_prompt`
                instead of the saved ones; settings of the tokenizer, such as `cls_token`.

        Returns:
            [`UniSRecProcessor`]: The processor, with the catalogue if one was saved.

        Raises:
            OSError: If there is no `processor_config.json`, or a file cannot be fetched.
            TypeError: For another keyword.
            ValueError: If a file is damaged.
        """
        is_pipeline = "_from_pipeline" in kwargs
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith("_")}  # what Auto classes add
        options = {name: kwargs.pop(name, None) for name in _DOWNLOAD_OPTIONS}
        options = {name: value for name, value in options.items() if value is not None}
        trust = kwargs.pop("trust_remote_code", None)
        kwargs.pop("code_revision", None)  # the revision of our own code, which is loaded by now
        given = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs}
        if is_pipeline:
            kwargs = {}  # `pipeline` gives the settings of the model, such as its dtype, to the processor too
        name = str(pretrained_model_name_or_path)

        def find(filename: str, subfolder: str = "") -> str | None:
            return cached_file(
                name, filename, subfolder=subfolder, _raise_exceptions_for_missing_entries=False, **options
            )

        config_file = find("processor_config.json")
        if config_file is None:
            raise OSError(
                f"{name} has no processor_config.json: save one there by `UniSRecProcessor.save_pretrained`."
            )
        settings = json.loads(Path(config_file).read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not settings.keys() >= {"max_history_length", "max_text_length"}:
            raise ValueError(f"{config_file}: expected max_history_length and max_text_length in it.")
        tokenizer = None
        if find("tokenizer_config.json"):  # it looks into `config.json` too, which names the folder's own code
            of_tokenizer = {key: value for key, value in kwargs.items() if key != "subfolder"}
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust, **options, **of_tokenizer)
            if tokenizer.vocab_size <= len(set(tokenizer.all_special_ids)):  # transformers makes one up
                raise OSError(
                    f"{name}: the tokenizer has no vocabulary; tokenizer.json is missing, copy it there again."
                )
        if unknown := [key for key in kwargs if not hasattr(tokenizer, key)]:
            raise TypeError(f"neither the processor nor its tokenizer has a setting {', '.join(unknown)}.")
        catalogue = None
        try:
            catalogue = ItemCatalogue.load(lambda filename: find(filename, "catalogue"))
        except ImportError:  # where only the model runs: items can be given by their text
            logger.warning("The item catalogue of %s is left out: `pip install polars` to read it.", name)
        processor = cls(tokenizer, catalogue, **{key: settings[key] for key in _SETTINGS if key in settings} | given)
        processor.is_of_pipeline = is_pipeline
        return processor


_SETTINGS = ("max_history_length", "max_text_length", "text_prompt")
_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def _drop_paths(config_file: Path) -> None:
    """Removes the local path that a tokenizer was loaded from, from its settings and its initial arguments."""
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name != "name_or_path" and not _is_path(value)}
    if kept != settings:
        config_file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_path(value: object) -> bool:
    return isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())


__all__ = ["UniSRecProcessor"]
