"""Vectors for databases, and tables that are written whole or not at all."""

import json

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

from unisrec.recommender.tables import export_vectors


def test_vectors_come_back_with_their_ids(tmp_path):
    ids, vectors = ["a", "ü", "c"], np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    export_vectors(ids, vectors, tmp_path / "items.parquet", {"text": ["red pen", "", "🫖"]})
    table = pl.read_parquet(tmp_path / "items.parquet")
    assert table.schema == {"id": pl.String, "text": pl.String, "vector": pl.Array(pl.Float32, 4)}
    assert table["id"].to_list() == ids
    assert np.array_equal(table["vector"].to_numpy(), vectors)
    export_vectors(ids, vectors, tmp_path / "items.safetensors")
    with safe_open(tmp_path / "items.safetensors", "np") as file:
        assert json.loads(file.metadata()["ids"]) == ids
        assert np.array_equal(file.get_tensor("vectors"), vectors)
    with pytest.raises(ValueError, match="expected a name that ends in .parquet, .safetensors"):
        export_vectors(ids, vectors, tmp_path / "items.csv")
    with pytest.raises(ValueError, match="2 ids but 3 vectors"):
        export_vectors(ids[:2], vectors, tmp_path / "items.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet", "items.safetensors"]


def test_tables_that_cannot_be_written_leave_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"items.parquet: cannot be written"):
        export_vectors(["a"], np.zeros((1, 4), np.float32), tmp_path / "file" / "items.parquet")
    export_vectors(["a"], np.zeros((1, 4), np.float32), tmp_path / "ITEMS.PARQUET")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ITEMS.PARQUET", "file"]
