"""Values of a table as ids and as texts: what counts as absent, and one spelling for each value in every file format."""

import ast
import json
import math
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl


# How pandas, NumPy and polars print a missing number or time into a text file.
MISSING_WORDS = ("nan", "NaN", "NaT", "<NA>")

_ID_TYPES = "texts or whole numbers"
_TEXT_TYPES = "texts, numbers, dates, or lists and objects of them"


def present(texts: pl.Series) -> pl.Series:
    """
    Texts without outer spaces, null where they are absent.

    Args:
        texts (`pl.Series` of `str`): Texts.

    Returns:
        `pl.Series` of `str`: Null for blank texts and for those that print a missing value ([`MISSING_WORDS`]). The same
        series if there is nothing to change, so that large columns are not copied in vain.
    """
    missing = rf"^(?:{'|'.join(MISSING_WORDS)})?$"
    if not texts.str.contains(rf"^\s|\s$|{missing}").any():
        return texts
    texts = texts.str.strip_chars()
    return texts.set(texts.str.contains(missing).fill_null(False), None)


def to_ids(values: pl.Series, source: str = "", *, first_line: int | None = None) -> pl.Series:
    """
    Ids as strings, null where they are absent.

    Args:
        values (`pl.Series`):
            Texts, categories, or numbers. A column of an untyped format may mix them. A whole number has no decimal
            point, whether it is stored as an integer, as a decimal or, as pandas does with gaps, as a float; texts lose
            a ".0" only where all of a column end in it.
        source (`str`, *optional*): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.

    Returns:
        `pl.Series` of `str`: Ids without outer spaces.

    Raises:
        ValueError: If the column holds booleans, dates, lists or the like, or a float too large to be an exact number.
    """
    dtype = values.dtype
    if dtype in (pl.Categorical, pl.Enum):
        values, dtype = values.cast(pl.String), pl.String
    if dtype == pl.String:
        ids = present(values)
        known = ids.drop_nulls()
        if len(known) and known[0].endswith(".0") and known.str.contains(r"^-?\d+\.0$").all():
            ids = ids.str.strip_suffix(".0")
        return ids
    if dtype.is_integer() or dtype == pl.Null:
        return values.cast(pl.String)
    if not (dtype.is_float() or dtype.is_decimal() or dtype == pl.Object):
        raise ValueError(_wrong_type(source, values.name, dtype, _ID_TYPES))
    exact = float(2**24 if dtype == pl.Float32 else 2**53)
    if dtype.is_float():
        values = values.fill_nan(None)
        known = values.drop_nulls()
        if ((known % 1 == 0) & (known.abs() < exact)).all():
            return values.cast(pl.Int64).cast(pl.String)
    ids = []
    for row, value in enumerate(_shortest(values)):
        try:
            ids.append(_id(value, exact))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{place(source, row, first_line)}: {values.name!r} is {_show(value)}, {error}, expected {_ID_TYPES}; "
                "convert the column"
            ) from error
    return pl.Series(values.name, ids, dtype=pl.String)


def to_id(value: Any) -> str | None:
    """One id as [`to_ids`] spells it, `None` where it is absent; raises `TypeError` or `ValueError` for what is none."""
    return _id(value, float(2**53))


