"""Metrics of users with several relevant items beside trec_eval, ranks beside a sort, and lists beside plain loops."""

import itertools

import numpy as np
import pytest
import pytrec_eval
import torch
from accelerate import Accelerator

from unisrec.evaluation import ranking_metrics, relevance_metrics
from unisrec.evaluation.lists import item_novelty, list_metrics
from unisrec.evaluation.relevance import RelevanceDataset, rank_batch, rank_users, relevant_ranks


CUTOFFS = (1, 5, 10, 20, 60)


@pytest.fixture(scope="module")
def task():
    """Scores without ties of 40 users and 60 items, and which items are relevant: from one to nine of each user."""
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(1.0, 61), (40, 1)), axis=1)).float()
    relevant = [rng.choice(60, size=rng.integers(1, 10), replace=False) for _ in range(40)]
    return scores, relevant


def ranks_of(scores, relevant):
    ranks = [
        relevant_ranks(row[None], torch.from_numpy(items)[None])[0]
        for row, items in zip(scores, relevant, strict=True)
    ]
    return torch.cat(ranks).numpy(), np.repeat(np.arange(len(relevant)), [len(items) for items in relevant])


def test_metrics_equal_those_of_trec_eval(task):
    scores, relevant = task
    metrics = relevance_metrics(*ranks_of(scores, relevant), cutoffs=CUTOFFS)
    truth = {f"u{user}": {f"i{item}": 1 for item in items} for user, items in enumerate(relevant)}
    for k in CUTOFFS:
        run = {
            f"u{user}": {f"i{item}": float(row[item]) for item in row.topk(k).indices}
            for user, row in enumerate(scores)
        }
        names = {f"recall_{k}", f"ndcg_cut_{k}", f"map_cut_{k}", f"success_{k}", "recip_rank"}
        found = pytrec_eval.RelevanceEvaluator(truth, names).evaluate(run)
        theirs = {name: np.mean([row[name] for row in found.values()]) for name in names}
        for ours, name in (
            ("recall", f"recall_{k}"),
            ("ndcg", f"ndcg_cut_{k}"),
            ("map", f"map_cut_{k}"),
            ("hit", f"success_{k}"),
            ("mrr", "recip_rank"),
        ):
            assert metrics[f"{ours}@{k}"] == pytest.approx(theirs[name], abs=1e-6), name


def test_with_one_relevant_item_they_are_those_of_leave_one_out():
    ranks = np.random.default_rng(0).integers(0, 80, size=(200, 2)) / 2
    expected = ranking_metrics(ranks)
    metrics = relevance_metrics(ranks[:, 0], np.arange(200))
    assert metrics.keys() == {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (10, 50)}
    for name in ("recall@10", "ndcg@10", "recall@50", "ndcg@50"):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-12)


def test_items_that_do_not_count_and_users_without_others_are_left_out():
    ranks, users = np.array([0.0, np.nan, 5.0, np.nan]), np.array([0, 0, 1, 2])
    assert relevance_metrics(ranks, users, [2]) == {"recall@2": 0.5, "ndcg@2": 0.5, "mrr@2": 0.5}
    assert relevance_metrics(np.array([np.nan]), np.array([0])) == {}


def test_equal_scores_never_make_a_perfect_list_better():
    # Two relevant items and two others level: places 0 to 3, each at 1.5.
    ranks = relevant_ranks(torch.zeros(1, 4), torch.tensor([[1, 3]]))
    assert ranks.tolist() == [[1.5, 1.5]]
    both = relevant_ranks(torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[0, 1]]))
    metrics = relevance_metrics(both[0].numpy(), np.zeros(2), [2])
    assert metrics["recall@2"] == 1
    assert metrics["map@2"] <= 1
    assert metrics["ndcg@2"] <= 1


def test_scores_that_are_not_numbers_never_help():
    nan = float("nan")
    scores = torch.tensor([[nan, 0.9, 0.5, nan], [0.4, nan, 0.5, 0.6]])
    assert relevant_ranks(scores, torch.tensor([[2, 1], [1, 3]])).tolist() == [[3, 2], [3, 1]]


def test_seen_items_are_neither_candidates_nor_relevant(make_split):
    scores = torch.tensor([[9.0, 8, 7, 6, 5, 4]])
    ranks, lists = rank_batch(scores, torch.tensor([[1, 3, -1]]), torch.tensor([[1, 2, -1, -1]]), 6)
    np.testing.assert_array_equal(ranks[0].numpy(), [[1, np.nan], [3, 1], [np.nan, np.nan]])
    assert lists[0].T.tolist() == [[0, 1, 2, 3, 4, 5], [0, 3, 4, 5, -1, -1]]
    one_by_one, _ = rank_batch(scores, torch.tensor([[3]]), torch.tensor([[1, 2, -1, -1]]), 6)
    assert one_by_one.tolist() == [[[3.0, 1.0]]]


