"""Baselines without a model, evaluated by the same protocols."""

from collections.abc import Mapping

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.splits import Split
from ..modeling_unisrec.text_neighbours import recent_texts, unit_vectors
from .metrics import ranking_metrics, target_ranks
from .ranking import RankingCollator, RankingDataset
from .relevance import Scorer


def baseline_metrics(score: Scorer, test: Split, num_items: int, batch_size: int = 512) -> dict[str, float]:
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


def popularity_scores(known: Split, num_items: int) -> Scorer:
    """Returns a function that scores items by their number of interactions in `known`."""
    counts = torch.from_numpy(np.bincount(known.flat, minlength=num_items)).float()
    return lambda batch: counts.to(batch["item_index"].device).expand(len(batch["item_index"]), -1)


def random_scores(num_items: int, seed: int = 0) -> Scorer:
    """Returns a function that scores items at random, other ones for each user."""
    generator = torch.Generator().manual_seed(seed)
    return lambda batch: torch.rand(len(batch["item_index"]), num_items, generator=generator).to(
        batch["item_index"].device
    )


def text_neighbour_scores(text_embeds: np.ndarray, recency: float = 1.0) -> Scorer:
    """Returns a function that scores items by the cosine of their text vector, a row of `(num_items,
    text_embedding_size)`, and the mean text vector of the history, in which the weight of an item is `recency` to the power
    of the number of items after it."""
    items = unit_vectors(torch.from_numpy(np.array(text_embeds)))

    def score(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        nonlocal items
        items = items.to(batch["item_index"].device)
        return recent_texts(batch["item_index"], items, recency) @ items.T

    return score


def popularity_metrics(train: Split, test: Split, num_items: int) -> dict[str, float]:
    """Computes metrics of ranking items by their number of training interactions."""
    return baseline_metrics(popularity_scores(train, num_items), test, num_items)


def random_metrics(test: Split, num_items: int, seed: int = 0) -> dict[str, float]:
    """Computes metrics of a random ranking for each user."""
    return baseline_metrics(random_scores(num_items, seed), test, num_items)


def text_neighbour_metrics(test: Split, text_embeds: np.ndarray) -> dict[str, float]:
    """Computes metrics of [`text_neighbour_scores`]."""
    return baseline_metrics(text_neighbour_scores(text_embeds), test, len(text_embeds))


__all__ = [
    "baseline_metrics",
    "popularity_metrics",
    "popularity_scores",
    "random_metrics",
    "random_scores",
    "text_neighbour_metrics",
    "text_neighbour_scores",
]
