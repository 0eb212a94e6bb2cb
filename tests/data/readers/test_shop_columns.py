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
