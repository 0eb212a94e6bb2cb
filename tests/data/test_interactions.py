"""k-core against a dict version, and the path from rows to a domain."""

from collections import Counter
from datetime import date

import numpy as np
import polars as pl
import pytest

from unisrec.data import build_domain
from unisrec.data.interactions import _stable_order, k_core


def make_rows(rows):
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "time": pl.Int64}, orient="row")


def make_items(texts):
    return pl.DataFrame(
        {"item_id": list(texts), "text": list(texts.values())}, schema={"item_id": pl.String, "text": pl.String}
    )


def random_rows(num_rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    users = rng.zipf(1.5, num_rows) % 400
    items = rng.zipf(1.5, num_rows) % 300
    return make_rows(
        [(f"u{u}", f"i{i}", int(t)) for u, i, t in zip(users, items, rng.integers(0, 50, num_rows), strict=True)]
    )


def k_core_by_dicts(rows, user_k, item_k):
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        kept = [row for row in rows if users[row[0]] >= user_k and items[row[1]] >= item_k]
        if len(kept) == len(rows):
            return kept
        rows = kept


def k_core_of(rows, user_k, item_k):
    users, items = (rows[column].rank("dense").to_numpy() - 1 for column in ("user_id", "item_id"))
    kept, rounds = k_core(users, items, user_k, item_k)
    return rows[kept], rounds


def build(rows, items, **kwargs):
    return build_domain(rows, items, **{"name": "test", "source": "test", "user_k": 1, "item_k": 1, **kwargs})


def histories(domain):
    ids = domain.items["item_id"].to_list()
    return {user: [ids[row] for row in indices] for user, indices, _ in domain.sequences.iter_rows()}


def dropped(domain, key="steps"):
    return {row["step"]: row["dropped"] for row in domain.info[key]}


@pytest.mark.parametrize(("user_k", "item_k"), [(5, 5), (3, 1), (0, 4), (1, 1), (0, 0)])
def test_k_core_equals_dict_version(user_k, item_k):
    rows = random_rows()
    kept, rounds = k_core_of(rows, user_k, item_k)
    assert kept.rows() == k_core_by_dicts(rows.rows(), user_k, item_k)
    assert rounds == sorted(rounds, reverse=True)
    if max(user_k, item_k) <= 1:
        assert rounds == []
    else:
        assert rounds[-1] == kept.height < rows.height


def test_k_core_needs_several_rounds():
    # A chain: every removal takes the next user or item below 2.
    rows = make_rows([(f"u{n}", f"i{n + step}", 0) for n in range(6) for step in (0, 1)])
    kept, rounds = k_core_of(rows, 2, 2)
    assert kept.is_empty()
    assert rounds == [10, 8, 6, 4, 2, 0]


def test_k_core_refuses_negative():
    with pytest.raises(ValueError, match=r"user_k \(-1\) and item_k \(5\) must not be negative"):
        k_core_of(random_rows(10), -1, 5)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).integers(-50, 50, 1000),
        np.random.default_rng(1).integers(0, 9, 1000).astype(np.uint32),
        np.random.default_rng(2).choice(np.array([-(2**62), 0, 2**62]), 1000),  # no room for the place
        np.random.default_rng(3).integers(0, 9, 1000) / 2,
        np.array([], dtype=np.int64),
    ],
    ids=["negative", "unsigned", "wide", "float", "empty"],
)
def test_stable_order(values):
    assert _stable_order(values).tolist() == np.argsort(values, kind="stable").tolist()


def test_order_within_users_is_time_order_and_ties_keep_file_order():
    rows = make_rows([("b", "z", 3), ("a", "y", 2), ("b", "x", 1), ("a", "x", 2), ("a", "z", 1), ("b", "x", 3)])
    domain = build(rows, make_items({"x": "X", "y": "Y", "z": "Z"}))
    assert histories(domain) == {"a": ["z", "y", "x"], "b": ["x", "z", "x"]}


def test_histories_equal_a_plain_loop():
    rows = random_rows()
    items = make_items({item: f"text {item}" for item in rows["item_id"].unique()})
    expected = {}
    seen = dict.fromkeys(rows.rows())
    for user, item, _ in sorted(k_core_by_dicts(list(seen), 5, 5), key=lambda row: row[2]):
        expected.setdefault(user, []).append(item)
    domain = build(rows, items, user_k=5, item_k=5)
    assert histories(domain) == expected
    assert dropped(domain)["same user, item and time"] == rows.height - len(seen) > 0
    assert domain.info["steps"][-1]["left"] == domain.num_interactions


