"""Approximate search: rows that must not be found, items that come and go, files, and what it misses."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import ExactIndex, FaissIndex, Recommender
from unisrec.recommender.faiss_index import choose_kind, recall


pytest.importorskip("faiss")
KINDS = ("flat", "ivf", "hnsw")


@pytest.fixture
def vectors():
    centres = torch.randn(20, 8)
    return F.normalize(centres.repeat(30, 1) + 0.3 * torch.randn(600, 8), dim=-1)


def build(vectors: torch.Tensor, kind: str = "flat") -> FaissIndex:
    return FaissIndex.build(ExactIndex(vectors), vectors[:50] + 0.1 * torch.randn(50, 8), kind)


def test_kind_goes_by_the_size_of_the_catalogue():
    sizes = (1, 49_999, 50_000, 499_999, 500_000, 10_000_000)
    assert [choose_kind("auto", size)[0] for size in sizes] == ["flat", "flat", "hnsw", "hnsw", "ivf", "ivf"]
    assert choose_kind("ivf", 3) == ("ivf", "as asked for")
    with pytest.raises(ValueError, match="index kind 'fast': expected one of auto, flat, ivf, hnsw"):
        choose_kind("fast", 3)


@pytest.mark.parametrize("kind", KINDS)
def test_finds_nearly_all_and_scores_exactly(vectors, kind):
    index, queries = build(vectors, kind), F.normalize(torch.randn(40, 8), dim=-1)
    assert index.recall >= 0.95
    assert recall(index, queries) >= 0.9
    scores, rows = index.search(queries, 10)
    torch.testing.assert_close(scores, (queries[:, None] * vectors[rows]).sum(-1), rtol=0, atol=1e-5)
    assert (scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_rows_and_candidates(vectors, kind):
    index, queries = build(vectors, kind), F.normalize(torch.randn(9, 8), dim=-1)
    best = ExactIndex(vectors).search(queries, 200)[1].tolist()
    hidden = [rows[: 25 * place] for place, rows in enumerate(best)]  # up to all that is near
    candidates = torch.rand(600) < 0.5
    for chosen in (None, candidates, torch.arange(600) < 5):
        scores, rows = index.search(queries, 10, hidden, chosen)
        available = torch.ones(600, dtype=torch.bool) if chosen is None else chosen
        for found, values, out in zip(rows.tolist(), scores.tolist(), hidden, strict=True):
            found = [row for row, value in zip(found, values, strict=True) if value > -torch.inf]
            assert len(found) == len(set(found)) == min(10, int(available.sum() - available[out].sum()))
            assert not set(found) & set(out)
            assert available[found].all()


def test_flat_equals_exact(vectors):
    """Equal scores too: every vector is there twice."""
    vectors = torch.cat([vectors, vectors])
    queries, hidden = vectors[::100], [[0, 5, 9]] * 12
    for found, expected in zip(
        build(vectors).search(queries, 9, hidden), ExactIndex(vectors).search(queries, 9, hidden), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_another_catalogue_leaves_the_index_as_it_was(vectors, kind):
    index, queries = build(vectors, kind), F.normalize(torch.randn(9, 8), dim=-1)
    before = index.search(queries, 10)
    kept = torch.tensor([row for row in range(600) if row % 50])
    added = F.normalize(queries[:5] + 0.01 * torch.randn(5, 8), dim=-1)  # nearest to the first queries
    other = index.update(kept, added)
    assert other.faiss_index is index.faiss_index
    exact = ExactIndex(torch.cat([vectors[kept], added]))
    scores, rows = other.search(queries, 10)
    assert rows[:5, 0].tolist() == [588, 589, 590, 591, 592]
    assert (
        np.mean(
            [
                len(set(pair[0]) & set(pair[1]))
                for pair in zip(rows.tolist(), exact.search(queries, 10)[1].tolist(), strict=True)
            ]
        )
        >= 9
    )
    torch.testing.assert_close(scores, (queries[:, None] * exact.vectors[rows]).sum(-1), rtol=0, atol=1e-5)
    for now, then in zip(index.search(queries, 10), before, strict=True):
        assert torch.equal(now, then)


def test_many_changes_build_anew(vectors):
    index = build(vectors, "ivf")
    later = index.update(torch.arange(600), F.normalize(torch.randn(30, 8), dim=-1))
    assert later.faiss_index is index.faiss_index
    later = later.update(torch.arange(15, 630), F.normalize(torch.randn(30, 8), dim=-1))
    assert (later.kind, later.faiss_index.ntotal, len(later)) == ("ivf", 645, 645)


@pytest.mark.parametrize("kind", KINDS)
def test_files_give_the_same_index(vectors, kind, tmp_path):
    index, queries = build(vectors, kind), F.normalize(torch.randn(9, 8), dim=-1)
    index.save(tmp_path / "index")
    again = FaissIndex.load(tmp_path / "index", ExactIndex(vectors))
    assert (again.kind, again.recall) == (index.kind, index.recall)
    assert torch.equal(again.search(queries, 10)[1], index.search(queries, 10)[1])
    for others in (vectors[:-1], vectors.flip(0)):
        with pytest.raises(
            ValueError, match="not of this checkpoint and catalogue .* build it again with `unisrec index`"
        ):
            FaissIndex.load(tmp_path / "index", ExactIndex(others))
    with pytest.raises(FileNotFoundError, match="no index there; expected a folder that `unisrec index` wrote"):
        FaissIndex.load(tmp_path, ExactIndex(vectors))


def test_recommender_with_an_index(make_model, tokenizer, tmp_path):
    model = make_model()
    ids = [f"i{row}" for row in range(300)]
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(ids, ids, torch.randn(300, 16)), 10, 32)
    recommender = Recommender(model, processor)
    histories = [["i1", "i2"], ["i3"], ["i250", "i4", "i9"]]
    exact = recommender.recommend(histories, 5, allowed=ids[:200])
    nearest = recommender.similar_items("i7", 5)
    half = recommender.use_index("exact-bf16")
    assert half.vectors.dtype == torch.bfloat16
    recommender.use_index("exact")
    recommender = Recommender(model, processor)
    index = recommender.use_index("auto")
    assert (index.kind, index.recall) == ("flat", 1)

    def ids_of(lists):
        return [[item.item_id for item in items] for items in lists]

    assert ids_of(recommender.recommend(histories, 5, allowed=ids[:200])) == ids_of(exact)
    assert ids_of([recommender.similar_items("i7", 5)]) == ids_of([nearest])
    assert len(recommender.recommend(histories, 1000)[0]) == 298
    recommender.remove_items(["i7"])
    assert "i7" not in ids_of(recommender.recommend(histories, 299))[0]
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"index of 300 items .* \(299 items\)"):
        recommender.use_index(tmp_path / "index")
