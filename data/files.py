"""Opening of raw files (CSV, JSON lines, parquet; plain or gzipped), with errors that name the file and the line."""

import ast
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl


BLOCK_BYTES = 1 << 26


def line_blocks(path: str | os.PathLike, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """
    The lines of a plain or gzipped text file in blocks, so that a dump need not fit into memory.

    Args:
        path (`str` or `os.PathLike`): File; gzip is recognised by its first two bytes, not by its name.
        block_bytes (`int`, *optional*): About how many bytes a block has.

    Yields:
        `tuple[int, bytes]`: Number of the first line (from 1), and whole lines.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty or its gzip data is damaged.
    """
    line, is_empty = 1, True
    with _open(path) as file:
        try:
            while block := file.read(block_bytes):
                block += file.readline()
                is_empty = False
                yield line, block
                line += block.count(b"\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip data is cut short or damaged after line {line}; fetch the file again"
            ) from error
    if is_empty:
        raise ValueError(f"{path}: the file is empty")


def read_bytes(path: str | os.PathLike) -> bytes:
    """Whole content of a plain or gzipped file; raises as [`line_blocks`] does."""
    return b"".join(block for _, block in line_blocks(path))


def first_line(path: str | os.PathLike) -> str:
    """First line that is not blank, without its line break; raises as [`line_blocks`] does."""
    for number, block in line_blocks(path, block_bytes=1 << 16):
        for offset, line in enumerate(block.splitlines()):
            if line.strip():
                return _decode(line, path, number + offset).strip("\ufeff\r\n")
    raise ValueError(f"{path}: the file holds only blank lines")


def read_csv(path: str | os.PathLike, *, separator: str = ",", columns: Sequence[str] | None = None) -> pl.DataFrame:
    r"""
    A plain or gzipped CSV file with every column as text.

    Args:
        path (`str` or `os.PathLike`): File in UTF-8.
        separator (`str`, *optional*, defaults to `","`): `","` or `"\t"`; tab-separated files have no quoting.
        columns (`Sequence[str]`, *optional*): Names for a file without header line; by default the first line has them.

    Returns:
        `pl.DataFrame`: Columns of `str`, null where a field is empty.

    Raises:
        ValueError: If the file is empty, damaged, not UTF-8, or a line has another number of fields than the first.
    """
    # Blank lines at the end are no rows.
    content = read_bytes(path).rstrip(b"\r\n")
    quote = None if separator == "\t" else '"'
    try:
        frame = pl.read_csv(
            content, separator=separator, quote_char=quote, has_header=columns is None, infer_schema=False
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: {_explain_csv(content, separator, quote) or str(error).splitlines()[0]}") from error
    if frame.is_empty():
        raise ValueError(f"{path}: the file has a header line but no rows")
    if columns is None:
        return frame
    if frame.width != len(columns):
        raise ValueError(
            f"{path}, line 1: {frame.width} fields, expected {len(columns)} ({','.join(columns)}) and no header line"
        )
    return frame.rename(dict(zip(frame.columns, columns, strict=True)))


def read_json_lines(path: str | os.PathLike, fields: Sequence[str]) -> pl.DataFrame:
    """
    Some fields of a plain or gzipped JSON-lines file as text columns.

    Args:
        path (`str` or `os.PathLike`): File with one JSON object per line.
        fields (`Sequence[str]`): Fields to read; a record without one has null there.

    Returns:
        `pl.DataFrame`: One row per line.

    Raises:
        ValueError: If a line is not a JSON object; names the line.
    """
    schema = dict.fromkeys(fields, pl.String)
    frames = []
    for number, block in line_blocks(path):
        try:
            frames.append(pl.read_ndjson(block, schema=schema))
        except pl.exceptions.PolarsError as error:
            for _ in _records(path, number, block):
                pass
            raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error
    return pl.concat(frames)


def read_parquet(path: str | os.PathLike) -> pl.DataFrame:
    """
    A parquet file.

    Args:
        path (`str` or `os.PathLike`): File.

    Returns:
        `pl.DataFrame`: All columns as stored.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a parquet file or holds no rows.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        frame = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from error
    if frame.is_empty():
        raise ValueError(f"{path}: the file has columns but no rows")
    return frame


def json_records(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """
    The objects of a plain or gzipped JSON-lines file, one by one.

    Args:
        path (`str` or `os.PathLike`):
            File with one object per line, as JSON or (Amazon 2014) as a Python literal; blank lines are skipped.

    Yields:
        `dict`: The object of each line.

    Raises:
        ValueError: If a line is neither; names the line.
    """
    for number, block in line_blocks(path):
        yield from _records(path, number, block)


def _open(path: str | os.PathLike) -> BinaryIO:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")


def _decode(line: bytes, path: str | os.PathLike, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start + 1})") from error


def _records(path: str | os.PathLike, number: int, block: bytes) -> Iterator[dict[str, Any]]:
    for offset, line in enumerate(block.split(b"\n")):
        text = _decode(line, path, number + offset).strip()
        if not text:
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            try:
                record = ast.literal_eval(text)
            except (SyntaxError, ValueError):
                raise ValueError(
                    f"{path}, line {number + offset}: not a JSON object ({error.msg} at character {error.pos + 1})"
                ) from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number + offset}: {type(record).__name__}, expected a JSON object")
        yield record


def _explain_csv(content: bytes, separator: str, quote: str | None) -> str | None:
    """What is wrong with a CSV file that could not be read; only called after a failure."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line} is not UTF-8 ({error.reason}); convert the file to UTF-8"
    quoting = csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text), delimiter=separator, quotechar=quote, quoting=quoting)
    width = len(next(reader, []))
    for fields in reader:
        if len(fields) > width:
            return f"line {reader.line_num} has {len(fields)} fields, expected {width} as in the first line"
    return None


__all__ = ["first_line", "json_records", "line_blocks", "read_bytes", "read_csv", "read_json_lines", "read_parquet"]
