"""Candidates of the softmax in a fine-tuning step: the whole catalogue, a sample of it, or the items of the batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..evaluation.ranking import pad_rows
from .data_collator import query_places, target_items
from .distributed import RowGatherer, lowest
from .losses import catalogue_loss, sampled_softmax_loss
from .samplers import NegativeSampler


class StepItems(NamedTuple):
    r"""
    Items whose vectors the model computes in one step of this process.

    Args:
        inputs (`dict[str, torch.Tensor]`):
            Arguments of [`UniSRecModel`] with one row per item: `text_embeds` or tokens, and `id_rows`.
        rows (`torch.LongTensor` of shape `(num_items,)`, *optional*):
            Catalogue row of each item. By default the items are the catalogue, in its order.
    """

    inputs: dict[str, torch.Tensor | None]
    rows: torch.Tensor | None = None

    def catalogue_index(self, item_index: torch.Tensor) -> torch.Tensor:
        """Converts histories of item numbers + 1 into histories of catalogue rows + 1; 0 remains padding."""
        return item_index if self.rows is None else F.pad(self.rows + 1, (1, 0))[item_index]


class Selection(NamedTuple):
    r"""
    Candidates of one step, the same in all processes.

    Args:
        item_embeds (`torch.FloatTensor` of shape `(num_candidates, hidden_size)`): Their item vectors.
        rows (`torch.LongTensor` of shape `(num_candidates,)` or `slice`): Their catalogue rows.
        loss (`Callable`):
            Loss of queries and candidate vectors with `soft_targets`: [`catalogue_loss`] or [`sampled_softmax_loss`] with
            the labels of the step.
    """

    item_embeds: torch.Tensor
    rows: torch.Tensor | slice
    loss: Callable[..., torch.Tensor]


class Candidates(ABC):
    r"""
    Kind of candidates of fine-tuning.

    Attributes:
        collator (`Callable`): Makes the batches that `items` and `select` take.
    """

    collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]

    @abstractmethod
    def items(self, batch: dict[str, torch.Tensor]) -> StepItems:
        """Returns the items whose vectors the model must compute for a batch."""

    @abstractmethod
    def select(
        self, batch: dict[str, torch.Tensor], items: StepItems, item_embeds: torch.Tensor, num_targets: int
    ) -> Selection:
        r"""
        Returns the candidates of a batch, gathered from all processes.

        Args:
            batch (`dict[str, torch.Tensor]`): Batch of this process, made by `collator`.
            items ([`StepItems`]): Its items.
            item_embeds (`torch.FloatTensor` of shape `(num_items, hidden_size)`): Their vectors.
            num_targets (`int`): Number of targets in the batches of all processes.
        """


class CatalogueCandidates(Candidates):
    r"""
    The whole catalogue, as in the paper: the model computes all item vectors in every step.

    Args:
        text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*): Row of each item in the ID embedding.
    """

    def __init__(self, text_embeds: torch.Tensor, id_rows: torch.Tensor | None = None):
        self.collator = FinetuneCollator()
        self.text_embeds = text_embeds
        self.id_rows = id_rows

    def items(self, batch: dict[str, torch.Tensor]) -> StepItems:
        return StepItems({"text_embeds": self.text_embeds, "id_rows": self.id_rows})

    def select(
        self, batch: dict[str, torch.Tensor], items: StepItems, item_embeds: torch.Tensor, num_targets: int
    ) -> Selection:
        return Selection(item_embeds, slice(None), partial(catalogue_loss, labels=batch["labels"]))


class BatchCandidates(Candidates):
    r"""
    The items of the batches of all processes, for a text encoder in training, which encodes only their texts.

    Args:
        collator ([`TextFinetuneCollator`]): Adds the tokens of the items to each batch.
        id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*): Row of each item in the ID embedding.
    """

    def __init__(
        self,
        collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]],
        id_rows: torch.Tensor | None = None,
    ):
        self.collator = collator
        self.id_rows = id_rows

    def items(self, batch: dict[str, torch.Tensor]) -> StepItems:
        tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
        id_rows = None if self.id_rows is None else self.id_rows[batch["items"]]
        return StepItems(tokens | {"id_rows": id_rows}, batch["items"])

    def select(
        self, batch: dict[str, torch.Tensor], items: StepItems, item_embeds: torch.Tensor, num_targets: int
    ) -> Selection:
        distinct, embeds, places = _distinct_items(items.rows, item_embeds)
        return Selection(embeds, distinct, partial(catalogue_loss, labels=places[batch["labels"]]))


class SampledCandidates(Candidates):
    r"""
    The items of the batches of all processes and a uniform draw from the catalogue, with [`sampled_softmax_loss`].

    The draw is shared by all processes. It depends on the seed and the windows of the step, not on workers, resuming or
    the number of processes.

    Args:
        text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*): Row of each item in the ID embedding.
        sampler ([`NegativeSampler`]): Draws the negatives.
        process (`int`, *optional*, defaults to 0): Index of this process.
        num_processes (`int`, *optional*, defaults to 1): Number of processes that share the draw.
    """

    def __init__(
        self,
        text_embeds: torch.Tensor,
        id_rows: torch.Tensor | None,
        sampler: NegativeSampler,
        process: int = 0,
        num_processes: int = 1,
    ):
        self.collator = SampledFinetuneCollator()
        self.text_embeds = text_embeds
        self.id_rows = id_rows
        self.sampler = sampler
        self._part = slice(process, None, num_processes)

    def items(self, batch: dict[str, torch.Tensor]) -> StepItems:
        own = batch["items"]
        drawn = self.sampler.draw(lowest(batch["first_window"], own.device))
        rows = torch.cat([own, drawn[self._part]])
        id_rows = None if self.id_rows is None else self.id_rows[rows]
        return StepItems({"text_embeds": self.text_embeds[rows], "id_rows": id_rows}, rows)

    def select(
        self, batch: dict[str, torch.Tensor], items: StepItems, item_embeds: torch.Tensor, num_targets: int
    ) -> Selection:
        distinct, embeds, places = _distinct_items(items.rows, item_embeds)
        length = batch["item_index"].shape[1]
        loss = partial(
            sampled_softmax_loss,
            labels=places[batch["labels"]],
            log_inclusion=self.sampler.log_inclusion(distinct, num_targets),
            certain=places[batch["windows"]][batch["query_index"] // length],
        )
        return Selection(embeds, distinct, loss)


def _distinct_items(rows: torch.Tensor, item_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct catalogue rows of all processes, their vectors, and the place of each item of this process among them."""
    gather = RowGatherer(len(rows), rows.device)
    distinct, places = torch.unique(gather(rows), return_inverse=True)
    order = torch.arange(len(places), device=places.device)
    first = torch.full_like(distinct, len(places)).scatter_reduce(0, places, order, "amin")
    return distinct, gather(item_embeds)[first], places[gather.offset : gather.offset + len(rows)]


