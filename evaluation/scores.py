"""Scores of the catalogue by a model, as evaluations rank them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from ..modeling_unisrec import UniSRecModel, encode_items, mix, recent_texts
from .ranking import catalogue_tensors
from .relevance import Scorer


@torch.inference_mode()
def model_scores(
    model: UniSRecModel,
    text_embeds: np.ndarray,
    text_neighbours: float = 0.0,
    whole_weights: Callable[[UniSRecModel], AbstractContextManager] = nullcontext,
) -> Scorer:
    r"""
    Returns a function that scores the catalogue by a model.

    Args:
        model ([`UniSRecModel`]): In evaluation mode, on the device of the batches.
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        text_neighbours (`float`, *optional*, defaults to 0.0): As for [`compare`].
        whole_weights (`Callable`, *optional*): As for [`rank_batches`].

    Returns:
        `Callable`: Scorer of [`rank_users`]. The temperature, which changes no rank, is left out.
    """
    with whole_weights(model):
        items = encode_items(model, **catalogue_tensors(text_embeds, torch.device("cpu")))
    texts = torch.from_numpy(np.array(text_embeds, dtype=np.float32)).to(items.device)
    candidates = mix(model.project_items(items), texts, text_neighbours)

    def score(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with whole_weights(model):
            queries = model.project_sequences(model.get_sequence_features(batch["item_index"], items))
        if text_neighbours:
            queries = mix(queries, recent_texts(batch["item_index"], texts), text_neighbours)
        return (queries @ candidates.T).float()

    return score


__all__ = ["model_scores"]
