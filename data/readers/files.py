"""Opening of raw files (CSV, JSON lines, parquet; plain or gzipped); errors name the file and the line."""

import codecs
import csv
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import polars as pl


BLOCK_BYTES = 1 << 26
_QUOTES = "are the quotes of each field in pairs, and those inside it doubled?"


def check_file(path: str | os.PathLike) -> None:
    """
    Check that a path is a readable regular file.

    Args:
        path (`str` or `os.PathLike`): File.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        OSError: If permission is denied, or the path is a pipe or a device.
    """
    with reading(path):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path}: a folder, expected a file")
        if not stat.S_ISREG(mode):
            raise OSError(f"{path}: a pipe or a device, expected a regular file; write its content to one first")
        with open(path, "rb"):
            pass


@contextmanager
def reading(path: str | os.PathLike, kind: str = "file") -> Iterator[None]:
    """
    Convert errors of reading libraries into one line that names the file and the cause.

    Args:
        path (`str` or `os.PathLike`): File that is read inside the `with` block.
        kind (`str`, *optional*, defaults to `"file"`): Expected kind of file, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, for example because permission is denied.
        ValueError: If its content is not of this kind. A `ValueError` raised inside the block passes unchanged.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        if error.errno is None:  # already one clear line
            raise
        raise OSError(f"{path}: cannot be read ({error.strerror})") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: not a readable {kind} ({reason_of(error)})") from error


def suffix_of(path: str | os.PathLike) -> str:
    """Returns the suffix that tells the file format, in lower case: `".csv"` for `Clicks.CSV.gz`."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def line_blocks(path: str | os.PathLike, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """
    Read a plain or gzipped text file in blocks of lines, so that large files need not fit into memory.

    Args:
        path (`str` or `os.PathLike`): File; gzip is recognised by its first two bytes, not by its name.
        block_bytes (`int`, *optional*): Approximate size of a block, in bytes.

    Yields:
        `tuple[int, bytes]`: Number of the first line (from 1), and complete lines without byte order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If the file is empty, its gzip data is damaged, or it holds a NUL byte.
    """
    line, is_empty = 1, True
    check_file(path)
    with reading(path), _open(path) as file:
        try:
            while block := file.read(block_bytes):
                block += file.readline()
                if is_empty:
                    block = block.removeprefix(codecs.BOM_UTF8)
                is_empty = False
                if (position := block.find(b"\0")) >= 0:
                    place = line + block.count(b"\n", 0, position)
                    raise ValueError(f"{path}, line {place}: a NUL byte, expected text in UTF-8; convert the file")
                yield line, block
                line += block.count(b"\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip data is cut short or damaged after line {line}; fetch the file again"
            ) from error
    if is_empty:
        raise ValueError(f"{path}: the file is empty")


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the content of a plain or gzipped file. Raises the same errors as [`line_blocks`]."""
    return b"".join(block for _, block in line_blocks(path))


def first_line(path: str | os.PathLike) -> str:
    """Returns the first non-blank line without its line break. Raises the same errors as [`line_blocks`]."""
    for number, block in line_blocks(path, block_bytes=1 << 16):
        for offset, line in enumerate(block.splitlines()):
            if line.strip():
                return decode_line(line, path, number + offset).strip("\r\n")
    raise ValueError(f"{path}: the file holds only blank lines")


def read_csv(path: str | os.PathLike, *, separator: str = ",", columns: Sequence[str] | None = None) -> pl.DataFrame:
    r"""
    Read a plain or gzipped CSV file with all columns as strings.

    Args:
        path (`str` or `os.PathLike`): File in UTF-8.
        separator (`str`, *optional*, defaults to `","`): `","` or `"\t"`; tab-separated files have no quoting.
        columns (`Sequence[str]`, *optional*):
            Names for a file without header line; by default the first line has them.

    Returns:
        `pl.DataFrame`: Columns of `str`, null where a field is empty.

    Raises:
        ValueError: If the file is empty, damaged, not UTF-8, names a column twice, or a line has another number of
            fields than the first.
    """
    # Blank lines at the end are not rows.
    content = read_bytes(path).rstrip(b"\r\n")
    if not content:
        raise ValueError(f"{path}: the file holds only blank lines")
    quote = None if separator == "\t" else '"'
    try:
        with reading(path):
            frame = pl.read_csv(
                content, separator=separator, quote_char=quote, has_header=columns is None, infer_schema=False
            )
    except ValueError as error:
        fault = _explain_csv(content, separator, quote) or f"{reason_of(error.__cause__)}; {_QUOTES}"
        raise ValueError(f"{path}: {fault}") from error
    if frame.is_empty():
        raise ValueError(f"{path}: the file has a header line but no rows")
    # polars pads short lines with nulls. Counting separators detects them only if no separator can be quoted.
    num_separators = (frame.height + (columns is None)) * (frame.width - 1)
    may_be_quoted = quote is not None and quote.encode() in content
    is_doubtful = may_be_quoted or content.count(separator.encode()) != num_separators
    if frame[:, -1].null_count() and is_doubtful and (fault := _explain_csv(content, separator, quote)):
        raise ValueError(f"{path}: {fault}")
    if columns is None:
        if twice := [name for name in frame.columns if name and f"{name}_duplicated_0" in frame.columns]:
            raise ValueError(f"{path}, line 1: column {twice[0]!r} comes twice, expected each name once; rename one")
        return frame
    if frame.width != len(columns):
        raise ValueError(
            f"{path}, line 1: {frame.width} fields, expected {len(columns)} ({','.join(columns)}) and no header line"
        )
    return frame.rename(dict(zip(frame.columns, columns, strict=True)))


def read_parquet(path: str | os.PathLike) -> pl.DataFrame:
    """
    Read a parquet file.

    Args:
        path (`str` or `os.PathLike`): File.

    Returns:
        `pl.DataFrame`: All columns as stored.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If it is not a parquet file or holds no rows.
    """
    check_file(path)
    with reading(path, "parquet file"):
        frame = pl.read_parquet(path, glob=False)
    if frame.is_empty():
        raise ValueError(f"{path}: the file has columns but no rows")
    return frame


def _open(path: str | os.PathLike) -> BinaryIO:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else open(path, "rb")


def decode_line(line: bytes, path: str | os.PathLike, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start + 1})") from error


def reason_of(error: BaseException) -> str:
    """Returns the first line of an error message, or the name of the error if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _explain_csv(content: bytes, separator: str, quote: str | None) -> str | None:
    """Returns the fault of a CSV file, or `None`. Slow, and therefore only called if a fault is suspected."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line} is not UTF-8 ({error.reason}); convert the file to UTF-8"
    quoting = csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, quotechar=quote, quoting=quoting, strict=True
    )
    width, start, limit = None, 1, csv.field_size_limit(max(len(text), 1))
    try:
        for fields in reader:
            width = width or len(fields)
            if fields and len(fields) != width:
                return f"line {start} has {len(fields)} fields, expected {width} as in the first line"
            start = reader.line_num + 1
    except csv.Error as error:
        return f"line {start}: {error}; {_QUOTES}"
    finally:
        csv.field_size_limit(limit)
    return None


__all__ = [
    "check_file",
    "decode_line",
    "first_line",
    "line_blocks",
    "read_bytes",
    "read_csv",
    "read_parquet",
    "reading",
    "reason_of",
    "suffix_of",
]
