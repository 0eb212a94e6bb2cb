"""Scores of the catalogue by a model, as evaluations rank them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from ..modeling_unisrec import UniSRecModel
from .ranking import TargetRanker
from .relevance import Scorer


def model_scores(
    model: UniSRecModel,
    text_embeds: np.ndarray,
    text_neighbours: float | None = None,
    whole_weights: Callable[[UniSRecModel], AbstractContextManager] = nullcontext,
) -> Scorer:
    r"""
    Returns a function that scores the catalogue by a model.

    Args:
        model ([`UniSRecModel`]): In evaluation mode, on the device of the batches.
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        text_neighbours (`float`, *optional*): As for [`TargetRanker`].
        whole_weights (`Callable`, *optional*): As for [`rank_batches`].

    Returns:
        `Callable`: Scorer of [`rank_users`], which lowers the items of histories that are kept, if it is told the share. The
        temperature, which changes no rank, is left out.
    """
    with whole_weights(model):
        ranker = TargetRanker(model, text_embeds, text_neighbours)

    def score(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with whole_weights(model):
            queries = ranker.queries(batch["item_index"])
        return (queries @ ranker.candidates.T).float()

    return score


__all__ = ["model_scores"]
