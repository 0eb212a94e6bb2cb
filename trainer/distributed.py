"""Training in several processes: rows gathered with exact gradients, and sharded weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Unshards the weights of an FSDP2 model, which otherwise only its `forward` does; other models are left alone."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.reshard()


def layers_to_shard(model: nn.Module) -> list[str]:
    r"""
    Returns the classes of the layers that FSDP2 shards separately, a subset of `_no_split_modules` of the model.

    Classes that the model does not contain are left out, such as layers of a detached text encoder. So are modules that
    contain the word embedding, such as `BertEmbeddings`: accelerate shards that embedding separately, and no weight can be
    sharded twice.

    Args:
        model ([`UniSRecModel`] or `PeftModel`): The model.

    Returns:
        `list[str]`: Sorted names of classes.
    """
    names = {*model._no_split_modules, *(getattr(model.text_encoder, "_no_split_modules", None) or ())}
    words = model.get_input_embeddings()
    found = {type(module).__name__ for module in model.modules()}
    holders = {type(module).__name__ for module in model.modules() if any(each is words for each in module.modules())}
    return sorted((names & found) - holders)


def lowest(number: int, device: torch.device) -> int:
    """Returns the lowest of the numbers that all processes pass; in one process, the number itself."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return number
    return int(RowGatherer(1, device)(torch.tensor([number], device=device)).min())


class _GatherRows(torch.autograd.Function):
    """All-gathers shards of different lengths. The gradient is summed over processes and sliced."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, sizes: list[int], rank: int) -> torch.Tensor:
        ctx.own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        shards = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(shards, padded)
        return torch.cat([shard[:size] for shard, size in zip(shards, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may use the same tensor elsewhere
        dist.all_reduce(gradient)
        return gradient[ctx.own], None, None


class RowGatherer:
    r"""
    Gathers tensors with one row per query from all processes.

    In a single process, gathering is the identity.

    Args:
        num_rows (`int`): Number of rows of this process.
        device (`torch.device`): Device of the tensors.
        real (`torch.BoolTensor` of shape `(num_rows,)`, *optional*): `False` for rows that are padding. By default none is.

    Attributes:
        offset (`int`): Index of the first row of this process among all rows.
        total (`int` or `torch.Tensor`): Number of all rows that are not padding.
    """

    def __init__(self, num_rows: int, device: torch.device, real: torch.Tensor | None = None):
        self.rank, self.world = 0, 1
        self.sizes = [num_rows]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
            counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(self.world)]
            dist.all_gather(counts, torch.tensor([num_rows], device=device))
            self.sizes = torch.cat(counts).tolist()
        self.offset = sum(self.sizes[: self.rank])
        self.total = sum(self.sizes)
        if real is not None:  # a tensor, so that the processor does not wait for the device
            self.total = real.sum()
            if self.world > 1:
                dist.all_reduce(self.total)

    def mean(self, loss: torch.Tensor) -> torch.Tensor:
        """Returns a loss, summed over the rows of this process, such that the mean that DDP takes over processes is the mean
        over all rows, and so is its gradient, even if processes have different numbers of rows."""
        return loss * self.world / self.total

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Maps the rows of this process `(num_rows, ...)` to those of all processes in rank order `(all_rows, ...)`."""
        if len(self.sizes) == 1:
            return rows
        return _GatherRows.apply(rows, self.sizes, self.rank)


__all__ = ["RowGatherer", "layers_to_shard", "lowest", "whole_weights"]
