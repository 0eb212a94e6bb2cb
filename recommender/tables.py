"""Histories and items from files; recommendations, catalogues and vectors to files that are complete or not there."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from ..data.columns import to_ids
from ..data.table import load_table


if TYPE_CHECKING:
    from datasets import Dataset


FORMATS = (".parquet", ".csv", ".jsonl")
VECTOR_FORMATS = (".parquet", ".safetensors")


def read_histories(path: str | os.PathLike) -> tuple[list[str], list[list[str | dict[str, str]]]]:
    r"""
    Histories of a CSV, JSON-lines or parquet file.

    Args:
        path (`str` or `os.PathLike`):
            File with a column `history`, a list of ids and texts, oldest first (in CSV a JSON list, or ids with blanks
            between them), and `user_id`.

    Returns:
        `tuple[list[str], list[list]]`: User ids and histories.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or a history is no list; names the row.
    """
    table, first_line = load_table(path, ["user_id", "history"])
    histories = []
    for row, cell in enumerate(table["history"].to_list()):
        try:
            history = cell
            if isinstance(cell, str):
                history = json.loads(cell) if cell.startswith("[") else cell.split()
            if not isinstance(history, list):
                raise ValueError(f"expected a list, got {cell!r}")
        except ValueError as error:
            raise ValueError(f"{_place(path, row, first_line)}: the history cannot be read ({error}).") from error
        histories.append([str(entry) if isinstance(entry, int) else entry for entry in history])
    return to_ids(table["user_id"]).to_list(), histories


def read_items(path: str | os.PathLike) -> dict[str, str]:
    r"""
    Items of a CSV, JSON-lines or parquet file.

    Args:
        path (`str` or `os.PathLike`): File with columns `item_id` and `text`.

    Returns:
        `dict[str, str]`: Texts by id.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, an id comes twice, or an id or text is empty; names the row.
    """
    table, first_line = load_table(path, ["item_id", "text"])
    items: dict[str, str] = {}
    for row, (item_id, text) in enumerate(zip(to_ids(table["item_id"]), table["text"].cast(pl.String), strict=True)):
        if not item_id or not (text or "").strip():
            raise ValueError(
                f"{_place(path, row, first_line)}: expected an item_id and a text, neither of them empty."
            )
        if item_id in items:
            raise ValueError(f"{_place(path, row, first_line)}: item id {item_id!r} comes twice, expected once.")
        items[item_id] = text
    return items


def check_suffix(path: str | os.PathLike, formats: Sequence[str] = FORMATS) -> None:
    """Raises `ValueError` for a file of a kind that cannot be written."""
    if Path(path).suffix not in formats:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(formats)}.")


def write_table(table: "Dataset", path: str | os.PathLike) -> None:
    """Writes a dataset as the file's name says: parquet, CSV or JSON lines. Raises `ValueError` for another name."""
    check_suffix(path)
    with _whole_file(path) as draft:
        write = {".parquet": table.to_parquet, ".csv": table.to_csv, ".jsonl": table.to_json}[Path(path).suffix]
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
        ids (`Sequence[str]`): Their ids.
        vectors (`np.ndarray` of shape `(num_rows, hidden_size)`, float32): As of [`Recommender.item_embeds`].
        path (`str` or `os.PathLike`):
            `.parquet`, with columns `id` and `vector` (arrays of fixed length); or `.safetensors`, with a tensor `vectors`
            and the ids as a JSON list in the metadata.
        columns (`Mapping[str, Sequence[str]]`, *optional*): More columns of a parquet file, such as texts.

    Raises:
        ValueError: For another name, or where ids and vectors are not of one number.
    """
    check_suffix(path, VECTOR_FORMATS)
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids but {len(vectors)} vectors.")
    with _whole_file(path) as draft:
        if Path(path).suffix == ".safetensors":
            tensors = {"vectors": torch.from_numpy(np.ascontiguousarray(vectors))}
            save_file(tensors, draft, metadata={"format": "pt", "ids": json.dumps(list(ids))})
        else:
            array = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
            pl.DataFrame({"id": list(ids), **(columns or {}), "vector": array}).write_parquet(draft)


@contextmanager
def _whole_file(path: str | os.PathLike) -> Iterator[str]:
    """A name beside the file, which takes its place at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield str(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _place(path: str | os.PathLike, row: int, first_line: int | None) -> str:
    return f"{path}, row {row + 1}" if first_line is None else f"{path}, line {first_line + row}"


__all__ = ["check_suffix", "export_vectors", "read_histories", "read_items", "write_table"]
