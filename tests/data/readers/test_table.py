"""Any table: file kinds, where the texts are, datasets by name."""

import gzip
import io
import json
from datetime import date

import polars as pl
import pytest

from unisrec.data import read_table


CLICKS = pl.DataFrame(
    {
        "customer": ["ann", "ann", "bob"],
        "sku": ["007", "8", "007"],
        "clicked": ["2024-01-02", "2024-01-01", "2024-01-03"],
        "name": ["Red Mug", "Tea Pot", "Mug"],
    }
)
PRODUCTS = pl.DataFrame({"sku": ["007", "8"], "name": ["Red Mug", "Tea Pot"], "maker": ["Acme", None]})
COLUMNS = {"user_column": "customer", "item_column": "sku", "time_column": "clicked"}
DAY = 86_400_000_000
START = 19_723 * DAY


ROWS = {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]}


def write(frame, path):
    path.parent.mkdir(exist_ok=True)
    writers = {
        "csv": frame.write_csv,
        "tsv": lambda to: frame.write_csv(to, separator="\t", quote_style="never"),
        "jsonl": frame.write_ndjson,
        "parquet": frame.write_parquet,
    }
    buffer = io.BytesIO()
    writers[path.name.split(".")[1]](buffer)
    content = buffer.getvalue()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_kinds_of_files(tmp_path, ending):
    clicks, products = write(CLICKS, tmp_path / f"clicks.{ending}"), write(PRODUCTS, tmp_path / f"products.{ending}")
    interactions, items, info = read_table(clicks, products, text_columns=["name", "maker"], **COLUMNS)
    assert interactions.rows() == [("ann", "007", START + DAY), ("ann", "8", START), ("bob", "007", START + 2 * DAY)]
    assert items.rows() == [("007", "Red Mug. Acme"), ("8", "Tea Pot")]
    assert [row["left"] for row in info["steps"] + info["item_steps"]] == [3, 2]


def test_texts_in_the_interactions(tmp_path):
    frame = pl.concat([CLICKS[:1].with_columns(name=pl.lit(None, pl.String)), CLICKS])
    items = read_table(write(frame, tmp_path / "clicks.csv"), text_columns=["name"], **COLUMNS).items
    assert items.rows() == [("007", "Red Mug"), ("8", "Tea Pot")]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_number_ids_and_lists_of_texts(tmp_path, ending):
    clicks = pl.DataFrame({"user_id": [1.0, 1.0, 2.0], "item_id": [5, 6, 5], "timestamp": [1, 2, 3]})
    products = pl.DataFrame({"item_id": [5, 6], "title": [["Red", "Mug"], ["Tea"]]})
    raw = read_table(write(clicks, tmp_path / f"clicks.{ending}"), write(products, tmp_path / f"products.{ending}"))
    assert raw.interactions.rows() == [("1", "5", 1), ("1", "6", 2), ("2", "5", 3)]
    assert raw.items.rows() == [("5", "Red Mug"), ("6", "Tea")]


@pytest.mark.parametrize("name", ["shop/clicks", "shop/clicks[train]", "shop/clicks:default[train]"])
def test_dataset_by_name(tmp_path, monkeypatch, name):
    # `datasets` reads a local folder of files by the same kind of name as a dataset of the Hub.
    (tmp_path / "shop").mkdir()
    write(CLICKS, tmp_path / "shop" / "clicks" / "train.csv")
    monkeypatch.chdir(tmp_path)
    raw = read_table(name, text_columns=["name"], **COLUMNS)
    assert raw.interactions["user_id"].to_list() == ["ann", "ann", "bob"]
    assert raw.items["text"].to_list() == ["Red Mug", "Tea Pot"]


