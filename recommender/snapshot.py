"""Immutable snapshot of the catalogue and its index."""

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..modeling_unisrec import ItemCatalogue, UniSRecProcessor
from .exact_index import ExactIndex
from .faiss_index import FaissIndex


@dataclass(frozen=True)
class Recommendation:
    """
    One recommended item.

    Args:
        item_id (`str`): Id of the item.
        text (`str`): Text of the item.
        score (`float`): Cosine of history and item, in [-1, 1], or their dot product for a model that compares by it.
    """

    item_id: str
    text: str
    score: float

    def to_dict(self) -> dict[str, str | float]:
        """Returns a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Snapshot:
    """State read by one call from beginning to end: a processor with its catalogue, and the index of its item
    vectors."""

    processor: UniSRecProcessor
    index: ExactIndex | FaissIndex
    state: tuple[Any, ...]  # state of the weights and text vectors that the index was built from
    reads_texts: bool  # whether the text vectors were computed from the texts

    @property
    def catalogue(self) -> ItemCatalogue:
        """The items, in the order of the rows of the index."""
        return self.processor.catalogue

    def candidates(self, allowed: Iterable[str] | None, blocked: Iterable[str] | None) -> torch.Tensor | None:
        """Returns a mask `(num_items,)` of the rows that may be recommended, or `None` for all. Raises `KeyError`."""
        if allowed is None and blocked is None:
            return None
        candidates = torch.full((len(self.catalogue),), allowed is None)
        candidates[[self.catalogue.row(item_id) for item_id in allowed or ()]] = True
        candidates[[self.catalogue.row(item_id) for item_id in blocked or ()]] = False
        return candidates

    def recommendations(self, scores: torch.Tensor, rows: torch.Tensor) -> list[list[Recommendation]]:
        """Converts search results, scores and rows of shape `(num_queries, top_k)`, to items."""
        ids, texts = self.catalogue.item_ids, self.catalogue.texts
        return [
            [
                Recommendation(ids[row], texts[row], score)
                for score, row in zip(*found, strict=True)
                if score > -torch.inf
            ]
            for found in zip(scores.tolist(), rows.tolist(), strict=True)
        ]


def with_catalogue(processor: UniSRecProcessor, catalogue: ItemCatalogue) -> UniSRecProcessor:
    """Returns a processor with the same settings and another catalogue."""
    processor = copy.copy(processor)
    processor.catalogue = catalogue
    return processor


__all__ = ["Recommendation", "Snapshot", "with_catalogue"]
