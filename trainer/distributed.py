"""Several processes: whether they belong together, and their rows as one tensor, with an exact gradient."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.utils import logging


logger = logging.get_logger(__name__)

_LAUNCH_ON_CPUS = "on CPUs: accelerate launch --multi_gpu --num_processes N -m unisrec VERB ... --use_cpu"


def check_launch(world_size: int) -> None:
    r"""
    Detects launches whose processes do not form a process group.

    `accelerate launch --cpu --num_processes 2` starts one process, which is said in a warning: nothing is wrong but the
    size of the batch. `accelerate launch --multi_gpu` without `--use_cpu` starts several where there is no GPU, each of
    which would train alone and write into the same folder.

    Args:
        world_size (`int`): Processes that train together, `TrainingArguments.world_size`.

    Raises:
        ValueError: If this process is one of several that a launcher has started, and is alone in its training.
    """
    if world_size > 1:
        return
    if "LOCAL_RANK" in os.environ and (started := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise ValueError(
            f"{started} processes were started and each would train alone, since no GPU is visible; {_LAUNCH_ON_CPUS}."
        )
    # What accelerate's launcher of a single process leaves, the address only if it was asked for more than one.
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        logger.warning_once(
            f"accelerate launch was asked for several processes and started one, which trains alone; {_LAUNCH_ON_CPUS}; "
            "on GPUs with --multi_gpu instead of --cpu."
        )


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


__all__ = ["RowGatherer", "check_launch", "layers_to_shard", "whole_weights"]
