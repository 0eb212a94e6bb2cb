"""Analyses of trained models: use of the experts, spread of the vectors, and quality by item popularity."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..data.splits import Split
from ..modeling_unisrec import UniSRecModel
from .metrics import ranking_metrics


@torch.inference_mode()
def gate_use(model: UniSRecModel, text_embeds: np.ndarray) -> np.ndarray:
    r"""
    Computes the mean gate weight of each expert over a catalogue.

    Args:
        model ([`UniSRecModel`]): In evaluation mode, without noise on its router.
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`): Text vectors.

    Returns:
        `np.ndarray` of shape `(num_experts,)`: Mean weight of each expert; they sum to 1.
    """
    return model.adaptor.gate(torch.from_numpy(np.array(text_embeds)).to(model.device)).mean(0).cpu().numpy()


def mean_cosine(vectors: torch.Tensor) -> float:
    r"""
    Computes the mean cosine of two different vectors: 0 if directions are spread evenly, near 1 if they share one.

    Args:
        vectors (`torch.FloatTensor` of shape `(num_vectors, size)`): At least two vectors.

    Returns:
        `float`: In [-1, 1]. Exact over all pairs, computed in one pass from the squared sum of unit vectors.
    """
    unit = F.normalize(vectors.double(), dim=-1)
    return ((unit.sum(0).square().sum() - len(unit)) / (len(unit) * (len(unit) - 1))).item()


def uniformity(vectors: torch.Tensor, num_pairs: int = 200_000, seed: int = 0) -> float:
    r"""
    Computes the logarithm of the mean Gaussian potential of pairs (Wang & Isola 2020, arXiv 2005.10242); lower is more uniform.

    Args:
        vectors (`torch.FloatTensor` of shape `(num_vectors, size)`): Vectors, normalised here.
        num_pairs (`int`, *optional*, defaults to 200,000): Pairs drawn.
        seed (`int`, *optional*, defaults to 0): Random seed for the pairs.

    Returns:
        `float`: `log E exp(-2 |x - y|^2)`, between -8 and 0.
    """
    unit = F.normalize(vectors.float(), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(unit), (num_pairs,), generator=generator)
    second = (first + torch.randint(1, len(unit), (num_pairs,), generator=generator)) % len(unit)  # never itself
    cosines = (unit[first] * unit[second]).sum(-1)
    return (-2 * (2 - 2 * cosines)).exp().mean().log().item()


def alignment(sequence_embeds: torch.Tensor, item_embeds: torch.Tensor) -> float:
    r"""
    Computes the mean squared distance of histories and their next items on the unit sphere (Wang & Isola 2020); lower is closer.

    Args:
        sequence_embeds (`torch.FloatTensor` of shape `(num_pairs, hidden_size)`): Histories.
        item_embeds (`torch.FloatTensor` of shape `(num_pairs, hidden_size)`): The next item of each.

    Returns:
        `float`: Between 0 and 4.
    """
    return (F.normalize(sequence_embeds, dim=-1) - F.normalize(item_embeds, dim=-1)).square().sum(-1).mean().item()


def principal_plane(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Computes the plane in which vectors vary most; their coordinates on a map are `(vectors - mean) @ axes`.

    Args:
        vectors (`torch.FloatTensor` of shape `(num_vectors, size)`): Vectors, of size 2 or more.

    Returns:
        `tuple(torch.FloatTensor, torch.FloatTensor)`: `mean` `(size,)` and orthonormal `axes` `(size, 2)`, the first
        with the larger variance. The plane, including its signs, is a function of the vectors.
    """
    mean = vectors.mean(dim=0)
    # Eigenvectors of the covariance: exact, and no larger for a million vectors than for a hundred.
    _, directions = torch.linalg.eigh(torch.cov(vectors.double().T))
    axes = directions[:, [-1, -2]]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return mean, (axes * largest.sign()).to(vectors.dtype)


def metrics_by_popularity(
    ranks: np.ndarray, targets: np.ndarray, train: Split, num_items: int, edges: Sequence[int] = (0, 1, 5, 10, 20, 50)
) -> dict[str, dict[str, float]]:
    r"""
    Computes ranking metrics for buckets of targets by their number of training interactions.

    Args:
        ranks (`np.ndarray` of shape `(num_users, 2)`): Ranks of the targets, [`target_ranks`].
        targets (`np.ndarray` of shape `(num_users,)`): Their catalogue rows.
        train (`Split`): Training histories, in which interactions are counted.
        num_items (`int`): Size of the catalogue.
        edges (`Sequence[int]`, *optional*): Minimum number of interactions of each bucket.

    Returns:
        `dict[str, dict[str, float]]`: For each bucket (`"0"`, `"1-4"`, ..., `"50+"`) that holds a target, its metrics and
        `num_users`.
    """
    counts = np.bincount(train.flat, minlength=num_items)[targets]
    bucket = np.searchsorted(edges, counts, side="right") - 1
    found = {}
    for place, low in enumerate(edges):
        users = bucket == place
        if not users.any():
            continue
        high = edges[place + 1] - 1 if place + 1 < len(edges) else None
        name = f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
        found[name] = {"num_users": int(users.sum()), **ranking_metrics(ranks[users])}
    return found


__all__ = ["alignment", "gate_use", "mean_cosine", "metrics_by_popularity", "principal_plane", "uniformity"]
