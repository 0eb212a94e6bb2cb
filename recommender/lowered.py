"""Search in which some items of each query, those of its own history, count less instead of being left out."""

from collections.abc import Sequence

import torch

from .exact_index import ExactIndex
from .faiss_index import FaissIndex


def search_lowered(
    index: ExactIndex | FaissIndex,
    queries: torch.Tensor,
    top_k: int,
    lowered: Sequence[Sequence[int]],
    discounts: torch.Tensor,
    candidates: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Finds the rows with the highest scores for each query. The index searches the others, so that it misses no more than
    without the lowered ones, which are few and scored one by one.

    Args:
        index ([`ExactIndex`] or [`FaissIndex`]): Index of the item vectors.
        queries, top_k, candidates: As for [`ExactIndex.search`].
        lowered (`Sequence[Sequence[int]]`): Rows that count less for each query.
        discounts (`torch.FloatTensor` of shape `(num_queries,)`): By how much their scores are lowered.

    Returns:
        `tuple[torch.FloatTensor, torch.LongTensor]`: Scores and rows on the CPU, as [`ExactIndex.search`] returns them.
    """
    scores, rows = (found.cpu() for found in index.search(queries, top_k, lowered, candidates))
    allowed = torch.ones(len(index), dtype=torch.bool) if candidates is None else candidates.cpu()
    distinct = [sorted(row for row in set(of_query) if allowed[row]) for of_query in lowered]
    own_rows = torch.zeros(len(queries), max(map(len, distinct), default=0), dtype=torch.long)
    own_scores = torch.full(own_rows.shape, -torch.inf)
    for place, of_query in enumerate(distinct):
        if of_query:
            own_rows[place, : len(of_query)] = torch.tensor(of_query)
            vectors = index.vectors[torch.tensor(of_query, device=index.vectors.device)].float()
            products = vectors @ queries[place].to(vectors)
            own_scores[place, : len(of_query)] = products.cpu() - discounts[place].cpu()
    rows, order = torch.cat([rows, own_rows], dim=1).sort(dim=1, stable=True)  # equal scores in the order of the rows
    scores, best = torch.cat([scores, own_scores], dim=1).gather(1, order).sort(dim=1, descending=True, stable=True)
    size = min(top_k, len(index))
    return scores[:, :size], rows.gather(1, best)[:, :size]


__all__ = ["search_lowered"]
