"""Vectors for databases, and a catalogue that is replaced whole or not at all."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

from unisrec.recommender.tables import (
    export_vectors,
    read_histories,
    read_item_ids,
    read_items,
)


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


ENTRIES = ["C:\\new", "AC\\DC", '"quoted"', "a, b", 7, 7.0, {"text": "red [1] pen"}, {"item_id": 8}]
PARSED = ["C:\\new", "AC\\DC", '"quoted"', "a, b", "7", "7", {"text": "red [1] pen"}, {"item_id": "8"}]


def test_histories_keep_their_strings(tmp_path):
    (tmp_path / "h.jsonl").write_text(json.dumps({"user_id": 5, "history": ENTRIES}) + "\n")
    assert read_histories(tmp_path / "h.jsonl") == (["5"], [PARSED])
    cells = [json.dumps(ENTRIES), "A1  A2", "7"]
    pl.DataFrame({"user_id": [1.0, 2.0, 3.0], "history": cells}).write_csv(tmp_path / "H.CSV")
    assert read_histories(tmp_path / "H.CSV") == (["1", "2", "3"], [PARSED, ["A1", "A2"], ["7"]])
    strings = [entry for entry in ENTRIES if isinstance(entry, str)]
    pl.DataFrame({"user_id": ["u"], "history": [strings]}).write_parquet(tmp_path / "h.parquet")
    assert read_histories(tmp_path / "h.parquet") == (["u"], [strings])
    structs = [[{"text": "red pen", "item_id": None}, {"text": None, "item_id": 3}]]
    pl.DataFrame({"user_id": ["u"], "history": structs}).write_parquet(tmp_path / "h.parquet")
    assert read_histories(tmp_path / "h.parquet") == (["u"], [[{"text": "red pen"}, {"item_id": "3"}]])
    numbers = pl.Series([[1, 2]], dtype=pl.Array(pl.Float64, 2))
    pl.DataFrame({"user_id": ["u"], "history": numbers}).write_parquet(tmp_path / "h.parquet")
    assert read_histories(tmp_path / "h.parquet") == (["u"], [["1", "2"]])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"user_id": "u"}, "no column 'history', the columns are user_id"),
        ({"user_id": None, "history": ["a"]}, "line 1: the user_id is empty"),
        ({"user_id": ["u"], "history": ["a"]}, "line 1: 'user_id' is .*, a list, expected"),
        ({"user_id": "u", "history": 5}, "line 1: the history cannot be read .expected a list, got 5"),
        ({"user_id": "u", "history": '["AC\\DC"]'}, "line 1: the history cannot be read .Invalid"),
        ({"user_id": "u", "history": "[" * 100_000}, "line 1: the history cannot be read"),
        ({"user_id": "u", "history": [None]}, "line 1: .*an entry is None, expected an id or a text"),
        ({"user_id": "u", "history": [True]}, "line 1: .*an entry is True, a bool, expected an id or a text"),
        ({"user_id": "u", "history": [["a"]]}, "line 1: .*, a list, expected an id or a text"),
        ({"user_id": "u", "history": [1e30]}, "line 1: .*an entry is 1e.30, too large a float to be exact"),
    ],
)
def test_bad_histories(tmp_path, record, message):
    (tmp_path / "h.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=rf"h.jsonl[:,] {message}") as caught:
        read_histories(tmp_path / "h.jsonl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_histories, read_items, read_item_ids])
def test_what_is_no_file(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("notes.xyz").touch()
    for name, message in {
        "folder": "folder: a folder, expected a file",
        "owner/name": "owner/name: no such file",
        "notes.xyz": "notes.xyz: unknown ending '.xyz', expected .csv",
    }.items():
        with pytest.raises((OSError, ValueError), match=message):
            read(name)


def test_items_of_files(tmp_path):
    (tmp_path / "i.jsonl").write_text('{"item_id": 1.0, "text": ["red", "pen"]}\n{"item_id": "b", "text": 5}\n')
    assert read_items(tmp_path / "i.jsonl") == {"1": "red pen", "b": "5"}
    assert read_item_ids(tmp_path / "i.jsonl") == ["1", "b"]
    (tmp_path / "i.jsonl").write_text('{"item_id": "a", "text": "pen"}\n{"item_id": NaN, "text": "x"}\n')
    for read in (read_items, read_item_ids):
        with pytest.raises(ValueError, match=r"i.jsonl, line 2: .*empty"):
            read(tmp_path / "i.jsonl")
    (tmp_path / "i.jsonl").write_text('{"item_id": "a", "text": []}\n')
    with pytest.raises(ValueError, match=r"i.jsonl, line 1: expected an item_id and a text, neither of them empty"):
        read_items(tmp_path / "i.jsonl")


def test_tables_that_cannot_be_written_leave_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"items.parquet: cannot be written"):
        export_vectors(["a"], np.zeros((1, 4), np.float32), tmp_path / "file" / "items.parquet")
    export_vectors(["a"], np.zeros((1, 4), np.float32), tmp_path / "ITEMS.PARQUET")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ITEMS.PARQUET", "file"]
