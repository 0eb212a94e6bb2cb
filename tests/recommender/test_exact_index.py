"""Search in item vectors against a plain sort of all scores."""

import pytest
import torch

from unisrec.recommender import exact_index
from unisrec.recommender.exact_index import ExactIndex


def by_sorting(vectors, queries, top_k, hidden, candidates) -> list[list[tuple[float, int]]]:
    """All scores of a query, left out what it may not have, by score and then by row."""
    results = []
    for query, rows in zip(queries, hidden, strict=True):
        scores = [((vector * query).sum().item(), row) for row, vector in enumerate(vectors)]
        left = [(score, row) for score, row in scores if candidates[row] and row not in rows]
        results.append(sorted(left, key=lambda pair: (-pair[0], pair[1]))[:top_k])
    return results


@pytest.mark.parametrize("scores_at_a_time", [1, 40, 1 << 24])
@pytest.mark.parametrize("top_k", [1, 4, 60])
def test_chunks_equal_a_plain_sort(monkeypatch, scores_at_a_time, top_k):
    monkeypatch.setattr(exact_index, "SCORES_AT_A_TIME", scores_at_a_time)
    monkeypatch.setattr(exact_index, "QUERIES_AT_A_TIME", 3)
    vectors = torch.randint(-2, 3, (50, 4)).float()  # whole numbers: many equal scores, and exact ones
    queries = torch.randint(-2, 3, (7, 4)).float()
    hidden = [torch.randint(50, (count,)).tolist() for count in (0, 1, 5, 40, 3, 0, 50)]
    candidates = torch.rand(50) < 0.7
    scores, rows = ExactIndex(vectors).search(queries, top_k, hidden, candidates)
    assert scores.shape == rows.shape == (7, min(top_k, 50))
    found = [
        [(score, row) for score, row in zip(*pair, strict=True) if score > -torch.inf]
        for pair in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
    assert found == by_sorting(vectors, queries, top_k, hidden, candidates)


def test_bfloat16_scores_are_those_of_rounded_vectors():
    vectors, queries = torch.randn(30, 8), torch.randn(5, 8)
    half = ExactIndex(vectors, torch.bfloat16)
    scores, rows = half.search(queries, 30)
    assert half.vectors.element_size() == 2
    rounded = queries @ vectors.bfloat16().float().T
    torch.testing.assert_close(scores, rounded.gather(1, rows))
    assert torch.equal(rows, rounded.sort(dim=1, descending=True).indices)


def test_no_query_and_no_item_asked_for():
    index = ExactIndex(torch.randn(5, 3))
    scores, rows = index.search(torch.empty(0, 3), 4)
    assert scores.shape == rows.shape == (0, 4)
    with pytest.raises(ValueError, match="top_k is 0"):
        index.search(torch.randn(1, 3), 0)
