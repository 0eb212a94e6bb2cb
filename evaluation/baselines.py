"""Baselines without a model, evaluated by the same protocol."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..data.splits import Split
from .metrics import ranking_metrics, target_ranks
from .ranking import RankingCollator, RankingDataset


def baseline_metrics(
    score: Callable[[dict[str, torch.Tensor]], torch.Tensor], test: Split, num_items: int, batch_size: int = 512
) -> dict[str, float]:
    r"""
    Computes full-ranking metrics of scores that need no model.

    Args:
        score (`Callable`): Batch of a [`RankingCollator`] with whole histories -> `(batch_size, num_items)` scores.
        test (`Split`): Histories and targets.
        num_items (`int`): Size of the catalogue.
        batch_size (`int`, *optional*, defaults to 512): Users per batch.

    Returns:
        `dict[str, float]`: Metrics as returned by [`ranking_metrics`].
    """
    users = RankingDataset(test, np.empty((num_items, 0)))
    longest = int(np.diff(test.offsets).max())
    loader = DataLoader(users, batch_size, collate_fn=RankingCollator(longest))
    ranks = [target_ranks(score(batch), batch["labels"], batch["seen"]) for batch in loader]
    return ranking_metrics(torch.cat(ranks).numpy())


def popularity_metrics(train: Split, test: Split, num_items: int) -> dict[str, float]:
    """Computes metrics of ranking items by their number of training interactions."""
    counts = torch.from_numpy(np.bincount(train.flat, minlength=num_items))
    return baseline_metrics(lambda batch: counts.expand(len(batch["labels"]), -1), test, num_items)


def random_metrics(test: Split, num_items: int, seed: int = 0) -> dict[str, float]:
    """Computes metrics of a random ranking for each user."""
    generator = torch.Generator().manual_seed(seed)
    return baseline_metrics(
        lambda batch: torch.rand(len(batch["labels"]), num_items, generator=generator), test, num_items
    )


def text_neighbour_metrics(test: Split, text_embeds: np.ndarray) -> dict[str, float]:
    """Computes metrics of ranking items by the cosine of their text vector, a row of `(num_items, text_embedding_size)`,
    and the mean text vector of the history."""
    items = F.normalize(torch.from_numpy(np.array(text_embeds)), dim=-1)
    with_padding = torch.cat([torch.zeros_like(items[:1]), items])
    return baseline_metrics(
        # The sum ranks as the mean does, because scaling does not change the order.
        lambda batch: F.embedding_bag(batch["item_index"], with_padding, mode="sum") @ items.T,
        test,
        len(items),
    )


__all__ = ["baseline_metrics", "popularity_metrics", "random_metrics", "text_neighbour_metrics"]