def to_texts(values: pl.Series, source: str = "", *, first_line: int | None = None) -> pl.Series:
    """
    Texts of a column, null where they are absent.

    Args:
        values (`pl.Series`): Anything [`flatten_text`] takes.
        source (`str`, *optional*): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.

    Returns:
        `pl.Series` of `str`: One text for each row, as [`flatten_text`] gives it.

    Raises:
        ValueError: If the column holds bytes, durations or times of day.
    """
    dtype = values.dtype
    if dtype in (pl.Categorical, pl.Enum):
        values, dtype = values.cast(pl.String), pl.String
    if dtype == pl.String:
        texts = present(values)
        printed = texts.str.contains(r"^[\[{]").fill_null(False)
        if not printed.any():
            return texts
        flat = pl.Series([flatten_text(text) or None for text in texts.filter(printed)], dtype=pl.String)
        return texts.scatter(printed.arg_true(), flat)
    if dtype in (pl.Binary, pl.Duration, pl.Time):
        raise ValueError(_wrong_type(source, values.name, dtype, _TEXT_TYPES))
    texts = []
    for row, value in enumerate(_shortest(values)):
        try:
            texts.append(flatten_text(value) or None)
        except TypeError as error:
            raise ValueError(
                f"{place(source, row, first_line)}: {values.name!r} holds {error}, expected {_TEXT_TYPES}"
            ) from error
    return pl.Series(values.name, texts, dtype=pl.String)


def flatten_text(value: Any) -> str:
    """
    One string from a field that may be a string, a number, a (nested) list or object, or one of these printed into a
    string.

    Args:
        value: `"Toys"`, `3.5`, `["Toys", "Games"]`, `[["Toys", "Games"], ["Toys", "Puzzles"]]`, `"['Toys']"`, `None`, ...

    Returns:
        `str`: The different leaves in order, separated by a space; `""` where there are none. Absent leaves (null, NaN,
        blank strings, [`MISSING_WORDS`]) are left out.

    Raises:
        TypeError: If a leaf is not a string, a number or a date.

    Example:
        >>> flatten_text([["Toys", "Games"], ["Toys", "Puzzles"]])
        'Toys Games Puzzles'
    """
    return " ".join(dict.fromkeys(_leaves(value)))


def place(source: str, row: int, first_line: int | None = None) -> str:
    """Where a row stands, for messages: by its line in a text file, else by its number from 1."""
    return f"{source}, row {row + 1}" if first_line is None else f"{source}, line {first_line + row}"


def _leaves(value: Any) -> Iterator[str]:
    """All present leaves of a value, in order."""
    pending = [value]  # not recursive: files may nest as deep as they like
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            value = _parse_printed(value.strip())
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, (list, tuple, pl.Series)):
            pending.extend(reversed(list(value)))
        elif text := _spell(value):
            yield text


def _parse_printed(text: str) -> Any:
    """The list or object that was printed into a text, as JSON or by Python; any other text as it is."""
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(value, (list, dict)):
            return value
    return text


def _spell(value: Any) -> str:
    """One scalar as a text, `""` where it is absent; raises `TypeError` for a value of another kind."""
    if value is None or (isinstance(value, (float, Decimal)) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        text = value.strip()
        return "" if text in MISSING_WORDS else text
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, Decimal, date)):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def _id(value: Any, exact: float) -> str | None:
    """One id; floats from `exact` on may stand for several whole numbers."""
    if isinstance(value, bool) or not (value is None or isinstance(value, (str, int, float, Decimal))):
        raise TypeError(f"a {type(value).__name__}")
    if isinstance(value, (float, Decimal)) and not math.isnan(value):
        if not math.isfinite(value):
            raise ValueError("not a finite number")
        if isinstance(value, float) and abs(value) >= exact:
            raise ValueError("too large a float to be exact")
        if value == int(value):
            value = int(value)
        elif isinstance(value, Decimal):
            value = value.normalize()
    return _spell(value) or None


def _shortest(values: pl.Series) -> list[Any]:
    """Python values; numbers of 32 bits are written with the digits they need, not with those of 64 bits."""
    if values.dtype == pl.Float32:
        values = values.cast(pl.String).cast(pl.Float64)
    return values.to_list()


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _wrong_type(source: str, column: str, dtype: pl.DataType, expected: str) -> str:
    return f"{source}: column {column!r} is of type {dtype}, expected {expected}; name another column or convert it"


__all__ = ["MISSING_WORDS", "flatten_text", "place", "present", "to_id", "to_ids", "to_texts"]
