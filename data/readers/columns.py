"""Conversion of raw tables to checked ids and times; errors name the row, the field and the next step."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import polars as pl

from .values import place, present, to_ids


# Spellings that become one of the formats below: German dates with a comma, "um" or "Uhr"; a T between date and time;
# zones as Z, UTC, or an offset without minutes (PostgreSQL).
_ISO_SPELLINGS = (
    (r"^(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})(?:(?:,|,?\s+um|\s)\s*(\d.*?)(?: Uhr)?)?$", "$3-$2-$1 $4"),
    (r"^(\d{4}-\d{1,2}-\d{1,2})(?:T|\s*$)", "$1 "),
    (r"\s?(?:Z|UTC|GMT)$", "+00:00"),
    (r"(:\d{2}(?:\.\d+)?)\s?([+-]\d{2})$", "$1$2:00"),
    (r"\s$", ""),
)
ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M%z")
EPOCH_UNITS = {0: "seconds", 3: "milliseconds", 6: "microseconds", 9: "nanoseconds"}  # by power of ten


class MissingColumnError(ValueError):
    """Raised for a table without a required column, which is `column`."""

    def __init__(self, message: str, column: str):
        super().__init__(message)
        self.column = column


@contextmanager
def named_by(arguments: Mapping[str, str]) -> Iterator[None]:
    """
    Adds to the error of a missing column the argument by which the caller can name another one.

    Args:
        arguments (`Mapping[str, str]`): Arguments by column, for example `{"item_id": "item_column"}`.

    Raises:
        ValueError: If such a column is missing inside the `with` block.
    """
    try:
        yield
    except MissingColumnError as error:
        if error.column not in arguments:
            raise
        raise ValueError(f"{error}; name the column by `{arguments[error.column]}`") from error


def names_of(columns: str | Sequence[str]) -> list[str]:
    """Returns names as a list; one name may be given as it is."""
    return [columns] if isinstance(columns, str) else list(columns)


def check_columns(found: Sequence[str], wanted: Sequence[str], source: str) -> None:
    """
    Check that a table has all required columns.

    Args:
        found (`Sequence[str]`): Columns of the table.
        wanted (`Sequence[str]`): Required columns.
        source (`str`): File or dataset, for the message.

    Raises:
        MissingColumnError: If a column is missing; the message lists the existing columns and suggests the nearest one.
    """
    for column in wanted:
        if column not in found:
            lowered = {name.lower(): name for name in found}
            near = difflib.get_close_matches(column.lower(), lowered, n=1)
            hint = f"; did you mean {lowered[near[0]]!r}?" if near else ""
            message = f"{source}: no column {column!r}, the columns are {', '.join(found)}{hint}"
            raise MissingColumnError(message, column)


def to_interactions(
    frame: pl.DataFrame,
    columns: Mapping[str, str],
    source: str,
    *,
    first_line: int | None = None,
    time_formats: Sequence[str] = (),
    date_format: str | None = None,
) -> pl.DataFrame:
    """
    Convert a raw table to checked `user_id`, `item_id` and `time` columns.

    Args:
        frame (`pl.DataFrame`): Raw table.
        columns (`Mapping[str, str]`): Names of the raw columns for `user_id`, `item_id` and `time`.
        source (`str`): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.
        time_formats (`Sequence[str]`, *optional*): Date formats to try besides those of [`to_times`].
        date_format (`str`, *optional*): The only date format, as for [`to_times`].

    Returns:
        `pl.DataFrame`: Ids as [`to_ids`] gives them; `time` as `i64` or `f64` in the unit of the source, dates in
        microseconds since 1970. A missing id or time is null; [`build_domain`] drops and counts such rows.

    Raises:
        ValueError: If a column is missing or of a wrong type, or a time is neither a number nor a date.
    """
    check_columns(frame.columns, list(columns.values()), source)
    return pl.DataFrame(
        {
            "user_id": to_ids(frame[columns["user_id"]], source, first_line=first_line),
            "item_id": to_ids(frame[columns["item_id"]], source, first_line=first_line),
            "time": to_times(
                frame[columns["time"]], source, first_line=first_line, formats=time_formats, date_format=date_format
            ),
        }
    )


def to_times(
    times: pl.Series,
    source: str = "",
    *,
    first_line: int | None = None,
    formats: Sequence[str] = (),
    date_format: str | None = None,
) -> pl.Series:
    """
    Convert times to numbers; missing times become null.

    Args:
        times (`pl.Series`):
            Numbers in any unit, dates, or strings that hold numbers, ISO 8601 dates (`2024-12-31T18:05:00+01:00`, with
            a zone as an offset, `Z` or `UTC`; times without one are taken for UTC) or German ones (`31.12.2024 18:05`).
        source (`str`, *optional*): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.
        formats (`Sequence[str]`, *optional*): Date formats to try besides these.
        date_format (`str`, *optional*):
            The only format to read strings and whole numbers by, as of `strptime`: `"%d/%m/%Y %H:%M"`, `"%Y%m%d"`.

    Returns:
        `pl.Series` of `i64` or `f64`: Numbers in the unit of the column, dates in microseconds since 1970.

    Raises:
        ValueError: If the column holds durations, times of day, lists or the like, a value is neither a number nor a
            date, `date_format` is invalid or given for a column of dates, or numbers count from 1970 in several units.
    """
    dtype = times.dtype
    if dtype == pl.Object:  # JSON lines and frames with values of several types
        times = to_ids(times, source, first_line=first_line)
    elif dtype in (pl.Categorical, pl.Enum):
        times = times.cast(pl.String)
    elif not (dtype in (pl.String, pl.Date, pl.Datetime, pl.Null) or dtype.is_numeric()):
        raise ValueError(
            f"{source}: column {times.name!r} is of type {dtype}, expected numbers or dates; name another column or "
            "convert it"
        )
    if date_format is not None and dtype in (pl.Date, pl.Datetime):
        raise ValueError(f"{source}: column {times.name!r} holds dates already; leave `date_format` out")
    if times.dtype == pl.String:
        times = present(times)
    elif dtype.is_float():
        times = times.fill_nan(None)
    parsed = _parse_times(times, formats) if date_format is None else _parse_dates(times, date_format)
    invalid = parsed.is_null() & times.is_not_null()
    if parsed.dtype.is_float():
        invalid |= parsed.is_infinite().fill_null(False)
    if invalid.any():
        row = int(invalid.arg_max())
        text = str(times[row])
        if date_format is not None:
            expected = f"a date of the format {date_format!r}"
        elif text.lstrip("+-").isdecimal():
            expected = "a number of at most 64 bits"
        else:
            expected = (
                "a number, an ISO 8601 date or a German one (31.12.2024 18:05); for others, name the format by "
                "`date_format`, such as '%d/%m/%Y %H:%M'"
            )
        raise ValueError(f"{place(source, row, first_line)}: {times.name!r} is {text[:80]!r}, expected {expected}")
    if date_format is None and not times.dtype.is_temporal():
        _check_one_unit(times, source, first_line)
    return parsed.rename("time")


def _check_one_unit(times: pl.Series, source: str, first_line: int | None) -> None:
    """Raises `ValueError` if numbers count from 1970 in several units, such as seconds and milliseconds: the years 1980 to
    2096 in one unit do not overlap with those in another. Numbers outside of these years are not judged."""
    numbers = times.cast(pl.Float64, strict=False)
    unit = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(times))
    for power in EPOCH_UNITS:
        unit = unit.set(numbers.is_between(3e8 * 10**power, 4e9 * 10**power).fill_null(False), power)
    if unit.n_unique() - bool(unit.null_count()) > 1:
        usual = unit.drop_nulls().value_counts(sort=True)[unit.name][0]
        row = int((unit != usual).fill_null(False).arg_max())
        raise ValueError(
            f"{place(source, row, first_line)}: {times.name!r} is {times[row]}, in {EPOCH_UNITS[unit[row]]}, where most rows "
            f"are in {EPOCH_UNITS[usual]} since 1970; expected one unit in the whole column"
        )


def _parse_times(times: pl.Series, formats: Sequence[str]) -> pl.Series:
    """Parses numbers or dates (in microseconds); null for values that do not match the best format of the column."""
    if times.dtype.is_temporal():
        return times.cast(pl.Datetime("us")).to_physical()
    if times.dtype.is_numeric():
        is_whole = times.dtype.is_integer() or (times.dtype.is_decimal() and times.dtype.scale == 0)
        return times.cast(pl.Int64 if is_whole else pl.Float64, strict=False)
    texts = times.cast(pl.String)
    missing = texts.null_count()
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() == missing:
        return whole
    # An integer of more than 64 bits would lose its last digits, and the time order with them.
    numbers = texts.set(texts.str.contains(r"^[+-]?\d+$") & whole.is_null(), None).cast(pl.Float64, strict=False)
    if numbers.null_count() == missing:
        return numbers
    for pattern, spelling in _ISO_SPELLINGS:
        texts = texts.str.replace(pattern, spelling)
    dates = pl.repeat(None, len(texts), dtype=pl.Int64, eager=True)
    for form in (*ISO_FORMATS, *formats):
        dates = dates.fill_null(texts.str.to_datetime(form, time_unit="us", strict=False).to_physical())
        if dates.null_count() == missing:
            break
    return min(dates, numbers, key=pl.Series.null_count)


def _parse_dates(times: pl.Series, date_format: str) -> pl.Series:
    """Parses dates of one format, in microseconds; null for other values."""
    if not re.search(r"%(?:[YyGcDFsx]|\+)", date_format):
        raise ValueError(
            f"`date_format` is {date_format!r}, expected a format of strptime with day, month and year, such as "
            "'%d/%m/%Y %H:%M'"
        )
    texts = to_ids(times).cast(pl.String)
    return texts.str.to_datetime(date_format, time_unit="us", strict=False).to_physical()


__all__ = ["MissingColumnError", "check_columns", "named_by", "names_of", "to_interactions", "to_times"]
