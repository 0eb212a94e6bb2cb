"""Windows of a batch, and their places in its matrix: a row for each window, or packed rows of a few fixed shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch


class WindowBatch(NamedTuple):
    r"""
    Windows of a [`WindowDataset`], one after the other.

    Args:
        items (`np.ndarray` of shape `(num_entries,)`): Items of all windows.
        lengths (`np.ndarray` of shape `(num_windows,)`): Number of items of each window.
        first_targets (`np.ndarray` of shape `(num_windows,)`): Place in each window of the first item that is a target.
        sequences (`np.ndarray` of shape `(num_windows,)`): Number of the history of each window.
        indices (`np.ndarray` of shape `(num_windows,)`): Index of each window, with its epoch.
    """

    items: np.ndarray
    lengths: np.ndarray
    first_targets: np.ndarray
    sequences: np.ndarray
    indices: np.ndarray

    @classmethod
    def of(cls, features: "WindowBatch | Sequence[dict[str, Any]]") -> "WindowBatch":
        """Converts a list of elements of a [`WindowDataset`]; a batch is returned as it is."""
        if isinstance(features, cls):
            return features
        names = ("first_target", "sequence", "index")
        return cls(
            np.concatenate([feature["items"] for feature in features]),
            np.array([len(feature["items"]) for feature in features]),
            *(np.array([feature[name] for feature in features]) for name in names),
        )

    def padded(self) -> np.ndarray:
        """The items of each window in a row, padded with its first item, `(num_windows, longest)`."""
        places = np.arange(self.lengths.max())
        starts = np.cumsum(self.lengths) - self.lengths
        return self.items[starts[:, None] + np.where(places < self.lengths[:, None], places, 0)]


@dataclass(frozen=True)
class StaticShapes:
    r"""
    A few fixed shapes of batches for devices that replay a recorded step (CUDA graphs) or compile one.

    Windows share rows of about ten times the longest window, so that less than a tenth of a row is padding. Numbers of
    rows, targets and items are rounded up to quarters of what a usual batch needs at most.

    Args:
        num_targets (`int`): Usual number of targets of a batch.
        max_inputs (`int`): Maximum number of inputs of a window.
    """

    num_targets: int
    max_inputs: int

    @classmethod
    def of(cls, lengths: np.ndarray, num_targets: int) -> "StaticShapes":
        """Returns shapes for windows of these lengths, `(num_windows,)`."""
        return cls(num_targets, int(lengths.max()) - 1)

    @property
    def row_length(self) -> int:
        """Number of places of a row: a multiple of 64, at which attention kernels are fast."""
        return -(-10 * self.max_inputs // 64) * 64

    def round_rows(self, number: int) -> int:
        """Rounds a number of rows up."""
        least_full = self.row_length - self.max_inputs + 1
        return _round_up(number, (self.num_targets + self.max_inputs) // least_full + 1)

    def round(self, number: int) -> int:
        """Rounds a number of targets, windows or items up."""
        return _round_up(number, self.num_targets + self.max_inputs)


def _round_up(number: int, usual: int) -> int:
    """The lowest of `usual / 4`, `usual / 2`, `3 * usual / 4`, `usual`, `5 * usual / 4`, ... that is at least `number`."""
    quarters = max(1, -(-4 * number // usual))
    return -(-quarters * usual // 4)


class Layout:
    r"""
    Places of the inputs of windows, all their items but the last, in a matrix of shape `(rows, length)`.

    Args:
        batch ([`WindowBatch`]): The windows.
        shapes ([`StaticShapes`], *optional*):
            Packs the windows into rows of these shapes. By default each window has a row, padded to the longest one.

    Attributes:
        shape (`tuple[int, int]`): Shape of the matrix.
        first_places (`np.ndarray` of shape `(num_windows,)`): Place in the flattened matrix of each window's first input.
        windows (`np.ndarray` of shape `(num_inputs,)`): Window of each input.
        steps (`np.ndarray` of shape `(num_inputs,)`): Place of each input in its window.
        entries (`np.ndarray` of shape `(num_inputs,)`): Place of each input in `batch.items`; the next item follows it.
        queries (`np.ndarray` of shape `(num_targets,)`): Which inputs are followed by a target.
    """

    def __init__(self, batch: WindowBatch, shapes: StaticShapes | None = None):
        self.shapes = shapes
        counts = batch.lengths - 1
        stops = np.cumsum(counts)
        if shapes is None:
            self.shape = len(counts), int(counts.max())
            self.first_places = np.arange(len(counts)) * self.shape[1]
        else:
            rows, self.first_places = _pack(stops, shapes.row_length)
            self.shape = shapes.round_rows(rows), shapes.row_length
        self.windows = np.repeat(np.arange(len(counts)), counts)
        self.steps = np.arange(len(self.windows)) - np.repeat(stops - counts, counts)
        self.entries = np.arange(len(self.windows)) + self.windows
        self.queries = np.flatnonzero(self.steps + 1 >= batch.first_targets[self.windows])

    @property
    def places(self) -> np.ndarray:
        """Place of each input in the flattened matrix, `(num_inputs,)`."""
        return self.first_places[self.windows] + self.steps

    def matrix(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Returns the matrix with `values` at `places` of its flattened form, and 0 elsewhere."""
        matrix = np.zeros(self.shape, dtype=np.int64)
        matrix.ravel()[places] = values
        return matrix

    def pad(self, values: np.ndarray, value: int = 0) -> np.ndarray:
        """Pads rows, one for each target, item or window, with `value` up to one of the fixed shapes, if there are any."""
        if self.shapes is None:
            return values
        padded = np.full((self.shapes.round(len(values)), *values.shape[1:]), value, dtype=values.dtype)
        padded[: len(values)] = values
        return padded

    def extras(self) -> dict[str, np.ndarray]:
        """What a packed batch needs besides: `position_ids` `(rows, length)`, and `is_target` `(num_targets,)`, `False` for
        padding."""
        if self.shapes is None:
            return {}
        return {
            "position_ids": self.matrix(self.places, self.steps),
            "is_target": self.pad(np.ones(len(self.queries), dtype=bool)),
        }


