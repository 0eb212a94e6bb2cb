"""The Online Retail tables as CSV, workbook and parquet."""

import sys
from datetime import datetime

import polars as pl
import pytest

from unisrec.data import read_online_retail


FRAME = pl.DataFrame(
    {
        "Invoice": ["1", "1", "1", "1", "C2", "C2", "3"],
        "StockCode": ["7A", "8", "7A", "9", "8 ", "7A", "7A"],
        "Description": ["RED MUG", "TEA POT", "MUG RED", None, "TEA POT ", "MUG RED", "RED MUG"],
        "Quantity": [1, 2, 3, 4, -5, -6, 7],
        "InvoiceDate": [datetime(2010, 12, 1, 8, minute) for minute in (26, 26, 27, 27, 30, 30, 40)],
    }
)
EVENTS = [("1", "7A", 26), ("1", "8", 26), ("C2", "8", 30), ("C2", "7A", 30), ("3", "7A", 40)]


def check(raw):
    start = raw.interactions["time"].min() // 60_000_000 - 26
    minutes = raw.interactions.with_columns(pl.col("time") // 60_000_000 - start)
    assert minutes.rows() == EVENTS
    # Both descriptions of 7A occur twice: the first in the alphabet is taken.
    assert dict(raw.items.rows()) == {"7A": "mug red", "8": "tea pot"}
    assert [(row["dropped"], row["left"]) for row in raw.info["steps"]] == [(0, 7), (1, 6), (1, 5)]


@pytest.mark.parametrize("time_format", ["%Y-%m-%d %H:%M:%S", "%-m/%-d/%Y %-H:%M"])
@pytest.mark.parametrize("invoice", ["Invoice", "InvoiceNo"])
def test_csv_of_both_tables(tmp_path, time_format, invoice):
    frame = FRAME.with_columns(pl.col("InvoiceDate").dt.strftime(time_format)).rename({"Invoice": invoice})
    frame.write_csv(tmp_path / "retail.csv")
    check(read_online_retail(tmp_path / "retail.csv"))


def test_parquet(tmp_path):
    FRAME.write_parquet(tmp_path / "retail.parquet")
    check(read_online_retail(tmp_path / "retail.parquet"))


@pytest.mark.parametrize("name", ["RETAIL.CSV", "retail.Parquet"])
def test_missing_values_are_dropped_before_invoices_are_counted(tmp_path, name):
    rows = pl.concat([FRAME, FRAME[:3]]).with_columns(
        Invoice=pl.Series(["1", "1", "1", "1", "C2", "C2", "3", None, "nan", " "]),
        Description=pl.Series(["RED MUG", "NaN", "RED MUG", None, "TEA POT", "MUG RED", "RED MUG", "X", "Y", "Z"]),
    )
    (rows.write_csv if name.endswith("CSV") else rows.write_parquet)(tmp_path / name)
    raw = read_online_retail(tmp_path / name)
    assert [tuple(row.values()) for row in raw.info["steps"]] == [
        (f"read {name}", 0, 10),
        ("no user, item or time", 3, 7),
        ("no description", 2, 5),
        ("item again in the same invoice", 1, 4),
    ]
    assert dict(raw.items.rows()) == {"7A": "red mug", "8": "tea pot"}


def test_workbook_with_all_its_sheets(tmp_path):
    workbook = pytest.importorskip("xlsxwriter").Workbook(
        tmp_path / "retail.xlsx", {"default_date_format": "yyyy-mm-dd hh:mm"}
    )
    pytest.importorskip("fastexcel")
    for name, part in (("Year 2009-2010", FRAME[:4]), ("Year 2010-2011", FRAME[4:])):
        part.write_excel(workbook, name)
    workbook.close()
    check(read_online_retail(tmp_path / "retail.xlsx"))


def test_workbook_without_fastexcel(tmp_path, monkeypatch):
    (tmp_path / "retail.xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(ValueError, match=r"retail.xlsx: workbooks need fastexcel; `pip install unisrec\[excel\]`"):
        read_online_retail(tmp_path / "retail.xlsx")


def test_most_frequent_description_wins(tmp_path):
    frame = pl.concat([FRAME, FRAME[:1].with_columns(Invoice=pl.lit("4"))])
    frame.write_parquet(tmp_path / "retail.parquet")
    assert dict(read_online_retail(tmp_path / "retail.parquet").items.rows())["7A"] == "red mug"


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.parquet: no such file"):
        read_online_retail(tmp_path / "absent.parquet")
    with pytest.raises(FileNotFoundError, match=r"absent.xlsx: no such file"):
        read_online_retail(tmp_path / "absent.xlsx")
    with pytest.raises(ValueError, match=r"unknown ending '.zip', expected .xlsx, .csv, .csv.gz or .parquet"):
        read_online_retail(tmp_path / "retail.zip")
    FRAME.drop("StockCode").write_csv(tmp_path / "retail.csv")
    with pytest.raises(ValueError, match=r"no column 'StockCode', the columns are Invoice, Description"):
        read_online_retail(tmp_path / "retail.csv")
    FRAME.drop("Invoice").write_csv(tmp_path / "retail.csv")
    with pytest.raises(ValueError, match=r"no column 'Invoice'"):
        read_online_retail(tmp_path / "retail.csv")


def test_broken_workbook(tmp_path):
    pytest.importorskip("fastexcel")
    (tmp_path / "retail.xlsx").write_bytes(b"PK\3\4 nonsense")
    with pytest.raises(ValueError, match=r"retail.xlsx: not a readable workbook \(.*\)$"):
        read_online_retail(tmp_path / "retail.xlsx")
