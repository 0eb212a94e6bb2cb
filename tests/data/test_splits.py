"""Leave-one-out against a plain loop."""

import numpy as np
import polars as pl
import pytest

from unisrec.data import Domain, leave_one_out


def make_domain(histories):
    items = pl.DataFrame({"item_id": [str(n) for n in range(50)], "text": ["t"] * 50})
    sequences = pl.DataFrame(
        {"user_id": [f"u{n}" for n in range(len(histories))], "item_index": histories},
        schema={"user_id": pl.String, "item_index": pl.List(pl.UInt32)},
    )
    return Domain("test", items, sequences)


def split_by_loop(histories, split):
    rows = []
    for user, history in enumerate(histories):
        if split == "all":
            rows.append((user, history, None))
        elif split == "train":
            rows.append((user, history[:-2] if len(history) >= 3 else history, None))
        elif len(history) >= 3:
            cut = -2 if split == "valid" else -1
            rows.append((user, history[:cut], history[cut]))
    return rows


@pytest.mark.parametrize("split", ["train", "valid", "test", "all"])
def test_equals_a_plain_loop(split):
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 50, size=size).tolist() for size in rng.integers(1, 9, size=200)]
    result = leave_one_out(make_domain(histories), split)
    targets = [None] * len(result) if result.targets is None else result.targets.tolist()
    found = [
        (user, result.flat[start:end].tolist(), target)
        for user, start, end, target in zip(result.users, result.offsets, result.offsets[1:], targets, strict=False)
    ]
    assert found == split_by_loop(histories, split)
    assert result.flat.dtype == np.int32
    assert result.offsets.dtype == result.users.dtype == np.int64


def test_hand_made_example():
    domain = make_domain([[5, 6, 7, 8], [1, 2]])
    assert leave_one_out(domain, "train").flat.tolist() == [5, 6, 1, 2]
    valid, test = leave_one_out(domain, "valid"), leave_one_out(domain, "test")
    assert (valid.flat.tolist(), valid.targets.tolist(), valid.users.tolist()) == ([5, 6], [7], [0])
    assert (test.flat.tolist(), test.targets.tolist()) == ([5, 6, 7], [8])


def test_no_user_to_evaluate():
    result = leave_one_out(make_domain([[1], [2, 3]]), "test")
    assert len(result) == 0
    assert result.offsets.tolist() == [0]
    assert result.targets.dtype == np.int32


def test_unknown_split():
    with pytest.raises(
        ValueError, match=r"unknown split 'validation', expected one of 'all', 'train', 'valid', 'test'"
    ):
        leave_one_out(make_domain([[1, 2, 3]]), "validation")


def test_representation_tells_the_size():
    domain = make_domain([[1, 2, 3, 4], [5, 6, 7]])
    assert repr(leave_one_out(domain, "valid")) == "Split(2 histories of 3 items, with targets)"
    assert repr(leave_one_out(domain, "all")) == "Split(2 histories of 7 items, without targets)"
