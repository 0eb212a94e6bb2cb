"""Splits at a moment, against a plain loop, and what is refused."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from unisrec.data import Domain, build_domain, leave_one_out
from unisrec.data.time_splits import after_cut, before_cut, cut_at, domain_split, time_test, validation_start


DAY = 86_400
START = 1_577_836_800  # 2020-01-01 in seconds


def timed(histories, times):
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(30)], "text": ["t"] * 30})
    sequences = pl.DataFrame(
        {"user_id": [f"u{row}" for row in range(len(histories))], "item_index": histories, "time": times},
        schema={"user_id": pl.String, "item_index": pl.List(pl.UInt32), "time": pl.List(pl.Int64)},
    )
    return Domain("shop", items, sequences)


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, size=80)
    histories = [rng.integers(30, size=length).tolist() for length in lengths]
    return timed(histories, [np.sort(START + rng.integers(100, size=n) * DAY).tolist() for n in lengths])


def histories_of(split):
    return {
        int(user): split.flat[start:end].tolist()
        for user, start, end in zip(split.users, split.offsets, split.offsets[1:], strict=False)
    }


@pytest.mark.parametrize("split", ["time:2020-03-01", "time:0.2", f"time:{START + 60 * DAY}"])
def test_equals_a_plain_loop(shop, split):
    domain = cut_at(shop, split)
    cut, start = domain.cut.time, validation_start(domain)
    assert START < start < cut
    rows = list(zip(shop.sequences["item_index"].to_list(), shop.sequences["time"].to_list(), strict=True))

    def until(end):
        return [[item for item, time in zip(*row, strict=True) if time < end] for row in rows]

    known, learned, whole = until(cut), until(start), until(np.inf)
    for part, expected in (("train", learned), ("all", known)):
        assert histories_of(domain_split(domain, part)) == {n: items for n, items in enumerate(expected) if items}
    for part, before, after in (("valid", learned, known), ("test", known, whole)):
        expected = {n for n in range(len(rows)) if 0 < len(before[n]) < len(after[n])}
        found = domain_split(domain, part)
        assert histories_of(found) == {n: before[n] for n in expected}
        assert found.targets.tolist() == [after[n][len(before[n])] for n in sorted(expected)]
    test = time_test(domain)
    assert histories_of(test.histories) == histories_of(found)
    for place, user in enumerate(test.histories.users):
        later = test.relevant[test.offsets[place] : test.offsets[place + 1]]
        assert later.tolist() == sorted(set(whole[user][len(known[user]) :]))
    first = {item for items in known for item in items}
    assert np.flatnonzero(~test.is_new).tolist() == sorted(first)
    new_users = [items for items, before in zip(whole, known, strict=True) if not before]
    assert test.counts == {
        "new_items": len({item for items in whole for item in items} - first),
        "new_users": len(new_users),
        "interactions_after": sum(map(len, whole)) - sum(map(len, known)),
        "interactions_of_new_users": sum(map(len, new_users)),
    }
    assert domain_split(shop, "valid").targets.tolist() == leave_one_out(shop, "valid").targets.tolist()


def test_a_share_is_that_of_the_interactions(shop):
    domain = cut_at(shop, "time:0.1")
    held_out = (shop.times >= domain.cut.time).mean()
    assert 0.1 <= held_out < 0.1 + (shop.times == domain.cut.time).mean()
    valid = (shop.times >= validation_start(domain)) & (shop.times < domain.cut.time)
    assert 0.09 <= valid.mean() < 0.12


def test_what_lies_on_both_sides_of_the_cut(shop):
    domain = cut_at(shop, "time:2020-03-01")
    before, after = before_cut(domain), after_cut(domain)
    assert before.cut is None
    assert before.times.max() < domain.cut.time <= after["time"].min()
    assert before.num_interactions + after.height == shop.num_interactions
    assert before.items.equals(shop.items)
    user, item, time = after.row(0)
    row = shop.sequences.filter(user_id=user).row(0)
    assert (shop.items["item_id"].to_list().index(item), time) in list(zip(*row[1:], strict=True))
    assert shop.cut is None


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_are_found_in_every_unit(unit):
    clicks = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["1", "2", "1"]})
    seconds = pl.Series("time", [START, START + 40 * DAY, START + 50 * DAY])
    clicks = clicks.with_columns(seconds * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit])
    items = pl.DataFrame({"item_id": ["1", "2"], "text": ["a", "b"]})
    domain = build_domain(clicks, items, name="x", source="x", user_k=1, item_k=1)
    domain = cut_at(domain, "time:2020-02-01")
    assert domain.cut.shown == "2020-02-01 00:00"
    assert domain_split(domain, "all").flat.tolist() == [0]


def test_times_are_kept_on_disk_and_do_not_change_the_hash(shop, tmp_path):
    shop.save_to_disk(tmp_path / "shop")
    loaded = Domain.load_from_disk(tmp_path / "shop")
    np.testing.assert_array_equal(loaded.times, shop.times)
    without = replace(shop, sequences=shop.sequences.drop("time"))
    assert without.times is None
    assert without.content_hash == loaded.content_hash


def test_what_cannot_be_split_is_refused_with_the_next_step(shop, make_domain):
    with pytest.raises(ValueError, match="'toys' has no times.*prepare it again"):
        cut_at(make_domain("toys"), "time:0.1")
    for split in ("time:", "time:soon", "time:-3", "time:nan", "2020-01-01"):
        with pytest.raises(ValueError, match=r"unknown split .*expected a date \(time:2024-06-01\)"):
            cut_at(shop, split)
    with pytest.raises(
        ValueError, match="times are from 2020-01-01 00:00 to 2020-04-09 00:00; choose a moment between"
    ):
        cut_at(shop, "time:2021-01-01")
    with pytest.raises(ValueError, match="do not count from 1970; give a share"):
        cut_at(timed([[1, 2, 3]], [[1, 2, 3]]), "time:2020-01-01")
    with pytest.raises(ValueError, match="holds nothing out"):
        cut_at(replace(shop, held_out=False), "time:0.1")
    orders = cut_at(timed([[1, 2], [3, 4]], [[1, 1], [2, 2]]), "time:2")
    with pytest.raises(ValueError, match="before and after 2, .*a column of customers"):
        time_test(orders)
    with pytest.raises(ValueError, match="have one time"):
        domain_split(orders, "train")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([[1, 2], [3]], "differ in length"),
        ([[2, 1, 3], [3]], "not in the order of its times"),
        ([[1, None, 3], [3]], "missing or not finite"),
    ],
)
def test_times_that_do_not_fit_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        timed([[1, 2, 3], [4]], times)
