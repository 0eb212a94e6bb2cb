"""Vectors for databases, and a catalogue that is replaced whole or not at all."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

from unisrec.modeling_unisrec import ItemCatalogue
from unisrec.recommender.tables import export_vectors, replace_catalogue


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


def test_catalogue_that_cannot_be_written_leaves_the_old_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder with a catalogue to be changed"):
        replace_catalogue(tmp_path, ItemCatalogue(["a"], ["red pen"]))
    ItemCatalogue(["a", "b"], ["red pen", "blue pen"], torch.randn(2, 4)).save(tmp_path / "catalogue")
    before = {path.name: path.read_bytes() for path in (tmp_path / "catalogue").iterdir()}
    broken = ItemCatalogue(["a"], ["red pen"], torch.randn(1, 4).to_sparse())
    with pytest.raises(RuntimeError, match="memory format"):  # no such tensor can be saved
        replace_catalogue(tmp_path, broken)
    assert {path.name: path.read_bytes() for path in (tmp_path / "catalogue").iterdir()} == before
    replace_catalogue(tmp_path, ItemCatalogue(["c"], ["lamp"]))
    assert [path.name for path in (tmp_path / "catalogue").iterdir()] == ["items.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]
