"""Ensembles of models: by their mean scores (teachers), and by their weights (WiSE-FT, arXiv 2109.01903); the default settings
of fine-tuning that keep what was learned before."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.nn import functional as F

from ..configuration import UniSRecConfig
from ..data import Domain
from ..modeling_unisrec import UniSRecModel
from ..modeling_unisrec.checkpoint import load_checkpoint
from ..modeling_unisrec.pipeline_unisrec import encode_catalogue


if TYPE_CHECKING:
    from .training_args import UniSRecFinetuneArguments


# Dropout of the sequence encoder where it is trained on from trained weights. A checkpoint for many shops is trained with less,
# with which it overfits a single one; docs/results_base.md, "Office, fine-tuned from the base checkpoint".
TRANSFER_DROPOUT = 0.5
# Below so many interactions, a model keeps a part of what it had learned before. Same place; Office has 22,447.
SMALL_DOMAIN, SMALL_DOMAIN_SHARE = 50_000, "0.8"
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the fine-tuned weights that `--interpolate auto` compares
TEXT_SHARES = tuple(step / 10 for step in range(10))  # of text neighbours in the score
# The validation users have chosen the best epoch, which makes the model look better on them than on others, but not the texts,
# which nothing is trained on. So the largest share is taken that costs them little; docs/results_base.md, same place.
TEXT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Ensemble:
    r"""
    Models of the same catalogue whose scores are averaged.

    The mean of inner products is the inner product of concatenated vectors, so an ensemble, like a model, has one vector per
    item and one per history.

    Args:
        models (`Sequence[UniSRecModel]`): Models in evaluation mode, without text encoders.
        item_embeds (`Sequence[torch.Tensor]`): Item vectors of each model, `(num_items, hidden_size)`.
    """

    models: Sequence[UniSRecModel]
    item_embeds: Sequence[torch.Tensor]

    @classmethod
    def load(cls, names: Sequence[str | os.PathLike], domain: Domain, device: torch.device) -> "Ensemble":
        """Loads checkpoints that were fine-tuned on `domain` and contain its text vectors. Raises `ValueError` if one has
        another catalogue, `OSError` if one cannot be loaded."""
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
        """Maximum length of histories that all models accept."""
        return min(model.config.max_position_embeddings for model in self.models)

    @cached_property
    def candidates(self) -> torch.Tensor:
        """Catalogue vectors `(num_items, size)`, where `size` is the sum of the hidden sizes."""
        parts = zip(self.models, self.item_embeds, strict=True)
        return torch.cat([model.project_items(items) for model, items in parts], dim=-1)

    @torch.no_grad()
    def queries(
        self, item_index: torch.Tensor, query_index: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        r"""
        Returns query vectors whose inner products with `candidates` are the mean scores.

        Args:
            item_index (`torch.LongTensor` of shape `(batch_size, length)`):
                Histories: catalogue rows + 1, padded with 0 on the right.
            query_index (`torch.LongTensor` of shape `(num_queries,)`):
                Places in the flattened histories whose next item is scored.
            position_ids (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                Place of each item in its history, if several histories share a row.

        Returns:
            `torch.FloatTensor` of shape `(num_queries, size)`.
        """
        parts = []
        for model, item_embeds in zip(self.models, self.item_embeds, strict=True):
            inputs = F.embedding((item_index - 1).clamp(min=0), item_embeds)
            states = model.sequence_encoder(inputs, position_ids=position_ids)
            queries = model.project_sequences(states.flatten(0, 1)[query_index])
            parts.append(queries / model.config.score_temperature)
        return torch.cat(parts, dim=-1) / len(parts)


def parse_interpolation(value: str) -> float | None:
    r"""
    Parses the share of the fine-tuned weights in `--interpolate`.

    Args:
        value (`str`): `"auto"` or a number from 0 to 1.

    Returns:
        `float` or `None`: The share, or `None` for `"auto"`.

    Raises:
        ValueError: If the value is neither.
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


def choose_text_neighbours(
    config: UniSRecConfig, measure: Callable[[], float], shares: Sequence[float] | None = None
) -> dict[float, float]:
    r"""
    Sets the share of text neighbours in the score to the largest of several shares, from 0 on, up to which the metric is never
    more than 1 % below its best value.

    Args:
        config ([`UniSRecConfig`]): Configuration of a model with texts that compares by the cosine.
        measure (`Callable`): Returns the metric with the current `text_neighbours` of `config`; higher is better.
        shares (`Sequence[float]`, *optional*): Shares from 0 on. Defaults to 0, .1, .2 and so on up to .9.

    Returns:
        `dict[float, float]`: Metric of each share that was tried. The one that was chosen is in `config`.
    """
    values: dict[float, float] = {}
    chosen = 0.0
    for share in TEXT_SHARES if shares is None else shares:
        config.text_neighbours = share
        values[share] = measure()
        best = max(values.values())
        if values[share] < best - TEXT_TOLERANCE * abs(best):
            break
        chosen = share
    config.text_neighbours = chosen
    return values


class WeightInterpolator:
    r"""
    Sets the trained weights of a model to `(1 - share) * start + share * end`.

    The random initial values of an ID embedding are not worth keeping; its rows are interpolated from 0.

    Args:
        model ([`UniSRecModel`]): Model before training. Frozen weights are left alone.
        keep_ids (`bool`, *optional*, defaults to `False`): Whether the ID embedding was trained before.
    """

    def __init__(self, model: nn.Module, keep_ids: bool = False):
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._start = {
            name: None if "item_embedding" in name and not keep_ids else weight.detach().clone()
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def choose(self, shares: Sequence[float], measure: Callable[[], float]) -> dict[float, float]:
        r"""
        Sets the model to the best of several shares.

        Args:
            shares (`Sequence[float]`): Shares of the current weights, those at the end of training.
            measure (`Callable`): Returns the metric of the model with its current weights; higher is better. It is not
                called for a single share.

        Returns:
            `dict[float, float]`: Metric of each share, the best share first. Ties go to the larger share.
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
            # `lerp` is exact at both ends.
            weight.copy_(end[name] * share if start is None else torch.lerp(start, end[name], share))


class Start:
    """
    A model as it was before training, without an ID embedding, to return to it if validation is worse afterwards.

    Args:
        model ([`UniSRecModel`]): Model before training.
        text_neighbours (`float`): Share of text neighbours with which it ranks.
    """

    def __init__(self, model: UniSRecModel, text_neighbours: float):
        self._config, self._weights = model.config, WeightInterpolator(model)
        self._text_neighbours = text_neighbours

    def compare(self, measure: Callable[[], float]) -> tuple[float, float]:
        """Sets the model to the better one of both, after a tie to the current one. Returns the metric before training and of
        the current model; `measure` returns that of the weights and the configuration of the moment, higher is better."""
        shares = self._text_neighbours, self._config.text_neighbours
        waiting = iter(shares)

        def measure_next() -> float:
            self._config.text_neighbours = next(waiting)
            return measure()

        values = self._weights.choose((0.0, 1.0), measure_next)
        self._config.text_neighbours = shares[int(next(iter(values)))]
        return values[0.0], values[1.0]


def choose_recipe(config: UniSRecConfig, args: "UniSRecFinetuneArguments", domain: Domain) -> str | None:
    """Sets `args.dropout` and `args.interpolate`, unless they were given, and returns the line that says so."""
    if args.lora is not None or args.freeze_sequence_encoder:
        return None
    chosen, before = [], {config.hidden_dropout, config.attention_dropout}
    if args.dropout is None and 0 not in before and before != {TRANSFER_DROPOUT}:  # none is deliberate
        args.dropout = TRANSFER_DROPOUT
        shown = " and ".join(f"{each:g}" for each in sorted(before))
        chosen.append(f"with a dropout of {TRANSFER_DROPOUT:g} instead of {shown} (`dropout`)")
    is_small = domain.num_interactions < SMALL_DOMAIN
    if args.interpolate is None and is_small and not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        args.interpolate = SMALL_DOMAIN_SHARE
        chosen.append(f"and {SMALL_DOMAIN_SHARE} of the change is kept, as the domain is small (`interpolate`)")
    return f"all layers are trained, {', '.join(chosen)}" if chosen else None


def set_dropout(model: UniSRecModel, dropout: float) -> None:
    """Sets the dropout of hidden states and of attention weights in the sequence encoder."""
    model.config.hidden_dropout = model.config.attention_dropout = dropout
    for module in model.sequence_encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


__all__ = [
    "SHARES",
    "SMALL_DOMAIN",
    "SMALL_DOMAIN_SHARE",
    "TRANSFER_DROPOUT",
    "Ensemble",
    "Start",
    "WeightInterpolator",
    "choose_recipe",
    "choose_text_neighbours",
    "parse_interpolation",
    "set_dropout",
]
