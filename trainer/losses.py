"""The losses of UniSRec as functions of tensors (arXiv 2206.05941, sections 2.2 and 2.3)."""

from typing import Literal

import torch
from torch.nn import functional as F


def contrastive_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    excluded: torch.Tensor,
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
        excluded (`torch.BoolTensor` of shape `(num_queries, num_candidates)`):
            `True` where a candidate is no negative of the query, such as the query's target a second time.
        temperature (`float`):
            Divides the cosine similarity.
        positives (`torch.FloatTensor` of shape `(num_queries, hidden_size)`, *optional*):
            The vectors p of the numerator. Defaults to `candidates[labels]`.
        duplicate_mask (`str`, *optional*, defaults to `"exclude"`):
            `"exclude"` leaves excluded pairs out. `"official"` gives them a logit of 0 instead, so each adds
            exp(0) = 1 to the denominator, as the released code does.

    Returns:
        `torch.FloatTensor` of shape `(num_queries,)`: Loss of each query, in nats.
    """
    logits = queries @ candidates.T / temperature
    own = labels.unsqueeze(1)
    excluded = excluded.scatter(1, own, False)
    positive_logits = (
        logits.gather(1, own).squeeze(1) if positives is None else (queries * positives).sum(1) / temperature
    )
    logits = logits.masked_fill(excluded, 0.0 if duplicate_mask == "official" else float("-inf"))
    return logits.logsumexp(1) - positive_logits


def catalogue_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""
    Cross entropy of the next item over the whole catalogue, the loss of transfer.

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, num_items)`): Cosine over temperature.
        labels (`torch.LongTensor` of shape `(num_queries,)`): Row of the next item.

    Returns:
        `torch.FloatTensor` of shape `(num_queries,)`: Loss of each query, in nats.
    """
    return F.cross_entropy(scores, labels, reduction="none")


def sampled_softmax_loss(
    scores: torch.Tensor, labels: torch.Tensor, log_inclusion: torch.Tensor, certain: torch.Tensor
) -> torch.Tensor:
    r"""
    Estimate of [`catalogue_loss`] from some of the items: `-s_y + log sum_c exp(s_c - log P(c | q))`.

    A candidate c of query q stands for 1 / P(c | q) items, where P(c | q) is the probability that it is a candidate
    (importance weights: Bengio & Senecal 2008; "logQ correction" of in-batch negatives: Yi et al. 2019), so that the sum
    is the catalogue's on average. What a query brings along itself, its target above all, is there for certain and
    keeps its own score (Khrylchenko et al. 2025, arXiv 2507.09331). Candidates are distinct, so that none of them but
    the target is the target.

    Args:
        scores (`torch.FloatTensor` of shape `(num_queries, num_candidates)`): Cosine over temperature.
        labels (`torch.LongTensor` of shape `(num_queries,)`): Row of the next item among the candidates.
        log_inclusion (`torch.FloatTensor` of shape `(num_candidates,)`):
            Logarithm of the probability that an item is a candidate of a batch it does not belong to of necessity.
        certain (`torch.LongTensor` of shape `(num_queries, num_certain)`):
            Candidates that are there for certain, the items of the query's window; repetitions do not matter.

    Returns:
        `torch.FloatTensor` of shape `(num_queries,)`: Loss of each query, in nats.
    """
    correction = log_inclusion.to(scores.dtype).expand_as(scores).scatter(1, certain, 0.0)
    return F.cross_entropy(scores - correction, labels, reduction="none")


__all__ = ["catalogue_loss", "contrastive_loss", "sampled_softmax_loss"]
