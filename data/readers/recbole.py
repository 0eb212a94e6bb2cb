"""Reader of RecBole atomic files."""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ..interactions import RawData, count_step
from .columns import check_columns, to_interactions
from .files import read_csv
from .item_texts import join_texts
from .official import find_official
from .values import to_ids, to_texts


COLUMNS = {"user_id": "user_id", "item_id": "item_id", "time": "timestamp"}
TEXT_TYPES = ("token", "token_seq")


def read_recbole(folder: str | os.PathLike, *, text_columns: Sequence[str] | None = None) -> RawData:
    """
    Read a folder of atomic files: `NAME.inter` (`user_id:token`, `item_id:token`, `timestamp:float`) and `NAME.item`.

    Args:
        folder (`str` or `os.PathLike`): Folder with the files of one dataset.
        text_columns (`Sequence[str]`, *optional*):
            Columns of `NAME.item` that form the item text, without their types. Defaults to all `token` and
            `token_seq` columns except the id, in the order of the file.

    Returns:
        `RawData`: Interactions, items and facts about the source.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If there are several datasets in the folder, a file cannot be read, a column is missing, or the
            folder is one of the official UniSRec code, see [`read_official`].
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected one with NAME.inter and NAME.item")
    if find_official(folder) is not None:
        raise ValueError(f"{folder}: a folder of the official UniSRec code, with its own splits; use read_official")
    names = [path.name.removesuffix(".inter") for path in sorted(folder.glob("*.inter"))]
    if not names:
        raise FileNotFoundError(f"{folder}: no .inter file, expected NAME.inter and NAME.item")
    if len(names) > 1:
        raise ValueError(f"{folder}: several datasets ({', '.join(names)}), expected one; move the others out")
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
    texts = pl.DataFrame([to_texts(table[name], item) for name in text_columns])
    items = texts.select(to_ids(table["item_id"], item), text=join_texts(map(pl.col, text_columns)))
    info = {
        "files": [Path(inter).name, Path(item).name],
        "text_columns": list(text_columns),
        "steps": [count_step(f"read {Path(inter).name}", interactions.height, interactions.height)],
        "item_steps": [count_step(f"read {Path(item).name}", items.height, items.height)],
    }
    return RawData(interactions, items, info)


def _read_typed(path: str) -> tuple[pl.DataFrame, dict[str, str]]:
    """Reads a table; returns it with plain column names, and the column types from the `name:type` header."""
    frame = read_csv(path, separator="\t")
    if untyped := [name for name in frame.columns if ":" not in name]:
        raise ValueError(
            f"{path}, line 1: {untyped[0]!r} has no type, expected tab-separated fields such as item_id:token"
        )
    types = dict(name.rsplit(":", 1) for name in frame.columns)
    if len(types) < frame.width:
        names = [name.rsplit(":", 1)[0] for name in frame.columns]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}, line 1: column {twice!r} comes twice, expected each name once; rename one")
    return frame.rename({name: name.rsplit(":", 1)[0] for name in frame.columns}), types


__all__ = ["read_recbole"]
