"""Results of batches, copied from their device to the processor a number of batches at a time."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch


def fetch_late(batches: Iterable[tuple], number: int = 32) -> Iterator[tuple[Any, ...]]:
    r"""
    Computes `number` batches before the first of them is copied from the device.

    A copy makes the processor wait until the device has done all that was asked of it, and the device then waits for the next
    batch. Copied together, batches cost one such wait for `number` of them.

    Args:
        batches (`Iterable[tuple]`): Results of each batch; tensors and other objects.
        number (`int`, *optional*, defaults to 32): Number of batches whose results stay on the device.

    Returns:
        `Iterator[tuple]`: The same results, with tensors as `np.ndarray`.
    """
    batches = iter(batches)
    while group := list(itertools.islice(batches, number)):
        for batch in group:
            yield tuple(value.cpu().numpy() if isinstance(value, torch.Tensor) else value for value in batch)


__all__ = ["fetch_late"]
