"""Reading of histories and items from files; atomic writing of recommendations, catalogues and vectors."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from ..data.atomic import whole_file
from ..data.domain import writing
from ..data.readers.table import load_table
from ..data.readers.values import place, to_id, to_ids, to_texts
from .catalogue import join_columns


if TYPE_CHECKING:
    from datasets import Dataset


FORMATS = (".parquet", ".csv", ".jsonl")
VECTOR_FORMATS = (".parquet", ".safetensors")


def read_histories(path: str | os.PathLike) -> tuple[list[str], list[list[str | dict[str, str]]]]:
    r"""
    Reads histories from a CSV, JSON-lines or parquet file.

    Args:
        path (`str` or `os.PathLike`):
            File with the columns `user_id` and `history`, a list of ids and texts, oldest first (in CSV a JSON list,
            or ids separated by spaces). Numbers are ids, converted by [`to_ids`]; strings are used unchanged.

    Returns:
        `tuple[list[str], list[list]]`: User ids and histories.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If a column or a user id is missing, or a history is not a list of ids and texts; names the row.
    """
    table, _, first_line, _ = load_table(path, ["user_id", "history"], hub=False)
    user_ids = to_ids(table["user_id"], str(path), first_line=first_line)
    if user_ids.null_count():
        where = place(str(path), int(user_ids.is_null().arg_max()), first_line)
        raise ValueError(f"{where}: the user_id is empty, expected one for every history.")
    histories = []
    for row, cell in enumerate(table["history"].to_list()):
        try:
            histories.append(_parse_history(cell))
        except (TypeError, ValueError, RecursionError) as error:
            where = place(str(path), row, first_line)
            raise ValueError(f"{where}: the history cannot be read ({error}).") from error
    return user_ids.to_list(), histories


def read_items(
    path: str | os.PathLike, item_column: str = "item_id", text_columns: Sequence[str] | None = None
) -> dict[str, str]:
    r"""
    Reads items from a CSV, JSON-lines or parquet file. Unlike [`read_products`], it refuses a row that is not an item.

    Args:
        path (`str` or `os.PathLike`): The file.
        item_column (`str`, *optional*, defaults to `"item_id"`): Column of the item ids.
        text_columns (`Sequence[str]`, *optional*):
            Columns that form the item text, cleaned and joined as for [`read_table`]. By default the column `text` is
            taken as it is.

    Returns:
        `dict[str, str]`: Texts by id, converted by [`to_texts`] and [`to_ids`].

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If a column, id or text is missing, or an id occurs twice; names the row.
    """
    columns = [item_column, *(["text"] if text_columns is None else text_columns)]
    table, _, first_line, _ = load_table(path, columns, hub=False)
    ids = to_ids(table[item_column], str(path), first_line=first_line)
    if text_columns is None:
        texts = to_texts(table["text"], str(path), first_line=first_line)
    else:
        texts = join_columns(table, text_columns, str(path), first_line)
    items: dict[str, str] = {}
    for row, (item_id, text) in enumerate(zip(ids, texts, strict=True)):
        if item_id is None or text is None:
            raise ValueError(
                f"{place(str(path), row, first_line)}: expected an item_id and a text, neither of them empty."
            )
        if item_id in items:
            raise ValueError(f"{place(str(path), row, first_line)}: item id {item_id!r} comes twice, expected once.")
        items[item_id] = text
    return items


def read_item_ids(path: str | os.PathLike) -> list[str]:
    """Reads the column `item_id` of a CSV, JSON-lines or parquet file. Raises the same errors as [`read_items`]."""
    table, _, first_line, _ = load_table(path, ["item_id"], hub=False)
    ids = to_ids(table["item_id"], str(path), first_line=first_line)
    if ids.null_count():
        where = place(str(path), int(ids.is_null().arg_max()), first_line)
        raise ValueError(f"{where}: the item_id is empty, expected one in every row.")
    return ids.to_list()


def check_suffix(path: str | os.PathLike, formats: Sequence[str] = FORMATS) -> None:
    """Raises `ValueError` if the suffix of a file name is not a supported output format."""
    if Path(path).suffix.lower() not in formats:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(formats)}.")


def write_table(table: "Dataset", path: str | os.PathLike) -> None:
    """Writes a dataset as parquet, CSV or JSON lines, depending on the suffix. Raises `ValueError` for other
    suffixes."""
    check_suffix(path)
    with _whole_file(path) as draft:
        write = {".parquet": table.to_parquet, ".csv": table.to_csv, ".jsonl": table.to_json}[
            Path(path).suffix.lower()
        ]
        write(draft)


def export_vectors(
    ids: Sequence[str],
    vectors: np.ndarray,
    path: str | os.PathLike,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> None:
    r"""
    Writes vectors of items or users for a vector database.

    Args:
        ids (`Sequence[str]`): Id of each row.
        vectors (`np.ndarray` of shape `(num_rows, hidden_size)`, float32): For example [`Recommender.item_embeds`].
        path (`str` or `os.PathLike`):
            A `.parquet` file, with columns `id` and `vector` (arrays of fixed length), or a `.safetensors` file, with
            a tensor `vectors` and the ids as a JSON list in the metadata.
        columns (`Mapping[str, Sequence[str]]`, *optional*): More columns of a parquet file, such as texts.

    Raises:
        ValueError: If the suffix is unknown, or the numbers of ids and vectors differ.
    """
    check_suffix(path, VECTOR_FORMATS)
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids but {len(vectors)} vectors.")
    with _whole_file(path) as draft:
        if Path(path).suffix.lower() == ".safetensors":
            tensors = {"vectors": torch.from_numpy(np.ascontiguousarray(vectors))}
            save_file(tensors, draft, metadata={"format": "pt", "ids": json.dumps(list(ids))})
        else:
            array = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
            pl.DataFrame({"id": list(ids), **(columns or {}), "vector": array}).write_parquet(draft)


@contextmanager
def _whole_file(path: str | os.PathLike) -> Iterator[str]:
    """Like [`whole_file`], but creates a missing folder. Raises `OSError` if it cannot be written."""
    with writing(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            yield str(draft)


def _parse_history(cell: Any) -> list[str | dict[str, str]]:
    """Returns the entries of one history; a string is parsed only if the file format cannot store lists."""
    if isinstance(cell, str):
        cell = json.loads(cell) if cell.lstrip().startswith("[") else cell.split()
    if not isinstance(cell, list):
        raise TypeError(f"expected a list, got {repr(cell)[:80]}")
    return [_parse_entry(entry) for entry in cell]


def _parse_entry(entry: Any) -> str | dict[str, str]:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):  # in parquet every entry has all fields
        return {name: value if name == "text" else to_id(value) for name, value in entry.items() if value is not None}
    try:
        item_id = to_id(entry)
    except (TypeError, ValueError) as error:
        raise ValueError(f"an entry is {repr(entry)[:80]}, {error}, expected an id or a text") from error
    if item_id is None:
        raise ValueError(f"an entry is {entry!r}, expected an id or a text")
    return item_id


__all__ = [
    "check_suffix",
    "export_vectors",
    "read_histories",
    "read_item_ids",
    "read_items",
    "write_table",
]
