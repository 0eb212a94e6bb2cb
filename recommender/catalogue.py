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
from ..data.readers.item_texts import join_texts
from ..data.readers.json_lines import json_records
from ..data.readers.table import JSON_LINES, SEPARATORS, check_csv_options, load_table
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
        return ItemCatalogue(table["item_id"].to_list(), table["text"].to_list(), tables=how)
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
        `tuple[pl.DataFrame, dict[str, Any]]`: Columns `item_id` (`str`) and `text` (`str`), in the order of the rows; and
        `tables`, completed by what was not in it.

    Raises:
        OSError: If there is no such file or dataset, or it cannot be read.
        ValueError: If `items` is no table, a column is missing or of a wrong type, or no row has an id and a text.
    """
    known, csv = dict(tables or {}), {"separator": separator, "encoding": encoding}
    check_csv_options([items], **csv)
    if is_path(items) and suffix_of(items) in SEPARATORS:
        csv = {name: known.get(name) if value is None else value for name, value in csv.items()}
    item_column = item_column or known.get("items_id_column") or known.get("item_column") or "item_id"
    text_columns = known.get("text_columns") if text_columns is None else text_columns
    if isinstance(text_columns, str):
        text_columns = [text_columns]
    columns = [item_column, *(text_columns or ())]
    if text_columns is None and is_path(items) and suffix_of(items) in JSON_LINES:  # of which only named ones are read
        columns += _default_columns(next(json_records(items), {}), str(items))
    with named_by({item_column: "item_column"} | dict.fromkeys(text_columns or (), "text_columns")):
        table, source, first_line, notes = load_table(items, columns, name="items", **csv)
    for note in notes:
        logger.warning(note)
    text_columns = _default_columns(table.columns, source) if text_columns is None else list(text_columns)
    ids = to_ids(table[item_column], source, first_line=first_line).alias("item_id")
    rows = pl.DataFrame([ids, join_columns(table, text_columns, source, first_line)])
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


__all__ = ["Items", "check_items", "join_columns", "make_catalogue", "read_products", "use_text_vectors_of"]
