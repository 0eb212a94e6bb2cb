"""Processor of UniSRec: tokenizer and item catalogue, which turn histories of ids and texts into a model batch."""

import difflib
import hashlib
import heapq
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import cached_file, logging

from ..configuration.configuration_unisrec import AUTO_MAP, copy_code


logger = logging.get_logger(__name__)


class ItemCatalogue:
    r"""
    The items a model recommends, in the order of its item rows.

    Args:
        item_ids (`Sequence[str]`): Ids of the shop, all different.
        texts (`Sequence[str]`): Their texts.
        item_embeddings (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`, *optional*):
            Their text vectors, the output of [`UniSRecModel.get_text_features`].
        id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*):
            Their rows of the ID embedding of a transductive model, 0 for items that came after training. Without it
            item k has row k + 1.
        item_ids_hash (`str`, *optional*):
            With `id_rows`: [`~ItemCatalogue.item_ids_hash`] of the catalogue that the model was trained on.

    Raises:
        ValueError: If the lengths differ or an id comes twice.
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str],
        item_embeddings: torch.Tensor | None = None,
        id_rows: torch.Tensor | None = None,
        item_ids_hash: str | None = None,
    ):
        self.item_ids = list(item_ids)
        self.texts = list(texts)
        self.item_embeddings = item_embeddings
        self.id_rows = id_rows
        self._item_ids_hash = item_ids_hash
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        if len(self.texts) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {len(self.texts)} texts: give one text for each id.")
        if len(self._rows) != len(self.item_ids):
            seen: set[str] = set()
            twice = next(item_id for item_id in self.item_ids if item_id in seen or seen.add(item_id))
            raise ValueError(f"Item id {twice!r} comes twice in the catalogue: ids must be different.")
        if item_embeddings is not None and len(item_embeddings) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {len(item_embeddings)} rows of `item_embeddings`.")
        if id_rows is not None and len(id_rows) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {len(id_rows)} `id_rows`.")

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    @property
    def item_ids_hash(self) -> str | None:
        """SHA-256 of the item ids, in the order of their rows of the ID embedding: those of this catalogue or, with
        `id_rows`, of the one that the model was trained on (`None` where that is not known)."""
        if self.id_rows is None and self._item_ids_hash is None:
            self._item_ids_hash = hashlib.sha256(json.dumps(self.item_ids).encode()).hexdigest()
        return self._item_ids_hash

    def row(self, item_id: str) -> int:
        """Row of an item, from 0. Raises `KeyError` naming the three nearest known ids."""
        if item_id not in self._rows:
            name = item_id if len(item_id) <= 80 else item_id[:77] + "..."  # no id of a shop is longer
            shared = [len(os.path.commonprefix([known, name])) for known in self.item_ids]  # noqa: RUF071 (characters)
            likely = [self.item_ids[row] for row in heapq.nlargest(1000, range(len(self)), key=shared.__getitem__)]
            nearest = difflib.get_close_matches(name, likely, n=3, cutoff=0.0)
            raise KeyError(
                f"item id {name!r} is not in the catalogue of {len(self)} items; nearest ids: {', '.join(nearest)}. "
                f"An item that is not in it can be given by its text: {{'text': '...'}} in Python, 'text:...' on the "
                "command line."
            )
        return self._rows[item_id]

    def item_ids_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The `item_ids` of the model, rows of its ID embedding, for catalogue rows (-1, no item of ours: 0)."""
        return rows + 1 if self.id_rows is None else self.id_rows[rows].where(rows >= 0, 0)

    def save(self, directory: Path) -> None:
        """Writes `items.parquet` and, if there are any, `item_embeddings.safetensors`."""
        directory.mkdir(parents=True, exist_ok=True)
        polars = _import_polars()
        columns = {"item_id": self.item_ids, "text": self.texts}
        if self.id_rows is not None:
            columns["id_row"] = self.id_rows.tolist()
        trained_on = {"item_ids_hash": self.item_ids_hash} if self.id_rows is not None and self.item_ids_hash else None
        polars.DataFrame(columns).write_parquet(directory / "items.parquet", metadata=trained_on)
        embeddings_file = directory / "item_embeddings.safetensors"
        embeddings_file.unlink(missing_ok=True)  # those of another catalogue
        if self.item_embeddings is not None:
            save_file(
                {"item_embeddings": self.item_embeddings.contiguous()}, embeddings_file, metadata={"format": "pt"}
            )
            shutil.copymode(directory / "items.parquet", embeddings_file)  # safetensors keeps others from reading it

    @classmethod
    def load(cls, items_file: str, embeddings_file: str | None) -> "ItemCatalogue":
        """Reads what `save` wrote."""
        polars = _import_polars()
        items = polars.read_parquet(items_file)
        item_embeddings = None if embeddings_file is None else load_file(embeddings_file)["item_embeddings"]
        id_rows = torch.tensor(items["id_row"].to_list()) if "id_row" in items.columns else None
        trained_on = None if id_rows is None else polars.read_parquet_metadata(items_file).get("item_ids_hash")
        return cls(items["item_id"].to_list(), items["text"].to_list(), item_embeddings, id_rows, trained_on)


