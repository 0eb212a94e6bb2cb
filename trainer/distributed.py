"""Rows of all processes as one tensor, with an exact gradient."""

import torch
import torch.distributed as dist


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


__all__ = ["RowGatherer"]
