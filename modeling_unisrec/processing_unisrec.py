"""Processor of UniSRec: tokenizer and item catalogue, which turn histories of ids and texts into a model batch."""

import copy
import difflib
import hashlib
import heapq
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import TensorType, cached_file, logging

from ..configuration.configuration_unisrec import AUTO_MAP, copy_code


logger = logging.get_logger(__name__)

ITEMS_FILE = "items.parquet"
EMBEDDINGS_FILE = "item_embeddings.safetensors"
NEW_EMBEDDINGS_FILE = "item_embeddings.new.safetensors"  # for the moment in which `ITEMS_FILE` is replaced
READ_ATTEMPTS = 1000  # each of which only fails where another process replaces the catalogue meanwhile
LOCK_SECONDS = 60


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

    Raises:
        ValueError: If the lengths differ or an id comes twice.
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str],
        item_embeddings: torch.Tensor | None = None,
        id_rows: torch.Tensor | None = None,
    ):
        self.item_ids = list(item_ids)
        self.texts = list(texts)
        self.item_embeddings = item_embeddings
        self.id_rows = id_rows
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

    def with_embeddings(self, item_embeddings: torch.Tensor) -> "ItemCatalogue":
        """The same items with other text vectors."""
        catalogue = copy.copy(self)
        catalogue.item_embeddings = item_embeddings
        return catalogue

    def content_hash(self) -> str:
        """SHA-256 of ids and texts in their order. It is stored with the text vectors, which belong to no other items."""
        return hashlib.sha256(json.dumps([self.item_ids, self.texts]).encode()).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        r"""
        Writes `items.parquet` and, if there are any, `item_embeddings.safetensors`, in place of a catalogue that is there.

        The old catalogue stays until the moment at which one rename puts the new `items.parquet` into place: a process
        that reads, and one that is killed, leave or find the old catalogue or the new one.

        Args:
            directory (`str` or `os.PathLike`): Folder, made if need be.

        Raises:
            OSError: If it cannot be written, or another process goes on changing it.
        """
        directory, polars = Path(directory), _import_polars()
        directory.mkdir(parents=True, exist_ok=True)
        columns = {"item_id": self.item_ids, "text": self.texts}
        if self.id_rows is not None:
            columns["id_row"] = self.id_rows.tolist()
        draft = directory.with_name(f".{directory.name}.tmp")
        with lock_catalogue(directory):
            shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
            draft.mkdir()
            try:
                polars.DataFrame(columns).write_parquet(draft / ITEMS_FILE)
                if self.item_embeddings is not None:
                    tensors = {"item_embeddings": self.item_embeddings.contiguous()}
                    save_file(tensors, draft / EMBEDDINGS_FILE, {"format": "pt", "items_sha256": self.content_hash()})
                    os.chmod(draft / EMBEDDINGS_FILE, (draft / ITEMS_FILE).stat().st_mode)  # safetensors gives 0600
                for file in draft.iterdir():
                    _flush(file)
                if self.item_embeddings is not None:
                    os.replace(draft / EMBEDDINGS_FILE, directory / NEW_EMBEDDINGS_FILE)
                os.replace(draft / ITEMS_FILE, directory / ITEMS_FILE)
                if self.item_embeddings is not None:
                    os.replace(directory / NEW_EMBEDDINGS_FILE, directory / EMBEDDINGS_FILE)
                else:
                    for name in (EMBEDDINGS_FILE, NEW_EMBEDDINGS_FILE):
                        (directory / name).unlink(missing_ok=True)  # those of another catalogue
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    @classmethod
    def load(cls, find: Callable[[str], str | None]) -> "ItemCatalogue | None":
        r"""
        Reads what `save` wrote, also while another process replaces it.

        Args:
            find (`Callable`): Gives the path of a file of the catalogue's folder, or `None` if it is not there.

        Returns:
            [`ItemCatalogue`] or `None`: `None` where there is no `items.parquet`.

        Raises:
            ImportError: If polars is not installed.
            ValueError: If a file is damaged, or the vectors are those of other items.
        """
        for _ in range(READ_ATTEMPTS):
            before = _file_states(find)
            try:
                return cls._read(find)
            except (ValueError, FileNotFoundError):
                if _file_states(find) == before:  # else it is a file of the catalogue before with one of the next
                    raise
        raise OSError(f"{find(ITEMS_FILE)}: other processes go on replacing it; try again when they have ended.")

    @classmethod
    def _read(cls, find: Callable[[str], str | None]) -> "ItemCatalogue | None":
        items_file = find(ITEMS_FILE)
        if items_file is None:
            return None
        catalogue = cls._read_items(items_file)
        expected, found = catalogue.content_hash(), {}
        for name in (EMBEDDINGS_FILE, NEW_EMBEDDINGS_FILE):
            if expected not in found and (file := find(name)) is not None:
                found.update(_read_embeddings(file, expected))
        # Files of earlier versions of this package hold no hash.
        vectors = found.get(expected, found.get(None))
        if found and vectors is None:
            raise ValueError(
                f"{items_file}: the text vectors beside it are those of other items, or of these in another order; save "
                "the catalogue again, or remove item_embeddings.safetensors to have them computed from the texts."
            )
        if vectors is not None and len(vectors) != len(catalogue):
            raise ValueError(f"{items_file}: {len(catalogue)} items, but {len(vectors)} text vectors beside it.")
        return catalogue if vectors is None else catalogue.with_embeddings(vectors)

    @classmethod
    def _read_items(cls, file: str) -> "ItemCatalogue":
        """Ids, texts and rows of the ID embedding."""
        polars = _import_polars()
        try:
            items = polars.read_parquet(
                Path(file).read_bytes()
            )  # by its name polars opens it twice, beside a writer too
        except polars.exceptions.PolarsError as error:
            raise ValueError(f"{file}: not a readable parquet file ({str(error).splitlines()[0]}).") from error
        for column, kind in {"item_id": polars.String, "text": polars.String, "id_row": polars.Int64}.items():
            if column == "id_row" and column not in items.columns:
                continue
            if items.schema.get(column) != kind or items[column].null_count():
                raise ValueError(f"{file}: expected a column {column!r} of type {kind} without missing values.")
        id_rows = torch.tensor(items["id_row"].to_list()) if "id_row" in items.columns else None
        return cls(items["item_id"].to_list(), items["text"].to_list(), id_rows=id_rows)


