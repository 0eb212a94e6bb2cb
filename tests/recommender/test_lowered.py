"""Search in which items of the history count less, against a plain sort of all scores."""

import pytest
import torch
from torch.nn import functional as F

from unisrec.recommender import ExactIndex, FaissIndex
from unisrec.recommender.lowered import search_lowered


def by_sorting(vectors, queries, top_k, lowered, discounts, candidates) -> list[list[tuple[float, int]]]:
    """Scores of the candidates for each query, by score and then by row."""
    results = []
    for query, rows, discount in zip(queries, lowered, discounts.tolist(), strict=True):
        scores = [((vector * query).sum().item(), row) for row, vector in enumerate(vectors)]
        scores = [(score - discount * (row in rows), row) for score, row in scores if candidates[row]]
        results.append(sorted(scores, key=lambda pair: (-pair[0], pair[1]))[:top_k])
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_k", [1, 4, 60])
@pytest.mark.parametrize("all_allowed", [False, True])
def test_equals_a_plain_sort(top_k, dtype, all_allowed):
    vectors = torch.randint(-2, 3, (50, 4)).float()  # whole numbers: many equal scores, and exact ones
    queries = torch.randint(-2, 3, (7, 4)).float()
    lowered = [torch.randint(50, (count,)).tolist() for count in (0, 1, 5, 40, 3, 0, 50)]  # some twice
    discounts = torch.randint(4, (7,)) / 2
    candidates = torch.ones(50, dtype=torch.bool) if all_allowed else torch.rand(50) < 0.7
    index = ExactIndex(vectors, dtype)
    scores, rows = search_lowered(index, queries, top_k, lowered, discounts, None if all_allowed else candidates)
    assert scores.shape == rows.shape == (7, min(top_k, 50))
    found = [
        [(score, row) for score, row in zip(*pair, strict=True) if score > -torch.inf]
        for pair in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
    assert found == by_sorting(vectors, queries, top_k, lowered, discounts, candidates)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("length", [12, 30])
def test_lowered_items_do_not_hide_better_ones_that_an_index_did_not_fetch(kind, length):
    pytest.importorskip("faiss")
    query = F.normalize(torch.randn(1, 8), dim=-1)
    near, far = (F.normalize(query + spread * torch.randn(2000, 8), dim=-1) for spread in (0.25, 0.45))
    vectors = torch.cat([near, far])
    exact = ExactIndex(vectors)
    index = FaissIndex.build(exact, F.normalize(vectors[::10] + 0.1 * torch.randn(400, 8), dim=-1), kind)
    history = exact.search(query, length)[1][0].tolist()
    candidates = torch.cat([torch.zeros(2000, dtype=torch.bool), far @ query[0] < 0.8])  # none as near as the history
    candidates[history] = True
    asked = (query, 10, [history], torch.tensor([0.5 * length / (length + 6)]), candidates)
    (expected,), (found,) = search_lowered(exact, *asked)[1].tolist(), search_lowered(index, *asked)[1].tolist()
    assert not set(expected) & set(history)
    assert len(set(expected) & set(found)) >= 9
