"""Full-ranking metrics: ranks of targets among the whole catalogue, for users with one target or with several."""

from collections.abc import Sequence

import numpy as np
import torch

from ..modeling_unisrec.text_neighbours import lower_seen


def target_ranks(
    scores: torch.Tensor, targets: torch.Tensor, seen: torch.Tensor, kept: torch.Tensor | None = None
) -> torch.Tensor:
    r"""
    Computes the rank of each target, from 0, with the items of the history kept and masked.

    Ties count half: a target gets the mean position of the candidates with the same score. The target itself is never
    masked, even if it is in the history.

    Args:
        scores (`torch.FloatTensor` of shape `(num_users, num_items)`):
            Scores of the catalogue.
        targets (`torch.LongTensor` of shape `(num_users,)`):
            Row of the next item.
        seen (`torch.LongTensor` of shape `(num_users, max_seen)`):
            Rows of the distinct items of each history, padded with -1.
        kept (`torch.FloatTensor` of shape `(num_users, num_items)`, *optional*):
            Scores that rank with seen items kept, if they are others ([`lower_seen`]).

    Returns:
        `torch.FloatTensor` of shape `(num_users, 2)`: Rank with seen items kept, rank with seen items masked.
    """
    own, ranks = _ranks_among_all(scores, targets)
    # Masking removes the seen items above the target, and half of those with the same score.
    seen_scores = scores.gather(1, seen.clamp(min=0))
    counted = (seen >= 0) & (seen != targets.unsqueeze(1))
    above = (counted & ~(seen_scores < own)).sum(1) - (counted & (seen_scores == own)).sum(1) / 2
    return torch.stack([ranks if kept is None else _ranks_among_all(kept, targets)[1], ranks - above], dim=1)