def test_dataset_without_that_split(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    write(CLICKS, tmp_path / "shop" / "clicks" / "train.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"shop/clicks\[test\]: cannot be loaded as a dataset of the Hub \(.*test"):
        read_table("shop/clicks[test]", **COLUMNS)


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"clicks.csv: no such file"):
        read_table(tmp_path / "clicks.csv", **COLUMNS)
    with pytest.raises(
        FileNotFoundError, match=r"clicks.xls: expected a .csv, .tsv, .jsonl or .parquet file, or a dataset"
    ):
        read_table(tmp_path / "clicks.xls", **COLUMNS)
    clicks = write(CLICKS, tmp_path / "clicks.csv")
    with pytest.raises(ValueError, match=r"clicks.csv: no column 'user_id', the columns are customer, sku"):
        read_table(clicks)
    with pytest.raises(ValueError, match=r"clicks.csv: no column 'title', the columns are"):
        read_table(clicks, **COLUMNS)
    products = write(PRODUCTS, tmp_path / "products.jsonl")
    with pytest.raises(ValueError, match=r"products.jsonl: no column 'title', the columns are sku, name, maker"):
        read_table(clicks, products, **COLUMNS)
    bad = write(
        CLICKS.with_columns(clicked=pl.Series(["2024-01-02", "2024-01-01", "yesterday"])), tmp_path / "bad.csv"
    )
    with pytest.raises(
        ValueError, match=r"bad.csv, line 4: 'clicked' is 'yesterday', expected a number or an ISO 8601"
    ):
        read_table(bad, text_columns=["name"], **COLUMNS)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([" mug", " "], ["mug", None]),
        ([3.0, None], ["3.0", None]),
        ([3.5, float("nan")], ["3.5", None]),
        ([7, None], ["7", None]),
        ([True, None], ["true", None]),
        ([date(2024, 1, 2), None], ["2024-01-02", None]),
        ([["Toys", None], []], ["Toys", None]),
        ([[["Toys", "Games"], ["Toys", "Puzzles"]], [["Home", None]]], ["Toys Games Puzzles", "Home"]),
        ([{"kind": "Toys", "size": 3}, {"kind": None, "size": None}], ["Toys 3", None]),
    ],
)
def test_a_text_is_the_same_in_every_format(tmp_path, ending, values, texts):
    items = pl.DataFrame({"item_id": ["a", "b"], "title": values})
    if items["title"].dtype.is_nested() and ending in ("csv", "tsv"):  # which have JSON instead
        items = items.with_columns(title=pl.Series([json.dumps(value) for value in values]))
    path = write(items, tmp_path / f"items.{ending}")
    assert read_table(write(pl.DataFrame(ROWS), tmp_path / "rows.csv"), path).items["text"].to_list() == texts


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1.0, 2.0, float("nan")], ["1", "2", None]),
        ([1, 2, None], ["1", "2", None]),
        (["C:\\new", " AC\\DC", ""], ["C:\\new", "AC\\DC", None]),
        (pl.Series(["x", None, "y"], dtype=pl.Categorical), ["x", None, "y"]),
        (pl.Series([2**64 - 1, 1, None], dtype=pl.UInt64), [str(2**64 - 1), "1", None]),
    ],
)
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_an_id_is_the_same_in_every_format(tmp_path, ending, ids, expected, column):
    rows = pl.DataFrame(ROWS).with_columns(pl.Series(column, ids))
    items = pl.DataFrame({"item_id": ids, "title": ["mug", "pan", "lid"]})
    raw = read_table(write(rows, tmp_path / f"rows.{ending}"), write(items, tmp_path / f"items.{ending}"))
    assert raw.interactions[column].to_list() == expected
    assert raw.items["item_id"].to_list() == expected


@pytest.mark.parametrize("ending", ["CSV", "Parquet", "JSONL.GZ"])
def test_endings_in_upper_case(tmp_path, ending):
    path = write(pl.DataFrame(ROWS), tmp_path / f"rows.{ending.lower()}").rename(tmp_path / f"ROWS.{ending}")
    items = write(pl.DataFrame({"item_id": ["a"], "title": ["mug"]}), tmp_path / "items.csv")
    assert read_table(path, items).interactions.height == 3


def test_a_column_may_be_id_and_text_at_once(tmp_path):
    rows = pl.DataFrame({"user_id": ["u", "u"], "title": ["mug", "pan"], "timestamp": [1, 2]})
    for items in (None, write(rows.select("title"), tmp_path / "items.csv")):
        raw = read_table(write(rows, tmp_path / "rows.csv"), items, item_column="title")
        assert raw.items.rows() == [("mug", "mug"), ("pan", "pan")]
    with pytest.raises(ValueError, match="text column 'title' is named twice"):
        read_table(tmp_path / "rows.csv", item_column="title", text_columns=["title", "title"])


def test_the_first_text_of_an_item_counts(tmp_path):
    rows = pl.DataFrame(ROWS | {"item_id": ["a", "a", "a"], "title": ["nan", "<b></b>", "mug"]})
    assert read_table(write(rows, tmp_path / "rows.csv")).items.rows() == [("a", "mug")]


def test_sources_that_are_no_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = write(pl.DataFrame(ROWS), tmp_path / "rows.csv")
    rows.rename(tmp_path / "rows.txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.csv").write_bytes(b"a,b\n1,2\n1,2,3\n")
    for source, message in {
        "rows.txt": r"rows.txt: unknown ending '.txt', expected .csv, .tsv, .jsonl",
        "folder": r"folder: cannot be loaded as a dataset of the Hub \(.*data files\)",
        "broken": r"broken: cannot be loaded as a dataset of the Hub \(.*[Tt]okeniz.*\)",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_table(source)
        assert "\n" not in str(caught.value)
