"""Conversion of table values to ids and texts: missing values, and one spelling per value for all file formats."""

import ast
import json
import math
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from numbers import Integral
from typing import Any

import polars as pl


# How pandas, NumPy and polars print a missing number or time into a text file.
MISSING_WORDS = ("nan", "NaN", "NaT", "<NA>")

_ID_TYPES = "texts or whole numbers"
_TEXT_TYPES = "texts, numbers, dates, or lists and objects of them"


def present(texts: pl.Series) -> pl.Series:
    """
    Strip texts and replace missing ones by null.

    Args:
        texts (`pl.Series` of `str`): Texts.

    Returns:
        `pl.Series` of `str`: Null for blank texts and printed missing values ([`MISSING_WORDS`]). If nothing changes,
        the input series is returned without a copy.
    """
    missing = rf"^(?:{'|'.join(MISSING_WORDS)})?$"
    if not texts.str.contains(rf"^\s|\s$|{missing}").any():
        return texts
    texts = texts.str.strip_chars()
    return texts.set(texts.str.contains(missing).fill_null(False), None)


def to_ids(values: pl.Series, source: str = "", *, first_line: int | None = None) -> pl.Series:
    """
    Convert ids to strings; missing ids become null.

    Args:
        values (`pl.Series`):
            Strings, categories or numbers; untyped formats may mix them. Whole numbers are written without a decimal
            point, whether stored as integers, decimals or (as pandas does for columns with gaps) floats. A trailing
            ".0" is removed from strings only if all strings of the column end in it.
        source (`str`, *optional*): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.

    Returns:
        `pl.Series` of `str`: Ids without surrounding whitespace.

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
    """Converts one id as [`to_ids`] does, `None` if missing. Raises `TypeError` or `ValueError` if it is invalid."""
    return _id(value, float(2**53))


def to_texts(values: pl.Series, source: str = "", *, first_line: int | None = None) -> pl.Series:
    """
    Convert a column to texts; missing values become null.

    Args:
        values (`pl.Series`): Values supported by [`flatten_text`].
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
    Flatten a field into one string. The field may be a string, a number, a (nested) list or object, or the printed
    form of one of these.

    Args:
        value: `"Toys"`, `3.5`, `["Toys", "Games"]`, `[["Toys", "Games"], ["Toys", "Puzzles"]]`, `"['Toys']"`, `None`,
        ...

    Returns:
        `str`: The distinct leaves in order, separated by spaces; `""` if there are none. Missing leaves (null, NaN,
        blank strings, [`MISSING_WORDS`]) are skipped.

    Raises:
        TypeError: If a leaf is not a string, a number or a date.

    Example:
        >>> flatten_text([["Toys", "Games"], ["Toys", "Puzzles"]])
        'Toys Games Puzzles'
    """
    return " ".join(dict.fromkeys(_leaves(value)))


def place(source: str, row: int, first_line: int | None = None) -> str:
    """Returns the location of a row for messages: its line in a text file, otherwise its number from 1."""
    return f"{source}, row {row + 1}" if first_line is None else f"{source}, line {first_line + row}"


def check_count(name: str, value: Any) -> None:
    """Raises `ValueError` unless a value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1.")


def _leaves(value: Any) -> Iterator[str]:
    """Returns all non-missing leaves of a value, in order."""
    pending = [value]  # iterative, because files may be nested arbitrarily deep
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
    """Parses a text that is a printed list or object (JSON or Python); returns any other text unchanged."""
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
    """Converts a scalar to a text, `""` if it is missing. Raises `TypeError` for other types."""
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
    """Converts one id; floats from `exact` upwards do not represent unique integers."""
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
    """Returns Python values; float32 numbers keep their shortest decimal form instead of that of float64."""
    if values.dtype == pl.Float32:
        values = values.cast(pl.String).cast(pl.Float64)
    return values.to_list()


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _wrong_type(source: str, column: str, dtype: pl.DataType, expected: str) -> str:
    return f"{source}: column {column!r} is of type {dtype}, expected {expected}; name another column or convert it"


__all__ = ["MISSING_WORDS", "check_count", "flatten_text", "place", "present", "to_id", "to_ids", "to_texts"]
