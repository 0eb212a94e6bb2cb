"""Cross entropy over many candidates without storing the matrix of all logits."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable


# Logits of a chunk: few enough to stay in the cache of a processor, enough rows that products keep their speed.
_MAX_LOGITS = 2**22
_MAX_ROWS = 512


class SoftTargets(NamedTuple):
    r"""
    Soft targets from another model over the same candidates (knowledge distillation, arXiv 1503.02531).

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, size)`): Its vectors of the queries, scaled.
        candidates (`torch.FloatTensor` of shape `(num_candidates, size)`): Its vectors of the candidates.
        weight (`float`): Share of its softmax in the target; the label has the rest.
    """

    queries: torch.Tensor
    candidates: torch.Tensor
    weight: float


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Logits of a chunk of queries, and at once what their gradient contributes: each logit is computed once."""

    @staticmethod
    def forward(
        ctx,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        labels: torch.Tensor | None,
        adjust: Callable[[torch.Tensor, slice], torch.Tensor | None] | None,
        soft_targets: SoftTargets | None,
        chunk_size: int,
    ) -> torch.Tensor:
        kind = queries.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
        summed = torch.promote_types(dtype, torch.float32)
        ctx.dtypes = queries.dtype, candidates.dtype
        queries, candidates = queries.to(dtype), candidates.to(dtype)
        if soft_targets is not None:
            teacher_queries, teacher_candidates = (vectors.to(dtype) for vectors in soft_targets[:2])
        query_gradient = torch.empty_like(queries)
        candidate_gradient = torch.zeros_like(candidates, dtype=summed)
        losses = torch.empty(len(queries), dtype=summed, device=queries.device)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(queries), chunk_size):
                rows = slice(start, start + chunk_size)
                logits = (queries[rows] @ candidates.T).to(summed)
                constants = None if adjust is None else adjust(logits, rows)
                softmax = logits.softmax(1)
                top, place = softmax.max(1, keepdim=True)
                total = logits.gather(1, place) - top.log()  # logsumexp
                if constants is not None:
                    of_logits, total = total, torch.logaddexp(total, constants.unsqueeze(1).to(summed).log())
                    softmax *= (of_logits - total).exp()
                if labels is None:
                    losses[rows] = total.squeeze(1)
                else:
                    own = labels[rows].unsqueeze(1)
                    of_target, certain = logits.gather(1, own), torch.ones_like(total)
                    if soft_targets is not None:
                        taught = (teacher_queries[rows] @ teacher_candidates.T).to(summed)
                        if adjust is not None:
                            adjust(taught, rows)
                        taught = taught.softmax(1).mul_(soft_targets.weight)
                        certain *= 1 - soft_targets.weight
                        of_target = of_target * certain + (taught * logits).sum(1, keepdim=True)
                        softmax -= taught
                    losses[rows] = (total - of_target).squeeze(1)
                    softmax.scatter_add_(1, own, -certain)
                del logits
                gradient = softmax.to(dtype)
                query_gradient[rows] = gradient @ candidates
                if dtype == summed:
                    candidate_gradient.addmm_(gradient.T, queries[rows])
                else:
                    candidate_gradient += gradient.T @ queries[rows]
        ctx.save_for_backward(query_gradient, candidate_gradient)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: they may be as large as all else. Autograd refuses a second backward pass then.
        gradients = [
            gradient.mul_(scale).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


def chunked_cross_entropy(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor | None,
    adjust: Callable[[torch.Tensor, slice], torch.Tensor | None] | None = None,
    soft_targets: SoftTargets | None = None,
    chunk_size: int | None = None,
) -> torch.Tensor:
    r"""
    Sum over queries of `log sum_j exp(q.c_j) - q.c_label`, and its gradient, without the matrix of logits.

    Logits exist for one chunk of queries at a time. Its part of both gradients is computed with it, as in Liger's fused
    linear cross entropy (arXiv 2410.10989) and in the spirit of Cut Cross Entropy (arXiv 2411.09009), so nothing is
    computed twice. Products run in the type of autocast where that is on; exponentials, losses and the gradient of the
    candidates are summed in float32 at least.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            Vectors; normalise them and divide them by the temperature before.
        candidates (`torch.FloatTensor` of shape `(num_candidates, hidden_size)`): Vectors to choose from.
        labels (`torch.LongTensor` of shape `(num_queries,)`, *optional*):
            Row of `candidates` that belongs to each query. Without them, the sum of the logarithms alone.
        adjust (`Callable`, *optional*):
            Changes the logits `(chunk_size, num_candidates)` of a slice of the queries in place, by constants or to
            -inf; may return what is to be added to the sum of exponentials of each, `(chunk_size,)`.
        soft_targets ([`SoftTargets`], *optional*):
            With labels and finite logits: part of the target is the softmax of another model's logits, adjusted alike.
        chunk_size (`int`, *optional*): Queries at a time; by default, what suits the number of candidates.

    Returns:
        `torch.FloatTensor` of shape `()`: In nats.
    """
    if chunk_size is None:
        chunk_size = max(1, min(_MAX_ROWS, _MAX_LOGITS // len(candidates)))
    return _ChunkedCrossEntropy.apply(queries, candidates, labels, adjust, soft_targets, chunk_size)


__all__ = ["SoftTargets", "chunked_cross_entropy"]