def _pack(stops: np.ndarray, row_length: int) -> tuple[int, np.ndarray]:
    """Puts windows with inputs up to `stops` (of all inputs) into rows, in their order. Returns the number of rows and the
    places of the first inputs."""
    first_places = np.concatenate([[0], stops[:-1]])
    window = row = taken = 0
    while window < len(stops):
        stop = int(np.searchsorted(stops, taken + row_length, side="right"))
        first_places[window:stop] += row * row_length - taken
        window, row, taken = stop, row + 1, int(stops[stop - 1])
    return row, first_places


def uniform(seed: int, indices: np.ndarray, steps: np.ndarray) -> np.ndarray:
    r"""
    Draws a number in [0, 1) for each pair of a window index and a step, which depends on nothing but them and the seed.

    The numbers are those of SplitMix64 (Steele, Lea, Flood 2014) at the place that index and step give: a generator whose
    state is a counter, so that all places are computed at once.

    Args:
        seed (`int`): Random seed.
        indices (`np.ndarray`): Indices of windows, with their epoch.
        steps (`np.ndarray`): Steps in the windows, below 2 ** 20; the shape of `indices`, or one that broadcasts with it.

    Returns:
        `np.ndarray`: Numbers in float64.
    """
    key = _mix(np.array([seed], dtype=np.int64).astype(np.uint64) + _GAMMA)
    counter = (indices.astype(np.uint64) << np.uint64(20)) + steps.astype(np.uint64)
    return (_mix(key + counter * _GAMMA) >> np.uint64(11)) * 2.0**-53


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def to_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Converts arrays into tensors that share their memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


__all__ = ["Layout", "StaticShapes", "WindowBatch", "to_tensors", "uniform"]
