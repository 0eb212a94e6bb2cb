"""Reader of tables of interactions and items: local CSV, TSV, JSON lines or parquet, or a dataset of the Hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ...modeling_unisrec.hub import pin_revision
from ..interactions import RawData, count_step
from .columns import check_columns, to_interactions
from .files import check_file, read_csv, read_parquet, suffix_of
from .item_texts import join_texts
from .json_lines import read_json_lines
from .values import to_ids, to_texts


SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
DATASET = re.compile(
    r"(?P<path>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?(:(?P<config>[\w.-]+))?(\[(?P<split>[^\[\]]+)\])?"
)


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


__all__ = ["load_table", "read_table"]