def check_id_rows(config: PreTrainedConfig, catalogue: ItemCatalogue) -> None:
    r"""
    Raises `ValueError` if a transductive model was trained for other items than those of a catalogue, or for the same
    ones in another order: their rows of the ID embedding would be those of other items. Inductive models take any.

    Args:
        config ([`UniSRecConfig`]): Of the model. Without `item_ids_hash`, as saved before there was one, or where a
            catalogue was edited before, the number of items is all that is compared.
        catalogue ([`ItemCatalogue`]): What it is to rank.
    """
    num_items, size, rows = config.num_items, len(catalogue), catalogue.id_rows
    if num_items is None:
        return
    advice = "take the catalogue saved with it, or an inductive checkpoint."
    if size != num_items if rows is None else not 0 <= rows.min() <= rows.max() <= num_items:
        raise ValueError(f"the checkpoint is transductive with {num_items} items, the catalogue has {size}: {advice}")
    expected, found = config.item_ids_hash, catalogue.item_ids_hash
    if None not in (expected, found) and expected != found:
        raise ValueError(
            f"the checkpoint is transductive, and its ID embedding was trained for {num_items} other items than those of "
            f"the catalogue, or for these in another order: {advice}"
        )


def _import_polars():
    """polars, which a machine that only runs the model need not have."""
    try:
        import polars
    except ImportError as error:
        raise ImportError("the item catalogue is a parquet file: `pip install polars` to read or write it.") from error
    return polars


