"""Opening of raw files (CSV, JSON lines, parquet; plain or gzipped); errors name the file and the line."""

import codecs
import csv
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import polars as pl
import polars.selectors as cs


BLOCK_BYTES = 1 << 26
SEPARATORS = (",", ";", "\t", "|")
_SAMPLE_BYTES, _SAMPLE_LINES = 1 << 16, 100
_UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
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


def line_blocks(
    path: str | os.PathLike, block_bytes: int = BLOCK_BYTES, *, is_utf8: bool = True
) -> Iterator[tuple[int, bytes]]:
    """
    Read a plain or gzipped text file in blocks of lines, so that large files need not fit into memory.

    Args:
        path (`str` or `os.PathLike`): File; gzip is recognised by its first two bytes, not by its name.
        block_bytes (`int`, *optional*): Approximate size of a block, in bytes.
        is_utf8 (`bool`, *optional*, defaults to `True`): Whether to remove a byte order mark and refuse NUL bytes.

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
                if is_empty and is_utf8:
                    block = block.removeprefix(codecs.BOM_UTF8)
                is_empty = False
                if is_utf8 and (position := block.find(b"\0")) >= 0:
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


def read_bytes(path: str | os.PathLike, *, is_utf8: bool = True) -> bytes:
    """Returns the content of a plain or gzipped file. Raises the same errors as [`line_blocks`]."""
    return b"".join(block for _, block in line_blocks(path, is_utf8=is_utf8))


def first_line(path: str | os.PathLike) -> str:
    """Returns the first non-blank line without its line break. Raises the same errors as [`line_blocks`]."""
    for number, block in line_blocks(path, block_bytes=1 << 16):
        for offset, line in enumerate(block.splitlines()):
            if line.strip():
                return decode_line(line, path, number + offset).strip("\r\n")
    raise ValueError(f"{path}: the file holds only blank lines")


class CsvText(NamedTuple):
    """
    Content of a CSV file and how it was read.

    Args:
        content (`bytes`): The lines in UTF-8, without byte order mark.
        separator (`str`): One character.
        encoding (`str`): Encoding of the file.
        quote (`str`, *optional*): Quote character, `None` for a file without quoting.
    """

    content: bytes
    separator: str
    encoding: str
    quote: str | None


def open_csv(path: str | os.PathLike, separator: str | None = None, encoding: str | None = None) -> CsvText:
    r"""
    Read the text of a CSV file, and find out its separator and encoding where they are not given.

    Args:
        path (`str` or `os.PathLike`): Plain or gzipped file.
        separator (`str`, *optional*):
            One character, or `"tab"`. By default the one of `,`, `;`, tab and `|` that splits most lines into as many
            fields as the first line.
        encoding (`str`, *optional*):
            Name of a codec. By default UTF-8; UTF-16 if the file begins with its byte order mark; otherwise, if no
            part of the file is text in UTF-8 beyond ASCII, cp1252.

    Returns:
        [`CsvText`]: Tab-separated files have no quoting, unless the first line begins with a quote.

    Raises:
        ValueError: If the file is empty or damaged, not of this encoding, or one of the arguments is invalid.
    """
    separator = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
    if separator is not None and (len(separator) != 1 or not separator.isascii() or separator in '"\r\n\0'):
        raise ValueError(f"`separator` is {separator!r}, expected one character, such as ';', or 'tab'")
    content = read_bytes(path, is_utf8=False)
    if encoding is None:
        encoding = _find_encoding(content, path)
    try:
        if not (encoding == "utf-8" and content.isascii()):
            content = content.decode("utf-8-sig" if encoding == "utf-8" else encoding).encode()
    except LookupError as error:
        raise ValueError(f"`encoding` is {encoding!r}, expected a name such as 'utf-8' or 'cp1252'") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: line {line} is not {encoding.upper()} ({error.reason}); name another `encoding`, or convert the file"
        ) from error
    if (position := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, position) + 1
        raise ValueError(f"{path}, line {line}: a NUL byte, expected text; name its `encoding`, or convert the file")
    # Blank lines at the end are not rows.
    content = content.rstrip(b"\r\n")
    if separator is None:
        separator = _find_separator(content) or ("\t" if suffix_of(path) == ".tsv" else ",")
    quoted = separator != "\t" or content.startswith(b'"')
    return CsvText(content, separator, encoding, '"' if quoted else None)


def read_csv(path: str | os.PathLike, *, separator: str = ",", columns: Sequence[str] | None = None) -> pl.DataFrame:
    r"""
    Read a plain or gzipped CSV file of a known format with all columns as strings.

    Args:
        path (`str` or `os.PathLike`): File in UTF-8.
        separator (`str`, *optional*, defaults to `","`): `","` or `"\t"`; tab-separated files have no quoting.
        columns, returns, raises: As for [`parse_csv`].
    """
    quote = None if separator == "\t" else '"'
    return parse_csv(path, CsvText(read_bytes(path).rstrip(b"\r\n"), separator, "utf-8", quote), columns)


def parse_csv(path: str | os.PathLike, text: CsvText, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """
    Parse the text of a CSV file, with all columns as strings.

    Args:
        path (`str` or `os.PathLike`): File, for the messages.
        text ([`CsvText`]): Its content.
        columns (`Sequence[str]`, *optional*):
            Names for a file without header line; by default the first line has them.

    Returns:
        `pl.DataFrame`: Columns of `str`, null where a field is empty; none for a column without a name.

    Raises:
        ValueError: If the file is empty or damaged, names a column twice, or a line has another number of fields than
            the first.
    """
    content, separator, _, quote = text
    if not content:
        raise ValueError(f"{path}: the file holds only blank lines")
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
        return frame.select(cs.exclude(cs.matches(r"^(_duplicated_\d+)?$")))  # without those that have no name
    if frame.width != len(columns):
        raise ValueError(
            f"{path}, line 1: {frame.width} fields, expected {len(columns)} ({','.join(columns)}) and no header line"
        )
    return frame.rename(dict(zip(frame.columns, columns, strict=True)))


def read_workbook(path: str | os.PathLike) -> dict[str, pl.DataFrame]:
    """
    Read an `.xlsx` workbook with all columns as strings.

    Args:
        path (`str` or `os.PathLike`): File.

    Returns:
        `dict[str, pl.DataFrame]`: The sheets by name, in their order. Dates are written as ISO 8601.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or `fastexcel` is not installed.
    """
    check_file(path)
    try:
        import fastexcel
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: workbooks need fastexcel; `pip install unisrec[excel]`, or save it as CSV first"
        ) from error
    try:
        # Read as strings: ids such as invoices are numbers in some rows and words in others.
        with reading(path, "workbook"):
            return pl.read_excel(path, sheet_id=0, infer_schema_length=0)
    except fastexcel.FastExcelError as error:
        raise ValueError(f"{path}: not a readable workbook ({str(error).splitlines()[0]})") from error


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


def _find_encoding(content: bytes, path: str | os.PathLike) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if content.isascii():
        return "utf-8"
    try:
        content.decode()
    except UnicodeDecodeError:
        # In cp1252, two such bytes in a row are rare: a file that has them is UTF-8 with a fault.
        return "utf-8" if _UTF8_CHARACTER.search(content) else "cp1252"
    return "utf-8"


def _find_separator(content: bytes) -> str | None:
    """Returns the separator that gives most of the first lines the width of the first one, `None` for a single column."""
    text = content[:_SAMPLE_BYTES].decode(errors="replace")
    lines = text.splitlines()[:_SAMPLE_LINES]
    scores = {}
    for separator in SEPARATORS:
        try:
            rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        except csv.Error:
            continue
        if rows and len(rows[0]) > 1:
            same = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            scores[separator] = (same, len(rows[0]))
    return max(scores, key=scores.__getitem__, default=None)


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
    "SEPARATORS",
    "CsvText",
    "check_file",
    "decode_line",
    "first_line",
    "line_blocks",
    "open_csv",
    "parse_csv",
    "read_bytes",
    "read_csv",
    "read_parquet",
    "read_workbook",
    "reading",
    "reason_of",
    "suffix_of",
]
