"""The losses of UniSRec (arXiv 2206.05941, sections 2.2 and 2.3), computed without a matrix of all logits."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable


class _Limits(NamedTuple):
    logits: int
    rows: int


# On a CPU, a chunk has few enough logits to stay in the cache, and enough rows for fast matrix products. On a GPU, it has
# enough for every kernel to fill the device. With many candidates, whose gradient each chunk reads and writes, it has four
# times as many logits or _FEW_ROWS.
_LIMITS = {"cpu": _Limits(2**22, 512), "cuda": _Limits(2**25, 8192)}
_FEW_ROWS = 128


# Subtracted from logits, it makes their exponentials 0 in every type, without the NaN of 0 * inf.
NO_CANDIDATE = 1e6


class SoftTargets(NamedTuple):
    r"""
    Soft targets from another model over the same candidates (knowledge distillation, arXiv 1503.02531).

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, size)`): Query vectors of that model, scaled.
        candidates (`torch.FloatTensor` of shape `(num_candidates, size)`): Candidate vectors of that model.
        weight (`float`): Weight of its softmax in the target; the label has the remaining weight.
    """

    queries: torch.Tensor
    candidates: torch.Tensor
    weight: float


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes logits in chunks of queries, and in the same pass their part of the gradients: each logit only once."""

    @staticmethod
    def forward(
        ctx,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        labels: torch.Tensor | None,
        adjust: Callable[[torch.Tensor, slice], torch.Tensor | None] | None,
        soft_targets: SoftTargets | None,
        weights: torch.Tensor | None,
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
                if weights is not None:
                    losses[rows] *= weights[rows]
                    softmax *= weights[rows].unsqueeze(1)
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
        # In place, because they may be large. A second backward pass is an error of autograd.
        gradients = [
            gradient.mul_(scale).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None, None


def chunked_cross_entropy(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor | None,
    adjust: Callable[[torch.Tensor, slice], torch.Tensor | None] | None = None,
    soft_targets: SoftTargets | None = None,
    weights: torch.Tensor | None = None,
    chunk_size: int | None = None,
) -> torch.Tensor:
    r"""
    Computes the sum over queries of `log sum_j exp(q.c_j) - q.c_label`, and its gradient, without a matrix of all logits.

    Only the logits of one chunk of queries exist at a time, and the chunk's part of both gradients is computed with them, as
    in Liger's fused linear cross entropy (arXiv 2410.10989); see also Cut Cross Entropy (arXiv 2411.09009). Matrix products
    run in the autocast type, if enabled; exponentials, losses and the gradient of the candidates are accumulated in at least
    float32.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            Query vectors, already normalised and divided by the temperature if required.
        candidates (`torch.FloatTensor` of shape `(num_candidates, hidden_size)`): Candidate vectors.
        labels (`torch.LongTensor` of shape `(num_queries,)`, *optional*):
            Row of the correct candidate of each query. Without labels, only the logarithms are summed.
        adjust (`Callable`, *optional*):
            Modifies the logits `(chunk_size, num_candidates)` of a slice of the queries in place, by constants or to
            -inf. It may return constants `(chunk_size,)` to add to the sums of exponentials.
        soft_targets ([`SoftTargets`], *optional*):
            Mixes the softmax of another model's logits, adjusted in the same way, into the target. Requires labels and
            finite logits.
        weights (`torch.FloatTensor` of shape `(num_queries,)`, *optional*):
            Weight of each query in the sum, 0 for padding. Defaults to ones.
        chunk_size (`int`, *optional*):
            Number of queries per chunk. The default depends on the device and the number of candidates.

    Returns:
        `torch.FloatTensor` of shape `()`: Sum over the queries, in nats.
    """
    if chunk_size is None:
        limits = _LIMITS.get(queries.device.type, _LIMITS["cuda"])
        rows, few = limits.logits // len(candidates), min(4 * limits.logits // len(candidates), _FEW_ROWS)
        chunk_size = max(1, min(limits.rows, max(rows, few)))
    return _ChunkedCrossEntropy.apply(queries, candidates, labels, adjust, soft_targets, weights, chunk_size)


def contrastive_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    excluded: Callable[[slice], torch.Tensor],
    temperature: float,
    positives: torch.Tensor | None = None,
    duplicate_mask: Literal["exclude", "official"] = "exclude",
    weights: torch.Tensor | None = None,
    real: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    Computes InfoNCE of each query against all candidates, in log space:
    `-q.p / t + log sum_j exp(q.c_j / t)` over the candidates j that are not excluded.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            L2-normalised sequence vectors of this process.
        candidates (`torch.FloatTensor` of shape `(num_candidates, hidden_size)`):
            L2-normalised candidate vectors of all processes, in rank order.
        labels (`torch.LongTensor` of shape `(num_queries,)`):
            Row of the positive of each query in `candidates`. It is never excluded.
        excluded (`Callable`):
            Maps a slice of the queries to a `torch.BoolTensor` of shape `(slice, num_candidates)` that is `True` where a
            candidate is not a negative of the query, for example because it is the same item as the positive.
        temperature (`float`):
            Divisor of the cosine similarity.
        positives (`torch.FloatTensor` of shape `(num_queries, hidden_size)`, *optional*):
            Vectors p of the numerator. Defaults to `candidates[labels]`.
        duplicate_mask (`str`, *optional*, defaults to `"exclude"`):
            `"exclude"` drops excluded pairs. `"official"` sets their logit to 0, so that each adds exp(0) = 1 to the
            denominator, as in the released code.
        weights (`torch.FloatTensor` of shape `(num_queries,)`, *optional*):
            Weight of each query, 0 for padding. Defaults to ones.
        real (`torch.BoolTensor` of shape `(num_candidates,)`, *optional*):
            `False` for candidates that are padding, which are dropped with any `duplicate_mask`.

    Returns:
        `torch.FloatTensor` of shape `()`: Sum over the queries, in nats.
    """
    queries = queries / temperature

    def exclude(logits: torch.Tensor, rows: slice) -> torch.Tensor | None:
        left_out = excluded(rows).scatter(1, labels[rows].unsqueeze(1), False)
        constants = left_out.sum(1) if duplicate_mask == "official" else None
        if real is not None:
            left_out = (left_out | ~real).scatter(1, labels[rows].unsqueeze(1), False)
        logits.masked_fill_(left_out, float("-inf"))
        return constants

    own = labels if positives is None else None
    loss = chunked_cross_entropy(queries, candidates, own, exclude, weights=weights)
    if positives is None:
        return loss
    of_positives = queries * positives
    return loss - (of_positives if weights is None else of_positives * weights.unsqueeze(1)).sum()


def catalogue_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    soft_targets: SoftTargets | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    Computes the cross entropy of the next item over the whole catalogue, the loss of fine-tuning.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            Sequence vectors, whose inner products with `candidates` are the scores.
        candidates (`torch.FloatTensor` of shape `(num_items, hidden_size)`): Vectors of the catalogue.
        labels (`torch.LongTensor` of shape `(num_queries,)`): Row of the next item.
        soft_targets ([`SoftTargets`], *optional*): Scores of teachers to mix into the target.
        weights (`torch.FloatTensor` of shape `(num_queries,)`, *optional*): Weight of each query, 0 for padding.

    Returns:
        `torch.FloatTensor` of shape `()`: Sum over the queries, in nats.
    """
    return chunked_cross_entropy(queries, candidates, labels, soft_targets=soft_targets, weights=weights)


def sampled_softmax_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    log_inclusion: torch.Tensor,
    certain: torch.Tensor,
    soft_targets: SoftTargets | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    Estimates [`catalogue_loss`] from a sample of the items: `-s_y + log sum_c exp(s_c - log P(c | q))`.

    Each candidate c is weighted by 1 / P(c | q), where P(c | q) is the probability that it is a candidate of query q
    (importance sampling: Bengio & Senecal 2008; "logQ correction" of in-batch negatives: Yi et al. 2019), so that the
    expected sum is that over the catalogue. The items of the query's own window, above all its target, are certain to be
    candidates and keep their scores (Khrylchenko et al. 2025, arXiv 2507.09331). Candidates must be distinct, so that the
    target occurs once.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            Sequence vectors, whose inner products with `candidates` are the scores.
        candidates (`torch.FloatTensor` of shape `(num_candidates, hidden_size)`): Vectors of the sampled items.
        labels (`torch.LongTensor` of shape `(num_queries,)`): Row of the next item among the candidates.
        log_inclusion (`torch.FloatTensor` of shape `(num_candidates,)`):
            Logarithm of the probability that each item is a candidate, see [`NegativeSampler`]; [`NO_CANDIDATE`] for a
            row to leave out.
        certain (`torch.LongTensor` of shape `(num_queries, num_certain)`):
            Candidates that are certain: the items of the query's window. They may be repeated.
        soft_targets ([`SoftTargets`], *optional*):
            Scores of teachers to mix into the target; their softmax is corrected in the same way.
        weights (`torch.FloatTensor` of shape `(num_queries,)`, *optional*): Weight of each query, 0 for padding.

    Returns:
        `torch.FloatTensor` of shape `()`: Sum over the queries, in nats.
    """

    def correct(logits: torch.Tensor, rows: slice) -> None:
        logits -= log_inclusion.to(logits.dtype).expand_as(logits).scatter(1, certain[rows], 0.0)

    return chunked_cross_entropy(queries, candidates, labels, correct, soft_targets, weights)


__all__ = [
    "NO_CANDIDATE",
    "SoftTargets",
    "catalogue_loss",
    "chunked_cross_entropy",
    "contrastive_loss",
    "sampled_softmax_loss",
]
