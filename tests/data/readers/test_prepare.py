"""`unisrec prepare`: from files to a domain folder."""

import argparse
import json
import os
import re
import resource
import signal

import polars as pl
import pytest

from unisrec.cli import main
from unisrec.commands import prepare
from unisrec.data import Domain, domain


@pytest.fixture
def run():
    """Parse a command line and run it."""
    parser = argparse.ArgumentParser()
    parser.set_defaults(verb="prepare")
    prepare.add_arguments(parser)
    return lambda *words: prepare.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def clicks(tmp_path):
    rows = [(f"u{user}", f"i{item}", 10 * user + item) for user in range(6) for item in range(6)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame = frame.with_columns(title="Item " + pl.col("item_id"))
    frame.write_csv(tmp_path / "clicks.csv")
    return tmp_path / "clicks.csv"


def test_table(run, clicks, tmp_path):
    result = run("table", "--interactions", clicks, "--output", tmp_path / "shop")
    domain = Domain.load_from_disk(tmp_path / "shop")
    assert (domain.name, domain.num_users, domain.num_items, domain.num_interactions) == ("shop", 6, 6, 36)
    assert domain.info["source"] == "table"
    assert domain.info["filters"] == {"user_k": 5, "item_k": 5, "missing_text": "error"}
    assert result.text == f"{domain.report()}\n\nwritten to {tmp_path / 'shop'}"


def test_options_reach_the_domain(run, clicks, tmp_path):
    options = ["--name", "my shop", "--user-k", 1, "--item-k", 2, "--missing-text", "drop"]
    run("table", "--interactions", clicks, "--output", tmp_path / "shop", *options)
    domain = Domain.load_from_disk(tmp_path / "shop")
    assert domain.name == "my shop"
    assert domain.info["filters"] == {"user_k": 1, "item_k": 2, "missing_text": "drop"}


def test_amazon(run, tmp_path):
    (tmp_path / "r.csv").write_text("".join(f"i{n % 5},u{n % 7},5.0,{n}\n" for n in range(35)))
    (tmp_path / "m.json").write_text("".join(json.dumps({"asin": f"i{n}", "brand": f"B{n}"}) + "\n" for n in range(5)))
    run(
        "amazon",
        "--ratings",
        tmp_path / "r.csv",
        "--metadata",
        tmp_path / "m.json",
        "--text-fields",
        "brand",
        "--output",
        tmp_path / "a",
    )
    assert Domain.load_from_disk(tmp_path / "a").items["text"].to_list() == ["B0", "B1", "B2", "B3", "B4"]


def test_online_retail(run, tmp_path):
    frame = pl.DataFrame(
        {"Invoice": [1, 1, 2], "StockCode": ["a", "b", "a"], "Description": ["A", "B", "A"], "InvoiceDate": [1, 1, 2]}
    )
    frame.write_parquet(tmp_path / "retail.parquet")
    run(
        "online-retail",
        "--input",
        tmp_path / "retail.parquet",
        "--output",
        tmp_path / "o",
        "--user-k",
        1,
        "--item-k",
        1,
    )
    assert Domain.load_from_disk(tmp_path / "o").num_interactions == 3


def test_recbole(run, tmp_path):
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\tyear:token\n2\tTwo\t1999\n")
    run(
        "recbole",
        "--input",
        tmp_path,
        "--text-columns",
        "title",
        "--output",
        tmp_path / "out" / "r",
        "--user-k",
        1,
        "--item-k",
        0,
    )
    assert Domain.load_from_disk(tmp_path / "out" / "r").items["text"].to_list() == ["Two"]


def test_output_is_checked_before_the_input_is_read(run, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match=r"shop: already exists and is not an empty folder"):
        run("table", "--interactions", tmp_path / "absent.csv", "--output", tmp_path / "shop")


def test_nothing_is_left_after_an_error(run, clicks, tmp_path):
    with pytest.raises(ValueError, match=r"leaves nothing"):
        run("table", "--interactions", clicks, "--output", tmp_path / "shop", "--user-k", 7)
    assert [path.name for path in tmp_path.iterdir()] == ["clicks.csv"]


def test_missing_values_are_counted_in_the_report(run, tmp_path):
    rows = pl.DataFrame(
        {"user_id": [1.0, 1.0, float("nan")], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3], "title": "mug"}
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    options = ["--output", tmp_path / "shop", "--user-k", 1, "--item-k", 1]
    result = run("table", "--interactions", tmp_path / "rows.parquet", *options)
    assert re.search(r"no user, item or time +1 +2\n", result.text)
    assert Domain.load_from_disk(tmp_path / "shop").sequences["user_id"].to_list() == ["1"]


@pytest.mark.parametrize("fault", ["full disk", "interrupt", "wrong column", "folder", "nothing left"])
def test_what_fails_gets_one_line_and_leaves_nothing(clicks, tmp_path, monkeypatch, capsys, fault):
    words = ["prepare", "table", "--interactions", str(clicks), "--output", str(tmp_path / "new" / "shop")]
    expected = {
        "full disk": r"new/shop: cannot be written \(.*File too large.*\)",
        "interrupt": r"interrupted",
        "wrong column": r"clicks.csv: no column 'kind', the columns are",
        "folder": r"folder: cannot be loaded as a dataset of the Hub",
        "nothing left": r"leaves nothing",
    }[fault]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    elif fault == "interrupt":  # after both tables are written
        monkeypatch.setattr(domain, "save_given_features", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    elif fault == "wrong column":
        words += ["--text-columns", "kind"]
    elif fault == "folder":
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path)
        words[3] = "folder"
    else:
        words += ["--user-k", "7"]
    before = sorted(path.name for path in tmp_path.rglob("*"))
    try:
        status = main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    captured = capsys.readouterr()
    assert status == (130 if fault == "interrupt" else 2)
    assert re.search(expected, captured.err)
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("source", ["amazon", "online-retail", "recbole", "table"])
def test_help_has_an_example(run, source, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(source, "--help")
    assert f"unisrec prepare {source} --" in capsys.readouterr().out
