import math

import numpy as np
import pytest
import torch

from unisrec.evaluation import ranking_metrics, target_ranks


def slow_rank(scores, target, masked):
    """Place of the target, from 0, in the sorted scores; candidates level with it are all put at their mean place."""
    left = {item: score for item, score in enumerate(scores) if item == target or item not in masked}
    places = [
        place for place, item in enumerate(sorted(left, key=left.get, reverse=True)) if left[item] == left[target]
    ]
    return sum(places) / len(places)


def pad(histories):
    longest = max(map(len, histories))
    return torch.tensor([list(history) + [-1] * (longest - len(history)) for history in histories])


@pytest.mark.parametrize("levels", [3, 10_000], ids=["many ties", "few ties"])
def test_ranks_equal_a_sort(levels):
    rng = np.random.default_rng(0)
    scores = rng.integers(levels, size=(50, 20)).astype(np.float32)
    targets = rng.integers(20, size=50)
    histories = [set(rng.integers(20, size=rng.integers(1, 12)).tolist()) for _ in range(50)]
    expected = [
        [slow_rank(row, target, set()), slow_rank(row, target, history)]
        for row, target, history in zip(scores.tolist(), targets.tolist(), histories, strict=True)
    ]
    ranks = target_ranks(torch.from_numpy(scores), torch.from_numpy(targets), pad(histories))
    np.testing.assert_array_equal(ranks.numpy(), expected)
    assert any(target in history for target, history in zip(targets.tolist(), histories, strict=True))


def test_target_in_its_own_history_is_not_masked():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    ranks = target_ranks(scores, torch.tensor([2]), torch.tensor([[0, 2, -1]]))
    assert ranks.tolist() == [[2.0, 1.0]]


def test_equal_scores_put_the_target_in_the_middle():
    ranks = target_ranks(torch.zeros(1, 5), torch.tensor([0]), torch.tensor([[1, 2]]))
    assert ranks.tolist() == [[2.0, 1.0]]


def test_padding_of_the_seen_items_is_no_item():
    # -1 must neither mask the first nor the last item of the catalogue.
    scores = torch.tensor([[0.9, 0.1, 0.8]])
    assert target_ranks(scores, torch.tensor([1]), torch.tensor([[-1, -1]])).tolist() == [[2.0, 2.0]]


def test_metrics_of_four_users_by_hand():
    ranks = np.array([[0, 0], [2, 1], [1.5, 1.5], [60, 7]])
    metrics = ranking_metrics(ranks, cutoffs=[2, 3, 10])
    expected = {
        "recall@2": 2 / 4,
        "recall@3": 3 / 4,
        "recall@10": 3 / 4,
        "ndcg@2": (1 + 1 / math.log2(3.5)) / 4,
        "ndcg@3": (1 + 1 / 2 + 1 / math.log2(3.5)) / 4,
        "ndcg@10": (1 + 1 / 2 + 1 / math.log2(3.5)) / 4,
        "recall@2_seen_masked": 3 / 4,
        "recall@3_seen_masked": 3 / 4,
        "recall@10_seen_masked": 4 / 4,
        "ndcg@2_seen_masked": (1 + 1 / math.log2(3) + 1 / math.log2(3.5)) / 4,
        "ndcg@3_seen_masked": (1 + 1 / math.log2(3) + 1 / math.log2(3.5)) / 4,
        "ndcg@10_seen_masked": (1 + 1 / math.log2(3) + 1 / math.log2(3.5) + 1 / math.log2(9)) / 4,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-15), name


def test_metrics_grow_with_k_and_ndcg_stays_below_recall():
    ranks = np.random.default_rng(0).integers(0, 200, size=(300, 2)) / 2
    metrics = ranking_metrics(ranks, cutoffs=range(1, 101))
    for suffix in ("", "_seen_masked"):
        recall = np.array([metrics[f"recall@{k}{suffix}"] for k in range(1, 101)])
        ndcg = np.array([metrics[f"ndcg@{k}{suffix}"] for k in range(1, 101)])
        assert (np.diff(recall) >= 0).all()
        assert (np.diff(ndcg) >= 0).all()
        assert (ndcg <= recall).all()
        assert recall[-1] == 1


def test_default_cutoffs_are_those_of_the_protocol():
    assert [name for name in ranking_metrics(np.zeros((1, 2))) if name.startswith("recall")] == [
        "recall@10",
        "recall@50",
        "recall@10_seen_masked",
        "recall@50_seen_masked",
    ]


def test_scores_that_are_not_numbers_never_help():
    nan = float("nan")
    scores = torch.tensor([[nan] * 6, [0.1, nan, 0.5, nan, 0.2, 0.3]])
    ranks = target_ranks(scores, torch.tensor([2, 5]), torch.tensor([[0, 1], [1, 2]]))
    assert ranks.tolist() == [[5.0, 3.0], [3.0, 1.0]]