@dataclass
class FinetuneCollator:
    r"""
    Collates windows over one catalogue: each position that has a target with its next item.

    Returns:
        `item_index` `(batch_size, length)`: catalogue rows + 1, padded with 0 on the right; `query_index`
        `(num_targets,)`: places of the positions with a target in the flattened matrix; `labels` `(num_targets,)`:
        catalogue row of the next item at each.
    """

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        windows = [feature["items"] for feature in features]
        length = max(map(len, windows)) - 1
        return {
            "item_index": torch.from_numpy(pad_rows([window[:-1] + 1 for window in windows], length, 0)),
            "query_index": torch.from_numpy(query_places(features, length)),
            "labels": torch.from_numpy(target_items(features, windows)),
        }


def _as_rows(features: Sequence[dict[str, Any]]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The distinct items of a batch in ascending order, and its windows as rows of them."""
    windows = [feature["items"] for feature in features]
    items, rows = np.unique(np.concatenate(windows), return_inverse=True)
    places = np.split(rows, np.cumsum([len(window) for window in windows])[:-1])
    return items, [feature | {"items": window} for feature, window in zip(features, places, strict=True)]


@dataclass
class SampledFinetuneCollator:
    r"""
    Collates windows over one catalogue for [`SampledCandidates`].

    Returns:
        `items` `(num_items,)`: catalogue rows of the distinct items of the batch, ascending; `item_index`
        `(batch_size, length)`: places in `items` + 1, padded with 0 on the right; `query_index` `(num_targets,)`: places
        of the positions with a target in the flattened matrix; `labels` `(num_targets,)`: place in `items` of the next
        item at each; `windows` `(batch_size, length + 1)`: places in `items` of all items of each window, padded with the
        first of them; `first_window` (`int`): lowest index (with epoch) of the windows, which seeds the draw.
    """

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        items, in_rows = _as_rows(features)
        batch = FinetuneCollator()(in_rows)
        windows = pad_rows([feature["items"] for feature in in_rows], batch["item_index"].shape[1] + 1, -1)
        return batch | {
            "items": torch.from_numpy(items),
            "windows": torch.from_numpy(np.where(windows < 0, windows[:, :1], windows)),
            "first_window": min(feature["index"] for feature in features),
        }


@dataclass
class TextFinetuneCollator:
    r"""
    Collates windows over one catalogue for [`BatchCandidates`].

    Args:
        texts (`Sequence[str]`): Text of each item of the catalogue.
        tokenize (`Callable`): Converts texts into `input_ids` and `attention_mask`, see [`UniSRecProcessor.tokenize`].

    Returns:
        `items` `(num_items,)`: catalogue rows of the distinct items of the batch, ascending; `input_ids` and
        `attention_mask` `(num_items, num_tokens)`: tokens of their texts; `item_index` `(batch_size, length)`: places in
        `items` + 1, padded with 0 on the right; `query_index` `(num_targets,)`: places of the positions with a target in
        the flattened matrix; `labels` `(num_targets,)`: place in `items` of the next item at each.
    """

    texts: Sequence[str]
    tokenize: Callable[[list[str]], dict[str, torch.Tensor]]

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        items, in_rows = _as_rows(features)
        tokens = self.tokenize([self.texts[item] for item in items])
        return FinetuneCollator()(in_rows) | {"items": torch.from_numpy(items)} | tokens


__all__ = [
    "BatchCandidates",
    "Candidates",
    "CatalogueCandidates",
    "FinetuneCollator",
    "SampledCandidates",
    "SampledFinetuneCollator",
    "Selection",
    "StepItems",
    "TextFinetuneCollator",
]
