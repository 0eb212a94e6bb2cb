"""JSON lines: records one by one, or selected fields as columns with unchanged values."""

import ast
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from .columns import check_columns
from .files import decode_line, line_blocks, reason_of


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON writes characters beyond 16 bits, in pairs


def read_json_lines(path: str | os.PathLike, fields: Sequence[str]) -> pl.DataFrame:
    """
    Read selected fields of a plain or gzipped JSON-lines file.

    Args:
        path (`str` or `os.PathLike`): File as for [`json_records`].
        fields (`Sequence[str]`): Fields to read; null for records without the field.

    Returns:
        `pl.DataFrame`: One row per record. A field that has strings, integers, floats or booleans alone becomes a
        column of that type, any other one a column of Python objects.

    Raises:
        ValueError: If a line is not a JSON object; names the line. If no record has one of the fields.
    """
    fields = list(dict.fromkeys(fields))
    parts: list[list[pl.Series]] = []
    keys: dict[str, None] = {}  # of the first record, and the fields found later
    for number, block in line_blocks(path):
        if (first := next(_records(path, number, block), None)) is None:
            continue
        keys |= dict.fromkeys(first if not keys else [field for field in fields if field in first])
        columns = _typed_columns(block, {field: first.get(field) for field in fields})
        if columns is None:
            values: dict[str, list[Any]] = {field: [] for field in fields}
            for record in _records(path, number, block):
                keys |= dict.fromkeys(field for field in fields if field not in keys and field in record)
                for field in fields:
                    values[field].append(record.get(field))
            columns = [_column(field, values[field]) for field in fields]
        parts.append(columns)
    if not keys:
        raise ValueError(f"{path}: no fields, expected one JSON object in each line")
    check_columns(list(keys), fields, str(path))
    return pl.DataFrame([_join(list(column)) for column in zip(*parts, strict=True)])


def json_records(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """
    Iterate over the objects of a plain or gzipped JSON-lines file.

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


def json_fields(path: str | os.PathLike) -> list[str]:
    """Returns the fields of all records of a file as for [`json_records`], in the order in which they occur first."""
    return list(dict.fromkeys(field for record in json_records(path) for field in record))


def _records(path: str | os.PathLike, number: int, block: bytes) -> Iterator[dict[str, Any]]:
    for offset, line in enumerate(block.split(b"\n")):
        text = decode_line(line, path, number + offset).strip()
        if not text:
            continue
        try:
            record = _parse_record(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number + offset}: not a JSON object ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number + offset}: {type(record).__name__}, expected a JSON object")
        yield record


def _parse_record(text: str) -> Any:
    try:
        record = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(record, ensure_ascii=False).encode()
        return record
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!r} is half of a character, a pair of surrogates") from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:  # whole numbers of thousands of digits
        raise ValueError(reason_of(error)) from None
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(reason) from None


def _typed_columns(block: bytes, first: Mapping[str, Any]) -> list[pl.Series] | None:
    """
    Read fields that hold only strings or only integers with pyarrow, several times faster than record by record.

    Args:
        block (`bytes`): Whole lines.
        first (`Mapping[str, Any]`): The fields and their values in the first record, which set the types.

    Returns:
        `list[pl.Series]`: A column for each field, or `None` if a value has another type or a line is not plain JSON.
    """
    # Imported here because it is slow to import and other files do not need it.
    import pyarrow as pa
    from pyarrow import json as arrow_json

    types = {str: pa.string(), int: pa.int64()}
    if any(type(value) not in types for value in first.values()):
        return None
    schema = pa.schema([(field, types[type(value)]) for field, value in first.items()])
    try:
        block.decode()  # pyarrow does not check the other fields
        table = arrow_json.read_json(
            pa.BufferReader(block),
            arrow_json.ReadOptions(block_size=len(block)),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if table.num_rows != num_lines:  # blank lines, or records that are not one for each line
        return None
    return pl.from_arrow(table.select(list(first))).get_columns()


def _column(name: str, values: list[Any]) -> pl.Series:
    """Returns values of one type as a typed column, mixed ones as Python objects."""
    dtypes = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    dtype = dtypes.get(kinds.pop(), pl.Object) if len(kinds) == 1 else pl.Object
    if dtype == pl.Int64 and any(value is not None and not -(2**63) <= value < 2**63 for value in values):
        dtype = pl.Object
    return pl.Series(name, values, dtype=dtype)


def _join(parts: list[pl.Series]) -> pl.Series:
    """Concatenates the parts of a column, with their common type if they have one."""
    dtypes = {part.dtype for part in parts} - {pl.Null}
    if len(parts) == 1 or not dtypes:
        return pl.concat(parts)
    if len(dtypes) > 1 or pl.Object in dtypes:
        return pl.Series(parts[0].name, [value for part in parts for value in part.to_list()], dtype=pl.Object)
    return pl.concat([part.cast(*dtypes) for part in parts])


__all__ = ["json_fields", "json_records", "read_json_lines"]
