"""Conversion of raw tables to checked ids and times; errors name the row, the field and the next step."""

import difflib
from collections.abc import Mapping, Sequence

import polars as pl

from .values import place, present, to_ids


ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M%z")


def check_columns(found: Sequence[str], wanted: Sequence[str], source: str) -> None:
    """
    Check that a table has all required columns.

    Args:
        found (`Sequence[str]`): Columns of the table.
        wanted (`Sequence[str]`): Required columns.
        source (`str`): File or dataset, for the message.

    Raises:
        ValueError: If a column is missing; the message lists the existing columns and suggests the nearest one.
    """
    for column in wanted:
        if column not in found:
            lowered = {name.lower(): name for name in found}
            near = difflib.get_close_matches(column.lower(), lowered, n=1)
            hint = f"; did you mean {lowered[near[0]]!r}?" if near else ""
            raise ValueError(f"{source}: no column {column!r}, the columns are {', '.join(found)}{hint}")


def to_interactions(
    frame: pl.DataFrame,
    columns: Mapping[str, str],
    source: str,
    *,
    first_line: int | None = None,
    time_formats: Sequence[str] = (),
) -> pl.DataFrame:
    """
    Convert a raw table to checked `user_id`, `item_id` and `time` columns.

    Args:
        frame (`pl.DataFrame`): Raw table.
        columns (`Mapping[str, str]`): Names of the raw columns for `user_id`, `item_id` and `time`.
        source (`str`): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.
        time_formats (`Sequence[str]`, *optional*): Date formats to try besides ISO 8601.

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
            "time": to_times(frame[columns["time"]], source, first_line=first_line, formats=time_formats),
        }
    )


def to_times(
    times: pl.Series, source: str = "", *, first_line: int | None = None, formats: Sequence[str] = ()
) -> pl.Series:
    """
    Convert times to numbers; missing times become null.

    Args:
        times (`pl.Series`): Numbers in any unit, dates, or strings that hold either.
        source (`str`, *optional*): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.
        formats (`Sequence[str]`, *optional*): Date formats to try besides ISO 8601.

    Returns:
        `pl.Series` of `i64` or `f64`: Numbers in the unit of the column, dates in microseconds since 1970.

    Raises:
        ValueError: If the column holds durations, times of day, lists or the like, or a value is neither a number nor
            a date.
    """
    dtype = times.dtype
    if dtype == pl.Object:  # JSON lines of several types
        times = to_ids(times, source, first_line=first_line)
    elif dtype in (pl.Categorical, pl.Enum):
        times = times.cast(pl.String)
    elif not (dtype in (pl.String, pl.Date, pl.Datetime, pl.Null) or dtype.is_numeric()):
        raise ValueError(
            f"{source}: column {times.name!r} is of type {dtype}, expected numbers or dates; name another column or "
            "convert it"
        )
    if times.dtype == pl.String:
        times = present(times)
    elif dtype.is_float():
        times = times.fill_nan(None)
    parsed = _parse_times(times, formats)
    invalid = parsed.is_null() & times.is_not_null()
    if parsed.dtype.is_float():
        invalid |= parsed.is_infinite().fill_null(False)
    if invalid.any():
        row = int(invalid.arg_max())
        is_whole = str(times[row]).lstrip("+-").isdecimal()
        expected = "a number of at most 64 bits" if is_whole else "a number or an ISO 8601 date"
        raise ValueError(
            f"{place(source, row, first_line)}: {times.name!r} is {str(times[row])[:80]!r}, expected {expected}"
        )
    return parsed.rename("time")


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
    # One spelling of ISO 8601: a space between date and time, the zone as an offset.
    texts = texts.str.replace(r"^(\d{4}-\d{2}-\d{2})T", "$1 ").str.replace(r"Z$", "+00:00")
    dates = pl.repeat(None, len(texts), dtype=pl.Int64, eager=True)
    for form in (*ISO_FORMATS, *formats):
        dates = dates.fill_null(texts.str.to_datetime(form, time_unit="us", strict=False).to_physical())
        if dates.null_count() == missing:
            break
    return min(dates, numbers, key=pl.Series.null_count)


__all__ = ["check_columns", "to_interactions", "to_times"]