@pytest.mark.parametrize("several", [False, True])
def test_text_neighbours_lower_seen_items_that_are_kept(several):
    scores = torch.randn(5, 12)
    histories = [[1, 4, 7], [2, 2, 9], [3], [5, 6, 8, 1], [4, 2]]  # rows + 1; the second has an item twice
    relevant = [[4, 10], [3, 8], [2, 11], [5, 0], [9, 7]] if several else [[4], [3], [2], [5], [9]]
    relevant[0][0] = 3  # an item of the history itself
    item_index = torch.tensor([rows + [0] * (4 - len(rows)) for rows in histories])
    seen = torch.tensor([sorted({row - 1 for row in rows}) + [-1] * (4 - len(set(rows))) for rows in histories])
    if several:  # a time split masks what is relevant, too
        seen[0, 1] = 3
    ranks, lists = rank_batch(scores, torch.tensor(relevant), seen, 12, item_index, 0.8)
    raw, raw_lists = rank_batch(scores, torch.tensor(relevant), seen, 12)
    for row, rows in enumerate(histories):
        kept = scores[row].clone()
        for item in set(rows) if len(set(rows)) == len(rows) else ():
            kept[item - 1] -= 0.8 * 0.6 * len(rows) / (len(rows) + 6)
        order = kept.argsort(descending=True).tolist()
        assert ranks[row, :, 0].tolist() == [order.index(item) for item in relevant[row]]
        assert lists[row, :, 0].tolist() == order
    torch.testing.assert_close(ranks[..., 1], raw[..., 1], equal_nan=True)
    assert torch.equal(lists[..., 1], raw_lists[..., 1])
    assert not torch.equal(ranks[..., 0], raw[..., 0])


def test_ranking_of_all_users_keeps_them_apart(make_split):
    rng = np.random.default_rng(1)
    table = torch.from_numpy(rng.normal(size=(30, 30))).float()  # scores by the latest item
    histories = [rng.integers(30, size=size) for size in rng.integers(1, 9, size=25)]
    relevant = [np.unique(rng.integers(30, size=size)) for size in rng.integers(1, 6, size=25)]
    users = RelevanceDataset(
        make_split(histories), np.concatenate(relevant), np.cumsum([0, *map(len, relevant)]), repeats=False
    )

    def score(batch):
        last = batch["item_index"].gather(1, (batch["item_index"] > 0).sum(1, keepdim=True) - 1)[:, 0]
        return table[last - 1]

    found = [
        rank_users(score, users, 30, depth=5, batch_size=size, accelerator=Accelerator(cpu=True)) for size in (4, 100)
    ]
    assert np.array_equal(found[0].ranks, found[1].ranks, equal_nan=True)
    for place, row in enumerate(users.order):
        scores = table[histories[row][-1]].numpy()
        order = np.argsort(-scores).tolist()
        mine = found[0].users == place
        assert found[0].items[mine].tolist() == relevant[row].tolist()
        assert found[0].ranks[mine, 0].tolist() == [order.index(item) for item in relevant[row]]
        left = [item for item in order if item not in histories[row]]
        expected = [left.index(item) if item in left else np.nan for item in relevant[row]]
        np.testing.assert_array_equal(found[0].ranks[mine, 1], expected)
        assert found[0].lists[place].T.tolist() == [order[:5], left[:5]]
    chosen = np.arange(30) < 10
    of_chosen = found[0].metrics([5], chosen, "new_items_")
    assert of_chosen["new_items_recall@5"] == pytest.approx(
        np.mean(
            [
                np.mean([item in np.argsort(-table[history[-1]].numpy())[:5] for item in items if item < 10])
                for history, items in zip(histories, relevant, strict=True)
                if (items < 10).any()
            ]
        )
    )


def test_coverage_novelty_and_diversity_by_plain_loops(make_split):
    rng = np.random.default_rng(2)
    known = make_split([[0, 1, 1], [1, 2], [1, 0, 3], [1]])
    novelty = item_novelty(known, 6)
    assert novelty.tolist() == [np.log2(4 / 2), 0, 2, 2, 2, 2]
    lists = np.array([[0, 1, 2], [1, 0, 4], [3, -1, -1], [1, 2, 0]])
    texts = rng.normal(size=(6, 4)).astype(np.float32)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    metrics = list_metrics(lists, [1, 3, 9], novelty, texts)
    assert metrics["coverage@1"] == 3 / 6
    assert metrics["coverage@3"] == metrics["coverage@9"] == 5 / 6
    assert metrics["novelty@1"] == pytest.approx((1 + 0 + 2 + 0) / 4)
    different = [
        np.mean([1 - unit[a] @ unit[b] for a, b in itertools.combinations(row, 2)])
        for row in lists[[0, 1, 3]].tolist()
    ]
    assert metrics["diversity@3"] == pytest.approx(np.mean(different), abs=1e-6)
    assert "diversity@1" not in metrics
    single = np.where(np.arange(lists.shape[1]) > 0, -1, lists)  # one item in each list
    assert "diversity@3" not in list_metrics(single, [3], novelty, texts)
    assert not any(name.startswith("diversity") for name in list_metrics(lists, [3], novelty, texts[:, :0]))
