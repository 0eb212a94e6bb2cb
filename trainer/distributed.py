"""Several processes: their rows as one tensor, with an exact gradient, and weights that are sharded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Weights of an FSDP2 model as plain tensors, which only its `forward` would find otherwise; else nothing."""
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
    Classes of the layers that FSDP2 shards by themselves, which by default are `_no_split_modules` of the model.

    Left out is what the model does not hold, such as layers of a text encoder that is detached, and what holds the embedding
    of the words, such as `BertEmbeddings`: accelerate shards that embedding by itself, and no weight can be sharded twice.

    Args:
        model ([`UniSRecModel`] or `PeftModel`): The model.

    Returns:
        `list[str]`: Names of classes, sorted.
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
    """All-gather of shards of different length; the gradient is summed over processes and sliced."""

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
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may pass the same one elsewhere
        dist.all_reduce(gradient)
        return gradient[ctx.own], None, None


class RowGatherer:
    r"""
    Gathers tensors that have one row for each query of this process.

    Negatives are the rows of all processes. With the losses summed over own rows and multiplied by `scale`, the mean
    that DDP takes over processes is the mean over all rows, and so is its gradient, also when the shards differ in
    length. In one process everything is the identity.

    Args:
        num_rows (`int`): Rows of this process.
        device (`torch.device`): Where the tensors are.

    Attributes:
        offset (`int`): Place of the first own row among all.
        scale (`float`): Number of processes / number of all rows.
    """

    def __init__(self, num_rows: int, device: torch.device):
        self.rank, world = 0, 1
        self.sizes = [num_rows]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, world = dist.get_rank(), dist.get_world_size()
            counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world)]
            dist.all_gather(counts, torch.tensor([num_rows], device=device))
            self.sizes = torch.cat(counts).tolist()
        self.offset = sum(self.sizes[: self.rank])
        self.scale = world / sum(self.sizes)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of all processes in rank order: `(num_rows, ...)` in, `(all_rows, ...)` out."""
        if len(self.sizes) == 1:
            return rows
        return _GatherRows.apply(rows, self.sizes, self.rank)


__all__ = ["RowGatherer", "layers_to_shard", "lowest", "whole_weights"]
