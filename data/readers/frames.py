"""Data frames as input: pandas, polars, pyarrow, datasets, and any other object that exports an Arrow stream."""

import os
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, Union
from uuid import UUID

import numpy as np
import polars as pl

from .files import reason_of


if TYPE_CHECKING:
    import datasets
    import pandas
    import pyarrow


Frame: TypeAlias = Union[pl.DataFrame, pl.LazyFrame, "pandas.DataFrame", "pyarrow.Table", "datasets.Dataset"]
TableSource: TypeAlias = str | os.PathLike | Frame


def is_path(source: TableSource) -> bool:
    """Returns whether a source of a table is a file name or the name of a dataset, not a frame."""
    return isinstance(source, (str, os.PathLike))


def to_polars(frame: Frame, name: str) -> pl.DataFrame:
    """
    Convert a data frame to polars. The frame is not changed.

    Args:
        frame (`pl.DataFrame`, `pl.LazyFrame`, `pandas.DataFrame`, `pyarrow.Table` or `datasets.Dataset`):
            Frame; any other object with `__arrow_c_stream__`, such as a DuckDB relation, is taken too. Named levels
            of a pandas index are columns. A pandas column of several types becomes a column of Python objects.
        name (`str`): Name of the argument, for the messages.

    Returns:
        `pl.DataFrame`: The same rows and columns.

    Raises:
        ValueError: If it is no such object, has no rows, names a column twice, or a column cannot be converted.
    """
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    try:
        if isinstance(frame, pl.LazyFrame):
            frame = frame.collect()
        elif pandas is not None and isinstance(frame, pandas.DataFrame):
            frame = _from_pandas(frame, name, pandas)
        elif datasets is not None and isinstance(frame, datasets.Dataset):
            frame = frame.to_polars()
        elif datasets is not None and isinstance(frame, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            splits = ", ".join(map(repr, frame))
            raise ValueError(f"{name}: a {type(frame).__name__}, expected one of its splits ({splits})")
        elif not isinstance(frame, pl.DataFrame) and hasattr(frame, "__arrow_c_stream__"):
            frame = pl.DataFrame(frame)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{name}: the table cannot be read ({reason_of(error)})") from error
    if not isinstance(frame, pl.DataFrame):
        raise ValueError(
            f"{name}: a {type(frame).__name__}, expected a file name or a table of pandas, polars, pyarrow or datasets"
        )
    if frame.is_empty():
        raise ValueError(f"{name}: the table has no rows")
    return frame


def _from_pandas(frame: "pandas.DataFrame", name: str, pandas: Any) -> pl.DataFrame:
    columns = {}
    index = frame.index
    levels = [index.get_level_values(level).to_series() for level in index.names if level is not None]
    values = [*(frame.iloc[:, place] for place in range(frame.shape[1])), *levels]
    for place, column in enumerate(values):
        key = str(column.name)
        if key not in columns:
            columns[key] = _pandas_column(key, column, pandas)
        elif place < frame.shape[1]:  # otherwise a level of the index that is also a column
            raise ValueError(f"{name}: column {key!r} comes twice, expected each name once; rename one")
    return pl.DataFrame(columns)


def _pandas_column(name: str, column: "pandas.Series", pandas: Any) -> pl.Series:
    try:
        return pl.from_pandas(column.reset_index(drop=True)).rename(name)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):  # pyarrow's errors are among them
        return pl.Series(name, [_plain(value, pandas) for value in column], dtype=pl.Object)


def _plain(value: Any, pandas: Any) -> Any:
    """Returns a cell of an object column as a plain Python value, `None` if it is missing."""
    if value is pandas.NA or value is pandas.NaT:
        return None
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, UUID) else value


__all__ = ["Frame", "TableSource", "is_path", "to_polars"]
