"""Checks of the tables of a domain; an error names the table, the row and what was expected."""

import numpy as np
import polars as pl


def check_columns(table: str, frame: pl.DataFrame, schema: dict[str, pl.DataType]) -> None:
    """Raises `ValueError` if a table is empty, or lacks a column of a schema."""
    for column, dtype in schema.items():
        found = frame.schema.get(column)
        if found != dtype:
            raise ValueError(f"{table}: column {column!r} is {found or 'missing'}, expected {dtype}")
    if frame.is_empty():
        raise ValueError(f"{table}: no rows, expected at least one")


def check_ids(table: str, ids: pl.Series) -> None:
    """Raises `ValueError` if an id is missing or repeated."""
    if ids.null_count():
        raise ValueError(f"{table}: row {int(ids.is_null().arg_max())} has no {ids.name}, expected one in every row")
    if ids.n_unique() < len(ids):
        first = ids[int(ids.is_duplicated().arg_max())]
        raise ValueError(f"{table}: {ids.name} {first!r} occurs more than once, expected once")


def check_times(sequences: pl.DataFrame, offsets: np.ndarray) -> None:
    """Raises `ValueError` if histories have times that do not fit them; `offsets` are those of [`Domain`]."""
    if "time" not in sequences.columns:
        return
    column = sequences["time"]
    if column.dtype not in (pl.List(pl.Int64), pl.List(pl.Float64)):
        raise ValueError(f"sequences: column 'time' is {column.dtype}, expected lists of i64 or f64")
    if not np.array_equal(column.list.len().fill_null(0).to_numpy(), np.diff(offsets)):
        raise ValueError("sequences: a history and its times differ in length, expected one time for each item")
    times = column.explode()
    if times.null_count() or (times.dtype.is_float() and not times.is_finite().all()):
        raise ValueError("sequences: a time is missing or not finite, expected a number for each interaction")
    times = times.to_numpy()
    falls = np.flatnonzero(times[1:] < times[:-1]) + 1
    if not np.isin(falls, offsets).all():
        raise ValueError("sequences: a history is not in the order of its times, expected the oldest item first")


__all__ = ["check_columns", "check_ids", "check_times"]
