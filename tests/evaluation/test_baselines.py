"""Rankings without a model."""

import numpy as np
import pytest
import torch

from unisrec.evaluation.baselines import (
    popularity_metrics,
    random_metrics,
    text_neighbour_metrics,
    text_neighbour_scores,
)


def test_popularity_ranks_by_count(make_split):
    train = make_split([[0, 1, 1], [1, 2, 0], [2, 3]])  # counts 2, 3, 2, 1, 0
    test = make_split([[0, 1], [3]], targets=[0, 4])
    metrics = popularity_metrics(train, test, num_items=5)
    # The first target shares ranks 1 and 2 with item 2, and with item 1 masked ranks 0 and 1; the second is last.
    assert metrics["recall@10"] == 1
    assert metrics["ndcg@10"] == pytest.approx((1 / np.log2(1.5 + 2) + 1 / np.log2(4 + 2)) / 2)
    assert metrics["ndcg@10_seen_masked"] == pytest.approx((1 / np.log2(0.5 + 2) + 1 / np.log2(3 + 2)) / 2)


def test_random_is_as_good_as_chance(make_split):
    rng = np.random.default_rng(0)
    users, items = 4000, 100
    test = make_split([[0]] * users, targets=rng.integers(1, items, users).tolist())
    metrics = random_metrics(test, items)
    assert metrics["recall@10"] == pytest.approx(0.10, abs=0.02)
    assert metrics["recall@50"] == pytest.approx(0.50, abs=0.03)
    assert metrics["recall@50_seen_masked"] >= metrics["recall@50"]


def test_text_neighbours_rank_by_cosine_with_the_mean_of_the_history(make_split):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 8)).astype(np.float32)
    histories = [rng.integers(120, size=length).tolist() for length in (1, 3, 7, 2)]
    targets = [5, 80, 33, 7]
    gains = []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for history, target in zip(histories, targets, strict=True):
        scores = unit @ unit[history].mean(axis=0)
        rank = int((scores > scores[target]).sum())
        gains.append(1 / np.log2(rank + 2) if rank < 50 else 0.0)
    metrics = text_neighbour_metrics(make_split(histories, targets=targets), vectors)
    assert 0 < metrics["ndcg@50"] == pytest.approx(np.mean(gains), abs=1e-6)


def test_recent_text_neighbours_weigh_the_latest_items_most():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 8)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    histories = torch.tensor([[3, 8, 1, 30], [5, 5, 0, 0], [9, 0, 0, 0]])  # rows + 1, padded with 0
    scores = text_neighbour_scores(vectors, 0.7)({"item_index": histories})
    for row, weights in enumerate([[0.343, 0.49, 0.7, 1], [0.7, 1], [1]]):
        mean = np.array(weights) @ unit[histories[row, : len(weights)].numpy() - 1]
        assert scores[row].numpy() == pytest.approx(unit @ mean / np.linalg.norm(mean), abs=1e-6)
