"""Any table: file kinds, where the texts are, datasets by name."""

import gzip
import io

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


def write(frame, path):
    path.parent.mkdir(exist_ok=True)
    writers = {
        "csv": frame.write_csv,
        "tsv": lambda to: frame.write_csv(to, separator="\t"),
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
