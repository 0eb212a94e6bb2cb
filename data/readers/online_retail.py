"""Reader of the UCI "Online Retail" and "Online Retail II" tables. Each invoice is a user, as in the paper."""

import os
from pathlib import Path

import polars as pl

from ..interactions import RawData, count_step, drop_incomplete
from .columns import check_columns, to_interactions
from .files import open_csv, parse_csv, read_parquet, read_workbook, suffix_of
from .item_texts import join_texts
from .values import to_texts


# The two tables use different names for the first column.
INVOICE_COLUMNS = ("Invoice", "InvoiceNo")
# How CSV copies of the first table write times: month first, no leading zeros, no seconds.
TIME_FORMATS = ("%m/%d/%Y %H:%M",)


def read_online_retail(path: str | os.PathLike) -> RawData:
    """
    Read an Online Retail table.

    Rows without description and repeated lines of an item within an invoice are dropped. The text of an item is its
    most frequent description in lower case; ties are broken alphabetically.

    Args:
        path (`str` or `os.PathLike`):
            `.xlsx` as published (all sheets; needs the extra `unisrec[excel]`), `.csv`, `.csv.gz` or `.parquet`, with
            the columns `Invoice` or `InvoiceNo`, `StockCode`, `Description` and `InvoiceDate`.

    Returns:
        `RawData`: Invoices as users, stock codes as items.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has an unknown suffix, cannot be read (workbooks require `fastexcel`), or lacks a
            column.
    """
    path = Path(path)
    is_csv = suffix_of(path) == ".csv"
    frame = parse_csv(path, open_csv(path, ",")) if is_csv else _read_binary(path)
    invoice = next((name for name in INVOICE_COLUMNS if name in frame.columns), INVOICE_COLUMNS[0])
    columns = {"user_id": invoice, "item_id": "StockCode", "time": "InvoiceDate"}
    check_columns(frame.columns, [*columns.values(), "Description"], str(path))
    rows = to_interactions(frame, columns, str(path), first_line=2 if is_csv else None, time_formats=TIME_FORMATS)
    descriptions = to_texts(frame["Description"], str(path), first_line=2 if is_csv else None).str.to_lowercase()
    rows = rows.with_columns(text=descriptions).with_columns(text=join_texts([pl.col("text")]))

    complete, incomplete = drop_incomplete(rows)
    described = complete.drop_nulls("text")
    # Entering a long invoice takes minutes, so a repeated item with a later time is not a second purchase.
    interactions = described.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    items = (
        described.group_by("item_id", "text")
        .len()
        .sort("item_id", "len", "text", descending=[False, True, False])
        .unique("item_id", keep="first", maintain_order=True)
        .select("item_id", "text")
    )
    info = {
        "files": [path.name],
        "steps": [
            count_step(f"read {path.name}", rows.height, rows.height),
            *incomplete,
            count_step("no description", complete.height, described.height),
            count_step("item again in the same invoice", described.height, interactions.height),
        ],
        "item_steps": [count_step("stock codes with a description", items.height, items.height)],
    }
    return RawData(interactions.select("user_id", "item_id", "time"), items, info)


def _read_binary(path: Path) -> pl.DataFrame:
    suffix = suffix_of(path)
    if suffix == ".parquet":
        return read_parquet(path)
    if suffix != ".xlsx":
        raise ValueError(f"{path}: unknown ending {suffix!r}, expected .xlsx, .csv, .csv.gz or .parquet")
    return pl.concat(read_workbook(path).values())


__all__ = ["read_online_retail"]
