"""Ensembles of models: by their mean scores (teachers), and by their weights (WiSE-FT, arXiv 2109.01903)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from ..data import Domain
from ..modeling_unisrec import UniSRecModel, encode_catalogue
from ..modeling_unisrec.checkpoint import load_checkpoint


SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the fine-tuned weights that `--interpolate auto` compares


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
        return torch.cat([model.project_items(items) for model, items in parts], dim=-1)

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
            queries = model.project_sequences(states.flatten(0, 1)[query_index])
            parts.append(queries / model.config.score_temperature)
        return torch.cat(parts, dim=-1) / len(parts)


def parse_interpolation(value: str) -> float | None:
    r"""
    Share of the fine-tuned weights that `--interpolate` asks for.

    Args:
        value (`str`): `"auto"` or a number from 0 to 1.

    Returns:
        `float` or `None`: The share; `None` if validation users are to choose it.

    Raises:
        ValueError: If it is neither.
    """
    if value == "auto":
        return None
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(
            f"--interpolate is {value!r}, expected auto or the share of the fine-tuned weights, from 0 to 1."
        )
    return share


class WeightInterpolator:
    r"""
    Sets the trained weights of a model to `(1 - share) * start + share * end`.

    An ID embedding starts at random, which is nothing to keep: its rows are taken to start at 0.

    Args:
        model ([`UniSRecModel`]): The model before its training, with frozen what stays as it is.
    """

    def __init__(self, model: nn.Module):
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._start = {
            name: None if "item_embedding" in name else weight.detach().clone()
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def choose(self, shares: Sequence[float], measure: Callable[[], float]) -> dict[float, float]:
        r"""
        Leaves the model at the best of some shares.

        Args:
            shares (`Sequence[float]`): Shares of the weights that the model has now, the end of its training.
            measure (`Callable`): Measures the model as it is; more is better. A single share is not measured.

        Returns:
            `dict[float, float]`: Shares with what was measured, the best one first; of equals the larger one.
        """
        end = {name: weight.detach().clone() for name, weight in self._weights.items()}
        values = {}
        for share in shares:
            self._set(end, share)
            values[share] = measure() if len(shares) > 1 else float("nan")
        ranked = sorted(values.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        self._set(end, ranked[0][0])
        return dict(ranked)

    def _set(self, end: dict[str, torch.Tensor], share: float) -> None:
        for name, weight in self._weights.items():
            start = self._start[name]
            # `lerp` gives either end exactly.
            weight.copy_(end[name] * share if start is None else torch.lerp(start, end[name], share))


__all__ = ["SHARES", "Ensemble", "WeightInterpolator", "parse_interpolation"]