class UniSRecProcessor(ProcessorMixin):
    r"""
    Turns histories of item ids and of raw texts into a batch of *distinct items + index matrix*.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Tokenizer of the text encoder. Without one, only items of the catalogue can be given.
        catalogue ([`ItemCatalogue`], *optional*):
            The items known by id.
        max_history_length (`int`, *optional*, defaults to 50):
            Items of a history that count, the latest ones; at most the model's `max_position_embeddings`.
        max_text_length (`int`, *optional*, defaults to 512):
            Tokens of a text that count, the first ones.
        text_prompt (`str`, *optional*, defaults to `""`):
            What is put before each text, the `text_prompt` of the model's configuration.

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

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        catalogue: ItemCatalogue | None = None,
        max_history_length: int = 50,
        max_text_length: int = 512,
        text_prompt: str = "",
    ):
        # ProcessorMixin wants every part to be there; ours works without a tokenizer (embeddings-only models).
        self.tokenizer = tokenizer
        self.catalogue = catalogue
        self.max_history_length = max_history_length
        self.max_text_length = max_text_length
        self.text_prompt = text_prompt
        self.chat_template = None

    @property
    def model_input_names(self) -> list[str]:
        return ["item_index", "text_embeds", "input_ids", "attention_mask", "item_ids"]

    def parse(self, entry: str | Mapping[str, str]) -> tuple[int | None, str]:
        r"""
        What an entry of a history means: `(row, text)`, where the row is `None` for an item given by text.

        A `{"text": ...}` or `{"item_id": ...}` says it outright. A string is an id if the catalogue has it, a text if
        it holds a blank, and an unknown id otherwise.

        Raises:
            KeyError: For an unknown id.
            ValueError: For an empty text, a mapping of another form, or an id or text that is no string.
        """
        if not all(isinstance(value, str) for value in (entry.values() if isinstance(entry, Mapping) else [entry])):
            raise ValueError(f"ids and texts of items are strings, not {entry!r}: write a number as '12'.")
        if isinstance(entry, Mapping):
            if set(entry) == {"item_id"}:
                return self._known(entry["item_id"])
            if set(entry) != {"text"}:
                raise ValueError(f"an item is given as {{'item_id': ...}} or {{'text': ...}}, not as {dict(entry)!r}.")
            entry = entry["text"]
            if not entry.strip():
                raise ValueError("the text of an item is empty: give a few words, such as its title.")
            return None, entry
        if (self.catalogue is not None and entry in self.catalogue) or not any(map(str.isspace, entry.strip())):
            return self._known(entry)
        return None, entry

    def _known(self, item_id: str) -> tuple[int, str]:
        if self.catalogue is None:
            raise KeyError(
                f"item id {item_id!r}: this processor has no catalogue; give items as {{'text': ...}} or set one."
            )
        row = self.catalogue.row(item_id)
        return row, self.catalogue.texts[row]

    def parse_histories(
        self, histories: Sequence[Sequence[str | Mapping[str, str]]]
    ) -> list[list[tuple[int | None, str]]]:
        r"""
        What the entries of whole histories mean, see [`~UniSRecProcessor.parse`].

        Raises:
            KeyError: For an unknown id.
            ValueError: For an empty history or one that is no list, and as `parse`.
        """
        for position, history in enumerate(histories):
            if isinstance(history, str):
                raise ValueError(
                    f"history {position} is the string {history!r}: a history is a list, also of one item."
                )
            if len(history) == 0:
                raise ValueError(f"history {position} is empty: give at least one item.")
        return [[self.parse(entry) for entry in history] for history in histories]

    def __call__(self, histories: Sequence[Sequence[str | Mapping[str, str]]]) -> BatchFeature:
        r"""
        A model batch for histories.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`):
                Oldest item first; see [`~UniSRecProcessor.parse`] for the forms of an item.

        Returns:
            `BatchFeature`: `item_index` `(batch_size, length)`, `item_ids` `(num_items,)`, and for the items
            `text_embeds` (of the catalogue) and, behind them, `input_ids` and `attention_mask` (of texts); as
            [`UniSRecModel`] takes them.

        Raises:
            KeyError: For an unknown id.
            ValueError: For an empty history, one that is no list, or a text where there is no tokenizer.
        """
        item_index, rows, texts = self.distinct_items(self.parse_histories(histories))
        batch = {"item_index": item_index, "item_ids": rows + 1}
        if self.catalogue is not None:
            batch["item_ids"] = self.catalogue.item_ids_of(rows)
        if len(rows) > len(texts):
            batch["text_embeds"] = self.catalogue.item_embeddings[rows[: len(rows) - len(texts)]]
        if texts:
            batch.update(self.tokenize(texts))
        return BatchFeature(batch)

    def distinct_items(
        self, parsed: Sequence[Sequence[tuple[int | None, str]]]
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        r"""
        The distinct items of the latest `max_history_length` entries of histories.

        Args:
            parsed (`Sequence` of `Sequence` of `tuple`): What [`~UniSRecProcessor.parse_histories`] gives.

        Returns:
            `tuple`: `item_index` `(batch_size, length)`; for each distinct item its catalogue row, -1 for none,
            `(num_items,)`; the texts of the last of them, whose vectors are not in the catalogue.
        """
        rows: set[int] = set()  # catalogue rows whose vectors are taken
        # Two items of one text differ in their id: (catalogue row, text) -> place behind the known ones.
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
        """`input_ids` and `attention_mask` of texts, `(num_texts, num_tokens)` each."""
        if self.tokenizer is None:
            raise ValueError(
                f"no tokenizer to read {texts[0]!r} with: this checkpoint takes items of its catalogue only; "
                "set `processor.tokenizer` to the one of its text encoder."
            )
        # On the right whatever the tokenizer prefers: a training step cuts the columns that are padding in all of its texts.
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
        """What `processor_config.json` holds."""
        return {
            "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
            "processor_class": type(self).__name__,
            "max_history_length": self.max_history_length,
            "max_text_length": self.max_text_length,
            "text_prompt": self.text_prompt,
        }

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Writes `processor_config.json`, the tokenizer's files, `catalogue/` and our code; uploads them if asked to."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(directory)
            _drop_paths(directory / "tokenizer_config.json")
        if self.catalogue is not None:
            self.catalogue.save(directory / "catalogue")
        config_file = directory / "processor_config.json"
        config_file.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        copy_code(directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", directory.name), **kwargs)
        return [str(config_file)]

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads what `save_pretrained` writes, without the question whether `catalogue/` is meant to go up."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*about to commit a data file")
            return super().push_to_hub(repo_id, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "UniSRecProcessor":
        """Reads a processor from a folder or the Hub; takes the download options of `transformers`."""
        options = {name: kwargs[name] for name in _DOWNLOAD_OPTIONS if kwargs.get(name) is not None}
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
        tokenizer = None
        if find("tokenizer_config.json"):  # it looks into `config.json` too, which names the folder's own code
            trust = kwargs.get("trust_remote_code")
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust, **options)
            if tokenizer.vocab_size <= len(set(tokenizer.all_special_ids)):  # transformers makes one up
                raise OSError(
                    f"{name}: the tokenizer has no vocabulary; tokenizer.json is missing, copy it there again."
                )
        catalogue = None
        if items_file := find("items.parquet", "catalogue"):
            try:
                catalogue = ItemCatalogue.load(items_file, find("item_embeddings.safetensors", "catalogue"))
            except ImportError:  # where only the model runs: items can be given by their text
                logger.warning("The item catalogue of %s is left out: `pip install polars` to read it.", name)
        return cls(
            tokenizer,
            catalogue,
            max_history_length=settings["max_history_length"],
            max_text_length=settings["max_text_length"],
            text_prompt=settings.get("text_prompt", ""),
        )


_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def _drop_paths(config_file: Path) -> None:
    """Leaves out where a tokenizer was read from: a path of one machine, in its own settings or in those it came with."""
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name != "name_or_path" and not _is_path(value)}
    if kept != settings:
        config_file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_path(value: object) -> bool:
    return isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())


__all__ = ["ItemCatalogue", "UniSRecProcessor", "check_id_rows"]