def test_order_of_rows_does_not_show_without_ties():
    rows = make_rows([(f"u{n % 7}", f"i{n % 5}", n) for n in range(60)])
    items = make_items({f"i{n}": f"item {n}" for n in range(5)})
    hashes = {
        build(rows.sample(fraction=1, shuffle=True, seed=seed), items.reverse()).content_hash for seed in range(4)
    }
    assert hashes == {build(rows, items).content_hash}


def test_extra_item_columns_are_kept_and_unused_items_counted():
    items = make_items({"x": "X", "y": "Y", "unused": "U"}).with_columns(price=pl.Series([1.0, 2.0, 3.0]))
    domain = build(make_rows([("a", "y", 1), ("a", "x", 2)]), items)
    assert domain.items.rows() == [("x", "X", 1.0), ("y", "Y", 2.0)]
    assert dropped(domain, "item_steps") == {"no text": 0, "repeated item id": 0, "no interaction left": 1}


def test_first_text_of_a_repeated_item_counts():
    items = pl.DataFrame({"item_id": ["x", "x", "x"], "text": [None, "first", "second"]})
    domain = build(make_rows([("a", "x", 1)]), items)
    assert domain.items["text"].to_list() == ["first"]
    assert dropped(domain, "item_steps") == {"no text": 1, "repeated item id": 1, "no interaction left": 0}


def test_missing_text_is_an_error():
    rows = make_rows([("a", "x", 1), ("a", "gone", 2), ("b", "gone", 3), ("b", "blank", 3)])
    items = make_items({"x": "X", "blank": "  "})
    message = (
        r"items without text: 2 \(3 of 4 interactions\); the first is 'gone', which is not in the items table; "
        r".*missing_text='drop'"
    )
    with pytest.raises(ValueError, match=message):
        build(rows, items)
    with pytest.raises(ValueError, match=r"'blank', which has an empty text"):
        build(rows.filter(pl.col("item_id") != "gone"), items)


def test_missing_text_dropped():
    rows = make_rows([("a", "x", 1), ("a", "gone", 2), ("b", "gone", 3), ("b", "blank", 3), ("b", "x", 4)])
    domain = build(rows, make_items({"x": "X", "blank": "  "}), missing_text="drop")
    assert histories(domain) == {"a": ["x"], "b": ["x"]}
    assert dropped(domain)["item without text"] == 3


def test_missing_text_kept_with_the_id():
    rows = make_rows([("a", "x", 1), ("a", "gone", 2), ("b", "blank", 3)])
    domain = build(rows, make_items({"x": "X", "blank": "  "}), missing_text="keep")
    assert domain.items.rows() == [("blank", "blank"), ("gone", "gone"), ("x", "X")]
    assert dropped(domain)["item without text"] == 0
    assert "no text, id kept as text (2)" in dropped(domain, "item_steps")


def test_too_strict_a_core_is_an_error():
    rows = make_rows([(f"u{n}", f"i{n + step}", 0) for n in range(3) for step in (0, 1)])
    items = make_items({f"i{n}": "t" for n in range(4)})
    with pytest.raises(
        ValueError, match=r"\(user_k=2, item_k=2\) leaves nothing: 6 -> 4 -> 2 -> 0 interactions; lower"
    ):
        build(rows, items, user_k=2, item_k=2)


def test_no_item_in_common():
    for bought, items, message in (
        ("x", {"X": "text"}, "no item id in common, for example 'x' and 'X'; check"),
        ("7", {"0": "text", "007": "text"}, "but '7' and '007' differ only in leading zeros"),
        ("x", {"x": None, "y": "text"}, "none of the items that occur in the interactions has a text"),
        ("x", {"x": None}, "none of the 1 items has an id and a text"),
    ):
        with pytest.raises(ValueError, match=rf"no interaction is left before the k-core: .*{message}"):
            build(make_rows([("a", bought, 1)]), make_items(items), missing_text="drop")


def test_unknown_policy():
    with pytest.raises(ValueError, match=r"unknown missing_text 'ignore', expected 'error', 'drop' or 'keep'"):
        build(make_rows([("a", "x", 1)]), make_items({"x": "X"}), missing_text="ignore")


def test_info_of_the_reader_comes_first():
    info = {"files": ["f.csv"], "steps": [{"step": "read f.csv", "dropped": 0, "left": 9}]}
    domain = build(make_rows([("a", "x", 1)]), make_items({"x": "X"}), info=info)
    assert domain.info["source"] == "test"
    assert domain.info["filters"] == {"user_k": 1, "item_k": 1, "missing_text": "error"}
    assert domain.info["files"] == ["f.csv"]
    assert domain.info["steps"][0] == info["steps"][0]
    assert len(info["steps"]) == 1


NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "missing"),
    [("user_id", None), ("user_id", " "), ("item_id", ""), ("item_id", "nan"), ("time", None), ("time", NAN)],
)
def test_rows_without_user_item_or_time_are_dropped_and_counted(column, missing):
    rows = [{"user_id": "u", "item_id": "a", "time": 1.0}, {"user_id": "u", "item_id": "b", "time": 2.0}]
    frame = pl.DataFrame([rows[0], rows[1] | {column: missing}, rows[1]])
    domain = build(frame, make_items({"a": "mug", "b": "pan"}))
    assert histories(domain) == {"u": ["a", "b"]}
    assert domain.info["steps"][0] == {"step": "no user, item or time", "dropped": 1, "left": 2}
    assert "no user, item or time" not in dropped(build(frame[[0, 2]], make_items({"a": "mug", "b": "pan"})))


def test_no_complete_row():
    items = make_items({"a": "mug"})
    with pytest.raises(
        ValueError, match="no interaction has a user, an item and a time: user_id is missing in all of 2"
    ):
        build(make_rows([(None, "a", 1), ("", "a", 2)]), items)
    with pytest.raises(ValueError, match="one of the three is missing in all of 2 rows"):
        build(make_rows([(None, "a", 1), ("u", "a", None)]), items)


@pytest.mark.parametrize("absent", [None, "", " ", "nan", "NaN", "[]", "{}", "[null]"])
def test_absent_texts_and_item_ids(absent):
    rows = make_rows([("u", "a", 1), ("u", "b", 2)])
    items = make_items({"a": "mug", "b": absent, None: "pan", " ": "lid"})
    with pytest.raises(ValueError, match=r"the first is 'b', which has an empty text"):
        build(rows, items)
    domain = build(rows, items, missing_text="drop")
    assert domain.items["text"].to_list() == ["mug"]
    assert dropped(domain, "item_steps") == {
        "no item id": 2,
        "no text": 1,
        "repeated item id": 0,
        "no interaction left": 0,
    }


def test_texts_of_other_types_from_python():
    rows = make_rows([("u", "a", 1), ("u", "b", 2)])
    for texts in ([["mug"], [None]], [3.5, NAN], [7, None]):
        items = pl.DataFrame({"item_id": ["a", "b"], "text": texts})
        assert build(rows, items, missing_text="drop").num_items == 1
    with pytest.raises(ValueError, match="column 'text' is of type Binary"):
        build(rows, pl.DataFrame({"item_id": ["a", "b"], "text": [b"mug", b"pan"]}))


def test_ids_of_other_types_from_python():
    rows = pl.DataFrame(
        {"user_id": [1.0, 1.0, NAN], "item_id": [7, 8, 7], "time": [date(2024, 1, 2), date(2024, 1, 1), None]}
    )
    items = pl.DataFrame({"item_id": [7.0, 8.0], "text": ["mug", "pan"]})
    assert histories(build(rows, items)) == {"1": ["8", "7"]}
    with pytest.raises(ValueError, match="interactions: column 'user_id' is of type Boolean"):
        build(rows.with_columns(user_id=True), items)
    with pytest.raises(ValueError, match="interactions: no column 'time', the columns are user_id, item_id"):
        build(rows.drop("time"), items)
    with pytest.raises(ValueError, match="items: no column 'text', the columns are item_id"):
        build(rows, items.drop("text"))


def test_unsold_items_stay_if_they_are_asked_for():
    rows = make_rows([("u", "d", 2), ("u", "b", 1), ("v", "b", 3), ("w", "e", 1)])
    items = make_items({"e": "lid", "c": "pot", "d": "pan", "a": "cup", "b": "mug", "f": ""})
    dropping = build(rows, items)
    domain = build(rows, items, keep_unsold=True)
    assert dropping.items["item_id"].to_list() == ["b", "d", "e"]
    assert domain.items.rows() == [("a", "cup"), ("b", "mug"), ("c", "pot"), ("d", "pan"), ("e", "lid")]
    assert histories(domain) == histories(dropping) == {"u": ["b", "d"], "v": ["b"], "w": ["e"]}
    assert domain.info["item_steps"][-1] == {"step": "no interaction left, kept (2)", "dropped": 0, "left": 5}
    assert domain.info["filters"]["keep_unsold"] is True
    core = build(rows, items, item_k=2, keep_unsold=True)  # items that the filter drops stay too
    assert core.items.equals(domain.items)
    assert histories(core) == {"u": ["b"], "v": ["b"]}
