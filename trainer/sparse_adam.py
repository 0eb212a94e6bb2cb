"""AdamW for embeddings of which each step updates only few rows, at a cost that does not depend on the other rows."""

from typing import Any

import torch
from torch import nn

from .distributed import RowGatherer


class SparseRowsAdamW(torch.optim.AdamW):
    r"""
    AdamW that updates weights with sparse gradients (`nn.Embedding(sparse=True)`) like `torch.optim.SparseAdam`.

    Rows without a gradient keep their values and moments, whereas Adam would decay the moments and continue to move the
    values. Only the rows of the step are read and written. The optimizer averages sparse gradients over processes, row by
    row; DDP must ignore these weights ([`exchange_rows`]). They have no weight decay.
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
            weight.grad = None  # hidden from the parent, which refuses sparse gradients
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
            # A tensor, as in the parent, which converts it to one when it loads its state.
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
    """Makes the gradients of the embedding `name` of a model sparse, and excludes its weight from the all-reduce of DDP."""
    model.get_submodule(name).sparse = True
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [f"{name}.weight"])


__all__ = ["SparseRowsAdamW", "exchange_rows"]
