"""Rankings without a model, by the same protocol: what any number is to be read against."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.splits import Split
from .data_collator import RankingCollator
from .datasets import RankingDataset
from .metrics import ranking_metrics, target_ranks


def baseline_metrics(
    score: Callable[[int], torch.Tensor], test: Split, num_items: int, batch_size: int = 512
) -> dict[str, float]:
    r"""
    Full-ranking metrics of scores that need no model.

    Args:
        score (`Callable`): Number of users -> `(num_users, num_items)` scores.
        test (`Split`): Histories and targets.
        num_items (`int`): Size of the catalogue.
        batch_size (`int`, *optional*, defaults to 512): Users at a time.

    Returns:
        `dict[str, float]`: As [`ranking_metrics`] gives them.
    """
    users = RankingDataset(test, text_embeds=np.empty((num_items, 0)))
    loader = DataLoader(users, batch_size, collate_fn=RankingCollator(max_length=1))
    ranks = [target_ranks(score(len(batch["labels"])), batch["labels"], batch["seen"]) for batch in loader]
    return ranking_metrics(torch.cat(ranks).numpy())


def popularity_metrics(train: Split, test: Split, num_items: int) -> dict[str, float]:
    """Every user gets the items most often interacted with in the training histories."""
    counts = torch.from_numpy(np.bincount(train.flat, minlength=num_items))
    return baseline_metrics(lambda users: counts.expand(users, -1), test, num_items)


def random_metrics(test: Split, num_items: int, seed: int = 0) -> dict[str, float]:
    """Every user gets an order of the catalogue drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return baseline_metrics(lambda users: torch.rand(users, num_items, generator=generator), test, num_items)


__all__ = ["baseline_metrics", "popularity_metrics", "random_metrics"]
