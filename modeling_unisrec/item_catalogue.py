"""The catalogue of items that a model recommends, and its files, which are consistent and replaced atomically."""

import copy
import difflib
import hashlib
import heapq
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig


if TYPE_CHECKING:
    import polars as pl

ITEMS_FILE = "items.parquet"
EMBEDDINGS_FILE = "item_embeddings.safetensors"
NEW_EMBEDDINGS_FILE = "item_embeddings.new.safetensors"  # for the moment in which `ITEMS_FILE` is replaced
READ_ATTEMPTS = 1000  # an attempt only fails if another process replaces the catalogue meanwhile
LOCK_SECONDS = 60
OWN_COLUMNS = ("item_id", "text", "id_row")  # of `ITEMS_FILE`; others are columns of the shop


class ItemCatalogue:
    r"""
    Catalogue of the items a model recommends, in the order of its item rows.

    Args:
        item_ids (`Sequence[str]`): Unique item ids of the shop.
        texts (`Sequence[str]`): Item texts.
        item_embeddings (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`, *optional*):
            Text vectors of the items, the output of [`UniSRecModel.get_text_features`].
        id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*):
            Rows of the items in the ID embedding of a transductive model, 0 for items added after training. By default
            item k has row k + 1.
        item_ids_hash (`str`, *optional*):
            With `id_rows`: [`~ItemCatalogue.item_ids_hash`] of the catalogue that the model was trained on.
        columns (`pl.DataFrame`, *optional*):
            More columns of the items, such as price and stock, one row for each item. They are saved with the catalogue.

    Raises:
        ValueError: If the lengths differ, an id occurs twice, or a column has the name of one of the others.
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str],
        item_embeddings: torch.Tensor | None = None,
        id_rows: torch.Tensor | None = None,
        item_ids_hash: str | None = None,
        columns: "pl.DataFrame | None" = None,
    ):
        self.item_ids = list(item_ids)
        self.texts = list(texts)
        self.item_embeddings = item_embeddings
        self.id_rows = id_rows
        self.columns = columns if columns is not None and columns.width else None
        self._item_ids_hash = item_ids_hash
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        if len(self.texts) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {len(self.texts)} texts: give one text for each id.")
        if len(self._rows) != len(self.item_ids):
            seen: set[str] = set()
            twice = next(item_id for item_id in self.item_ids if item_id in seen or seen.add(item_id))
            raise ValueError(f"Item id {twice!r} comes twice in the catalogue: ids must be unique.")
        if item_embeddings is not None and len(item_embeddings) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {len(item_embeddings)} rows of `item_embeddings`.")
        if id_rows is not None and len(id_rows) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {len(id_rows)} `id_rows`.")
        if self.columns is not None and self.columns.height != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {self.columns.height} rows of `columns`.")
        if taken := next((name for name in self.column_names[2:] if name in OWN_COLUMNS), None):
            raise ValueError(f"`columns` has a column {taken!r}, a name of the catalogue itself; rename or drop it.")

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        parts = [f"{len(self):,} items", "no text vectors" if self.item_embeddings is None else "with text vectors"]
        if self.id_rows is not None:
            parts.append(f"{int((self.id_rows > 0).sum()):,} with an ID embedding")
        if self.columns is not None:
            parts.append(f"columns {', '.join(self.columns.columns)}")
        return f"ItemCatalogue({', '.join(parts)})"

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of [`~ItemCatalogue.table`]: `item_id`, `text` and those of `columns`."""
        return ["item_id", "text", *(() if self.columns is None else self.columns.columns)]

    def table(self) -> "pl.DataFrame":
        """Returns ids, texts and `columns` as one table."""
        polars = import_polars()
        own = polars.DataFrame(
            {"item_id": self.item_ids, "text": self.texts},
            schema_overrides=dict.fromkeys(("item_id", "text"), polars.String),
        )
        return own if self.columns is None else own.hstack(self.columns)

    @property
    def item_ids_hash(self) -> str | None:
        """SHA-256 of the item ids in the order of the rows of the ID embedding: the ids of this catalogue or, with
        `id_rows`, of the catalogue that the model was trained on (`None` if unknown)."""
        if self.id_rows is None and self._item_ids_hash is None:
            self._item_ids_hash = hashlib.sha256(json.dumps(self.item_ids).encode()).hexdigest()
        return self._item_ids_hash

    def row(self, item_id: str) -> int:
        """Returns the row of `item_id`, from 0. Raises `KeyError` naming the three nearest known ids."""
        if item_id not in self._rows:
            name = item_id if len(item_id) <= 80 else item_id[:77] + "..."  # longer than any id of a shop
            shared = [len(os.path.commonprefix([known, name])) for known in self.item_ids]  # noqa: RUF071 (characters)
            likely = [self.item_ids[row] for row in heapq.nlargest(1000, range(len(self)), key=shared.__getitem__)]
            nearest = difflib.get_close_matches(name, likely, n=3, cutoff=0.0)
            raise KeyError(
                f"item id {name!r} is not in the catalogue of {len(self)} items; nearest ids: {', '.join(nearest)}. "
                f"An item that is not in it can be given by its text: {{'text': '...'}} in Python, 'text:...' on the "
                "command line."
            )
        return self._rows[item_id]

    def id_rows_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the rows of the ID embedding for `rows` of the catalogue, of the same shape; 0 for -1, no item."""
        return rows + 1 if self.id_rows is None else self.id_rows[rows].where(rows >= 0, 0)

    def with_embeddings(self, item_embeddings: torch.Tensor) -> "ItemCatalogue":
        """Returns a catalogue of the same items with the text vectors `item_embeddings`."""
        catalogue = copy.copy(self)
        catalogue.item_embeddings = item_embeddings
        return catalogue

    def with_columns(self, columns: "pl.DataFrame | None") -> "ItemCatalogue":
        """Returns a catalogue of the same items with other `columns`."""
        return ItemCatalogue(
            self.item_ids, self.texts, self.item_embeddings, self.id_rows, self._item_ids_hash, columns
        )

    def content_hash(self) -> str:
        """Returns the SHA-256 of ids and texts in their order, which is stored with the text vectors to tell which
        items they belong to."""
        return hashlib.sha256(json.dumps([self.item_ids, self.texts]).encode()).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        r"""
        Writes `items.parquet` and, if present, `item_embeddings.safetensors`, replacing an existing catalogue.

        One rename of the new `items.parquet` replaces the old catalogue, so that concurrent readers and killed
        processes see or leave either the old catalogue or the new one.

        Args:
            directory (`str` or `os.PathLike`): Folder; created if it does not exist.

        Raises:
            OSError: If it cannot be written, or another process keeps changing it.
        """
        directory, polars = Path(directory), import_polars()
        directory.mkdir(parents=True, exist_ok=True)
        items = self.table()
        if self.id_rows is not None:
            items = items.with_columns(polars.Series("id_row", self.id_rows.tolist(), dtype=polars.Int64))
        trained_on = {"item_ids_hash": self.item_ids_hash} if self.id_rows is not None and self.item_ids_hash else None
        draft = directory.with_name(f".{directory.name}.tmp")
        with lock_catalogue(directory):
            shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
            draft.mkdir()
            try:
                items.write_parquet(draft / ITEMS_FILE, metadata=trained_on)
                if self.item_embeddings is not None:
                    tensors = {"item_embeddings": self.item_embeddings.contiguous()}
                    save_file(tensors, draft / EMBEDDINGS_FILE, {"items_sha256": self.content_hash()})
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
        Reads a saved catalogue, even while another process replaces it.

        Args:
            find (`Callable`): Returns the path of a file of the catalogue folder, or `None` if it does not exist.

        Returns:
            [`ItemCatalogue`] or `None`: `None` where there is no `items.parquet`.

        Raises:
            ImportError: If polars is not installed.
            ValueError: If a file is damaged, or the vectors belong to other items.
        """
        for _ in range(READ_ATTEMPTS):
            before = _file_states(find)
            try:
                return cls._read(find)
            except (ValueError, FileNotFoundError):
                if _file_states(find) == before:  # otherwise the files belong to different versions of the catalogue
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
        """Reads ids, texts and rows of the ID embedding."""
        polars = import_polars()
        content = Path(file).read_bytes()  # polars opens a file several times, and a writer may replace it meanwhile
        try:
            items = polars.read_parquet(content)
            trained_on = polars.read_parquet_metadata(io.BytesIO(content)).get("item_ids_hash")
        except polars.exceptions.PolarsError as error:
            raise ValueError(f"{file}: not a readable parquet file ({str(error).splitlines()[0]}).") from error
        for column, kind in {"item_id": polars.String, "text": polars.String, "id_row": polars.Int64}.items():
            if column == "id_row" and column not in items.columns:
                continue
            if items.schema.get(column) != kind or items[column].null_count():
                raise ValueError(f"{file}: expected a column {column!r} of type {kind} without missing values.")
        id_rows = torch.tensor(items["id_row"].to_list()) if "id_row" in items.columns else None
        trained_on = None if id_rows is None else trained_on
        columns = items.drop(OWN_COLUMNS, strict=False)
        return cls(items["item_id"].to_list(), items["text"].to_list(), None, id_rows, trained_on, columns)


