"""Training windows of histories, and the text vectors or texts of their items."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ...data.splits import Split
from .window_batches import WindowBatch


class WindowDataset(Dataset):
    r"""
    Histories of one or several domains, cut into windows such that each item but the first of a history is a target
    exactly once.

    A window of n + 1 items contains n pairs (prefix, next item). A history of up to `max_length + 1` items is one window.
    A longer one is cut from the end, so that the latest targets have the longest prefixes.

    With `prefix_rows`, each target has a row of its own with the latest `max_length` items before it, as in the official
    code: the same targets at many times the cost.

    An index encodes its epoch (`epoch * len(dataset) + window`, or with [`DomainSampler`] the pass over its domain), so
    that random draws can depend on seed, epoch and window alone: workers, prefetching, resuming and the number of
    processes do not change them.

    Histories are not copied from the arrays of their splits; items are numbered when they are read.

    Args:
        splits (`Sequence[Split]`):
            Training histories of each domain.
        num_items (`Sequence[int]`):
            Catalogue size of each domain. The items of a domain are numbered after those of the previous domains.
        max_length (`int`):
            Maximum number of inputs of a window, the `max_position_embeddings` of the model.
        prefix_rows (`bool`, *optional*, defaults to `False`):
            Whether each target has a row of its own.

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
        """Number of targets of each window, `(num_windows,)`."""
        return np.ones_like(self.lengths) if self.prefix_rows else self.lengths - 1

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; called by `Trainer` when an epoch starts."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.starts)

    def domains_of(self, indices: np.ndarray | int) -> np.ndarray:
        """Returns the domain numbers of window indices, with or without epoch."""
        return np.searchsorted(self.first_windows, np.asarray(indices) % len(self), side="right") - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        window = index % len(self)
        domain = int(self.domains_of(window))
        start = self.starts[window]
        items = self.flats[domain][start : start + self.lengths[window]].astype(np.int64) + self.first_items[domain]
        return {
            "items": items,
            "first_target": len(items) - 1 if self.prefix_rows else 1,
            # In the official code, the rows of one history are independent.
            "sequence": window if self.prefix_rows else int(self.sequences[window]),
            "index": int(index),
        }

    def __getitems__(self, indices: Sequence[int]) -> WindowBatch:
        """Returns several windows at once; called by `DataLoader` for each batch."""
        indices = np.asarray(indices)
        windows = indices % len(self)
        lengths, domains = self.lengths[windows].astype(np.int64), self.domains_of(windows)
        stops = np.cumsum(lengths)
        places = np.arange(stops[-1]) + np.repeat(self.starts[windows] - (stops - lengths), lengths)
        domain_of_entry = np.repeat(domains, lengths)
        items = np.empty(len(places), dtype=np.int64)
        for domain in np.unique(domains):
            entries = domain_of_entry == domain
            items[entries] = self.flats[domain][places[entries]] + self.first_items[domain]
        return WindowBatch(
            items,
            lengths,
            first_targets=lengths - 1 if self.prefix_rows else np.ones_like(lengths),
            # In the official code, the rows of one history are independent.
            sequences=windows if self.prefix_rows else self.sequences[windows].astype(np.int64),
            indices=indices,
        )


class DomainFeatures:
    r"""
    Looks up text vectors of several domains by the item numbers of [`WindowDataset`].

    Args:
        tables (`Sequence[np.ndarray]` of shape `(num_items, text_embedding_size)`):
            Text vectors of each domain, usually memory-mapped.
    """

    def __init__(self, tables: Sequence[np.ndarray]):
        self.tables = list(tables)
        self.first_items = np.cumsum([0] + [len(table) for table in tables])

    def __call__(self, items: np.ndarray) -> np.ndarray:
        """Returns the text vectors `(n, text_embedding_size)` of ascending item numbers `(n,)`."""
        cuts = np.searchsorted(items, self.first_items)
        vectors = np.empty((len(items), self.tables[0].shape[1]), dtype=np.float32)
        for table, first_item, start, stop in zip(self.tables, self.first_items, cuts[:-1], cuts[1:], strict=False):
            np.take(table, items[start:stop] - first_item, axis=0, out=vectors[start:stop])
        return vectors

    def to_tensor(self) -> torch.Tensor:
        """Returns all text vectors `(num_items, text_embedding_size)`, in the order of the item numbers."""
        return torch.from_numpy(np.concatenate(self.tables).astype(np.float32, copy=False))


class DomainTexts:
    r"""
    Looks up item texts of several domains by the item numbers of [`WindowDataset`].

    Args:
        tables (`Sequence[Sequence[str]]`): Texts of each domain.
    """

    def __init__(self, tables: Sequence[Sequence[str]]):
        self.texts = [text for table in tables for text in table]

    def __call__(self, items: np.ndarray) -> list[str]:
        """Returns the texts of item numbers `(n,)`."""
        return [self.texts[item] for item in items]


__all__ = [
    "DomainFeatures",
    "DomainTexts",
    "WindowDataset",
]
