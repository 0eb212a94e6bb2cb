"""Histories read from files, data frames and domains."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender.histories import (
    domain_histories,
    drop_unknown,
    find_histories,
    parse_entry,
    read_histories,
    read_ids,
)


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


def test_times_are_found_by_their_content_or_missed_with_a_word(caplog):
    table = pl.DataFrame(LONG).rename({"timestamp": "when bought"})
    assert read_histories(table) == (["bob", "ann"], [["9", "007"], ["007", "8"]])
    assert caplog.messages == ["histories: the times are read from 'when bought', by its content."]
    caplog.clear()
    table = table.with_columns(pl.Series("when bought", [1, 2, 3, 4]))
    assert read_histories(table) == (["bob", "ann"], [["007", "9"], ["8", "007"]])
    assert caplog.messages == ["histories: no times were recognised; the rows of a user count as oldest first."]
    caplog.clear()
    read_histories(table.drop("when bought"))
    assert not caplog.messages


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


EVENTS = {"event_column": "what", "events": ["purchase", "cart"]}


def test_rows_that_a_training_would_leave_out(caplog):
    table = pl.DataFrame(LONG).with_columns(what=pl.Series(["purchase", "view", "cart", None]))
    assert read_histories(table, EVENTS) == (["bob", "ann"], [["007"], ["007"]])
    assert "histories: 2 of 4 rows left out: what is not purchase or cart" in caplog.text
    views = table.with_columns(
        what=pl.Series(["view", "purchase", "cart", "view"]), user_id=pl.Series(["", "b", "b", None])
    )
    assert read_histories(views, EVENTS) == (["b"], [["007", "8"]])
    with pytest.raises(ValueError, match=r"no 'what' is purchase or cart, .* the most frequent are view \(4\)"):
        read_histories(table.with_columns(what=pl.lit("view")), EVENTS)
    assert read_histories(pl.DataFrame(LONG), EVENTS) == read_histories(pl.DataFrame(LONG))
    assert "histories: no column 'what', so that every row counts as purchase" in caplog.text
    bought = table.with_columns(what=pl.Series([True, False, True, None]))
    assert read_histories(bought, {"event_column": "what", "events": ["true"]}) == (["bob", "ann"], [["007"], ["007"]])
    guests = pl.DataFrame(LONG | {"user_id": ["Guest", None, "ann", "bob"]})
    assert read_histories(guests, {"drop_anonymous": True}) == (["ann", "bob"], [["007"], ["9"]])
    with pytest.raises(ValueError, match=r"row 2: the user_id is empty"):
        read_histories(guests)


def test_repeated_rows_count_once():
    table = pl.DataFrame(LONG)
    assert read_histories(pl.concat([table, table])) == read_histories(table)


def test_separator_and_encoding_that_a_checkpoint_remembers(tmp_path):
    rows = "user_id|item_id|timestamp\nЮлия|щит|1.1.2024\n"
    (tmp_path / "h.csv").write_text(rows, encoding="cp1251")
    tables = {"separator": "|", "encoding": "cp1251"}
    assert read_histories(tmp_path / "h.csv", tables) == (["Юлия"], [["щит"]])
    assert read_ids(tmp_path / "h.csv", "user", tables) == ["Юлия"]
    assert read_histories(pl.DataFrame(LONG), tables) == read_histories(pl.DataFrame(LONG))


def test_fields_that_the_first_record_lacks(tmp_path):
    records = [{"item_id": "8"}, {"item_id": "7", "what": "purchase", "user_id": "ann", "timestamp": "2.1.2024"}]
    records += [{"item_id": "9", "what": "purchase", "user_id": "ann", "timestamp": "1.1.2024"}]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_histories(tmp_path / "h.jsonl", EVENTS) == (["ann"], [["9", "7"]])
    with pytest.raises(ValueError, match=r"line 1: the user_id is empty"):
        read_ids(tmp_path / "h.jsonl", "user")


def test_marked_strings_are_those_of_a_column_history_in_a_file(tmp_path):
    (tmp_path / "h.csv").write_text("user_id,history\nann,7 text:pen id:text:1 text\nbob,\n")
    found = (["ann", "bob"], [["7", {"text": "pen"}, {"item_id": "text:1"}, "text"], []])
    assert read_histories(tmp_path / "h.csv", parse=parse_entry) == find_histories(tmp_path / "h.csv") == found
    frame = pl.DataFrame({"user_id": ["ann"], "item_id": ["text:pen"]})
    assert read_histories(frame, parse=parse_entry) == (["ann"], [["text:pen"]])
    frame = pl.DataFrame({"user_id": ["ann"], "history": [["text:pen"]]})
    assert find_histories(frame) == (["ann"], [["text:pen"]])


def test_bad_user_ids(make_domain):
    for user_ids in ("ann", [None], [5]):
        with pytest.raises(ValueError, match=r"`user_ids` is the string 'ann'|user ids are strings, not"):
            find_histories([["7"]], user_ids)
        with pytest.raises(ValueError, match=r"`user_ids` is the string 'ann'|user ids are strings, not"):
            find_histories(make_domain(), user_ids)


def test_unknown_ids_can_be_left_out(tokenizer):
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(["7"], ["red pen"]))
    users, histories = ["a", "b", "c"], [["x", "7", {"text": "pen"}], ["x"], []]
    assert drop_unknown(processor, users, histories) == (["a"], [["7", {"text": "pen"}]])
    assert drop_unknown(processor, users, histories, keep_empty=True) == (users, [histories[0][1:], [], []])
    assert histories[0][0] == "x"
    with pytest.raises(ValueError, match="nothing is left of the histories"):
        drop_unknown(processor, ["b"], [["x"]])
    with pytest.raises(ValueError, match="history 0 is the string '77': a history is a list"):
        drop_unknown(processor, ["b"], ["77"])


def test_a_user_in_several_rows_is_said(tmp_path, caplog):
    (tmp_path / "h.csv").write_text("user_id,history\nann,a\nbob,b\nann,c\n")
    assert read_histories(tmp_path / "h.csv") == (["ann", "bob", "ann"], [["a"], ["b"], ["c"]])
    assert "user 'ann' is in several rows" in caplog.text
