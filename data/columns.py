"""Raw tables -> checked ids and times, with errors that name the row, the field and the next step."""

import difflib
from collections.abc import Mapping, Sequence

import polars as pl


ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M%z")


def check_columns(found: Sequence[str], wanted: Sequence[str], source: str) -> None:
    """
    Refuse a table that lacks a column.

    Args:
        found (`Sequence[str]`): Columns of the table.
        wanted (`Sequence[str]`): Columns that are needed.
        source (`str`): File or dataset, for the message.

    Raises:
        ValueError: If a column is missing; names the columns there are and the nearest one.
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
    The checked `user_id`, `item_id`, `time` columns of a raw table.

    Args:
        frame (`pl.DataFrame`): Raw table.
        columns (`Mapping[str, str]`): Names of the raw columns for `user_id`, `item_id` and `time`.
        source (`str`): File or dataset, for the messages.
        first_line (`int`, *optional*): Line of the first row in a text file; by default messages count rows from 1.
        time_formats (`Sequence[str]`, *optional*): Date formats to try besides ISO 8601.

    Returns:
        `pl.DataFrame`: Ids as `str` without outer spaces; `time` as `i64` or `f64` in the unit of the source, dates in
        microseconds since 1970.

    Raises:
        ValueError: If a column is missing, a field is empty, or a time is neither a number nor a date.
    """
    check_columns(frame.columns, list(columns.values()), source)
    ids = frame.select(**{name: to_ids(frame[columns[name]]) for name in ("user_id", "item_id")})
    times = frame[columns["time"]]
    if times.dtype == pl.String:
        times = times.str.strip_chars()
    for column, values in (
        (columns["user_id"], ids["user_id"]),
        (columns["item_id"], ids["item_id"]),
        (times.name, times),
    ):
        empty = values.is_null() | (values.cast(pl.String) == "")
        if empty.any():
            raise ValueError(
                f"{_place(source, int(empty.arg_max()), first_line)}: {column!r} is empty, expected a user, an item and a "
                "time in every row; remove or complete such rows"
            )
    parsed = _parse_times(times, time_formats)
    invalid = parsed.is_null() | (~parsed.is_finite() if parsed.dtype.is_float() else parsed.is_null())
    if invalid.any():
        row = int(invalid.arg_max())
        raise ValueError(
            f"{_place(source, row, first_line)}: {times.name!r} is {times[row]!r}, expected a number or an ISO 8601 date"
        )
    return ids.with_columns(time=parsed)


def to_ids(values: pl.Series) -> pl.Series:
    """
    Ids as strings without outer spaces.

    Args:
        values (`pl.Series`): Strings or numbers.

    Returns:
        `pl.Series` of `str`: Whole numbers stored as floats lose their ".0".
    """
    # Tables that passed through pandas hold integer ids with gaps as floats.
    if values.dtype.is_float() and (values.drop_nulls() % 1 == 0).all():
        values = values.cast(pl.Int64)
    return values.cast(pl.String).str.strip_chars()


def _parse_times(times: pl.Series, formats: Sequence[str]) -> pl.Series:
    """Numbers or microseconds; null where the best reading of the column does not fit a value."""
    if times.dtype.is_temporal():
        return times.cast(pl.Datetime("us")).to_physical()
    if times.dtype.is_numeric():
        return times.cast(pl.Float64 if times.dtype.is_float() else pl.Int64)
    texts = times.cast(pl.String)
    for dtype in (pl.Int64, pl.Float64):
        numbers = texts.cast(dtype, strict=False)
        if not numbers.null_count():
            return numbers
    # One spelling of ISO 8601: a space between date and time, the zone as an offset.
    texts = texts.str.replace(r"^(\d{4}-\d{2}-\d{2})T", "$1 ").str.replace(r"Z$", "+00:00")
    dates = pl.repeat(None, len(texts), dtype=pl.Int64, eager=True)
    for form in (*ISO_FORMATS, *formats):
        dates = dates.fill_null(texts.str.to_datetime(form, time_unit="us", strict=False).to_physical())
        if not dates.null_count():
            break
    return min(dates, numbers, key=pl.Series.null_count)


def _place(source: str, row: int, first_line: int | None) -> str:
    return f"{source}, row {row + 1}" if first_line is None else f"{source}, line {first_line + row}"


__all__ = ["check_columns", "to_ids", "to_interactions"]
