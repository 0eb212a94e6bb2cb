"""Reader of the public Amazon review dumps of 2014, 2018 and 2023: ratings or reviews, and item metadata."""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ..interactions import RawData, count_step
from .columns import to_interactions
from .files import first_line, read_csv
from .item_texts import clean_text, join_texts
from .json_lines import json_records, read_json_lines
from .values import flatten_text, to_id


# Fields of an item text -> where the dumps keep them (2018, 2014, 2023); the first non-empty one is used.
FIELDS = {
    "title": ("title",),
    "category": ("category", "categories", "main_category"),
    "brand": ("brand", "store"),
    "description": ("description",),
}
TEXT_FIELDS = ("title", "category", "brand")

# Raw columns for `user_id`, `item_id` and `time`: of 2014 and 2018 reviews, and of 2023 reviews and CSV files.
REVIEWS_2018 = {"user_id": "reviewerID", "item_id": "asin", "time": "unixReviewTime"}
REVIEWS_2023 = {"user_id": "user_id", "item_id": "parent_asin", "time": "timestamp"}
RATINGS = ("first", "second", "rating", "timestamp")


def read_amazon(
    ratings: str | os.PathLike, metadata: str | os.PathLike, *, text_fields: Sequence[str] = TEXT_FIELDS
) -> RawData:
    """
    Read one category of the Amazon review data.

    Args:
        ratings (`str` or `os.PathLike`):
            Plain or gzipped: "ratings only" CSV without header (`item,user,rating,timestamp` in 2018 and
            `user,item,rating,timestamp` in 2014: the item column is the one whose values occur in the metadata), 2023
            CSV with header, or reviews as JSON lines of any year.
        metadata (`str` or `os.PathLike`): JSON lines of the same category, plain or gzipped.
        text_fields (`Sequence[str]`, *optional*, defaults to `("title", "category", "brand")`):
            Parts of the item text in order, out of `title`, `category`, `brand` (2023: the store), `description`.

    Returns:
        `RawData`: Interactions, items (with the cleaned `title`, `category` and `brand`) and facts about the source.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is empty or damaged, a line cannot be read, or ratings and metadata share no item.
    """
    if twice := next((field for field in text_fields if list(text_fields).count(field) > 1), None):
        raise ValueError(f"text field {twice!r} is named twice, expected each once")
    if unknown := [field for field in text_fields if field not in FIELDS]:
        raise ValueError(f"unknown text field {unknown[0]!r}, expected some of {', '.join(FIELDS)}")
    items = _read_metadata(metadata, text_fields)
    interactions, layout = _read_ratings(ratings, metadata, items["item_id"])
    info = {
        "files": [Path(ratings).name, Path(metadata).name],
        "ratings_layout": layout,
        "text_fields": list(text_fields),
        "steps": [count_step(f"read {Path(ratings).name}", interactions.height, interactions.height)],
        "item_steps": [count_step(f"read {Path(metadata).name}", items.height, items.height)],
    }
    return RawData(interactions, items, info)


def _read_metadata(path: str | os.PathLike, text_fields: Sequence[str]) -> pl.DataFrame:
    ids: list[str | None] = []
    columns: dict[str, list[str]] = {field: [] for field in FIELDS}
    for number, record in enumerate(json_records(path), start=1):
        if "parent_asin" not in record and "asin" not in record:
            raise ValueError(
                f"{path}, record {number}: neither 'asin' nor 'parent_asin', expected Amazon item metadata"
            )
        try:
            ids.append(to_id(record.get("parent_asin")) or to_id(record.get("asin")))
            for field, keys in FIELDS.items():
                columns[field].append(next(filter(None, (flatten_text(record.get(key)) for key in keys)), ""))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, record {number}: {error}, expected an id and texts") from error
    frame = pl.DataFrame({"item_id": ids, **columns}, schema=dict.fromkeys(["item_id", *columns], pl.String))
    return frame.select(
        "item_id",
        text=join_texts(pl.col(field) for field in text_fields),
        **{f: clean_text(pl.col(f)) for f in TEXT_FIELDS},
    )


def _read_ratings(
    path: str | os.PathLike, metadata: str | os.PathLike, item_ids: pl.Series
) -> tuple[pl.DataFrame, str]:
    """Returns the interactions and the detected file layout."""
    head = first_line(path)
    source = str(path)
    if head.startswith("{"):
        keys = next(json_records(path)).keys()
        columns = REVIEWS_2018 if "reviewerID" in keys else REVIEWS_2023
        frame = read_json_lines(path, list(columns.values()))
        return to_interactions(frame, columns, source, first_line=1), "JSON lines: " + ",".join(columns.values())
    if "parent_asin" in head:
        frame = read_csv(path)
        return to_interactions(frame, REVIEWS_2023, source, first_line=2), "CSV with header: " + head
    frame = read_csv(path, columns=RATINGS)
    shares = {name: frame[name].unique().is_in(item_ids.implode()).mean() or 0.0 for name in RATINGS[:2]}
    if not any(shares.values()):
        raise ValueError(
            f"{path}: neither of the first two columns has item ids of {metadata}; are both of one category?"
        )
    item, user = sorted(shares, key=shares.get, reverse=True)
    layout = "item,user,rating,timestamp" if item == "first" else "user,item,rating,timestamp"
    columns = {"user_id": user, "item_id": item, "time": "timestamp"}
    return to_interactions(frame, columns, source, first_line=1), "CSV without header: " + layout


__all__ = ["FIELDS", "TEXT_FIELDS", "read_amazon"]
