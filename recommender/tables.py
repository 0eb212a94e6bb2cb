"""Atomic writing of recommendations and vectors."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from safetensors.torch import save_file

from ..data.atomic import whole_file
from ..data.domain import writing
from ..modeling_unisrec import ItemCatalogue
from .snapshot import Recommendation


if TYPE_CHECKING:
    from datasets import Dataset


FORMATS = (".parquet", ".csv", ".jsonl")
VECTOR_FORMATS = (".parquet", ".safetensors")


def to_dataset(
    user_ids: Sequence[str],
    found: Sequence[Sequence[Recommendation]],
    catalogue: ItemCatalogue,
    columns: Sequence[str] = (),
) -> "Dataset":
    """Returns recommendations as a table with a row for each item: `user_id`, `rank` (from 1), `item_id`, `score`, and
    `columns` of the items, typed as in the catalogue."""
    from datasets import Dataset, Features, Value

    rows: dict[str, list] = {"user_id": [], "rank": [], "item_id": [], "score": [], **{name: [] for name in columns}}
    for user_id, items in zip(user_ids, found, strict=True):
        rows["user_id"] += [user_id] * len(items)
        rows["rank"] += range(1, len(items) + 1)
        rows["item_id"] += [item.item_id for item in items]
        rows["score"] += [item.score for item in items]
        for name in columns:
            rows[name] += [item.columns[name] for item in items]
    types = {"user_id": "string", "rank": "int32", "item_id": "string", "score": "float32"}
    features = {name: Value(kind) for name, kind in types.items()}
    if columns:
        schema = catalogue.table(columns).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        found_types = Features.from_arrow_schema(schema)
        features |= {
            name: Value("string") if found_types[name].dtype == "large_string" else found_types[name]
            for name in columns
        }
    schema = Features(features).arrow_schema  # without it, whole numbers above 2**63 have no type
    return Dataset(pa.table(rows, schema=schema))


def check_suffix(path: str | os.PathLike, formats: Sequence[str] = FORMATS) -> None:
    """Raises `ValueError` if the suffix of a file name is not a supported output format."""
    if Path(path).suffix.lower() not in formats:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(formats)}.")


def write_table(table: "Dataset", path: str | os.PathLike) -> None:
    """Writes a dataset as parquet, CSV or JSON lines, depending on the suffix. Raises `ValueError` for other
    suffixes."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    check_suffix(path)
    is_quiet = are_progress_bars_disabled()
    disable_progress_bars()  # it takes a moment
    try:
        with _whole_file(path) as draft:
            if Path(path).suffix.lower() == ".jsonl":
                _with_dates_as_texts(table).to_json(draft)
            else:
                write = {".parquet": table.to_parquet, ".csv": table.to_csv}
                write[Path(path).suffix.lower()](draft)
    finally:
        if not is_quiet:
            enable_progress_bars()


def _with_dates_as_texts(table: "Dataset") -> "Dataset":
    """Returns a table with dates as JSON is answered over HTTP; otherwise they would be milliseconds since 1970."""
    from datasets import Dataset

    columns = table.data.table
    for place, field in enumerate(columns.schema):
        if pa.types.is_temporal(field.type):
            texts = [None if value is None else str(value) for value in columns[place].to_pylist()]
            columns = columns.set_column(place, field.name, pa.array(texts, pa.string()))
    return Dataset(columns)


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


__all__ = ["check_suffix", "export_vectors", "to_dataset", "write_table"]
