"""Reader of RecBole atomic files, and of the downstream folders published with the official UniSRec code."""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from .columns import check_columns, to_interactions
from .files import read_csv
from .interactions import RawData, count_step
from .item_texts import join_texts


COLUMNS = {"user_id": "user_id", "item_id": "item_id", "time": "timestamp"}
TEXT_TYPES = ("token", "token_seq")


def read_recbole(folder: str | os.PathLike, *, text_columns: Sequence[str] | None = None) -> RawData:
    """
    Read a folder of atomic files.

    Either `NAME.inter` (`user_id:token`, `item_id:token`, `timestamp:float`) with `NAME.item`, or a downstream folder of
    the official UniSRec code: `NAME.train.inter`, `NAME.valid.inter`, `NAME.test.inter`, `NAME.item2index`, `NAME.text`.
    From the latter the whole histories are put together again; users keep the numbers they have there.

    Args:
        folder (`str` or `os.PathLike`): Folder with the files of one dataset.
        text_columns (`Sequence[str]`, *optional*):
            Columns of `NAME.item` that make the item text, without their types; by default all `token` and `token_seq`
            columns but the id, in the order of the file.

    Returns:
        `RawData`: Interactions, items and what was read.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If there are several datasets in the folder, a file cannot be read, or a column is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected one with NAME.inter and NAME.item")
    official = sorted(folder.glob("*.test.inter"))
    names = [path.name.removesuffix(".test.inter") for path in official] or [
        path.name.removesuffix(".inter") for path in sorted(folder.glob("*.inter"))
    ]
    if not names:
        raise FileNotFoundError(f"{folder}: no .inter file, expected NAME.inter and NAME.item")
    if len(names) > 1:
        raise ValueError(f"{folder}: several datasets ({', '.join(names)}), expected one; move the others out")
    if official:
        return _read_official(folder / names[0])
    return _read_atomic(folder / names[0], text_columns)


def _read_atomic(stem: Path, text_columns: Sequence[str] | None) -> RawData:
    inter, item = f"{stem}.inter", f"{stem}.item"
    frame, _ = _read_typed(inter)
    interactions = to_interactions(frame, COLUMNS, inter, first_line=2)
    table, types = _read_typed(item)
    if text_columns is None:
        text_columns = [name for name, kind in types.items() if kind in TEXT_TYPES and name != "item_id"]
    if not text_columns:
        raise ValueError(f"{item}: no :token or :token_seq column besides item_id, expected one with the item text")
    check_columns(table.columns, ["item_id", *text_columns], item)
    items = table.select(pl.col("item_id").str.strip_chars(), text=join_texts(map(pl.col, text_columns)))
    info = {
        "files": [Path(inter).name, Path(item).name],
        "text_columns": list(text_columns),
        "steps": [count_step(f"read {Path(inter).name}", interactions.height, interactions.height)],
        "item_steps": [count_step(f"read {Path(item).name}", items.height, items.height)],
    }
    return RawData(interactions, items, info)


def _read_official(stem: Path) -> RawData:
    frames = []
    for split in ("train", "valid", "test"):
        path = f"{stem}.{split}.inter"
        frame, _ = _read_typed(path)
        check_columns(frame.columns, ["user_id", "item_id_list", "item_id"], path)
        frames.append(frame.select("user_id", "item_id", history=pl.col("item_id_list").str.split(" ")))
    train, valid, test = frames
    # Train rows are the prefixes of a history, longest first: their targets backwards are the history but its first item,
    # which the shortest prefix holds. A user with one item to train on has no train row, but it is the history to validate.
    known = pl.concat([train.reverse(), valid])
    start = known.unique("user_id", keep="first", maintain_order=True).select(
        "user_id", item_id=pl.col("history").list[0]
    )
    events = pl.concat([start, known.select("user_id", "item_id"), test.select("user_id", "item_id")])
    events = events.with_columns(time=pl.int_range(pl.len(), dtype=pl.Int64).over("user_id"))

    index = read_csv(f"{stem}.item2index", separator="\t", columns=("item_id", "index"))
    texts, _ = _read_typed(f"{stem}.text")
    check_columns(texts.columns, ["item_id", "text"], f"{stem}.text")
    named = events.join(index, left_on="item_id", right_on="index", how="left", maintain_order="left")
    interactions = named.select("user_id", pl.col("item_id_right").alias("item_id"), "time")
    if interactions["item_id"].null_count():
        unknown = events["item_id"][int(interactions["item_id"].is_null().arg_max())]
        raise ValueError(f"{stem}.item2index: no item has index {unknown!r}, which the .inter files use")
    items = texts.select("item_id", text=join_texts([pl.col("text")]))
    info = {
        "files": [
            f"{stem.name}.{part}" for part in ("train.inter", "valid.inter", "test.inter", "item2index", "text")
        ],
        "steps": [count_step(f"histories of {stem.name}", interactions.height, interactions.height)],
        "item_steps": [count_step(f"read {stem.name}.text", items.height, items.height)],
    }
    return RawData(interactions, items, info)


def _read_typed(path: str) -> tuple[pl.DataFrame, dict[str, str]]:
    """Table with plain column names, and the type of each column from the `name:type` header."""
    frame = read_csv(path, separator="\t")
    if untyped := [name for name in frame.columns if ":" not in name]:
        raise ValueError(
            f"{path}, line 1: {untyped[0]!r} has no type, expected tab-separated fields such as item_id:token"
        )
    types = dict(name.rsplit(":", 1) for name in frame.columns)
    return frame.rename({name: name.rsplit(":", 1)[0] for name in frame.columns}), types


__all__ = ["read_recbole"]
