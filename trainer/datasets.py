"""Training windows of histories, and the text vectors or texts of their items."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from ..data.splits import Split


class WindowDataset(Dataset):
    r"""
    Histories of one or several domains, cut into windows in which every item but the first of a history is a target
    exactly once.

    A window of n + 1 items gives n pairs (prefix, next item). Histories of up to `max_length + 1` items are one
    window; longer ones are cut from the end, so that the latest targets see the longest past.

    With `prefix_rows`, each target is a row of its own behind the items before it, the latest `max_length` of them, as
    in the official code: the same targets, at many times the cost.

    An index carries its epoch (`epoch * len(dataset) + window`, or with [`DomainSampler`] the pass over its domain), so
    that random draws can depend on seed, epoch and window alone: workers, prefetching, resuming and the number of
    processes do not change them.

    Nothing is copied: histories stay in the arrays of their splits, and an item gets its number when it is read.

    Args:
        splits (`Sequence[Split]`):
            Histories of each domain.
        num_items (`Sequence[int]`):
            Catalogue size of each domain. Items of domain d are numbered behind those of the domains before it.
        max_length (`int`):
            Most inputs of a window, the model's `max_position_embeddings`.
        prefix_rows (`bool`, *optional*, defaults to `False`):
            One row for each target.

    Raises:
        ValueError: If no history has two items.
    """

    def __init__(self, splits: Sequence[Split], num_items: Sequence[int], max_length: int, prefix_rows: bool = False):
        self.epoch = 0
        self.prefix_rows = prefix_rows
        self.flats = [split.flat for split in splits]
        starts, lengths, sequences = [], [], []
        first_sequence = 0
        for split, _ in zip(splits, num_items, strict=True):
            targets = np.maximum(np.diff(split.offsets) - 1, 0)
            step = 1 if prefix_rows else max_length  # targets of a window
            windows = -(-targets // step)
            sequence = np.repeat(np.arange(len(windows)), windows)
            from_end = np.arange(len(sequence)) - np.repeat(np.cumsum(windows) - windows, windows)
            stop = split.offsets[1:][sequence] - from_end * step
            start = np.maximum(split.offsets[:-1][sequence], stop - max_length - 1)
            starts.append(start)
            lengths.append((stop - start).astype(np.int32))
            sequences.append((sequence + first_sequence).astype(np.int32))
            first_sequence += len(windows)
        self.first_items = np.cumsum([0, *num_items])
        self.first_windows = np.cumsum([0, *map(len, starts)])  # of each domain
        self.starts, self.lengths = np.concatenate(starts), np.concatenate(lengths)
        self.sequences = np.concatenate(sequences)
        if len(self.starts) == 0:
            raise ValueError("No history has two items, so there is nothing to train on: check the domain's filters.")

    @property
    def num_targets(self) -> np.ndarray:
        """Targets of each window, `(num_windows,)`."""
        return np.ones_like(self.lengths) if self.prefix_rows else self.lengths - 1

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch starts."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.starts)

    def domains_of(self, indices: np.ndarray | int) -> np.ndarray:
        """Returns the number of the domain of each window in `indices`, which may include the epoch or not."""
        return np.searchsorted(self.first_windows, np.asarray(indices) % len(self), side="right") - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        window = index % len(self)
        domain = int(self.domains_of(window))
        start = self.starts[window]
        items = self.flats[domain][start : start + self.lengths[window]].astype(np.int64) + self.first_items[domain]
        return {
            "items": items,
            "first_target": len(items) - 1 if self.prefix_rows else 1,
            # A row of the official code knows nothing of the other rows of its history.
            "sequence": window if self.prefix_rows else int(self.sequences[window]),
            "index": int(index),
        }


class DomainFeatures:
    r"""
    Text vectors of several domains by the item numbers of [`WindowDataset`].

    Args:
        tables (`Sequence[np.ndarray]` of shape `(num_items, text_embedding_size)`):
            Text vectors of each domain, memory maps as a rule.
    """

    def __init__(self, tables: Sequence[np.ndarray]):
        self.tables = list(tables)
        self.first_items = np.cumsum([0] + [len(table) for table in tables])

    def __call__(self, items: np.ndarray) -> np.ndarray:
        """Vectors of items given in ascending order: `(n,)` in, `(n, text_embedding_size)` out."""
        cuts = np.searchsorted(items, self.first_items)
        vectors = np.empty((len(items), self.tables[0].shape[1]), dtype=np.float32)
        for table, first_item, start, stop in zip(self.tables, self.first_items, cuts[:-1], cuts[1:], strict=False):
            np.take(table, items[start:stop] - first_item, axis=0, out=vectors[start:stop])
        return vectors


class DomainTexts:
    r"""
    Item texts of several domains by the item numbers of [`WindowDataset`].

    Args:
        tables (`Sequence[Sequence[str]]`): Texts of each domain.
    """

    def __init__(self, tables: Sequence[Sequence[str]]):
        self.texts = [text for table in tables for text in table]

    def __call__(self, items: np.ndarray) -> list[str]:
        """Texts of item numbers."""
        return [self.texts[item] for item in items]


__all__ = [
    "DomainFeatures",
    "DomainTexts",
    "WindowDataset",
]
