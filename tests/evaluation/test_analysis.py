"""Use of the experts, spread of vectors and metrics by popularity, against their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unisrec.evaluation.analysis import (
    alignment,
    gate_use,
    mean_cosine,
    metrics_by_popularity,
    principal_plane,
    uniformity,
)
from unisrec.evaluation.metrics import ranking_metrics


def test_gate_use_is_the_mean_gate_of_the_catalogue(make_model):
    model = make_model()
    texts = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    expected = torch.stack([(torch.from_numpy(text) @ model.adaptor.router).softmax(0) for text in texts]).mean(0)
    assert gate_use(model, texts) == pytest.approx(expected.detach().numpy(), abs=1e-6)
    assert gate_use(model, texts).sum() == pytest.approx(1)


def test_mean_cosine_counts_every_pair():
    vectors = torch.randn(30, 5) + 1
    pairs = [F.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(vectors, 2)]
    assert mean_cosine(vectors) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert mean_cosine(torch.ones(4, 3)) == pytest.approx(1)


def test_uniformity_is_the_potential_of_pairs_and_lower_for_spread_vectors():
    vectors = torch.randn(40, 4)
    unit = F.normalize(vectors, dim=-1)
    potentials = [math.exp(-2 * float((a - b).square().sum())) for a, b in itertools.combinations(unit, 2)]
    assert uniformity(vectors) == pytest.approx(math.log(np.mean(potentials)), abs=0.02)
    assert uniformity(vectors) < uniformity(vectors + 3)


def test_alignment_is_the_mean_squared_distance():
    histories, items = torch.randn(2, 9, 4)
    distances = [2 - 2 * F.cosine_similarity(a, b, dim=0).item() for a, b in zip(histories, items, strict=True)]
    assert alignment(histories, items) == pytest.approx(np.mean(distances), abs=1e-6)
    assert alignment(items, 2 * items) == pytest.approx(0, abs=1e-6)


def test_buckets_hold_each_user_once(make_split):
    train = make_split([[0] * 7, [1] * 4 + [2] * 5, [3] * 60])  # item 4 is never seen
    targets = np.array([0, 1, 1, 2, 3, 4])
    ranks = np.array([[0.0, 0], [5, 4], [100, 90], [2, 2], [1, 1], [11, 10]])
    found = metrics_by_popularity(ranks, targets, train, num_items=5)
    assert {name: bucket["num_users"] for name, bucket in found.items()} == {"0": 1, "1-4": 2, "5-9": 2, "50+": 1}
    assert found["1-4"]["recall@10"] == pytest.approx(0.5)
    of_bucket = ranking_metrics(ranks[[0, 3]])
    assert {name: found["5-9"][name] for name in of_bucket} == of_bucket


def test_principal_plane_is_that_of_the_largest_singular_values():
    vectors = torch.randn(40, 6) * torch.tensor([1.0, 5, 2, 1, 9, 1]) + 3
    mean, axes = principal_plane(vectors)
    _, _, expected = torch.linalg.svd(vectors - vectors.mean(0))
    assert torch.allclose((axes * expected[:2].T).sum(0).abs(), torch.ones(2), atol=1e-5)
    assert torch.allclose(mean, vectors.mean(0))
    again = principal_plane(vectors.flip(0))[1]  # the order of the rows does not turn it round
    assert torch.allclose(again, axes, atol=1e-4)
