"""Reader of any table of interactions and any table of items: local CSV, TSV, JSON lines, parquet, or a dataset of the Hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ..modeling_unisrec.hub import pin_revision
from .columns import check_columns, to_ids, to_interactions
from .files import json_records, read_csv, read_json_lines, read_parquet
from .interactions import RawData, count_step
from .item_texts import flatten_text, join_texts


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
            `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.json` (one object per line), each also with `.gz`, or `.parquet`; or a
            dataset for `datasets.load_dataset`, written `owner/name`, and behind it in this order `@revision`, `:config`
            and `[split]`, each if needed (split `train` by default).
        items (`str` or `os.PathLike`, *optional*):
            The same kinds; by default the text columns are in the interactions, and the first text of an item counts.
        user_column (`str`, *optional*, defaults to `"user_id"`): Column of the user ids.
        item_column (`str`, *optional*, defaults to `"item_id"`): Column of the item ids, in both tables.
        time_column (`str`, *optional*, defaults to `"timestamp"`): Column of numbers (any unit) or ISO 8601 dates.
        text_columns (`Sequence[str]`, *optional*, defaults to `("title",)`): Columns that make the item text, in order.

    Returns:
        `RawData`: Interactions, items and what was read.

    Raises:
        FileNotFoundError: If there is no such file, and the name is not that of a dataset either.
        ValueError: If a table cannot be read or lacks a column, or a row lacks a user, an item or a time.
    """
    columns = {"user_id": user_column, "item_id": item_column, "time": time_column}
    text_columns = list(text_columns)
    extra = text_columns if items is None else []
    frame, first_line = load_table(interactions, [*columns.values(), *extra])
    rows = to_interactions(frame, columns, str(interactions), first_line=first_line)
    if items is None:
        table = frame.select(to_ids(frame[item_column]).alias(item_column), *text_columns)
        table = table.filter(~pl.all_horizontal(pl.col(text_columns).is_null()))
        table = table.unique(item_column, keep="first", maintain_order=True)
        item_step = "items with a text in the interactions"
    else:
        table, first_line = load_table(items, [item_column, *text_columns])
        item_step = f"read {Path(items).name}"
    ids = to_ids(table[item_column]).alias("item_id")
    texts = [pl.Series(name, list(map(flatten_text, table[name].to_list())), dtype=pl.String) for name in text_columns]
    catalogue = pl.DataFrame([ids]).with_columns(
        pl.DataFrame(texts).select(text=join_texts(map(pl.col, text_columns)))
    )
    info = {
        "files": [str(interactions), *([] if items is None else [str(items)])],
        "columns": {**columns, "text": text_columns},
        "steps": [count_step(f"read {Path(interactions).name}", rows.height, rows.height)],
        "item_steps": [count_step(item_step, catalogue.height, catalogue.height)],
    }
    return RawData(rows, catalogue, info)


def load_table(source: str | os.PathLike, columns: list[str]) -> tuple[pl.DataFrame, int | None]:
    """A CSV, JSON-lines or parquet file or a Hub dataset with at least these columns, and the line of its first row where
    it is a text file. Raises `FileNotFoundError` or `ValueError`, naming the file."""
    suffix = Path(str(source).removesuffix(".gz")).suffix
    if suffix in SEPARATORS:
        frame, first_line = read_csv(source, separator=SEPARATORS[suffix]), 2
    elif suffix in JSON_LINES:
        check_columns(list(next(json_records(source))), columns, f"{source}, line 1")
        frame, first_line = read_json_lines(source, columns), 1
    elif suffix == ".parquet":
        frame, first_line = read_parquet(source), None
    else:
        frame, first_line = _load_dataset(str(source)), None
    check_columns(frame.columns, columns, str(source))
    return frame, first_line


def _load_dataset(source: str) -> pl.DataFrame:
    match = DATASET.fullmatch(source)
    if match is None:
        raise FileNotFoundError(
            f"{source}: expected a .csv, .tsv, .jsonl or .parquet file, or a dataset such as "
            "owner/name@revision:config[split]"
        )
    # Slow to import, and local files do not need it.
    from datasets import load_dataset

    path, revision = match["path"], match["revision"]
    try:
        if not Path(path).is_dir():
            revision = pin_revision(path, revision, "dataset")["revision"]
        dataset = load_dataset(path, match["config"], revision=revision, split=match["split"] or "train")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{source}: cannot be loaded as a dataset of the Hub ({reason})") from error
    return dataset.to_polars()


__all__ = ["load_table", "read_table"]
