"""Ensembles of trained models, which rank by their mean score or teach another model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from ..configuration import UniSRecConfig
from ..data import Domain
from ..modeling_unisrec import UniSRecModel, encode_catalogue, unit_vectors
from ..modeling_unisrec.checkpoint import load_checkpoint


def score_queries(config: UniSRecConfig, sequence_embeds: torch.Tensor) -> torch.Tensor:
    """Vectors whose products with [`score_candidates`] are the scores of a model, [`UniSRecModel.score`]."""
    return sequence_embeds if config.similarity == "dot" else unit_vectors(sequence_embeds) / config.temperature


def score_candidates(config: UniSRecConfig, item_embeds: torch.Tensor) -> torch.Tensor:
    """Returns the candidate vectors that match those of [`score_queries`]."""
    return item_embeds if config.similarity == "dot" else unit_vectors(item_embeds)


@dataclass(frozen=True)
class Ensemble:
    r"""
    Models of one catalogue whose scores are averaged.

    The mean of the products is the product of the vectors laid end to end, so an ensemble has one vector for each item
    and one for each history, too.

    Args:
        models (`Sequence[UniSRecModel]`): In evaluation mode, without text encoders.
        item_embeds (`Sequence[torch.Tensor]`): Item vectors of the catalogue by each, `(num_items, hidden_size)`.
    """

    models: Sequence[UniSRecModel]
    item_embeds: Sequence[torch.Tensor]

    @classmethod
    def load(cls, names: Sequence[str | os.PathLike], domain: Domain, device: torch.device) -> "Ensemble":
        """Checkpoints that were fine-tuned on `domain`, whose text vectors they bring along; `ValueError` if one knows
        another catalogue."""
        models, item_embeds = [], []
        for name in names:
            model, processor = load_checkpoint(name)
            catalogue = processor.catalogue
            if catalogue is None or catalogue.item_ids != domain.items["item_id"].to_list():
                raise ValueError(
                    f"{name}: its catalogue is not that of {domain.name}; fine-tune it on this domain first."
                )
            model.detach_text_encoder()
            models.append(model.to(device).eval().requires_grad_(False))
            item_embeds.append(encode_catalogue(model, catalogue))
        return cls(models, item_embeds)

    @property
    def max_length(self) -> int:
        """Longest history that all of the models take."""
        return min(model.config.max_position_embeddings for model in self.models)

    @cached_property
    def candidates(self) -> torch.Tensor:
        """Vectors of the catalogue, `(num_items, size)`, as wide as all models together."""
        parts = zip(self.models, self.item_embeds, strict=True)
        return torch.cat([score_candidates(model.config, items) for model, items in parts], dim=-1)

    @torch.no_grad()
    def queries(self, item_index: torch.Tensor, query_index: torch.Tensor) -> torch.Tensor:
        r"""
        Vectors whose products with `candidates` are the mean scores.

        Args:
            item_index (`torch.LongTensor` of shape `(batch_size, length)`):
                Histories: catalogue rows + 1, 0 is padding on the right.
            query_index (`torch.LongTensor` of shape `(num_queries,)`):
                Places in the flattened histories after whose items a next one is asked for.

        Returns:
            `torch.FloatTensor` of shape `(num_queries, size)`.
        """
        parts = []
        for model, item_embeds in zip(self.models, self.item_embeds, strict=True):
            states = model.sequence_encoder(F.embedding((item_index - 1).clamp(min=0), item_embeds))
            parts.append(score_queries(model.config, states.flatten(0, 1)[query_index]))
        return torch.cat(parts, dim=-1) / len(parts)


__all__ = ["Ensemble", "score_candidates", "score_queries"]
