"""The items to recommend, from whatever a shop has: a table, a data frame, a mapping, a domain."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import torch

from ..data import Domain
from ..data.domain_features import domain_catalogue, domain_features
from ..data.readers.columns import check_columns, named_by
from ..data.readers.files import suffix_of
from ..data.readers.frames import TableSource, is_path
from ..data.readers.guess import column_by_name
from ..data.readers.item_texts import join_texts
from ..data.readers.json_lines import json_fields
from ..data.readers.shop_columns import shop_columns
from ..data.readers.table import JSON_LINES, check_csv_options, csv_options, load_table
from ..data.readers.values import flatten_text, to_id, to_ids, to_texts
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor


Items: TypeAlias = "TableSource | Mapping[str, str] | Domain | ItemCatalogue"
DEFAULT_TEXT_COLUMNS = ("title", "text")  # the first that a table has
logger = logging.getLogger(__name__)


def make_catalogue(
    items: "Items | None",
    *,
    item_column: str | None = None,
    text_columns: str | Sequence[str] | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    tables: Mapping[str, Any] | None = None,
) -> ItemCatalogue | None:
    r"""
    Makes a catalogue of items; `None` of `None`.

    Args:
        items (`str`, `os.PathLike`, `Mapping`, data frame, [`Domain`] or [`ItemCatalogue`], *optional*):
            A table of products (file, dataset of the Hub or data frame, see [`read_products`]), texts by id, a domain or
            its folder, or a catalogue, which is returned as it is.
        item_column, text_columns, separator, encoding, tables (*optional*): How to read a table, see [`read_products`].

    Returns:
        [`ItemCatalogue`] or `None`: Without text vectors. That of a table remembers how it was read.

    Raises:
        OSError: If a file or folder does not exist or cannot be read.
        ValueError: If `items` is nothing of the above, a column is missing, an id or text is empty or no string, no item
            is there, or columns are named for what has none.
    """
    if isinstance(items, str | os.PathLike) and Path(items).is_dir():
        items = Domain.load_from_disk(items)
    named = {"item_column": item_column, "text_columns": text_columns, "separator": separator, "encoding": encoding}
    if not isinstance(items, ItemCatalogue | Mapping | Domain | None):
        table, how = read_products(items, **named, tables=tables)
        ids, texts = table["item_id"].to_list(), table["text"].to_list()
        return ItemCatalogue(ids, texts, columns=shop_columns(table), tables=how)
    given = "no items" if items is None else f"a {type(items).__name__}"
    if any(value is not None for value in named.values()):
        raise ValueError(f"{', '.join(named)} are of a table of items, not of {given}; leave them out.")
    if items is None:
        return None
    if isinstance(items, ItemCatalogue):
        return items
    if isinstance(items, Domain):
        return domain_catalogue(items)
    if not items:
        raise ValueError("the mapping of items is empty; give texts by id.")
    check_items(items)
    return ItemCatalogue(list(items), list(items.values()))


def columns_by_id(table: TableSource, item_ids: Sequence[str], item_column: str | None = None) -> pl.DataFrame:
    r"""
    Reads columns of items, such as price and stock, in the order of a catalogue.

    Args:
        table (`str`, `os.PathLike` or data frame):
            File or frame, as for [`read_table`], with a column of ids and a row for each item. Columns are converted by
            [`shop_columns`].
        item_ids (`Sequence[str]`): Ids of the catalogue.
        item_column (`str`, *optional*): Column of the ids; by default it is recognised by its name.

    Returns:
        `pl.DataFrame`: One row for each item of the catalogue; null for items that the table lacks, which a warning
        counts.

    Raises:
        OSError: If there is no such file, or it cannot be read.
        ValueError: If there is no column of ids or nothing beside it, an id comes twice, or none is in the catalogue.
    """
    columns = [] if item_column is None else [item_column]
    if is_path(table) and suffix_of(table) in JSON_LINES:  # of which only named ones are read
        columns += [name for name in json_fields(table) if name != item_column]
    frame, source, first_line, notes = load_table(table, columns, name="table", hub=False)
    for note in notes:
        logger.warning(note)
    item_column = column_by_name(frame.columns, "item") if item_column is None else item_column
    if item_column is None:
        raise ValueError(
            f"{source}: no column of item ids, the columns are {', '.join(frame.columns)}; name it item_id"
        )
    ids = to_ids(frame[item_column], source, first_line=first_line).alias("item_id")
    values = shop_columns(frame, [item_column])
    if not values.width:
        raise ValueError(f"{source}: no column of numbers, texts, dates or booleans beside {item_column!r}")
    if (twice := ids.drop_nulls().is_duplicated()).any():
        raise ValueError(f"{source}: item id {ids.drop_nulls().filter(twice)[0]!r} comes twice, expected once")
    wanted = pl.DataFrame({"item_id": list(item_ids)}, schema={"item_id": pl.String})
    found = values.insert_column(0, ids)
    missing = wanted.join(found, on="item_id", how="anti").height
    if missing == wanted.height:
        raise ValueError(f"{source}: none of its ids is in the catalogue, whose first is {wanted['item_id'][0]!r}")
    if missing:
        logger.warning("%s: %s of %s items of the catalogue are not in it", source, f"{missing:,}", f"{len(wanted):,}")
    return wanted.join(found, on="item_id", how="left", maintain_order="left").drop("item_id")


def take_catalogue(catalogue: ItemCatalogue, model: UniSRecModel, processor: UniSRecProcessor) -> None:
    """Gives a processor another catalogue. Warns if its model reads texts in the text space of a shop that has none of the
    items."""
    own, processor.catalogue = processor.catalogue, catalogue
    if model.config.text_space == "own" and own and not any(item_id in own for item_id in catalogue.item_ids):
        logger.warning(
            "none of the items given is in the catalogue of the checkpoint, in whose text space it reads texts; for another shop, "
            "start from the checkpoint that it was made from, such as unisrec-base"
        )


def use_text_vectors_of(items: "Items | None", model: UniSRecModel, processor: UniSRecProcessor) -> None:
    """
    Gives a processor whose catalogue was made of a domain, or of its folder, the text vectors that are kept with the
    domain; they are encoded and kept there if need be. Does nothing for other items.

    Args:
        items: What the catalogue was made of, as for [`make_catalogue`].
        model ([`UniSRecModel`]): Model that takes the vectors.
        processor ([`UniSRecProcessor`]): Its processor, with the catalogue.
    """
    if isinstance(items, str | os.PathLike) and Path(items).is_dir():
        items = Domain.load_from_disk(items)
    if not isinstance(items, Domain) or not model.config.item_text:
        return
    if items.folder is not None and not os.access(items.folder, os.W_OK):
        items = replace(items, folder=None)
    if model.text_encoder is None and not items.given_features:
        return  # the recommender says what is missing
    vectors = domain_features(items, model.text_encoder, processor.tokenizer, model.config, progress=False)
    processor.catalogue.item_embeddings = torch.from_numpy(np.array(vectors))


def read_products(
    items: TableSource,
    *,
    item_column: str | None = None,
    text_columns: str | Sequence[str] | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    tables: Mapping[str, Any] | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    r"""
    Reads a product list. Rows without an id or a text are left out, and so is an id that came before; a warning counts
    them.

    Args:
        items (`str`, `os.PathLike` or data frame): File, dataset of the Hub or frame, as for [`read_table`].
        item_column (`str`, *optional*):
            Column of the item ids. Defaults to that of `tables`, or else to `"item_id"`.
        text_columns (`str` or `Sequence[str]`, *optional*):
            Columns that form the item text, in order, as for [`read_table`]. Defaults to those of `tables`, or else to
            `title`, and to `text` where there is no such column.
        separator, encoding (`str`, *optional*):
            Those of a CSV file, as for [`read_table`]. Default to those of `tables`; otherwise they are found.
        tables (`Mapping[str, Any]`, *optional*):
            How tables of the shop were read before, `tables` of its [`ItemCatalogue`].

    Returns:
        `tuple[pl.DataFrame, dict[str, Any]]`: Columns `item_id` (`str`) and `text` (`str`), and the others as
        [`shop_columns`] returns them, or only the `keep_columns` of `tables`, in the order of the rows; and `tables`,
        completed by what was not in it.

    Raises:
        OSError: If there is no such file or dataset, or it cannot be read.
        ValueError: If `items` is no table, a column is missing or of a wrong type, or no row has an id and a text.
    """
    known, csv = dict(tables or {}), {"separator": separator, "encoding": encoding}
    check_csv_options([items], **csv)
    csv = csv_options(items, known) | {name: value for name, value in csv.items() if value is not None}
    item_column = item_column or known.get("items_id_column") or known.get("item_column") or "item_id"
    text_columns = known.get("text_columns") if text_columns is None else text_columns
    if isinstance(text_columns, str):
        text_columns = [text_columns]
    columns = [item_column, *(text_columns or ())]
    if is_path(items) and suffix_of(items) in JSON_LINES:  # of which only named ones are read
        found_columns = json_fields(items)
        columns += _default_columns(found_columns, str(items)) if text_columns is None else ()
        columns += [name for name in found_columns if name not in columns]
    with named_by({item_column: "item_column"} | dict.fromkeys(text_columns or (), "text_columns")):
        table, source, first_line, notes = load_table(items, columns, name="items", **csv)
    for note in notes:
        logger.warning(note)
    text_columns = _default_columns(table.columns, source) if text_columns is None else list(text_columns)
    ids = to_ids(table[item_column], source, first_line=first_line).alias("item_id")
    texts = join_columns(table, text_columns, source, first_line)
    others = shop_columns(table, [item_column])
    if kept := known.get("keep_columns"):  # those that `fit` or `prepare table` named
        others = others.select([name for name in kept if name in others.columns])
    rows = pl.DataFrame([ids, texts, *others])
    with_id = rows.drop_nulls("item_id")
    if known.get("missing_text") == "keep":  # as the shop was prepared
        with_id = with_id.with_columns(pl.coalesce("text", "item_id").alias("text"))
    with_text = with_id.drop_nulls("text")
    found = with_text.unique("item_id", keep="first", maintain_order=True)
    if found.is_empty():
        raise ValueError(
            f"{source}: none of its {rows.height:,} rows has an id and a text ({', '.join(text_columns)})"
        )
    reasons = {
        "without an id": rows.height - with_id.height,
        "without a text": with_id.height - with_text.height,
        "with an id that came before": with_text.height - found.height,
    }
    if found.height < rows.height:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        left_out = rows.height - found.height
        logger.warning("%s: %s of %s rows left out: %s", source, f"{left_out:,}", f"{rows.height:,}", counts)
    read = {"items_id_column": item_column, "text_columns": text_columns, **csv}
    return found, {name: value for name, value in read.items() if value is not None} | known


def join_columns(
    table: pl.DataFrame, text_columns: Sequence[str], source: str, first_line: int | None = None
) -> pl.Series:
    """Returns the column `text`, joined from columns of a table in their order; null where all of them are empty.
    Raises `ValueError` if a column is missing, named twice or of a wrong type."""
    text_columns = list(text_columns)
    if not text_columns:
        raise ValueError("no text column is named, expected at least one")
    if twice := next((name for name in text_columns if text_columns.count(name) > 1), None):
        raise ValueError(f"text column {twice!r} is named twice, expected each once")
    check_columns(table.columns, text_columns, source)
    texts = [to_texts(table[name], source, first_line=first_line) for name in text_columns]
    return pl.DataFrame(texts).select(text=join_texts(pl.col(name) for name in text_columns))["text"]


def _default_columns(found: Iterable[str], source: str) -> list[str]:
    for name in DEFAULT_TEXT_COLUMNS:
        if name in found:
            return [name]
    raise ValueError(
        f"{source}: neither a column 'title' nor 'text', the columns are {', '.join(found)}; name those that form the "
        "text of an item (text_columns, --text-columns)"
    )


def check_items(items: Mapping[Any, Any]) -> None:
    """Raises `ValueError` unless all ids and texts are strings that say something."""
    for pair in items.items():
        if not (all(isinstance(part, str) for part in pair) and to_id(pair[0]) and flatten_text(pair[1])):
            raise ValueError(f"an item is an id and a text, neither of them empty; got {pair!r}.")


__all__ = [
    "Items",
    "check_items",
    "columns_by_id",
    "join_columns",
    "make_catalogue",
    "read_products",
    "take_catalogue",
    "use_text_vectors_of",
]