def _read_embeddings(file: str, expected: str) -> dict[str | None, torch.Tensor | None]:
    """Text vectors by the hash of the items they belong to (`None` where it is not stored); they are read if that can be
    the hash `expected`. Raises `ValueError`."""
    before = os.stat(file)
    try:
        with safe_open(file, "pt") as stored:
            digest = (stored.metadata() or {}).get("items_sha256")
            vectors = stored.get_tensor("item_embeddings") if digest in (expected, None) else None
    except SafetensorError as error:
        raise ValueError(f"{file}: not a readable file of text vectors ({error}).") from error
    after = os.stat(file)
    # safetensors opens it twice, for the header and for the numbers.
    if (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):
        raise ValueError(f"{file}: replaced while it was read.")
    if vectors is not None and not (vectors.dim() == 2 and vectors.is_floating_point() and vectors.isfinite().all()):
        raise ValueError(f"{file}: expected a table of finite numbers, one row for each item.")
    return {digest: vectors}


def _file_states(find: Callable[[str], str | None]) -> list[tuple[int, int] | None]:
    """What differs once a file of a catalogue was replaced."""
    states = []
    for name in (ITEMS_FILE, EMBEDDINGS_FILE, NEW_EMBEDDINGS_FILE):
        try:
            file = find(name)
            state = None if file is None else os.stat(file)
        except FileNotFoundError:
            state = None
        states.append(None if state is None else (state.st_ino, state.st_mtime_ns))
    return states


