"""Vectors for databases, and a catalogue that is replaced whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from safetensors import safe_open

from unisrec.recommender.tables import (
    domain_histories,
    export_vectors,
    read_histories,
    read_ids,
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
        ({"user_id": "u"}, "neither a column 'history' nor one of the items, the columns are user_id"),
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


@pytest.mark.parametrize("read", [read_histories, lambda name: read_ids(name, "item")])
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


def test_ids_of_files(tmp_path):
    (tmp_path / "i.jsonl").write_text('{"item_id": 1.0, "text": ["red", "pen"]}\n{"item_id": "b", "text": 5}\n')
    assert read_ids(tmp_path / "i.jsonl", "item") == ["1", "b"]
    (tmp_path / "i.jsonl").write_text('{"item_id": "a", "text": "pen"}\n{"item_id": NaN, "text": "x"}\n')
    with pytest.raises(ValueError, match=r"i.jsonl, line 2: .*empty"):
        read_ids(tmp_path / "i.jsonl", "item")


def test_tables_that_cannot_be_written_leave_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"items.parquet: cannot be written"):
        export_vectors(["a"], np.zeros((1, 4), np.float32), tmp_path / "file" / "items.parquet")
    export_vectors(["a"], np.zeros((1, 4), np.float32), tmp_path / "ITEMS.PARQUET")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ITEMS.PARQUET", "file"]


LONG = {
    "user_id": ["bob", "ann", "ann", "bob"],
    "item_id": ["007", "8", "007", "9"],
    "timestamp": ["2.1.2024", "3.1.2024", "1.1.2024 18:05", "1.1.2024"],
}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "pandas", "polars"])
def test_histories_of_interactions_are_in_the_order_of_time(tmp_path, kind):
    table = pl.DataFrame(LONG)
    if kind == "csv":
        table.rename({"user_id": "Kunde", "item_id": "Artikel", "timestamp": "Zeit"}).write_csv(
            tmp_path / "h.csv", separator=";"
        )
        table = tmp_path / "h.csv"
    elif kind == "jsonl":
        table.write_ndjson(tmp_path / "h.jsonl")
        table = tmp_path / "h.jsonl"
    elif kind == "pandas":
        table = pd.DataFrame(LONG)
    assert read_histories(table) == (["bob", "ann"], [["9", "007"], ["007", "8"]])
    frame = pl.DataFrame(LONG).drop("timestamp")
    assert read_histories(frame) == (["bob", "ann"], [["007", "9"], ["8", "007"]])


def test_columns_that_a_checkpoint_remembers(tmp_path):
    rows = {"Wer": ["bob", "bob"], "Was": ["1", "2"], "Wann": ["03/02/2024", "04/01/2024"], "user_id": ["x", "y"]}
    pl.DataFrame(rows).write_csv(tmp_path / "h.csv")
    tables = {"user_column": "Wer", "item_column": "Was", "time_column": "Wann", "date_format": "%d/%m/%Y"}
    assert read_histories(tmp_path / "h.csv", tables) == (["bob"], [["2", "1"]])
    dates = pl.DataFrame(rows).with_columns(pl.col("Wann").str.to_date("%d/%m/%Y"))
    assert read_histories(dates, tables) == (["bob"], [["2", "1"]])
    assert read_ids(tmp_path / "h.csv", "user", tables) == ["bob"]
    assert read_ids(tmp_path / "h.csv", "user", {"user_column": "Client"}) == ["x", "y"]
    pl.DataFrame(rows).select(Kunde="Wer", Artikel="Was", Zeit=pl.lit("2024-01-01")).write_csv(tmp_path / "h.csv")
    assert read_histories(tmp_path / "h.csv", tables) == (["bob"], [["1", "2"]])  # its dates are of another format
    pl.DataFrame({"Nr": ["x"]}).write_csv(tmp_path / "h.csv")
    with pytest.raises(ValueError, match=r"h.csv: no column 'user_id', the columns are Nr"):
        read_ids(tmp_path / "h.csv", "user", tables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": ["bob", None, "x", "y"]}, r"histories, row 2: the user_id is empty, expected one in every row"),
        ({"item_id": ["a", "b", "nan", "c"]}, r"histories, row 3: the item_id is empty"),
        ({"timestamp": [1, 2, 3, None]}, r"histories, row 4: 'timestamp' is empty, expected a time in every row"),
    ],
)
def test_faults_of_interactions_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        read_histories(pl.DataFrame(LONG | change, strict=False))
    with pytest.raises(ValueError, match=r"neither a column 'history' nor one of the users, the columns are a"):
        read_histories(pl.DataFrame({"a": [1]}))


def test_histories_of_a_domain(make_domain):
    domain = make_domain()
    ids = domain.items["item_id"].to_list()
    users, histories = domain_histories(domain)
    assert users == domain.sequences["user_id"].to_list()
    assert histories == [[ids[row] for row in rows] for rows in domain.sequences["item_index"].to_list()]
    assert domain_histories(domain, ["u3", "u1", "u3"]) == (
        ["u3", "u1", "u3"],
        [histories[users.index(user)] for user in ("u3", "u1", "u3")],
    )
    with pytest.raises(KeyError, match=r"user id 'eve' is not among the 40 of 'toys'"):
        domain_histories(domain, ["u1", "eve"])
    padded = pl.format("00{}", pl.col("user_id").str.slice(1)).alias("user_id")
    numbered = replace(domain, sequences=domain.sequences.with_columns(padded))
    with pytest.raises(KeyError, match=r"'12' is not among the 40 of 'toys'; nearest ids: 0012"):
        domain_histories(numbered, ["12"])
