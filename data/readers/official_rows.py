"""The `.inter` files of the official code: rows of user, prefix of a history and next item."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from .files import line_blocks


HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token"
_BLOCK_BYTES = 1 << 24


class PrefixRows(NamedTuple):
    """
    Rows of one `.inter` file that belong to one source dataset, in the order of the file.

    Args:
        path (`str`): The file.
        lines (`np.ndarray` of shape `(num_rows,)`): Line of each row.
        users (`pl.Series` of `str`): User of each row, without the prefix of the dataset.
        targets (`np.ndarray` of `uint32`, shape `(num_rows,)`): Item index to be predicted in each row.
        lengths (`np.ndarray` of shape `(num_rows,)`): Items in the history of each row.
        items (`np.ndarray` of `uint32`, shape `(num_history_items,)`): Item indices of all histories, row after row.
    """

    path: str
    lines: np.ndarray
    users: pl.Series
    targets: np.ndarray
    lengths: np.ndarray
    items: np.ndarray

    def __str__(self) -> str:
        return self.path

    def history(self, row: int) -> np.ndarray:
        """Returns the item indices in the history of one row."""
        end = int(self.lengths[: row + 1].sum())
        return self.items[end - self.lengths[row] : end]

    def place(self, row: int) -> str:
        """Returns file, line and user of a row, for messages."""
        return f"{self.path}, line {self.lines[row]}: user {self.users[row]!r}"


def read_lines(path: str | os.PathLike, header: str | None = None) -> Iterator[pl.DataFrame]:
    r"""
    Read the lines of a text file in blocks. Windows line ends are accepted and blank lines are skipped.

    Args:
        path (`str` or `os.PathLike`): File, plain or gzipped.
        header (`str`, *optional*): Expected first line; it is not part of the output.

    Yields:
        `pl.DataFrame`: Columns `line` (number, from 1) and `text`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty or not UTF-8, a line contains a carriage return, or the header differs.
    """
    for number, block in line_blocks(path, _BLOCK_BYTES):
        block = block.replace(b"\r\n", b"\n")
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            line = number + block.count(b"\n", 0, error.start)
            raise ValueError(f"{path}, line {line}: not UTF-8 ({error.reason}); fetch the file again") from error
        if (position := text.find("\r")) >= 0:
            line = number + text.count("\n", 0, position)
            raise ValueError(
                f"{path}, line {line}: a carriage return inside the line, expected \\n or \\r\\n at the ends of lines; "
                "fetch the file again or convert its line ends"
            )
        frame = pl.DataFrame({"text": pl.Series([text.removesuffix("\n")]).str.split("\n").explode()})
        frame = frame.with_row_index("line", offset=number)
        if header is not None and number == 1:
            if frame["text"][0] != header:
                raise ValueError(f"{path}, line 1: {frame['text'][0][:100]!r}, expected the header {header!r}")
            frame = frame[1:]
        yield frame.filter(pl.col("text") != "")


def read_prefix_rows(
    path: str | os.PathLike, num_items: Sequence[int], prefixes: Sequence[str] = ("",)
) -> list[PrefixRows]:
    r"""
    Read the rows of an `.inter` file.

    Args:
        path (`str` or `os.PathLike`):
            File with the columns `user_id:token`, `item_id_list:token_seq`, `item_id:token`.
        num_items (`Sequence[int]`): Catalogue size of each source dataset.
        prefixes (`Sequence[str]`, *optional*):
            Prefix of the users and items of each source dataset: `"0-"`, `"1-"`, ... in a merged file.

    Returns:
        `list[PrefixRows]`: Rows of each source dataset, possibly empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, or an item or user belongs to no dataset; names the line.
    """
    parts: list[list[PrefixRows]] = [[] for _ in prefixes]
    for frame in read_lines(path, HEADER):
        fields = frame["text"].str.count_matches("\t", literal=True) + 1
        if (fields != 3).any():
            row = int((fields != 3).arg_max())
            raise ValueError(
                f"{path}, line {frame['line'][row]}: {fields[row]} fields, expected 3 (user, history, item) separated by "
                "tabs; fetch the file again"
            )
        named = pl.col("text").str.split_exact("\t", 2).struct.rename_fields(["user", "history", "target"])
        frame = frame.select("line", named).unnest("text")
        known = 0
        for part, prefix, size in zip(parts, prefixes, num_items, strict=True):
            own = frame.filter(pl.col("user").str.starts_with(prefix))
            known += own.height
            if own.height:
                part.append(_parse(str(path), own, prefix, size))
        if known < frame.height:
            strange = frame.filter(~pl.any_horizontal(pl.col("user").str.starts_with(prefix) for prefix in prefixes))
            raise ValueError(
                f"{path}, line {strange['line'][0]}: user {strange['user'][0]!r} belongs to none of the {len(prefixes)} datasets "
                f"of the .pt_datasets file ({prefixes[0]} to {prefixes[-1]}); complete that file"
            )
    return [_concatenate(str(path), part) for part in parts]


def _parse(path: str, frame: pl.DataFrame, prefix: str, num_items: int) -> PrefixRows:
    histories = frame["history"].str.split(" ")
    lengths = histories.list.len().to_numpy().astype(np.int64)
    tokens = pl.concat([histories.explode(), frame["target"]])
    indices = (tokens.str.strip_prefix(prefix) if prefix else tokens).cast(pl.UInt32, strict=False)
    good = ((indices < num_items) & tokens.str.starts_with(prefix)).fill_null(False)
    if not good.all():
        position = int((~good).arg_max())
        row = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
        row = row if row < len(lengths) else position - int(lengths.sum())
        raise ValueError(
            f"{path}, line {frame['line'][row]}: item {tokens[position]!r}, expected {prefix}0 to {prefix}{num_items - 1}, "
            "separated by single spaces; fetch the file again, or the files that number the items"
        )
    numbers = indices.to_numpy()
    split = len(numbers) - len(lengths)
    lines = frame["line"].to_numpy()
    return PrefixRows(path, lines, frame["user"].str.strip_prefix(prefix), numbers[split:], lengths, numbers[:split])


def _concatenate(path: str, parts: Sequence[PrefixRows]) -> PrefixRows:
    if not parts:
        empty = np.zeros(0, dtype=np.uint32)
        return PrefixRows(path, empty, pl.Series(dtype=pl.String), empty, empty.astype(np.int64), empty)
    _, lines, users, targets, lengths, items = zip(*parts, strict=True)
    lines, targets, lengths, items = map(np.concatenate, (lines, targets, lengths, items))
    return PrefixRows(path, lines, pl.concat(users), targets, lengths, items)


__all__ = ["HEADER", "PrefixRows", "read_lines", "read_prefix_rows"]