@contextmanager
def lock_catalogue(directory: str | os.PathLike) -> Iterator[None]:
    r"""
    Keeps other processes from changing a catalogue. Readers need no lock.

    Args:
        directory (`str` or `os.PathLike`): Folder of the catalogue. It may be locked again inside.

    Raises:
        OSError: If another process has held the lock for a minute; one that dies holds none.
    """
    directory = Path(directory).absolute()
    lock = FileLock(directory.with_name(f".{directory.name}.lock"), timeout=LOCK_SECONDS, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise OSError(f"{directory}: another process is changing the items; try again when it has ended.") from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits for it notices, and makes another
        lock.release()


def _flush(file: Path) -> None:
    """Waits until a file is on the disk, so that a machine that dies after a rename keeps what was renamed."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def check_id_rows(config: PreTrainedConfig, catalogue: ItemCatalogue) -> None:
    """Raises `ValueError` where the ID embedding of a transductive model is not that of the catalogue."""
    num_items, size, rows = config.num_items, len(catalogue), catalogue.id_rows
    if num_items is None:
        return
    if size != num_items if rows is None else not 0 <= rows.min() <= rows.max() <= num_items:
        raise ValueError(
            f"the checkpoint is transductive with {num_items} items, the catalogue has {size}: take the catalogue saved "
            "with it, or an inductive checkpoint."
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

    Raises:
        ValueError: If a length is no whole number from 1.

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
    ):
        for name, value in (("max_history_length", max_history_length), ("max_text_length", max_text_length)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number from 1.")
        # ProcessorMixin wants every part to be there; ours works without a tokenizer (embeddings-only models).
        self.tokenizer = tokenizer
        self.catalogue = catalogue
        self.max_history_length = max_history_length
        self.max_text_length = max_text_length
        self.chat_template = None

    @property
    def model_input_names(self) -> list[str]:
        return ["item_index", "text_embeds", "input_ids", "attention_mask", "item_ids"]

    def parse(self, entry: str | Mapping[str, str]) -> tuple[int | None, str]:
        r"""
        What an entry of a history means: `(row, text)`, where the row is `None` for an item given by text.

        A string is an id of the catalogue, always. `{"item_id": ...}` says the same; `{"text": ...}` is an item given by
        its text, whether the catalogue has it or not.

        Raises:
            KeyError: For an unknown id, naming the nearest known ones.
            ValueError: For an empty text, a mapping of another form, or an id or text that is no string.
        """
        if not all(isinstance(value, str) for value in (entry.values() if isinstance(entry, Mapping) else [entry])):
            raise ValueError(f"ids and texts of items are strings, not {entry!r}: write a number as '12'.")
        if isinstance(entry, str):
            return self._known(entry)
        if set(entry) == {"item_id"}:
            return self._known(entry["item_id"])
        if set(entry) != {"text"}:
            raise ValueError(f"an item is given as {{'item_id': ...}} or {{'text': ...}}, not as {dict(entry)!r}.")
        if not entry["text"].strip():
            raise ValueError("the text of an item is empty: give a few words, such as its title.")
        return None, entry["text"]

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

    def __call__(self, histories: Sequence[Sequence[str | Mapping[str, str]]], **kwargs) -> BatchFeature:
        r"""
        A model batch for histories.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`):
                Oldest item first; see [`~UniSRecProcessor.parse`] for the forms of an item.
            kwargs: `return_tensors`, which is `"pt"`.

        Returns:
            `BatchFeature`: `item_index` `(batch_size, length)`, `item_ids` `(num_items,)`, and for the items
            `text_embeds` (of the catalogue) and, behind them, `input_ids` and `attention_mask` (of texts); as
            [`UniSRecModel`] takes them.

        Raises:
            KeyError: For an unknown id.
            TypeError: For another keyword.
            ValueError: For an empty history, one that is no list, a text where there is no tokenizer, or tensors of another
                kind.
        """
        if (kind := kwargs.pop("return_tensors", "pt")) not in (None, "pt", TensorType.PYTORCH):
            raise ValueError(f"return_tensors is {kind!r}: a batch is of torch tensors, 'pt'.")
        if kwargs:
            raise TypeError(
                f"a batch of histories takes no {', '.join(kwargs)}; set it on the processor or tokenizer."
            )
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
        encoded = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_text_length, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def to_dict(self) -> dict:
        """What `processor_config.json` holds."""
        return {
            "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
            "processor_class": type(self).__name__,
            "max_history_length": self.max_history_length,
            "max_text_length": self.max_text_length,
        }

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Writes `processor_config.json`, the tokenizer's files, `catalogue/` and our code; uploads them if asked to."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(directory)
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
        r"""
        Reads a processor from a folder or the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id.
            kwargs:
                The download options `cache_dir`, `force_download`, `local_files_only`, `token` and `revision`;
                `trust_remote_code` for the tokenizer; `max_history_length` and `max_text_length` instead of the saved ones;
                settings of the tokenizer, such as `cls_token`.

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
        tokenizer = None
        if find("tokenizer_config.json"):  # it looks into `config.json` too, which names the folder's own code
            of_tokenizer = {key: value for key, value in kwargs.items() if key != "subfolder"}
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust, **options, **of_tokenizer)
        if unknown := [key for key in kwargs if not hasattr(tokenizer, key)]:
            raise TypeError(f"neither the processor nor its tokenizer has a setting {', '.join(unknown)}.")
        catalogue = None
        try:
            catalogue = ItemCatalogue.load(lambda filename: find(filename, "catalogue"))
        except ImportError:  # where only the model runs: items can be given by their text
            logger.warning("The item catalogue of %s is left out: `pip install polars` to read it.", name)
        return cls(tokenizer, catalogue, **{key: settings[key] for key in _SETTINGS if key in settings} | given)


_SETTINGS = ("max_history_length", "max_text_length")
_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


__all__ = ["ItemCatalogue", "UniSRecProcessor", "check_id_rows", "lock_catalogue"]
