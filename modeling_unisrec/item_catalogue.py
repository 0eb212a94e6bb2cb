"""The catalogue of items that a model recommends, and its files, which are consistent and replaced atomically."""

import copy
import difflib
import hashlib
import heapq
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from .catalogue_files import (
    EMBEDDINGS_FILE,
    ITEMS_FILE,
    NEW_EMBEDDINGS_FILE,
    READ_ATTEMPTS,
    TABLES_FILE,
    file_states,
    flush,
    load_tables,
    lock_catalogue,
    read_embeddings,
)


# A type of its own, because transformers takes every import, also for type checking alone, as one that remote code needs.
DataFrame: TypeAlias = Any  # `polars.DataFrame`

# Columns of `ITEMS_FILE`; others are columns of the shop.
OWN_COLUMNS = ("item_id", "text", "id_row", "is_former")


class FormerItem(NamedTuple):
    """
    An item that is sold no more.

    Args:
        text (`str`): Its text.
        id_row (`int`, *optional*, defaults to 0): Its row in the ID embedding of a transductive model, 0 for none.
    """

    text: str
    id_row: int = 0


def nearest_ids(name: str, known: Iterable[str], likely: Sequence[str]) -> list[str]:
    """Returns up to three ids for a hint: of all `known` ones those that differ by leading zeros alone, which are easily lost,
    and then the closest of the `likely` ones."""
    alike = [each for each in known if each.lstrip("0") == name.lstrip("0")]
    return list(dict.fromkeys([*alike, *difflib.get_close_matches(name, likely, n=3, cutoff=0.0)]))[:3]


