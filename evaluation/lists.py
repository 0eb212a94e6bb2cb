"""Metrics of recommended lists that do not ask whether they are right: coverage, novelty and diversity."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..data.splits import Split


_USERS_AT_A_TIME = 1024


def item_novelty(known: Split, num_items: int) -> np.ndarray:
    r"""
    Computes how little known each item is: the negative binary logarithm of the share of users who have it.

    Args:
        known (`Split`): Histories known when the lists were made.
        num_items (`int`): Size of the catalogue.

    Returns:
        `np.ndarray` of shape `(num_items,)`: In bits, 0 for an item that all users have. An item that nobody has counts as
        one of a single user, so that all are finite.
    """
    owners = np.repeat(np.arange(len(known)), np.diff(known.offsets))
    pairs = np.unique(owners * num_items + known.flat)
    users = np.bincount(pairs % num_items, minlength=num_items)
    return np.log2(len(known) / np.maximum(users, 1))


def list_metrics(
    lists: np.ndarray, cutoffs: Sequence[int], novelty: np.ndarray, text_embeds: np.ndarray
) -> dict[str, float]:
    r"""
    Computes coverage, novelty and diversity of the first k items of recommended lists.

    Args:
        lists (`np.ndarray` of shape `(num_users, length)`):
            Rows of the catalogue, the best first; -1 where a list is shorter. k larger than `length` takes the whole list.
        cutoffs (`Sequence[int]`): Cutoffs k.
        novelty (`np.ndarray` of shape `(num_items,)`): Of [`item_novelty`].
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`):
            Text vectors by which items are compared. Without any (size 0) there is no diversity.

    Returns:
        `dict[str, float]`: `coverage@k`, the share of the catalogue that is in one of the lists; `novelty@k`, the mean
        novelty of the recommended items; `diversity@k`, one minus the mean cosine of the text vectors of two items of a
        list, a mean over lists of two items or more; without one, it is left out.
    """
    metrics = {}
    for k in cutoffs:
        first = lists[:, :k]
        metrics[f"coverage@{k}"] = len(np.unique(first[first >= 0])) / len(novelty)
        metrics[f"novelty@{k}"] = float(novelty[first[first >= 0]].mean())
        if text_embeds.shape[1] and ((first >= 0).sum(1) > 1).any():
            metrics[f"diversity@{k}"] = _diversity(first, text_embeds)
    return metrics


def _diversity(lists: np.ndarray, text_embeds: np.ndarray) -> float:
    vectors = F.normalize(torch.from_numpy(np.array(text_embeds, dtype=np.float32)), dim=-1)
    vectors = torch.cat([vectors, torch.zeros_like(vectors[:1])])  # the row of -1
    similar = []
    for rows in torch.from_numpy(lists).split(_USERS_AT_A_TIME):
        # The squared sum holds each pair twice, and each vector with itself.
        of_lists = vectors[rows.long()]
        length = (rows >= 0).sum(1)
        pairs = of_lists.sum(1).square().sum(-1) - of_lists.square().sum((1, 2))
        similar.append((pairs / (length * (length - 1)))[length > 1])
    return 1 - torch.cat(similar).mean().item()


__all__ = ["item_novelty", "list_metrics"]
