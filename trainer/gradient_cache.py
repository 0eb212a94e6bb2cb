"""Batches beyond memory: a batch in chunks, and random draws that are made again (arXiv 2101.06983)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.checkpoint import get_device_states, set_device_states


class RandomState:
    r"""
    State of the random numbers on the CPU and on the device of a tensor, as it is when this is made.

    Args:
        tensor (`torch.Tensor`): Any tensor of the device that draws.
    """

    def __init__(self, tensor: torch.Tensor):
        self._cpu = torch.get_rng_state()
        self._devices, self._states = get_device_states(tensor)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Inside, the same numbers are drawn again; afterwards, drawing goes on where it was before."""
        with torch.random.fork_rng(devices=self._devices):
            torch.set_rng_state(self._cpu)
            set_device_states(self._devices, self._states)
            yield


def split_targets(batch: dict[str, torch.Tensor], chunk_size: int) -> list[tuple[slice, slice]]:
    r"""
    Cuts a batch of [`PretrainCollator`] into runs of whole windows.

    Args:
        batch (`dict[str, torch.Tensor]`): The batch.
        chunk_size (`int`): Most targets of a run; a window with more is a run of its own.

    Returns:
        `list[tuple[slice, slice]]`: For each run its windows and its targets.
    """
    length = batch["item_index"].shape[1]
    num_windows = len(batch["item_index"]) // _num_parts(batch)
    counts = torch.bincount(batch["query_index"] // length, minlength=num_windows).tolist()
    runs, window, target, stop = [], 0, 0, 0
    for place, count in enumerate(counts):
        if place > window and stop + count - target > chunk_size:
            runs.append((slice(window, place), slice(target, stop)))
            window, target = place, stop
        stop += count
    return [*runs, (slice(window, num_windows), slice(target, stop))]


def take_run(batch: dict[str, torch.Tensor], windows: slice, targets: slice) -> dict[str, torch.Tensor]:
    r"""
    A batch of some of the windows, with the distinct items of these alone.

    Args:
        batch (`dict[str, torch.Tensor]`): Batch of [`PretrainCollator`].
        windows (`slice`): Windows to take.
        targets (`slice`): Their targets.

    Returns:
        `dict[str, torch.Tensor]`: `item_index`, `query_index`, `view_index` where there are views, `target_rows` and the
            texts of the items.
    """
    index = torch.cat([part[windows] for part in batch["item_index"].chunk(_num_parts(batch))])
    # Padding, 0, is always one of the distinct numbers, and stays 0.
    places = torch.cat([index.new_zeros(1), index.flatten(), batch["target_rows"][targets] + 1])
    distinct, places = torch.unique(places, return_inverse=True)
    items = distinct[1:] - 1
    first = windows.start * index.shape[1]
    texts = ("text_embeds", "input_ids", "attention_mask")
    run = {name: batch[name][items] for name in texts if name in batch}
    run |= {name: batch[name][targets] - first for name in ("query_index", "view_index") if name in batch}
    return run | {
        "item_index": places[1 : 1 + index.numel()].view_as(index),
        "target_rows": places[1 + index.numel() :] - 1,
    }


def _num_parts(batch: dict[str, torch.Tensor]) -> int:
    """Parts of `item_index`: the originals and, where there are any, their views."""
    return 2 if "view_index" in batch else 1


__all__ = ["RandomState", "split_targets", "take_run"]