def _read_embeddings(file: str, expected: str) -> dict[str | None, torch.Tensor | None]:
    """Returns text vectors by the hash of the items they belong to (`None` if no hash is stored); they are read only if
    the hash may be `expected`. Raises `ValueError` if the file is damaged."""
    before = os.stat(file)
    try:
        with safe_open(file, "pt") as stored:
            digest = (stored.metadata() or {}).get("items_sha256")
            vectors = stored.get_tensor("item_embeddings") if digest in (expected, None) else None
    except (SafetensorError, RuntimeError) as error:  # torch raises the latter
        raise ValueError(f"{file}: not a readable file of text vectors ({error}).") from error
    after = os.stat(file)
    # safetensors opens it twice, for the header and, by torch, for the numbers.
    if (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):
        raise ValueError(f"{file}: replaced while it was read.")
    if vectors is not None and not (vectors.dim() == 2 and vectors.is_floating_point() and vectors.isfinite().all()):
        raise ValueError(f"{file}: expected a table of finite numbers, one row for each item.")
    return {digest: vectors}


def _file_states(find: Callable[[str], str | None]) -> list[tuple[int, int] | None]:
    """Returns a state that changes whenever a file of a catalogue is replaced."""
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
    Returns a context manager that keeps other processes from changing a catalogue. Readers need no lock.

    Args:
        directory (`str` or `os.PathLike`): Folder of the catalogue. The lock is reentrant.

    Raises:
        OSError: If another process has held the lock for a minute. The lock of a dead process is released.
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
            Path(lock.lock_file).unlink(missing_ok=True)  # waiting processes notice the removal and create a new file
        lock.release()


def _flush(file: Path) -> None:
    """Flushes a file to disk, so that its content survives a crash after a rename."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def check_id_rows(config: PreTrainedConfig, catalogue: ItemCatalogue) -> None:
    r"""
    Raises `ValueError` if a transductive model was trained for other items than those of a catalogue, or for the same
    items in another order, since the rows of its ID embedding would belong to other items. Inductive models fit any.

    Args:
        config ([`UniSRecConfig`]): Of the model. Without `item_ids_hash`, as saved before there was one, or where a
            catalogue was edited before, the number of items is all that is compared.
        catalogue ([`ItemCatalogue`]): Catalogue to rank.
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


def import_polars():
    """Imports polars, which is optional on machines that only run the model."""
    try:
        import polars
    except ImportError as error:
        raise ImportError("the item catalogue is a parquet file: `pip install polars` to read or write it.") from error
    return polars


__all__ = ["ItemCatalogue", "check_id_rows", "import_polars", "lock_catalogue"]
