"""Reader of tables of interactions and items: local CSV, TSV, JSON lines or parquet, or a dataset of the Hub."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ...modeling_unisrec.hub import pin_revision
from ..interactions import RawData, count_step
from .columns import check_columns, to_interactions
from .files import check_file, read_csv, read_parquet, suffix_of
from .item_texts import join_texts
from .json_lines import read_json_lines
from .values import to_ids, to_texts


SEPARATORS = {".csv": ",", ".tsv": "\t"}
DEFAULT_TEXT_COLUMNS = ("title", "text")  # of a product list, the first that it has
JSON_LINES = (".jsonl", ".ndjson", ".json")
DATASET = re.compile(
    r"(?P<path>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?(:(?P<config>[\w.-]+))?(\[(?P<split>[^\[\]]+)\])?"
)
logger = logging.getLogger(__name__)


def read_table(
    interactions: str | os.PathLike,
    items: str | os.PathLike | None = None,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
    text_columns: Sequence[str] = ("title",),
) -> RawData:
    """
    Read a table of interactions and the texts of its items.

    Args:
        interactions (`str` or `os.PathLike`):
            `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.json` (one object per line), each also with `.gz`, or `.parquet`; or
            a dataset for `datasets.load_dataset`, written `owner/name`, and behind it in this order `@revision`,
            `:config` and `[split]`, each if needed (split `train` by default).
        items (`str` or `os.PathLike`, *optional*):
            File or dataset, as for `interactions`. By default the text columns are read from the interactions, and the
            first text of an item is used.
        user_column (`str`, *optional*, defaults to `"user_id"`): Column of the user ids.
        item_column (`str`, *optional*, defaults to `"item_id"`): Column of the item ids, in both tables.
        time_column (`str`, *optional*, defaults to `"timestamp"`): Column of numbers (any unit) or ISO 8601 dates.
        text_columns (`Sequence[str]`, *optional*, defaults to `("title",)`):
            Columns that form the item text, in order; see [`to_texts`] for the supported types.

    Returns:
        `RawData`: Interactions, items and facts about the source.

    Raises:
        FileNotFoundError: If there is no such file, and the name is not that of a dataset either.
        OSError: If a file cannot be read, see [`check_file`].
        ValueError: If a table cannot be read or lacks a column, a column has a wrong type, or a time is invalid.
    """
    columns = {"user_id": user_column, "item_id": item_column, "time": time_column}
    text_columns = list(text_columns)
    if twice := next((name for name in text_columns if text_columns.count(name) > 1), None):
        raise ValueError(f"text column {twice!r} is named twice, expected each once")
    extra = text_columns if items is None else []
    frame, first_line = load_table(interactions, [*columns.values(), *extra])
    rows = to_interactions(frame, columns, str(interactions), first_line=first_line)
    if items is None:
        catalogue = _item_texts(rows["item_id"], frame.select(text_columns), str(interactions), first_line)
        catalogue = catalogue.drop_nulls().unique("item_id", keep="first", maintain_order=True)
        item_step = "items with a text in the interactions"
    else:
        table, first_line = load_table(items, [item_column, *text_columns])
        ids = to_ids(table[item_column], str(items), first_line=first_line)
        catalogue = _item_texts(ids, table.select(text_columns), str(items), first_line)
        item_step = f"read {Path(items).name}"
    info = {
        "files": [str(interactions), *([] if items is None else [str(items)])],
        "columns": {**columns, "text": text_columns},
        "steps": [count_step(f"read {Path(interactions).name}", rows.height, rows.height)],
        "item_steps": [count_step(item_step, catalogue.height, catalogue.height)],
    }
    return RawData(rows, catalogue, info)


def read_products(
    items: Any, *, item_column: str = "item_id", text_columns: str | Sequence[str] | None = None
) -> pl.DataFrame:
    r"""
    Reads a product list. Rows without an id or a text are left out, and so is an id that came before; a warning counts
    them.

    Args:
        items (`str`, `os.PathLike` or data frame):
            File or dataset, as for [`read_table`], or a data frame of polars or pandas, an Arrow table or a
            `datasets.Dataset`.
        item_column (`str`, *optional*, defaults to `"item_id"`): Column of the item ids.
        text_columns (`str` or `Sequence[str]`, *optional*):
            Columns that form the item text, in order, as for [`read_table`]. Defaults to `title`, and to `text` where
            there is no such column.

    Returns:
        `pl.DataFrame`: Columns `item_id` (`str`) and `text` (`str`), in the order of the rows.

    Raises:
        FileNotFoundError: If there is no such file or dataset.
        OSError: If it cannot be read.
        TypeError: If `items` is nothing of the above.
        ValueError: If a column is missing or of a wrong type, or no row has an id and a text.
    """
    source = str(items) if isinstance(items, str | os.PathLike) else "the items"
    if isinstance(items, str | os.PathLike):
        if Path(items).is_dir():
            raise IsADirectoryError(f"{items}: a folder, expected a table of products such as products.csv")
        table, first_line = load_table(items, [item_column])
    else:
        table, first_line = _as_frame(items), None
        check_columns(table.columns, [item_column], source)
    if text_columns is None:
        text_columns = [name for name in DEFAULT_TEXT_COLUMNS if name in table.columns][:1]
        if not text_columns:
            raise ValueError(
                f"{source}: neither a column 'title' nor 'text', the columns are {', '.join(table.columns)}; name those "
                "that form the text of an item (text_columns, --text-columns)"
            )
    text_columns = [text_columns] if isinstance(text_columns, str) else list(text_columns)
    ids = to_ids(table[item_column], source, first_line=first_line).alias("item_id")
    rows = pl.DataFrame([ids, text_of_columns(table, text_columns, source, first_line)])
    with_id = rows.drop_nulls("item_id")
    with_text = with_id.drop_nulls("text")
    found = with_text.unique("item_id", keep="first", maintain_order=True)
    if found.is_empty():
        raise ValueError(
            f"{source}: none of its {rows.height:,} rows has an id and a text ({', '.join(text_columns)})"
        )
    reasons = {
        "without an id": rows.height - with_id.height,
        "without a text": with_id.height - with_text.height,
        "with an id that came before": with_text.height - found.height,
    }
    if found.height < rows.height:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        logger.warning(
            "%s: %s of %s rows left out: %s", source, f"{rows.height - found.height:,}", f"{rows.height:,}", counts
        )
    return found


def text_of_columns(
    table: pl.DataFrame, text_columns: Sequence[str], source: str, first_line: int | None = None
) -> pl.Series:
    """Returns the column `text`, joined from columns of a table in their order; null where all of them are empty.
    Raises `ValueError` if a column is missing, named twice or of a wrong type."""
    text_columns = list(text_columns)
    if not text_columns:
        raise ValueError("no text column is named, expected at least one")
    if twice := next((name for name in text_columns if text_columns.count(name) > 1), None):
        raise ValueError(f"text column {twice!r} is named twice, expected each once")
    check_columns(table.columns, text_columns, source)
    texts = [to_texts(table[name], source, first_line=first_line) for name in text_columns]
    return pl.DataFrame(texts).select(text=join_texts(pl.col(name) for name in text_columns))["text"]


def load_table(
    source: str | os.PathLike, columns: Sequence[str], *, hub: bool = True
) -> tuple[pl.DataFrame, int | None]:
    """
    Read a table from a file of any supported format or from a dataset of the Hub.

    Args:
        source (`str` or `os.PathLike`): File or dataset, as for [`read_table`]; the case of the suffix is ignored.
        columns (`Sequence[str]`): Required columns.
        hub (`bool`, *optional*, defaults to `True`): Whether `source` may name a dataset of the Hub.

    Returns:
        `tuple[pl.DataFrame, int | None]`: The table, with at least these columns, and the line number of its first row
        (`None` for binary formats).

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If it is damaged, lacks a column, or has an unknown format; names the file.
    """
    suffix = suffix_of(source)
    if suffix in SEPARATORS:
        frame, first_line = read_csv(source, separator=SEPARATORS[suffix]), 2
    elif suffix in JSON_LINES:
        return read_json_lines(source, columns), 1
    elif suffix == ".parquet":
        frame, first_line = read_parquet(source), None
    elif hub and not Path(source).is_file():
        frame, first_line = _load_dataset(str(source)), None
    else:
        check_file(source)
        endings = ", ".join([*SEPARATORS, *JSON_LINES, ".parquet"])
        raise ValueError(f"{source}: unknown ending {suffix!r}, expected {endings}")
    check_columns(frame.columns, columns, str(source))
    return frame, first_line


def _item_texts(ids: pl.Series, table: pl.DataFrame, source: str, first_line: int | None) -> pl.DataFrame:
    """Returns the columns `item_id` and `text` of the distinct rows."""
    texts = [to_texts(column, source, first_line=first_line).alias(f"text {n}") for n, column in enumerate(table)]
    different = pl.DataFrame([ids.alias("item_id"), *texts]).unique(keep="first", maintain_order=True)
    return different.select("item_id", text=join_texts(pl.col(text.name) for text in texts))


def _load_dataset(source: str) -> pl.DataFrame:
    match = DATASET.fullmatch(source)
    if match is None:
        raise FileNotFoundError(
            f"{source}: expected a .csv, .tsv, .jsonl or .parquet file, or a dataset such as "
            "owner/name@revision:config[split]"
        )
    # Imported here because it is slow to import and local files do not need it.
    from datasets import load_dataset

    path, revision = match["path"], match["revision"]
    try:
        if not Path(path).is_dir():
            revision = pin_revision(path, revision, "dataset")["revision"]
        dataset = load_dataset(path, match["config"], revision=revision, split=match["split"] or "train")
        return dataset.to_polars()
    except (
        Exception
    ) as error:  # damaged files make datasets, pyarrow, pandas, fsspec or polars raise errors of any type
        # the message of datasets is generic, whereas errors of the Hub are already one clear line
        cause = error if isinstance(error, OSError) else error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ValueError(f"{source}: cannot be loaded as a dataset of the Hub ({reason})") from error


def _as_frame(table: Any) -> pl.DataFrame:
    """Converts a data frame of polars or pandas, an Arrow table or a `datasets.Dataset`. Raises `TypeError` for other
    objects."""
    if isinstance(table, pl.DataFrame):
        return table
    library = type(table).__module__.partition(".")[0]
    if library == "pandas" and hasattr(table, "columns"):
        return pl.from_pandas(table)
    if library == "datasets" and hasattr(table, "to_polars"):
        return table.to_polars()
    if library == "pyarrow" and hasattr(table, "column_names"):
        return pl.from_arrow(table)
    raise TypeError(
        f"a table is a file, a dataset of the Hub or a data frame of polars or pandas, not a {type(table).__name__}"
    )


__all__ = ["load_table", "read_products", "read_table", "text_of_columns"]
