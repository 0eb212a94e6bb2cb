"""Approximate search: rows that must not be found, items that come and go, files, and what it misses."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import ExactIndex, FaissIndex, Recommender
from unisrec.recommender.faiss_index import choose_kind, recall


pytest.importorskip("faiss")
KINDS = ("ivf", "hnsw")


@pytest.fixture
def vectors():
    centres = torch.randn(20, 8)
    return F.normalize(centres.repeat(30, 1) + 0.3 * torch.randn(600, 8), dim=-1)


def build(vectors: torch.Tensor, kind: str = "hnsw") -> FaissIndex:
    return FaissIndex.build(ExactIndex(vectors), vectors[:50] + 0.1 * torch.randn(50, 8), kind)


def test_kind_goes_by_the_size_of_the_catalogue():
    sizes = (1, 49_999, 50_000, 499_999, 500_000, 10_000_000)
    assert [choose_kind("auto", size)[0] for size in sizes] == ["exact", "exact", "hnsw", "hnsw", "ivf", "ivf"]
    assert choose_kind("ivf", 3) == ("ivf", "as asked for")
    with pytest.raises(ValueError, match="index kind 'fast': expected one of auto, ivf, hnsw"):
        choose_kind("fast", 3)
    with pytest.raises(ValueError, match="'flat': exact search finds the same items with the same scores"):
        choose_kind("flat", 3)


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


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_come_in_the_order_of_the_rows(vectors, kind):
    vectors = torch.cat([vectors, vectors])
    scores, rows = build(vectors, kind).search(vectors[::100], 10)
    equal = scores[:, 1:] == scores[:, :-1]
    assert equal.sum() > 30
    assert (rows[:, 1:] > rows[:, :-1])[equal].all()


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
    ids = [f"i{row}" for row in range(60)]
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(ids, ids, torch.randn(60, 16)), 10, 32)
    recommender = Recommender(model, processor)
    histories = [["i1", "i2"], ["i3"], ["i50", "i4", "i9"]]
    exact = recommender.recommend(histories, 5, allowed=ids[:40])
    nearest = recommender.similar_items("i7", 5)
    half = recommender.use_index("exact-bf16")
    assert half.vectors.dtype == torch.bfloat16
    recommender.use_index("exact")
    recommender = Recommender(model, processor)
    assert isinstance(recommender.use_index("auto"), ExactIndex)
    with pytest.raises(ValueError, match="'flat': exact search finds the same"):
        recommender.use_index("flat")
    index = recommender.use_index("ivf")
    assert (index.kind, index.recall) == ("ivf", 1)  # it visits all of its few lists

    def ids_of(lists):
        return [[item.item_id for item in items] for items in lists]

    assert ids_of(recommender.recommend(histories, 5, allowed=ids[:40])) == ids_of(exact)
    assert ids_of([recommender.similar_items("i7", 5)]) == ids_of([nearest])
    assert len(recommender.recommend(histories, 1000)[0]) == 58
    recommender.remove_items(["i7"])
    assert "i7" not in ids_of(recommender.recommend(histories, 59))[0]
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"index of 60 items .* \(59 items\)"):
        recommender.use_index(tmp_path / "index")


@pytest.mark.parametrize("kind", KINDS)
def test_index_of_items_that_came_and_went_is_saved_as_what_it_finds(vectors, kind, tmp_path):
    index = build(vectors, kind).update(torch.arange(1, 600), F.normalize(torch.randn(3, 8), dim=-1))
    index.save(tmp_path / "index")
    again = FaissIndex.load(tmp_path / "index", ExactIndex(index.vectors))
    assert (len(again), again.faiss_index.ntotal) == (602, 602)


@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_vector_and_one_changed_id_are_seen(vectors, kind, tmp_path):
    ids = [f"i{row}" for row in range(600)]
    build(vectors, kind).save(tmp_path / "index", ids)
    changed = vectors.clone()
    changed[5] = -changed[5]  # none of the sample
    for exact, names in ((ExactIndex(changed), ids), (ExactIndex(vectors), ["other", *ids[1:]])):
        with pytest.raises(ValueError, match="not of this checkpoint and catalogue"):
            FaissIndex.load(tmp_path / "index", exact, names)
    assert len(FaissIndex.load(tmp_path / "index", ExactIndex(vectors), ids)) == 600


def test_folder_is_checked_for_what_it_says(vectors, tmp_path):
    def facts(**changes):
        def change(folder):
            file = folder / "index.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))

        return change

    def another_index(folder):
        (folder / "index.faiss").write_bytes((tmp_path / "other" / "index.faiss").read_bytes())

    build(vectors).save(tmp_path / "index")
    build(vectors.flip(0)).save(tmp_path / "other")
    sample = torch.full((64, 8), torch.nan)
    for change, message in {
        facts(num_items=599): "index of 599 items is not of this checkpoint",
        facts(num_items="600"): "index.json describes no index",
        facts(kind="fast"): "index.json describes no index",
        facts(kind="ivf"): "index.faiss is no ivf index as index.json says",
        facts(hidden_size=9): "index.faiss is no hnsw index as index.json says",
        facts(kind="flat"): "a flat index of an earlier version; use 'exact'",
        facts(**{"recall@10": float("nan")}): "index.json describes no index",
        another_index: "index.faiss is not the file that was saved with index.json",
        lambda folder: (folder / "index.faiss").write_bytes(b"IxFI"): "index.faiss is not the file that was saved",
        lambda folder: (folder / "index.json").write_text("[]"): "damaged, or of an earlier version",
        lambda folder: (folder / "index.json").unlink(): "damaged, or of an earlier version",
        lambda folder: (folder / "sample.safetensors").unlink(): "sample.safetensors cannot be read",
        lambda folder: save_file({"vectors": sample}, folder / "sample.safetensors"): "not of this checkpoint",
        lambda folder: save_file(
            {"vectors": torch.ones(64, 24)}, folder / "sample.safetensors"
        ): "of another share of text",
    }.items():
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "index", tmp_path / "copy")
        change(tmp_path / "copy")
        with pytest.raises(ValueError, match=message):
            FaissIndex.load(tmp_path / "copy", ExactIndex(vectors))


def test_vectors_that_are_not_finite_make_no_index(vectors):
    vectors[7, 3] = torch.nan
    with pytest.raises(ValueError, match="hold numbers that are not finite"):
        FaissIndex.build(ExactIndex(vectors), vectors[:5], "hnsw")
