"""Ids and texts: what is absent, and one spelling whatever the type of a column."""

from datetime import date, time, timedelta
from decimal import Decimal

import polars as pl
import pytest

from unisrec.data.readers.values import flatten_text, present, to_id, to_ids, to_texts


NAN = float("nan")


def test_absent_texts():
    texts = pl.Series(["a", " a ", "", " \t\n", None, "nan", "NaN", " NaN ", "NaT", "<NA>", "Nan", "NA", "none"])
    assert present(texts).to_list() == ["a", "a"] + 8 * [None] + ["Nan", "NA", "none"]
    tidy = pl.Series(["a", None, "b c", "nan\nnan"])
    assert present(tidy) is tidy


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pl.Series([" a", "b ", "", None, "NaN"]), ["a", "b", None, None, None]),
        (pl.Series(["a", None], dtype=pl.Categorical), ["a", None]),
        (pl.Series(["a", None], dtype=pl.Enum(["a"])), ["a", None]),
        (pl.Series([1, None], dtype=pl.Int8), ["1", None]),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), [str(2**64 - 1)]),
        (pl.Series([13085.0, None, NAN]), ["13085", None, None]),
        (pl.Series([1.5, 2.0, NAN]), ["1.5", "2", None]),
        (pl.Series([1.1, 2.0], dtype=pl.Float32), ["1.1", "2"]),
        (pl.Series([2.0**53 - 1]), [str(2**53 - 1)]),
        (pl.Series([Decimal("1.00"), Decimal("1.50"), None]), ["1", "1.5", None]),
        # What polars and pandas write for floats, and ids of a shop that look like some.
        (pl.Series(["1.0", "20.0", ""]), ["1", "20", None]),
        (pl.Series(["1.0", "1.1"]), ["1.0", "1.1"]),
        (pl.Series([1, "b", 2.0, NAN, None, 2**70], dtype=pl.Object), ["1", "b", "2", None, None, str(2**70)]),
        (pl.Series([None, None]), [None, None]),
    ],
)
def test_ids(values, ids):
    assert to_ids(values).to_list() == ids


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [1.0, 1e20],
            r"f.parquet, row 2: 'user' is 1e\+20, too large a float to be exact, expected texts or whole num",
        ),
        ([2.0**53], r"row 1: 'user' is 9007199254740992.0, too large"),
        (pl.Series([2.0**24], dtype=pl.Float32), r"row 1: 'user' is 16777216.0, too large"),
        ([float("inf")], r"row 1: 'user' is inf, not a finite number"),
        ([True], r"f.parquet: column 'user' is of type Boolean, expected texts or whole numbers; name another column"),
        ([["a"]], r"column 'user' is of type List\(String\)"),
        (pl.Series([["a"]], dtype=pl.Array(pl.String, 1)), r"column 'user' is of type Array"),
        ([{"a": 1}], r"column 'user' is of type Struct"),
        ([b"a"], r"column 'user' is of type Binary"),
        ([timedelta(1)], r"column 'user' is of type Duration"),
        ([time(1)], r"column 'user' is of type Time"),
        ([date(2024, 1, 1)], r"column 'user' is of type Date"),
        (pl.Series(["a", ["b"]], dtype=pl.Object), r"f.parquet, row 2: 'user' is \['b'\], a list, expected texts or"),
        (pl.Series(["a", True], dtype=pl.Object), r"row 2: 'user' is True, a bool, expected"),
    ],
)
def test_what_is_no_id(values, message):
    with pytest.raises(ValueError, match=message):
        to_ids(pl.Series("user", values), "f.parquet")


def test_lines_are_named_in_text_files():
    with pytest.raises(ValueError, match=r"^f.jsonl, line 6: 'user' is \{\}, a dict"):
        to_ids(pl.Series("user", ["a", {}], dtype=pl.Object), "f.jsonl", first_line=5)


def test_one_id():
    assert [to_id(value) for value in ("a", " ", 7, 7.0, NAN, None)] == ["a", None, "7", "7", None, None]
    with pytest.raises(TypeError, match="a bool"):
        to_id(True)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pl.Series([" a ", "", None, "nan"]), ["a", None, None, None]),
        (pl.Series(["[]", '[["a"], ["b", "a"]]', "[c"]), [None, "a b", "[c"]),
        (pl.Series(["a", None], dtype=pl.Categorical), ["a", None]),
        (pl.Series([7, None]), ["7", None]),
        (pl.Series([3.0, 3.5, NAN]), ["3.0", "3.5", None]),
        (pl.Series([3.3, NAN], dtype=pl.Float32), ["3.3", None]),
        (pl.Series([True, None]), ["true", None]),
        (pl.Series([Decimal("3.50")]), ["3.50"]),
        (pl.Series([date(2024, 1, 2), None]), ["2024-01-02", None]),
        (pl.Series([["a", None], [], None]), ["a", None, None]),
        (pl.Series([[["a"], ["b", "a"]], [[None]]]), ["a b", None]),
        (pl.Series([{"x": None, "y": "a"}, {"x": None, "y": None}]), ["a", None]),
        (pl.Series(["a", 7, [], NAN, {"x": "b"}], dtype=pl.Object), ["a", "7", None, None, "b"]),
        (pl.Series([None]), [None]),
    ],
)
def test_texts(values, texts):
    assert to_texts(values).to_list() == texts


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([b"a"], r"f.parquet: column 'title' is of type Binary, expected texts, numbers, dates, or lists and objects"),
        ([timedelta(1)], r"column 'title' is of type Duration"),
        ([time(1)], r"column 'title' is of type Time"),
        ([[b"a"]], r"f.parquet, row 1: 'title' holds a bytes, expected texts"),
    ],
)
def test_what_is_no_text(values, message):
    with pytest.raises(ValueError, match=message):
        to_texts(pl.Series("title", values), "f.parquet")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Toys", "Toys"),
        (["Toys", "Games"], "Toys Games"),
        ([["Toys", "Games"], ["Toys", "Puzzles"]], "Toys Games Puzzles"),
        (["['An Amazon Brand.']"], "An Amazon Brand."),
        (["['', '']"], ""),
        ('["a", "b"]', "a b"),
        (["['not closed\"]"], "['not closed\"]"),
        ({"kind": "Toys"}, "Toys"),
        (None, ""),
        ([None, ""], ""),
        (7, "7"),
        (3.5, "3.5"),
        (3.0, "3.0"),
        (Decimal("3.50"), "3.50"),
        (True, "true"),
        (date(2024, 1, 2), "2024-01-02"),
        (float("nan"), ""),
        ("nan", ""),
        ("Nan", "Nan"),
        (" ", ""),
        ([], ""),
        ({}, ""),
        ({"a": None, "b": [float("nan"), {}]}, ""),
        ("[]", ""),
        ("{}", ""),
        ("[null, NaN]", ""),
        ("[None, nan]", "[None, nan]"),
        ('[["Toys", "Games"], ["Toys", "Puzzles"], null]', "Toys Games Puzzles"),
        ("[['Toys', None], ['Games']]", "Toys Games"),
        ('{"kind": ["Toys", 3.5]}', "Toys 3.5"),
        ("[1] of [2]", "[1] of [2]"),
        ("[" * 100_000 + "]", "[" * 100_000 + "]"),
    ],
)
def test_flatten_text(value, text):
    assert flatten_text(value) == text
