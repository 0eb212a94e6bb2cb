"""The items to recommend, from whatever a shop has: a table, a data frame, a mapping, a domain."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl

from ..data import Domain
from ..data.readers.table import read_products
from ..data.readers.values import flatten_text, to_id
from ..modeling_unisrec import ItemCatalogue


if TYPE_CHECKING:
    import datasets
    import pandas as pd

Items: TypeAlias = (
    "str | os.PathLike | Mapping[str, str] | pl.DataFrame | pd.DataFrame | datasets.Dataset | Domain | ItemCatalogue"
)


def make_catalogue(
    items: "Items | None", *, item_column: str | None = None, text_columns: str | Sequence[str] | None = None
) -> ItemCatalogue | None:
    r"""
    Makes a catalogue of items; `None` of `None`.

    Args:
        items (`str`, `os.PathLike`, `Mapping`, data frame, [`Domain`] or [`ItemCatalogue`], *optional*):
            A table of products (file, dataset of the Hub or data frame, see [`read_products`]), texts by id, a domain or
            its folder, or a catalogue, which is returned as it is.
        item_column (`str`, *optional*): Column of the ids of a table; defaults to `"item_id"`.
        text_columns (`str` or `Sequence[str]`, *optional*):
            Columns that form the item text of a table, in order; defaults to `title`, or else `text`.

    Raises:
        OSError: If a file or folder does not exist or cannot be read.
        TypeError: If `items` is nothing of the above.
        ValueError: If a column is missing, an id or text is empty or no string, no item is there, or columns are named
            for what has none.
    """
    if isinstance(items, str | os.PathLike) and Path(items).is_dir():
        items = Domain.load_from_disk(items)
    if not isinstance(items, ItemCatalogue | Mapping | Domain | None):
        table = read_products(items, item_column=item_column or "item_id", text_columns=text_columns)
        return ItemCatalogue(table["item_id"].to_list(), table["text"].to_list())
    given = "no items" if items is None else f"a {type(items).__name__}"
    if item_column is not None or text_columns is not None:
        raise ValueError(f"item_column and text_columns name columns of a table of items, not of {given}.")
    if items is None:
        return None
    if isinstance(items, ItemCatalogue):
        return items
    if isinstance(items, Domain):
        return ItemCatalogue(items.items["item_id"].to_list(), items.items["text"].to_list())
    if not items:
        raise ValueError("the mapping of items is empty; give texts by id.")
    check_items(items)
    return ItemCatalogue(list(items), list(items.values()))


def check_items(items: Mapping[Any, Any]) -> None:
    """Raises `ValueError` unless all ids and texts are strings that say something."""
    for pair in items.items():
        if not (all(isinstance(part, str) for part in pair) and to_id(pair[0]) and flatten_text(pair[1])):
            raise ValueError(f"an item is an id and a text, neither of them empty; got {pair!r}.")


__all__ = ["Items", "check_items", "make_catalogue"]
