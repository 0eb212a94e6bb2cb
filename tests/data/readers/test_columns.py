"""Checked ids and times."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import polars as pl
import pytest

from unisrec.data.readers.columns import check_columns, to_interactions


COLUMNS = {"user_id": "user", "item_id": "item", "time": "when"}


def times(values, **kwargs):
    frame = pl.DataFrame({"user": ["u"] * len(values), "item": ["i"] * len(values), "when": values})
    return to_interactions(frame, COLUMNS, "clicks.csv", **kwargs)["time"]


def test_columns_are_renamed_and_ids_are_stripped_strings():
    frame = pl.DataFrame({"when": [3, 4], "item": [10, 20], "user": [" a", "b "], "rest": [0, 0]})
    result = to_interactions(frame, COLUMNS, "x")
    assert result.rows() == [("a", "10", 3), ("b", "20", 4)]
    assert result.columns == ["user_id", "item_id", "time"]


@pytest.mark.parametrize(
    "values",
    [
        ["2009-12-01 07:45:00", "2009-12-01 07:45:01"],
        ["2009-12-01T07:45:00", "2009-12-01T07:45:01"],
        ["2009-12-01T07:45:00Z", "2009-12-01T07:45:01Z"],
        ["2009-12-01T09:45:00+02:00", "2009-12-01T07:45:01.000+00:00"],
        ["2009-12-01 07:45:00.000", "2009-12-01 07:45:01"],
        ["2009-12-01 07:45", "2009-12-01T07:45:01Z"],
        [datetime(2009, 12, 1, 7, 45), datetime(2009, 12, 1, 7, 45, 1)],
        [datetime(2009, 12, 1, 7, 45, tzinfo=UTC), datetime(2009, 12, 1, 7, 45, 1, tzinfo=UTC)],
    ],
)
def test_dates_are_microseconds(values):
    start = int(datetime(2009, 12, 1, 7, 45, tzinfo=UTC).timestamp()) * 1_000_000
    assert times(values).to_list() == [start, start + 1_000_000]


def test_other_times():
    day = 86_400_000_000
    assert times(["1", " 2 "]).to_list() == [1, 2]
    assert times(["1", "2.5"]).to_list() == [1.0, 2.5]
    assert times([1.5]).dtype == pl.Float64
    assert times(pl.Series([7], dtype=pl.UInt8)).dtype == pl.Int64
    assert times(["1970-01-02", "1970-01-03"]).to_list() == [day, 2 * day]
    assert times(["1970-01-02 00:01"]).to_list() == [day + 60_000_000]
    assert times([date(1970, 1, 2)]).to_list() == [day]
    assert times(["1/2/1970 0:00", "1/13/1970 0:01"], time_formats=["%m/%d/%Y %H:%M"]).to_list() == [
        day,
        12 * day + 60_000_000,
    ]
    assert times(["1970-01-20", "2024-01-01"]).to_list() == [19 * day, 19_723 * day]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["31.12.24"], r"line 2: .* is .31.12.24., expected .* a German one .*; for others, name the format"),
        (["1", "2", "x3"], r"clicks.csv, line 4: 'when' is 'x3', expected a number, an ISO 8601 date or a German"),
        (["2009-12-01", "2009-13-01"], r"line 3: 'when' is '2009-13-01'"),
        (["1/2/1970 0:00"], r"line 2: 'when' is '1/2/1970 0:00'"),
        ([1.0, float("inf")], r"line 3: 'when' is 'inf'"),
        (["1", "1e999"], r"line 3: 'when' is '1e999', expected a number, an ISO 8601 date or a German"),
        (["1", str(2**63)], rf"line 3: 'when' is '{2**63}', expected a number of at most 64 bits"),
        (["1.5", str(2**63)], rf"line 3: 'when' is '{2**63}', expected a number of at most 64 bits"),
        (pl.Series([1, 2**63], dtype=pl.UInt64), rf"line 3: 'when' is '{2**63}', expected a number of at most 64"),
        ([True], r"clicks.csv: column 'when' is of type Boolean, expected numbers or dates"),
        ([timedelta(1)], r"column 'when' is of type Duration.*, expected numbers or dates; name another"),
        ([time(1)], r"column 'when' is of type Time, expected"),
        ([[1]], r"column 'when' is of type List\(Int64\), expected"),
        ([{"s": 1}], r"column 'when' is of type Struct.*, expected"),
        ([b"1"], r"column 'when' is of type Binary, expected"),
    ],
)
def test_bad_time_names_the_line(values, message):
    with pytest.raises(ValueError, match=message):
        times(values, first_line=2)


@pytest.mark.parametrize("missing", [None, "", " ", "NaN", "nan"])
def test_missing_values_are_null(missing):
    frame = pl.DataFrame({"user": ["u", missing, "u"], "item": ["i", "i", missing], "when": ["1", missing, "2"]})
    assert to_interactions(frame, COLUMNS, "x").rows() == [("u", "i", 1), (None, "i", None), ("u", None, 2)]


@pytest.mark.parametrize(
    "values",
    [
        ["1", "NaT"],
        [1.0, float("nan")],
        [Decimal("1"), None],
        pl.Series([datetime(1970, 1, 1, 0, 0, 0, 1), None]),
        pl.Series(["1", None], dtype=pl.Categorical),
        pl.Series([1, None], dtype=pl.UInt64),
        pl.Series([1, None], dtype=pl.Object),
        pl.Series(["1", float("nan")], dtype=pl.Object),
    ],
)
def test_missing_times_are_null(values):
    assert times(values).to_list() == [1, None]


@pytest.mark.parametrize("change", [list, lambda values: [*map(str, values)], lambda values: [*map(float, values)]])
def test_times_in_several_units_are_refused(change):
    seconds = [1_700_000_000, 1_700_000_060, None, 880_000_000]
    for factor, unit in ((10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")):
        values = [each if each is None else change([each])[0] for each in [*seconds, 1_700_000_120 * factor]]
        message = rf"clicks.csv, line 6: 'when' is 1.*, in {unit}, where most rows are in seconds since 1970"
        with pytest.raises(ValueError, match=message):
            times(values, first_line=2)
        same = [each if each is None else change([each * factor])[0] for each in seconds]
        assert times(same).to_list() == [each if each is None else each * factor for each in seconds]


def test_numbers_that_are_no_epochs_are_of_any_size():
    assert times([1, 10**9 + 1, 20_240_101, 202_401_011_200]).to_list() == [1, 10**9 + 1, 20_240_101, 202_401_011_200]


def test_decimal_times_keep_their_fraction():
    assert times([Decimal("1.5"), Decimal("1.25")]).to_list() == [1.5, 1.25]


def test_missing_column_names_the_nearest():
    message = r"f.csv: no column 'user_id', the columns are User_ID, item; did you mean 'User_ID'\?"
    with pytest.raises(ValueError, match=message):
        check_columns(["User_ID", "item"], ["item", "user_id"], "f.csv")
    with pytest.raises(ValueError, match=r"no column 'zzz', the columns are a, b$"):
        check_columns(["a", "b"], ["zzz"], "f.csv")


@pytest.mark.parametrize(
    "text",
    [
        "31.12.2024 18:05",
        "31.12.2024, 18:05:00",
        "31.12.2024 um 18:05 Uhr",
        "31. 12. 2024 18:05:00.000",
        "2024-12-31 19:05:00+01",
        "2024-12-31T19:05:00+0100",
        "2024-12-31 18:05:00 UTC",
        "2024-12-31T18:05Z",
    ],
)
def test_german_dates_and_zones(text):
    assert times([text]).item() == int(datetime(2024, 12, 31, 18, 5, tzinfo=UTC).timestamp()) * 1_000_000


def test_days_come_first_in_german_dates():
    day = 86_400_000_000
    assert times(["2.1.1970", "13.1.1970"]).to_list() == [day, 12 * day]


def test_a_named_format_is_the_only_one():
    day = 86_400_000_000
    assert times(["02/01/1970", "13/01/1970"], date_format="%d/%m/%Y").to_list() == [day, 12 * day]
    for values in ([19700102, None], ["19700102", ""], [19700102.0, float("nan")]):
        assert times(values, date_format="%Y%m%d").to_list() == [day, None]
    with pytest.raises(ValueError, match=r"row 2: 'when' is '1970-01-02', expected a date of the format '%d/%m/%Y'"):
        times(["02/01/1970", "1970-01-02"], date_format="%d/%m/%Y")
    with pytest.raises(ValueError, match=r"column 'when' holds dates already; leave `date_format` out"):
        times([date(1970, 1, 2)], date_format="%d/%m/%Y")
    with pytest.raises(ValueError, match=r"`date_format` is '%H:%M', expected a format of strptime with day, month"):
        times(["09:00"], date_format="%H:%M")
    with pytest.raises(
        ValueError, match=r"'2/1/1970', expected .*; for others, name the format by `date_format`, such as"
    ):
        times(["2/1/1970"])
