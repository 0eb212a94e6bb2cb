"""The benchmarks of serving: nothing held out is trained on, and the search table is written."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cold_start():
    return script("cold_start")


def test_the_load_test_sees_wrong_answers():
    serving = script("serving")
    recommender = serving.make_recommender(50)
    (expected,) = recommender.recommend(serving.make_histories(1, 50))
    good = [item.to_dict() for item in expected]
    assert serving.fault_of(good, expected) is None
    assert serving.fault_of(good[:-1], expected) == "9 items"
    assert "score" in serving.fault_of([good[0] | {"score": good[0]["score"] + 1e-3}, *good[1:]], expected)
    for other in (expected[5].item_id, "another"):
        wrong = [good[0] | {"item_id": other}, *good[1:]]
        assert serving.fault_of(wrong, expected).startswith(f"{other} instead of ")


def test_held_out_items_are_nowhere_in_training(cold_start, make_domain):
    domain = make_domain(num_users=60)
    warm, left = cold_start.hold_out(domain, 0.2, seed=1)
    ids = np.array(domain.items["item_id"])
    assert warm.items["item_id"].to_list() == ids[left].tolist()
    assert (~left).sum() == 6
    for user, row in zip(warm.sequences["user_id"], warm.sequences["item_index"], strict=True):
        place = domain.sequences["user_id"].to_list().index(user)
        history = domain.flat[domain.offsets[place] : domain.offsets[place + 1]]
        assert [warm.items["item_id"][item] for item in row] == [ids[item] for item in history if left[item]]
        assert len(row) >= 3


def test_ranks_of_held_out_targets(cold_start, make_domain):
    domain = make_domain(num_users=60)
    _, left = cold_start.hold_out(domain, 0.2, seed=1)
    users = cold_start.Users(domain, left)
    last = domain.flat[domain.offsets[1:] - 1]
    assert users.targets.tolist() == last[~left[last]].tolist()
    scores = np.zeros((len(users.targets), domain.num_items), dtype=np.float32)
    scores[np.arange(len(scores)), users.targets] = 1
    assert users.metrics(scores)["ndcg@10"] == 1
    assert users.metrics(-scores)["recall@10"] == 0


def test_search_table(monkeypatch, capsys):
    pytest.importorskip("faiss")
    words = "search.py --items 500 --queries 20 --calls 10 --width 16 --kinds exact exact-bf16 hnsw"
    monkeypatch.setattr(sys, "argv", words.split())
    assert script("search").main() == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    rows = {line.split("|")[1].strip(): line.split("|")[6].strip() for line in lines}
    assert list(rows) == ["encoding of 50 items", "exact", "exact-bf16", "FAISS hnsw"]
    assert rows["exact"] == "1.000"
    assert float(rows["FAISS hnsw"]) >= 0.95
