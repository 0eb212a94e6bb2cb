"""Exact search for the item vectors with the largest dot product with a query, over the catalogue in chunks."""

from collections.abc import Sequence

import torch

from ..modeling_unisrec.pipeline_unisrec import best_columns


SCORES_AT_A_TIME = 1 << 24  # 64 MB
QUERIES_AT_A_TIME = 256
ITEMS_AT_A_TIME = 1 << 16  # avoids a float32 copy of all bfloat16 vectors


class ExactIndex:
    r"""
    Exact search by dot product. Holds at most one chunk of scores at a time; ties are ordered by row.

    Args:
        vectors (`torch.FloatTensor` of shape `(num_items, hidden_size)`): Item vectors; their device runs the search.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            `torch.bfloat16` halves the memory; vectors are then rounded to 8 bits, products are still summed in
            float32.
    """

    def __init__(self, vectors: torch.Tensor, dtype: torch.dtype = torch.float32):
        self.vectors = vectors.to(dtype)

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        num_items, size = self.vectors.shape
        return f"ExactIndex({num_items:,} items, hidden_size={size}, {self.vectors.dtype}, device={str(self.vectors.device)!r})"

    def update(self, kept: torch.Tensor, added: torch.Tensor) -> "ExactIndex":
        """Returns a new index of the rows `kept` followed by the vectors `added`; this index is not changed."""
        vectors = self.vectors[kept.to(self.vectors.device)]
        return ExactIndex(torch.cat([vectors, added.to(vectors)]), vectors.dtype)

    def rebuild(self, exact: "ExactIndex") -> "ExactIndex":
        """Returns an index of the same kind over the vectors of `exact`."""
        return ExactIndex(exact.vectors, self.vectors.dtype)

    @torch.inference_mode()
    def search(
        self,
        queries: torch.Tensor,
        top_k: int,
        hidden: Sequence[Sequence[int]] | None = None,
        candidates: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        Finds the rows with the highest scores for each query.

        Args:
            queries (`torch.FloatTensor` of shape `(num_queries, hidden_size)`): Query vectors.
            top_k (`int`): Number of rows to return, at most `num_items`.
            hidden (`Sequence[Sequence[int]]`, *optional*): Rows to exclude for each query.
            candidates (`torch.BoolTensor` of shape `(num_items,)`, *optional*):
                `False` for rows excluded for all queries.

        Returns:
            `tuple[torch.FloatTensor, torch.LongTensor]` of shape `(num_queries, min(top_k, num_items))`: Scores, best
            first, and rows; the score is -inf if fewer rows remain.

        Raises:
            ValueError: If `top_k` is below 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; ask for at least one item.")
        queries = queries.to(self.vectors.device, torch.float32)
        hidden = [[] for _ in queries] if hidden is None else hidden
        parts = [
            self._search_block(queries[start:end], top_k, hidden[start:end], candidates)
            for start in range(0, len(queries), QUERIES_AT_A_TIME)
            for end in [start + QUERIES_AT_A_TIME]
        ]
        if not parts:
            empty = queries.new_empty(0, min(top_k, len(self)))
            return empty, empty.long()
        scores, rows = zip(*parts, strict=True)
        return torch.cat(scores), torch.cat(rows)

    def _search_block(
        self, queries: torch.Tensor, top_k: int, hidden: Sequence[Sequence[int]], candidates: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = queries.device
        hidden_rows = torch.tensor([row for rows in hidden for row in rows], dtype=torch.long, device=device)
        lengths = torch.tensor([len(rows) for rows in hidden], device=device)
        hidden_queries = torch.arange(len(queries), device=device).repeat_interleave(lengths)
        best_scores = queries.new_empty(len(queries), 0)
        best_rows = best_scores.long()
        size = max(1, min(ITEMS_AT_A_TIME, SCORES_AT_A_TIME // len(queries)))
        for start in range(0, len(self), size):
            chunk = self.vectors[start : start + size]
            scores = queries @ chunk.float().T
            inside = (hidden_rows >= start) & (hidden_rows < start + size)
            scores[hidden_queries[inside], hidden_rows[inside] - start] = -torch.inf
            if candidates is not None:
                scores.masked_fill_(~candidates[start : start + size].to(device), -torch.inf)
            chunk_scores, chunk_columns = best_columns(scores, top_k)
            # Rows found so far are the smaller ones: a stable sort keeps them before equal ones of this chunk.
            found = torch.cat([best_scores, chunk_scores], dim=1), torch.cat([best_rows, chunk_columns + start], dim=1)
            best_scores, order = found[0].sort(dim=1, descending=True, stable=True)
            best_scores = best_scores[:, :top_k]
            best_rows = found[1].gather(1, order[:, :top_k])
        return best_scores, best_rows


__all__ = ["ExactIndex"]
