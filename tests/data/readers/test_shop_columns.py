"""Columns of products: types that text files lack, and what is left out."""

import datetime
from decimal import Decimal

import polars as pl
import pytest

from unisrec.data.readers.shop_columns import shop_columns


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "20", None], [1, 20, None]),
        (["1", "", "nan"], [1, None, None]),
        ([1.0, float("nan")], [1.0, None]),
        (["-1", "2.5"], [-1.0, 2.5]),
        (["4,90", "10", "19,9"], [4.9, 10.0, 19.9]),
        (["1,234", "2"], ["1,234", "2"]),  # thousands or thousandths
        (["007", "1"], ["007", "1"]),
        (["12345678901234567890"], ["12345678901234567890"]),
        (["true", "False", " "], [True, False, None]),
        (["2026-01-31", "2026-02-01"], ["2026-01-31", "2026-02-01"]),
        ([" Acme ", ""], ["Acme", None]),
        (["", None], [None, None]),
        ([None, None], [None, None]),
        ([Decimal("4.90")], [4.9]),
        ([datetime.date(2026, 1, 31)], [datetime.date(2026, 1, 31)]),
        (pl.Series(["a", None], dtype=pl.Categorical), ["a", None]),
        (pl.Series([1, None, 2.5], dtype=pl.Object), [1.0, None, 2.5]),
        (pl.Series([True, None], dtype=pl.Object), [True, None]),
    ],
)
def test_types(values, expected):
    assert shop_columns(pl.DataFrame({"x": values}))["x"].to_list() == expected


def test_lists_objects_and_reserved_names_are_left_out():
    table = pl.DataFrame(
        {
            "sku": ["a"],
            "item_id": ["a"],
            "text": ["pen"],
            "id_row": [1],
            "images": [["x", "y"]],
            "size": [{"w": 1}],
            "raw": [b"x"],
            "mixed": pl.Series([{1}], dtype=pl.Object),
            "price": [2],
        }
    )
    assert shop_columns(table, ["sku"]).columns == ["price"]
    assert shop_columns(table.select("item_id")).width == 0


def test_values_of_several_types_are_read_as_in_a_text_file():
    table = pl.DataFrame(
        [
            pl.Series("price", [12.5, "9.90", 3, None], dtype=pl.Object),
            pl.Series("new", [True, "false", None, "TRUE"], dtype=pl.Object),
            pl.Series("size", [1, "XL", 2.5, True], dtype=pl.Object),
            pl.Series("tags", [["a"], "b", None, 2], dtype=pl.Object),
        ]
    )
    assert shop_columns(table).to_dict(as_series=False) == {
        "price": [12.5, 9.9, 3.0, None],
        "new": [True, False, None, True],
        "size": ["1", "XL", "2.5", "true"],
    }


@pytest.mark.parametrize(
    ("values", "is_text"),
    [
        (["12", "1.299", "899"], True),
        (["12", "-1.299"], True),
        (["1.250", "2.000"], False),  # all with three digits: a weight
        (["0.125", "12", "1.299"], False),
        (["1.299", "2500", "12"], False),
        (["1.299", "12.5", "899"], False),
    ],
)
def test_points_that_may_stand_between_thousands_are_not_taken_for_decimal_ones(values, is_text):
    found = shop_columns(pl.DataFrame({"price": values}))["price"]
    assert found.to_list() == (values if is_text else [float(value) for value in values])