def check_unicode(texts: Sequence[str]) -> None:
    """Raises `ValueError` if a text or an id holds half of a character, as after a wrong decoding, which no tokenizer reads."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        wrong = next(text for text in texts if any("\ud800" <= each <= "\udfff" for each in text))
        raise ValueError(
            f"{wrong[:80]!r} holds half of a character: decode the text again, probably as UTF-8."
        ) from None


class ItemCatalogue:
    r"""
    Catalogue of the items a model recommends, in the order of its item rows.

    Items that are sold no more are kept beside it, in `former`: they are not recommended, but histories may name them.

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
        columns (`polars.DataFrame`, *optional*):
            More columns of the items, such as price and stock, one row for each item. They are saved with the catalogue.
        former (`Mapping[str, FormerItem]`, *optional*): Items that are sold no more, by id.
        tables (`Mapping[str, Any]`, *optional*):
            How the tables of the shop are read: arguments of [`read_table`] and [`build_domain`], such as
            `text_columns`. Later tables are read in the same way by default.

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
        columns: DataFrame | None = None,
        former: Mapping[str, FormerItem] | None = None,
        tables: Mapping[str, Any] | None = None,
    ):
        self.item_ids = list(item_ids)
        self.texts = list(texts)
        self.item_embeddings = item_embeddings
        self.id_rows = id_rows
        self.columns = columns if columns is not None and columns.width else None
        self._item_ids_hash = item_ids_hash
        self.former, self.tables = dict(former or {}), dict(tables or {})
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        if len(self.texts) != len(self.item_ids):
            raise ValueError(f"{len(self.item_ids)} item ids but {len(self.texts)} texts: give one text for each id.")
        check_unicode(self.item_ids)
        check_unicode(self.texts)
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
        if self.former:
            parts.append(f"{len(self.former):,} former items")
        return f"ItemCatalogue({', '.join(parts)})"

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of [`~ItemCatalogue.table`]: `item_id`, `text` and those of `columns`."""
        return ["item_id", "text", *(() if self.columns is None else self.columns.columns)]

    def table(self, names: Sequence[str] | None = None) -> DataFrame:
        """Returns the columns `names` of ids, texts and `columns` as one table, by default all of them. Raises
        `KeyError` for an unknown one."""
        polars = import_polars()
        own = {"item_id": self.item_ids, "text": self.texts}
        names = self.column_names if names is None else names
        return polars.DataFrame(
            [polars.Series(name, own[name], polars.String) if name in own else self.columns[name] for name in names]
        )

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
            nearest = nearest_ids(name, self.item_ids, likely)
            raise KeyError(
                f"item id {name!r} is not in the catalogue of {len(self)} items; nearest ids: {', '.join(nearest)}."
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

    def with_columns(self, columns: DataFrame | None) -> "ItemCatalogue":
        """Returns a catalogue of the same items with other `columns`."""
        rest = (self._item_ids_hash, columns, self.former, self.tables)
        return ItemCatalogue(self.item_ids, self.texts, self.item_embeddings, self.id_rows, *rest)

    def content_hash(self) -> str:
        """Returns the SHA-256 of ids and texts in their order, which is stored with the text vectors to tell which
        items they belong to."""
        return hashlib.sha256(json.dumps([self.item_ids, self.texts]).encode()).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        r"""
        Writes `items.parquet` and, if present, `item_embeddings.safetensors` and `tables.json`, replacing an existing
        catalogue.

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
        if self.former:
            gone = {
                "item_id": list(self.former),
                "text": [item.text for item in self.former.values()],
                "is_former": True,
            }
            if self.id_rows is not None:
                gone["id_row"] = [item.id_row for item in self.former.values()]
            items = items.with_columns(is_former=False)
            items = polars.concat([items, polars.DataFrame(gone)], how="diagonal")
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
                if self.tables:
                    text = json.dumps(self.tables, indent=2, ensure_ascii=False) + "\n"
                    (draft / TABLES_FILE).write_text(text, encoding="utf-8")
                for file in draft.iterdir():
                    flush(file)
                if self.tables:
                    os.replace(draft / TABLES_FILE, directory / TABLES_FILE)
                else:
                    (directory / TABLES_FILE).unlink(missing_ok=True)
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
            before = file_states(find)
            try:
                return cls._read(find)
            except (ValueError, FileNotFoundError):
                if file_states(find) == before:  # otherwise the files belong to different versions of the catalogue
                    raise
        raise OSError(f"{find(ITEMS_FILE)}: other processes go on replacing it; try again when they have ended.")

    @classmethod
    def _read(cls, find: Callable[[str], str | None]) -> "ItemCatalogue | None":
        items_file = find(ITEMS_FILE)
        if items_file is None:
            return None
        catalogue = cls._read_items(items_file)
        catalogue.tables = load_tables(find)
        expected, found = catalogue.content_hash(), {}
        for name in (EMBEDDINGS_FILE, NEW_EMBEDDINGS_FILE):
            if expected not in found and (file := find(name)) is not None:
                found.update(read_embeddings(file, expected))
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
        kinds = {"item_id": polars.String, "text": polars.String, "id_row": polars.Int64, "is_former": polars.Boolean}
        for column, kind in kinds.items():
            if column in ("id_row", "is_former") and column not in items.columns:
                continue
            if items.schema.get(column) != kind or items[column].null_count():
                raise ValueError(f"{file}: expected a column {column!r} of type {kind} without missing values.")
        former = {}
        if "is_former" in items.columns:
            gone = items.filter(polars.col("is_former"))
            rows = gone["id_row"] if "id_row" in gone.columns else [0] * len(gone)
            former = dict(zip(gone["item_id"], map(FormerItem, gone["text"], rows), strict=True))
            items = items.filter(~polars.col("is_former"))
        id_rows = torch.tensor(items["id_row"].to_list()) if "id_row" in items.columns else None
        trained_on = None if id_rows is None else trained_on
        columns = items.drop(OWN_COLUMNS, strict=False)
        return cls(items["item_id"].to_list(), items["text"].to_list(), None, id_rows, trained_on, columns, former)


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


__all__ = ["FormerItem", "ItemCatalogue", "check_id_rows", "import_polars"]
