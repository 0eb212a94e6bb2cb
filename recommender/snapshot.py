"""Immutable snapshot of the catalogue and its index."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any

import torch

from ..modeling_unisrec import ItemCatalogue, UniSRecProcessor, Where
from ..modeling_unisrec.item_columns import item_mask
from ..modeling_unisrec.text_neighbours import TextSpace
from .exact_index import ExactIndex
from .faiss_index import FaissIndex


@dataclass(frozen=True)
class Recommendation:
    """
    One recommended item.

    Args:
        item_id (`str`): Id of the item.
        text (`str`): Text of the item.
        score (`float`):
            Cosine of history and item, in [-1, 1], with text neighbours its mean with that of their texts; or their dot
            product for a model that compares by it. For an empty history, the share of the item in all counts of `popularity`, in [0, 1].
        columns (`Mapping[str, Any]`, *optional*): Columns of the item that were asked for, such as its price.
    """

    item_id: str
    text: str
    score: float
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        columns = f", columns={self.columns!r}" if self.columns else ""
        return f"Recommendation(item_id={self.item_id!r}, text={self.text!r}, score={self.score!r}{columns})"

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dictionary, with the columns behind the others."""
        return {"item_id": self.item_id, "text": self.text, "score": self.score, **self.columns}

    def to_json(self) -> dict[str, Any]:
        """Returns a dictionary that JSON can hold: numbers that are not finite are null, and dates and the like texts."""
        found = self.to_dict()
        for name, value in self.columns.items():
            if isinstance(value, float) and not math.isfinite(value):
                found[name] = None
            elif not isinstance(value, str | int | float | None):
                found[name] = str(value)
        return found


@dataclass(frozen=True)
class Snapshot:
    """State read by one call from beginning to end: a processor with its catalogue, and the index of its item
    vectors."""

    processor: UniSRecProcessor
    index: ExactIndex | FaissIndex
    state: tuple[Any, ...]  # state of the weights and text vectors that the index was built from
    reads_texts: bool  # whether the text vectors were computed from the texts
    space: TextSpace | None = None  # in which texts are compared; only with text neighbours

    @property
    def catalogue(self) -> ItemCatalogue:
        """The items, in the order of the rows of the index."""
        return self.processor.catalogue

    def candidates(
        self, allowed: Iterable[str] | None, blocked: Iterable[str] | None, where: Where | None = None
    ) -> torch.Tensor | None:
        """Returns a mask `(num_items,)` of the rows that may be recommended, or `None` for all. Raises `KeyError` for an
        unknown id, and `ValueError` for ids that are not a list of strings and for a condition as [`item_mask`] does."""
        if allowed is None and blocked is None and where is None:
            return None
        candidates = torch.full((len(self.catalogue),), allowed is None)
        candidates[self._rows("allowed", allowed)] = True
        candidates[self._rows("blocked", blocked)] = False
        return candidates if where is None else candidates & item_mask(self.catalogue, where)

    def _rows(self, name: str, item_ids: Iterable[str] | None) -> list[int]:
        if item_ids is None:
            return []
        if isinstance(item_ids, str) or not isinstance(item_ids, Iterable):
            raise ValueError(f"`{name}` is {item_ids!r}, expected a list of item ids: [{str(item_ids)!r}] for one")
        item_ids = list(item_ids)
        for item_id in item_ids:
            if not isinstance(item_id, str):
                raise ValueError(f"`{name}` holds {item_id!r}, a {type(item_id).__name__}; item ids are strings")
        return [self.catalogue.row(item_id) for item_id in item_ids]

    def recommendations(
        self, scores: torch.Tensor, rows: torch.Tensor, columns: Sequence[str] = ()
    ) -> list[list[Recommendation]]:
        """Converts search results, scores and rows of shape `(num_queries, top_k)`, to items with some of their
        columns."""
        ids, texts = self.catalogue.item_ids, self.catalogue.texts
        more: Iterator[dict[str, Any]] = repeat({})
        if columns:
            more = iter(self.catalogue.table(columns)[rows.flatten().numpy()].to_dicts())
        return [
            [
                Recommendation(ids[row], texts[row], score, values)
                for score, row, values in zip(*found, islice(more, len(found[0])), strict=True)
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
