"""Candidates of the softmax in a fine-tuning step: the whole catalogue, a sample of it, or the items of the batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from .batches.samplers import NegativeSampler
from .batches.window_batches import Layout, StaticShapes, WindowBatch, to_tensors
from .distributed import RowGatherer, lowest
from .losses import NO_CANDIDATE, catalogue_loss, sampled_softmax_loss


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

    def draw(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch with what the processor draws for it, which is no part of a recorded step."""
        return batch

    @abstractmethod
    def items(self, batch: dict[str, torch.Tensor]) -> StepItems:
        """Returns the items whose vectors the model must compute for a batch after `draw`."""

    @abstractmethod
    def select(
        self,
        batch: dict[str, torch.Tensor],
        items: StepItems,
        item_embeds: torch.Tensor,
        num_targets: int | torch.Tensor,
    ) -> Selection:
        r"""
        Returns the candidates of a batch, gathered from all processes.

        Args:
            batch (`dict[str, torch.Tensor]`): Batch of this process, made by `collator`.
            items ([`StepItems`]): Its items.
            item_embeds (`torch.FloatTensor` of shape `(num_items, hidden_size)`): Their vectors.
            num_targets (`int` or `torch.Tensor`): Number of targets in the batches of all processes.
        """


class CatalogueCandidates(Candidates):
    r"""
    The whole catalogue, as in the paper: the model computes all item vectors in every step.

    Args:
        text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*): Row of each item in the ID embedding.
        shapes ([`StaticShapes`], *optional*): Fixed shapes of the batches.
    """

    def __init__(
        self, text_embeds: torch.Tensor, id_rows: torch.Tensor | None = None, shapes: StaticShapes | None = None
    ):
        self.collator = FinetuneCollator(shapes)
        self.text_embeds = text_embeds
        self.id_rows = id_rows

    def items(self, batch: dict[str, torch.Tensor]) -> StepItems:
        return StepItems({"text_embeds": self.text_embeds, "id_rows": self.id_rows})

    def select(
        self,
        batch: dict[str, torch.Tensor],
        items: StepItems,
        item_embeds: torch.Tensor,
        num_targets: int | torch.Tensor,
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
        self,
        batch: dict[str, torch.Tensor],
        items: StepItems,
        item_embeds: torch.Tensor,
        num_targets: int | torch.Tensor,
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
        shapes ([`StaticShapes`], *optional*): Fixed shapes of the batches.
    """

    def __init__(
        self,
        text_embeds: torch.Tensor,
        id_rows: torch.Tensor | None,
        sampler: NegativeSampler,
        process: int = 0,
        num_processes: int = 1,
        shapes: StaticShapes | None = None,
    ):
        self.collator = SampledFinetuneCollator(shapes)
        self.text_embeds = text_embeds
        self.id_rows = id_rows
        self.sampler = sampler
        self._part = slice(process, None, num_processes)

    def draw(self, batch: dict[str, Any]) -> dict[str, Any]:
        first = lowest(batch["first_window"], batch["items"].device)
        return batch | {"negative_items": self.sampler.draw(first)[self._part]}

    def items(self, batch: dict[str, torch.Tensor]) -> StepItems:
        rows = torch.cat([batch["items"], batch["negative_items"]])
        real = rows.clamp(min=0)
        id_rows = None if self.id_rows is None else self.id_rows[real]
        return StepItems({"text_embeds": self.text_embeds[real], "id_rows": id_rows}, rows)

    def select(
        self,
        batch: dict[str, torch.Tensor],
        items: StepItems,
        item_embeds: torch.Tensor,
        num_targets: int | torch.Tensor,
    ) -> Selection:
        distinct = _distinct_items if self.collator.shapes is None else partial(_first_items, len(self.text_embeds))
        rows, embeds, places = distinct(items.rows, item_embeds)
        log_inclusion = self.sampler.log_inclusion(rows.clamp(min=0), num_targets)
        if self.collator.shapes is not None:
            log_inclusion = log_inclusion.masked_fill(rows < 0, NO_CANDIDATE)
        loss = partial(
            sampled_softmax_loss,
            labels=places[batch["labels"]],
            log_inclusion=log_inclusion,
            certain=places[batch["windows"]][batch["query_windows"]],
        )
        return Selection(embeds, rows.clamp(min=0), loss)


def _distinct_items(rows: torch.Tensor, item_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct catalogue rows of all processes, their vectors, and the place of each item of this process among them."""
    gather = RowGatherer(len(rows), rows.device)
    distinct, places = torch.unique(gather(rows), return_inverse=True)
    order = torch.arange(len(places), device=places.device)
    first = torch.full_like(distinct, len(places)).scatter_reduce(0, places, order, "amin")
    return distinct, gather(item_embeds)[first], places[gather.offset : gather.offset + len(rows)]


def _first_items(
    num_items: int, rows: torch.Tensor, item_embeds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As [`_distinct_items`], in a size that does not depend on the items: repeated items and padding keep their places and
    have the row -1."""
    gather = RowGatherer(len(rows), rows.device)
    rows, own = gather(rows), slice(gather.offset, gather.offset + len(rows))
    order = torch.arange(len(rows), device=rows.device)
    first = torch.full((num_items + 1,), len(rows), device=rows.device).scatter_reduce(0, rows + 1, order, "amin")
    places = first[rows + 1]
    return rows.masked_fill(places != order, -1), gather(item_embeds), places[own]


@dataclass
class FinetuneCollator:
    r"""
    Collates windows over one catalogue: each position that has a target with its next item.

    Args:
        shapes ([`StaticShapes`], *optional*):
            Packs windows into batches of a few fixed shapes. By default each window has a row.

    Returns:
        `item_index` `(batch_size, length)`: catalogue rows + 1, padded with 0 on the right; `query_index`
        `(num_targets,)`: places of the positions with a target in the flattened matrix; `labels` `(num_targets,)`:
        catalogue row of the next item at each; `num_targets` (`int`). With `shapes`, also `position_ids`
        `(batch_size, length)` and `is_target` `(num_targets,)`, `False` for padding.
    """

    shapes: StaticShapes | None = None

    def __call__(self, features: WindowBatch | Sequence[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        windows = WindowBatch.of(features)
        return _collate(windows, Layout(windows, self.shapes))


def _collate(windows: WindowBatch, layout: Layout) -> dict[str, torch.Tensor | int]:
    batch = {
        "item_index": layout.matrix(layout.places, windows.items[layout.entries] + 1),
        "query_index": layout.pad(layout.places[layout.queries]),
        "labels": layout.pad(windows.items[layout.entries[layout.queries] + 1]),
    }
    return to_tensors(batch | layout.extras()) | {"num_targets": len(layout.queries)}


def _as_rows(features: WindowBatch | Sequence[dict[str, Any]]) -> tuple[np.ndarray, WindowBatch]:
    """The distinct items of a batch in ascending order, and its windows as rows of them."""
    windows = WindowBatch.of(features)
    items, rows = np.unique(windows.items, return_inverse=True)
    return items, windows._replace(items=rows)


@dataclass
class SampledFinetuneCollator:
    r"""
    Collates windows over one catalogue for [`SampledCandidates`].

    Args:
        shapes ([`StaticShapes`], *optional*):
            Packs windows into batches of a few fixed shapes. By default each window has a row.

    Returns:
        `items` `(num_items,)`: catalogue rows of the distinct items of the batch, ascending, padded with -1; `item_index`
        `(batch_size, length)`: places in `items` + 1, padded with 0 on the right; `query_index` `(num_targets,)`: places
        of the positions with a target in the flattened matrix; `labels` `(num_targets,)`: place in `items` of the next
        item at each; `windows` `(num_windows, longest)`: places in `items` of all items of each window, padded with the
        first of them; `query_windows` `(num_targets,)`: window of each target; `first_window` (`int`): lowest index
        (with epoch) of the windows, which seeds the draw; `num_targets` (`int`). With `shapes`, also `position_ids`
        `(batch_size, length)` and `is_target` `(num_targets,)`, `False` for padding.
    """

    shapes: StaticShapes | None = None

    def __call__(self, features: WindowBatch | Sequence[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        items, windows = _as_rows(features)
        layout = Layout(windows, self.shapes)
        of_windows = windows.padded()
        if self.shapes is not None:  # as wide as the longest window of all
            of_windows = np.pad(of_windows, ((0, 0), (0, self.shapes.max_inputs + 1 - of_windows.shape[1])), "edge")
        batch = {
            "items": layout.pad(items, -1),
            "windows": layout.pad(of_windows),
            "query_windows": layout.pad(layout.windows[layout.queries]),
        }
        return _collate(windows, layout) | to_tensors(batch) | {"first_window": int(windows.indices.min())}


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
        the flattened matrix; `labels` `(num_targets,)`: place in `items` of the next item at each; `num_targets` (`int`).
    """

    texts: Sequence[str]
    tokenize: Callable[[list[str]], dict[str, torch.Tensor]]

    def __call__(self, features: WindowBatch | Sequence[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        items, windows = _as_rows(features)
        tokens = self.tokenize([self.texts[item] for item in items])
        return _collate(windows, Layout(windows)) | {"items": torch.from_numpy(items)} | tokens


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
