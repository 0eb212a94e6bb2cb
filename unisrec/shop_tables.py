"""Reads the tables of a shop for `fit` and `update`."""

from collections.abc import Mapping
from typing import Any

from .data import read_table
from .data.interactions import RawData
from .data.readers.columns import names_of
from .data.readers.frames import TableSource
from .data.readers.guess import Columns, guess_columns
from .data.readers.table import Table, check_csv_options, load_table


DOMAIN = "domain"  # folder of the prepared data in that of the checkpoint
MOST_NAMES = 10  # of columns in one line


def read_shop(
    interactions: TableSource,
    items: TableSource | None,
    columns: Mapping[str, Any],
    csv: Mapping[str, str | None],
    reading: Mapping[str, Any],
) -> tuple[RawData, Columns]:
    r"""
    Reads the tables of a shop, and recognises the columns that are not given.

    Args:
        interactions (`str`, `os.PathLike` or data frame): Table of interactions, as for [`read_table`].
        items (`str`, `os.PathLike` or data frame, *optional*): Table of items.
        columns (`Mapping`): `user_column`, `item_column`, `time_column`, `text_columns` and `items_id_column`, or `None`.
        csv (`Mapping`): `separator` and `encoding` of CSV files, or `None`.
        reading (`Mapping`): `date_format`, `drop_anonymous` and others, as for [`read_table`].

    Returns:
        `tuple[RawData, Columns]`: The data, with all of these in `info["tables"]`, and the columns.

    Raises:
        OSError: If a table cannot be read.
        ValueError: If a column cannot be recognised, or a table cannot be used.
    """
    check_csv_options([interactions, items], **csv)
    clicks = load_table(interactions, name="interactions", **csv)
    products = None if items is None else load_table(items, name="items", **csv)
    found = guess_columns(clicks, products, **columns)
    raw = read_table(
        clicks,
        products,
        user_column=found.user,
        item_column=found.item,
        time_column=found.time,
        text_columns=found.texts,
        items_id_column=found.items_id,
        **reading,
    )
    used = {found.user, found.item, found.time, found.items_id, *found.texts, reading.get("event_column")}
    used |= set(names_of(reading.get("keep_columns", ())))
    rest = [f"{', '.join(names)} of {table.source}" for table in (clicks, products) if (names := _unused(table, used))]
    if rest:
        found.reasons.append(f"not used: {'; '.join(rest)}")
    raw.info["tables"] |= {name: value for name, value in csv.items() if value is not None}
    return raw, found


def _unused(table: Table | None, used: set[str | None]) -> list[str]:
    """Returns the columns of a table that are not used, in quotes, the first ten of them."""
    names = [] if table is None else [repr(name) for name in table.frame.columns if name not in used]
    return names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], f"{len(names) - MOST_NAMES} more"]


__all__ = ["DOMAIN", "read_shop"]
