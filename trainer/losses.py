"""The losses of UniSRec as functions of tensors (arXiv 2206.05941, sections 2.2 and 2.3)."""

from collections.abc import Callable
from typing import Literal

import torch

from .chunked_softmax import SoftTargets, chunked_cross_entropy


def contrastive_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    excluded: Callable[[slice], torch.Tensor],
    temperature: float,
    positives: torch.Tensor | None = None,
    duplicate_mask: Literal["exclude", "official"] = "exclude",
) -> torch.Tensor:
    r"""
    InfoNCE of each query against all candidates, in log space:
    `-q.p / t + log sum_j exp(q.c_j / t)` over the candidates j that are not excluded.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            L2-normalised sequence vectors of this process.
        candidates (`torch.FloatTensor` of shape `(num_candidates, hidden_size)`):
            L2-normalised vectors to choose from, of all processes in rank order.
        labels (`torch.LongTensor` of shape `(num_queries,)`):
            Row of `candidates` that belongs to each query. It is never excluded.
        excluded (`Callable`):
            Gives for a slice of the queries a `torch.BoolTensor` of shape `(slice, num_candidates)`, `True` where a
            candidate is no negative of the query, such as the query's target a second time.
        temperature (`float`):
            Divides the cosine similarity.
        positives (`torch.FloatTensor` of shape `(num_queries, hidden_size)`, *optional*):
            The vectors p of the numerator. Defaults to `candidates[labels]`.
        duplicate_mask (`str`, *optional*, defaults to `"exclude"`):
            `"exclude"` leaves excluded pairs out. `"official"` gives them a logit of 0 instead, so each adds
            exp(0) = 1 to the denominator, as the released code does.

    Returns:
        `torch.FloatTensor` of shape `()`: Sum over the queries, in nats.
    """
    queries = queries / temperature

    def exclude(logits: torch.Tensor, rows: slice) -> torch.Tensor | None:
        left_out = excluded(rows).scatter(1, labels[rows].unsqueeze(1), False)
        logits.masked_fill_(left_out, float("-inf"))
        return left_out.sum(1) if duplicate_mask == "official" else None

    loss = chunked_cross_entropy(queries, candidates, labels if positives is None else None, exclude)
    return loss if positives is None else loss - (queries * positives).sum()


def catalogue_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    soft_targets: SoftTargets | None = None,
) -> torch.Tensor:
    r"""
    Cross entropy of the next item over the whole catalogue, the loss of transfer.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            Sequence vectors, whose products with `candidates` are the scores.
        candidates (`torch.FloatTensor` of shape `(num_items, hidden_size)`): Vectors of the catalogue.
        labels (`torch.LongTensor` of shape `(num_queries,)`): Row of the next item.
        soft_targets ([`SoftTargets`], *optional*): What teachers make of the candidates, beside the next item.

    Returns:
        `torch.FloatTensor` of shape `()`: Sum over the queries, in nats.
    """
    return chunked_cross_entropy(queries, candidates, labels, soft_targets=soft_targets)


def sampled_softmax_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    log_inclusion: torch.Tensor,
    certain: torch.Tensor,
    soft_targets: SoftTargets | None = None,
) -> torch.Tensor:
    r"""
    Estimate of [`catalogue_loss`] from some of the items: `-s_y + log sum_c exp(s_c - log P(c | q))`.

    A candidate c of query q stands for 1 / P(c | q) items, where P(c | q) is the probability that it is a candidate
    (importance weights: Bengio & Senecal 2008; "logQ correction" of in-batch negatives: Yi et al. 2019), so that the sum
    is the catalogue's on average. What a query brings along itself, its target above all, is there for certain and
    keeps its own score (Khrylchenko et al. 2025, arXiv 2507.09331). Candidates are distinct, so that none of them but
    the target is the target.

    Args:
        queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`):
            Sequence vectors, whose products with `candidates` are the scores.
        candidates (`torch.FloatTensor` of shape `(num_candidates, hidden_size)`): Vectors of the sampled items.
        labels (`torch.LongTensor` of shape `(num_queries,)`): Row of the next item among the candidates.
        log_inclusion (`torch.FloatTensor` of shape `(num_candidates,)`):
            Logarithm of the probability that an item is a candidate of a batch it does not belong to of necessity.
        certain (`torch.LongTensor` of shape `(num_queries, num_certain)`):
            Candidates that are there for certain, the items of the query's window; repetitions do not matter.
        soft_targets ([`SoftTargets`], *optional*):
            What teachers make of the candidates, beside the next item; their softmax is corrected alike.

    Returns:
        `torch.FloatTensor` of shape `()`: Sum over the queries, in nats.
    """

    def correct(logits: torch.Tensor, rows: slice) -> None:
        logits -= log_inclusion.to(logits.dtype).expand_as(logits).scatter(1, certain[rows], 0.0)

    return chunked_cross_entropy(queries, candidates, labels, correct, soft_targets)


__all__ = ["catalogue_loss", "contrastive_loss", "sampled_softmax_loss"]
