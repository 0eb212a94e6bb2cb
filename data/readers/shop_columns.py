"""Columns of a table of products besides id and text, such as price, stock and brand, as they are filtered and shown."""

from collections.abc import Iterable

import polars as pl

from .values import present


RESERVED = ("item_id", "text", "id_row", "is_former")
WHOLE = r"^-?(?:0|[1-9]\d{0,17})$"
DECIMAL = r"^-?(?:0|[1-9]\d{0,14})(?:\.\d+)?$"
COMMA = r"^-?(?:0|[1-9]\d{0,14})(?:,\d{1,2})?$"  # a price such as 4,90; with three digits it could be thousands
THOUSANDS = r"^-?[1-9]\d{0,2}(?:\.\d{3})+$"
BOOLEAN = r"^(?i:true|false)$"


def shop_columns(table: pl.DataFrame, leave_out: Iterable[str] = ()) -> pl.DataFrame:
    """
    Take the columns of a table of products that can be filtered and shown.

    Text files have no types: a column of strings in which every value is a number or `true` or `false` is converted,
    also with a decimal comma. Numbers with leading zeros, which are ids, stay strings, and so do numbers such as 1.299 and
    899, in which the point may stand between thousands.

    Args:
        table (`pl.DataFrame`): Table of products.
        leave_out (iterable of `str`, *optional*): Columns that are not taken, besides those of [`RESERVED`].

    Returns:
        `pl.DataFrame`: Columns of strings, numbers, booleans and dates, with empty strings and NaN as nulls. Columns of lists,
        objects and bytes are left out.
    """
    taken = [column for column in table.iter_columns() if column.name not in {*RESERVED, *leave_out}]
    return pl.DataFrame([found for column in taken if (found := _typed(column)) is not None])


def _typed(column: pl.Series) -> pl.Series | None:
    """Converts a column; `None` if it holds neither strings nor numbers, booleans or dates."""
    if column.dtype == pl.Object:  # JSON lines and frames with missing values, or values of several types
        column = _plain(column)
    dtype = column.dtype
    if dtype in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if dtype.is_decimal():
        return column.cast(pl.Float64)
    if dtype.is_float():
        return column.fill_nan(None)
    if dtype.is_numeric() or dtype in (pl.Boolean, pl.Date, pl.Datetime):
        return column
    if dtype == pl.Null:
        return column.cast(pl.String)
    if dtype != pl.String:
        return None
    column = present(column)
    values = column.drop_nulls()
    if values.is_empty():
        return column
    if values.str.contains(WHOLE).all():
        return column.cast(pl.Int64)
    if values.str.contains(DECIMAL).all() and not _may_be_thousands(values):
        return column.cast(pl.Float64)
    if values.str.contains(COMMA).all():
        return column.str.replace(",", ".", literal=True).cast(pl.Float64)
    if values.str.contains(BOOLEAN).all():
        return column.str.to_lowercase() == "true"
    return column


def _may_be_thousands(values: pl.Series) -> bool:
    """Whether numbers such as 899 and 1.299 may be whole ones with a point between thousands: some have no point and three
    digits at most, and all others three digits behind each point."""
    whole = values.str.contains(r"^-?\d{1,3}$")
    return whole.any() and (whole | values.str.contains(THOUSANDS)).all()


def _plain(column: pl.Series) -> pl.Series:
    """Converts a column of Python objects: values of one type as they are, strings, numbers and booleans together to
    strings, as a text file would hold them. Returns any other one."""
    values = column.to_list()
    for types, dtype in (((bool,), pl.Boolean), ((int,), pl.Int64), ((int, float), pl.Float64), ((str,), pl.String)):
        if all(value is None or type(value) in types for value in values):
            return pl.Series(column.name, values, dtype=dtype)
    if all(value is None or type(value) in (str, int, float, bool) for value in values):
        return pl.Series(column.name, map(_as_text, values), dtype=pl.String)
    return column


def _as_text(value: str | float | bool | None) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


__all__ = ["RESERVED", "shop_columns"]
