"""Data frames of other libraries are read as files are."""

from datetime import UTC, datetime
from uuid import UUID

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from unisrec.data import build_domain, read_table
from unisrec.data.readers.frames import to_polars


CLICKS = {
    "user_id": ["ann", "ann", "bob"],
    "item_id": [2**53 + 1, 17, 17],
    "timestamp": ["2024-01-02T01:00:00+01:00", "2024-01-01", "03.01.2024 00:00"],
}
PRODUCTS = {"item_id": [17, 2**53 + 1], "title": ["Caf&eacute;  <b>mug</b>", "pan"]}
DAY = 86_400_000_000
MAKERS = {
    "pandas": pd.DataFrame,
    "pandas, nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pandas, indexed": lambda columns: pd.DataFrame(columns).set_index("item_id"),
    "pandas, objects": lambda columns: pd.DataFrame(columns).astype(object),
    "polars": pl.DataFrame,
    "polars, lazy": pl.LazyFrame,
    "pyarrow": pa.table,
    "pyarrow, dictionaries": lambda columns: pa.table(
        {name: pa.array(column).dictionary_encode() for name, column in columns.items()}
    ),
    "pyarrow, a batch": pa.RecordBatch.from_pydict,
    "datasets": datasets.Dataset.from_dict,
    "datasets, chosen rows": lambda columns: datasets.Dataset.from_dict(
        {name: [column[0], *column] for name, column in columns.items()}
    ).select(range(1, len(columns["item_id"]) + 1)),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_frame_is_read_as_a_file_is(kind, tmp_path):
    interactions, items, info = read_table(MAKERS[kind](CLICKS), MAKERS[kind](PRODUCTS))
    pl.DataFrame(CLICKS).write_csv(tmp_path / "clicks.csv")
    pl.DataFrame(PRODUCTS).write_csv(tmp_path / "products.csv")
    of_files = read_table(tmp_path / "clicks.csv", tmp_path / "products.csv")
    assert interactions.equals(of_files.interactions)
    assert items.equals(of_files.items)
    assert items.rows() == [("17", "Caf\u00e9 mug"), (str(2**53 + 1), "pan")]
    start = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert (interactions["time"] - start).to_list() == [DAY, 0, 2 * DAY]
    assert info["files"] == ["interactions", "items"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array([17.0, np.nan, 3.0]), ["17", None, "3"]),
        (pd.array([2**60 + 1, None, 3], dtype="Int64"), [str(2**60 + 1), None, "3"]),
        (["007", None, " 8 "], ["007", None, "8"]),
        ([7, "007", np.nan], ["7", "007", None]),
        (np.array([np.int64(7), "x", pd.NaT], dtype=object), ["7", "x", None]),
        (pd.Categorical([30, 10, None]), ["30", "10", None]),
        (pd.Categorical(["b", None, "a"]), ["b", None, "a"]),
        ([UUID(int=5), "x", None], [str(UUID(int=5)), "x", None]),
    ],
)
def test_ids_of_pandas_stay_exact(ids, expected):
    frame = pd.DataFrame({"user_id": ids, "item_id": "a", "timestamp": [1, 2, 3], "title": "mug"}, index=[5, 5, 5])
    before = frame.copy(deep=True)
    assert read_table(frame).interactions["user_id"].to_list() == expected
    pd.testing.assert_frame_equal(frame, before)


def test_times_of_pandas():
    times = pd.to_datetime(["2024-01-02 01:00", None, "2024-01-01 01:00"]).tz_localize("Europe/Berlin")
    frame = pd.DataFrame({"user_id": "u", "item_id": "a", "timestamp": times, "title": "mug"})
    found = read_table(frame).interactions["time"].to_list()
    assert found == [DAY + int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000, None, found[0] - DAY]


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "datasets"])
def test_build_domain_takes_frames(kind):
    rows = {"user_id": ["u", "u", "v"], "item_id": [7, 8, 7], "time": [2, 1, 3]}
    items = {"item_id": [7, 8, 9], "text": ["mug", "pan", "lid"]}
    domain = build_domain(MAKERS[kind](rows), MAKERS[kind](items), name="x", source="x", user_k=1, item_k=1)
    assert domain.items.rows() == [("7", "mug"), ("8", "pan")]
    assert domain.sequences.select("user_id", "item_index").rows() == [("u", [1, 0]), ("v", [0])]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"a": [1]}, r"clicks: a dict, expected a file name or a table of pandas, polars, pyarrow or datasets"),
        (pd.DataFrame({"a": []}), r"clicks: the table has no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"clicks: column 'a' comes twice"),
        (datasets.DatasetDict(train=datasets.Dataset.from_dict({"a": [1]})), r"clicks: a DatasetDict, .*\('train'\)"),
        (datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset(), r"clicks: a IterableDataset, expected"),
    ],
)
def test_what_is_no_table(frame, message):
    with pytest.raises(ValueError, match=message):
        to_polars(frame, "clicks")


def test_messages_name_the_argument_and_the_row():
    with pytest.raises(ValueError, match=r"items: no column 'title', the columns are item_id, name"):
        read_table(pd.DataFrame(CLICKS), pd.DataFrame({"item_id": [1], "name": "x"}))
    with pytest.raises(ValueError, match=r"interactions, row 2: 'timestamp' is 'soon', expected a number, an ISO"):
        read_table(pd.DataFrame(CLICKS | {"timestamp": ["1", "soon", "3"]}), pd.DataFrame(PRODUCTS))
    with pytest.raises(ValueError, match=r"interactions, row 1: 'user_id' is 9007199254740994.0, too large a float"):
        read_table(pd.DataFrame(CLICKS | {"user_id": [2.0**53 + 2, 1.0, 2.0]}), pd.DataFrame(PRODUCTS))
