"""Adam for weights of which a step updates only few rows; the other rows cost nothing."""

from typing import Any

import torch
from torch import nn

from .distributed import RowGatherer


class SparseRowsAdamW(torch.optim.AdamW):
    r"""
    AdamW; a weight whose gradient is sparse (`nn.Embedding(sparse=True)`) is updated as `torch.optim.SparseAdam` does it.

    Rows that a step has not seen keep their value and their moments, where Adam would let the moments fade and the value
    go on by them. Gradient, moments and weight are read and written for the rows of the step alone. Sparse gradients are
    shared here, as rows, by all processes; DDP must leave their weights alone ([`exchange_rows`]). There is no weight decay
    for them.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        sparse = [
            (weight, group)
            for group in self.param_groups
            for weight in group["params"]
            if weight.grad is not None and weight.grad.is_sparse
        ]
        gradients = [weight.grad for weight, _ in sparse]
        for weight, _ in sparse:
            weight.grad = None  # out of sight of the parent, which refuses it
        super().step(closure)
        for (weight, group), gradient in zip(sparse, gradients, strict=True):
            self._update_rows(weight, gradient.coalesce(), group)
            weight.grad = gradient

    def _update_rows(self, weight: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        rows, values = gradient.indices()[0], gradient.values()  # (n,), (n, ...)
        gather = RowGatherer(len(rows), weight.device)
        if (processes := len(gather.sizes)) > 1:  # the mean over processes, as DDP's
            gradient = torch.sparse_coo_tensor(
                gather(rows)[None], gather(values) / processes, gradient.shape
            ).coalesce()
            rows, values = gradient.indices()[0], gradient.values()
        state = self.state[weight]
        if not state:
            # A tensor, as of the parent, which makes one of it when it loads its state.
            state["step"] = torch.zeros(())
            state |= {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        state["step"] += 1
        step = state["step"].item()
        beta, beta_sq = group["betas"]
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta)
        mean_sq = state["exp_avg_sq"][rows].lerp_(values.square(), 1 - beta_sq)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, mean_sq
        correction = (1 - beta_sq**step) ** 0.5
        rate = group["lr"] * correction / (1 - beta**step)
        weight.index_add_(0, rows, mean.div_(mean_sq.sqrt_().add_(group["eps"])), alpha=-rate)


def exchange_rows(model: nn.Module, name: str) -> None:
    """Gives the embedding `name` of a model sparse gradients, and keeps DDP from summing them up as a whole."""
    model.get_submodule(name).sparse = True
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [f"{name}.weight"])


__all__ = ["SparseRowsAdamW", "exchange_rows"]