def _ranks_among_all(scores: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the scores of the targets `(num_users, 1)` and their ranks `(num_users,)`."""
    own = scores.gather(1, targets.unsqueeze(1))
    # "Not below" instead of "above", so that NaN scores, of the target or of others, never improve a rank.
    above_or_level = scores.shape[1] - (scores < own).sum(1, dtype=torch.int32) - 1
    return own, above_or_level - ((scores == own).sum(1, dtype=torch.int32) - 1).clamp(min=0) / 2


def ranks_of_targets(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    targets: torch.Tensor,
    seen: torch.Tensor,
    item_index: torch.Tensor | None = None,
    text_neighbours: float = 0.0,
) -> torch.Tensor:
    r"""
    Computes [`target_ranks`] from queries and candidates, whose products exist for only a few queries at a time.

    Args:
        queries (`torch.FloatTensor` of shape `(num_users, hidden_size)`): Sequence vectors.
        candidates (`torch.FloatTensor` of shape `(num_items, hidden_size)`): Item vectors of the catalogue.
        targets (`torch.LongTensor` of shape `(num_users,)`): As for [`target_ranks`].
        seen (`torch.LongTensor` of shape `(num_users, max_seen)`): As for [`target_ranks`].
        item_index (`torch.LongTensor` of shape `(num_users, length)`, *optional*):
            Histories, as of [`RankingCollator`]; needed with text neighbours.
        text_neighbours (`float`, *optional*, defaults to 0.0):
            Share of text neighbours in the products, by which seen items that are kept are lowered: [`lower_seen`].

    Returns:
        `torch.FloatTensor` of shape `(num_users, 2)`: Rank with seen items kept, rank with seen items masked.
    """
    # All items at once, so that equal vectors have equal scores. On a CPU, scores that fit its cache are counted there.
    rows = max(1, (2**20 if queries.device.type == "cpu" else 2**26) // len(candidates))
    ranks = []
    for start in range(0, max(len(queries), 1), rows):
        part = slice(start, start + rows)
        scores = (queries[part] @ candidates.T).float()
        kept = lower_seen(scores.clone(), item_index[part], text_neighbours) if text_neighbours else None
        ranks.append(target_ranks(scores, targets[part], seen[part], kept))
    return torch.cat(ranks)


def ranking_metrics(ranks: np.ndarray, cutoffs: Sequence[int] = (10, 50)) -> dict[str, float]:
    r"""
    Computes Recall and NDCG at each cutoff, by the two protocols of [`target_ranks`].

    With one target, recall@k is the share of ranks below k (RecBole calls it hit@k) and NDCG@k the mean of
    `1 / log2(rank + 2)` over those, 0 for the others.

    Args:
        ranks (`np.ndarray` of shape `(num_users, 2)`):
            Ranks from 0: seen items kept, seen items masked.
        cutoffs (`Sequence[int]`, *optional*, defaults to `(10, 50)`):
            Cutoffs k.

    Returns:
        `dict[str, float]`: `recall@k`, `ndcg@k` (seen kept) and `recall@k_seen_masked`, `ndcg@k_seen_masked`.

    Example:

    ```python
    >>> ranking_metrics(np.array([[0.0, 0.0], [2.0, 1.0]]), cutoffs=[2])["recall@2_seen_masked"]
    1.0

    ```
    """
    metrics, ranks = {}, np.asarray(ranks, dtype=np.float64)
    for column, suffix in enumerate(["", "_seen_masked"]):
        for k in cutoffs:
            hits = ranks[:, column] < k
            gains = np.where(hits, 1 / np.log2(ranks[:, column] + 2), 0.0)
            metrics[f"recall@{k}{suffix}"] = float(hits.mean())
            metrics[f"ndcg@{k}{suffix}"] = float(gains.mean())
    return metrics


def relevance_metrics(ranks: np.ndarray, users: np.ndarray, cutoffs: Sequence[int] = (10, 50)) -> dict[str, float]:
    r"""
    Computes metrics of users who each have one or several relevant items, as trec_eval does; means over users.

    With R the relevant items of a user, of which h are among the first k: recall@k is h / |R|. NDCG@k is the sum of
    `1 / log2(rank + 2)` over those h, divided by that of a list that begins with min(k, |R|) relevant items. MAP@k is the
    sum of the precisions at the ranks of those h, divided by |R|. MRR@k is `1 / (rank + 1)` of the first relevant item, 0
    if it is not among the first k. hit@k is 1 if h > 0.

    Args:
        ranks (`np.ndarray` of shape `(num_relevant,)`):
            Rank from 0 of each relevant item, ties at their mean position; NaN for an item that does not count.
        users (`np.ndarray` of shape `(num_relevant,)`): User of each, any numbers.
        cutoffs (`Sequence[int]`, *optional*, defaults to `(10, 50)`): Cutoffs k.

    Returns:
        `dict[str, float]`: `recall@k`, `ndcg@k`, `mrr@k`, `map@k` and `hit@k`; the last two are left out if each user has one
        relevant item, because they equal MRR and recall. Empty if no item counts.

    Example:

    ```python
    >>> relevance_metrics(np.array([0.0, 3.0, 1.0]), np.array([7, 7, 8]), cutoffs=[2])["recall@2"]
    0.75

    ```
    """
    counts = ~np.isnan(ranks)
    ranks, users = ranks[counts].astype(np.float64), users[counts]
    if not len(ranks):
        return {}
    order = np.lexsort((ranks, users))
    ranks, users = ranks[order], users[order]
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1])))
    relevant = np.diff(np.concatenate((starts, [len(users)])))
    row = np.repeat(np.arange(len(starts)), relevant)
    nth = np.arange(len(users)) - starts[row]  # relevant items before this one
    ranks = np.maximum(ranks, nth)  # relevant items with equal scores take consecutive places
    precisions = (nth + 1) / (ranks + 1)
    metrics = {}
    for k in cutoffs:
        hits = ranks < k
        ideal = np.cumsum(1 / np.log2(np.arange(min(k, relevant.max())) + 2))[np.minimum(k, relevant) - 1]
        gains = np.bincount(row, np.where(hits, 1 / np.log2(ranks + 2), 0.0))
        metrics[f"recall@{k}"] = float((np.bincount(row, hits) / relevant).mean())
        metrics[f"ndcg@{k}"] = float((gains / ideal).mean())
        metrics[f"mrr@{k}"] = float(np.where(hits[starts], 1 / (ranks[starts] + 1), 0.0).mean())
        if relevant.max() > 1:
            metrics[f"map@{k}"] = float((np.bincount(row, np.where(hits, precisions, 0.0)) / relevant).mean())
            metrics[f"hit@{k}"] = float(hits[starts].mean())
    return metrics


__all__ = ["ranking_metrics", "ranks_of_targets", "relevance_metrics", "target_ranks"]
