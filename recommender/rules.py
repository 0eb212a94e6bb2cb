"""Rules of a shop for a list of recommendations: caps for each brand or category, diversity, and popularity for users
without a history. All users of a batch are processed at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F

from ..data import Domain
from ..modeling_unisrec import ItemCatalogue
from ..modeling_unisrec.item_columns import check_columns_known
from ..modeling_unisrec.pipeline_unisrec import best_columns
from .exact_index import ExactIndex
from .faiss_index import FaissIndex
from .lowered import search_lowered


Popularity: TypeAlias = str | Mapping[str, float] | Domain
POOL_SIZE, POOL_TIMES = 100, 10  # the pool has at least so many items, and so many times `top_k`
NUMBERS_AT_A_TIME = 1 << 24  # 64 MB
OWN_COLUMNS = ("user_id", "rank", "item_id", "score")  # of a table of recommendations


@dataclass(frozen=True)
class Cap:
    """
    The largest number of items of one group, such as a brand, in a list.

    Args:
        groups (`torch.LongTensor` of shape `(num_items,)`): Group of each item, -1 for an item without one.
        limit (`int`): Number of items of each group.
    """

    groups: torch.Tensor
    limit: int


@dataclass(frozen=True)
class Rules:
    r"""
    Rules by which a list is chosen from the items with the best scores.

    With caps or diversity, the list is chosen greedily from a pool: the `max(100, 10 * top_k)` items with the best scores
    that are not excluded. If the caps leave fewer than `top_k` of them, the pool of that user becomes four times as large,
    and so on up to the whole catalogue. Caps alone therefore give exactly the list that is left of the full ranking when
    it is read from the top and items of full groups are skipped.

    Diversity is maximal marginal relevance (MMR; Carbonell and Goldstein, "The use of MMR, diversity-based reranking for
    reordering documents and producing summaries", SIGIR 1998). The next item of the list is the one with the largest

        (1 - diversity) * relevance(item) - diversity * max(cosine(item, chosen) for each chosen item),

    where the maximum is 0 for the first item, and the paper's lambda is 1 - diversity. The cosine is that of the item
    vectors. The relevance is the score, divided by the largest absolute score of the pool if scores are not cosines. Equal
    values are ordered as the scores are. With diversity 0 the order is that of the scores, exactly.

    Args:
        caps (`Sequence[Cap]`, *optional*): Caps, all of which hold.
        diversity (`float`, *optional*, defaults to 0.0): Weight of the difference to the items chosen before, in [0, 1].
        has_cosines (`bool`, *optional*, defaults to `True`): Whether scores are cosines.
        popularity (`torch.FloatTensor` of shape `(num_items,)`, *optional*):
            Share of each item in all counts, the score of items for a user without a history.
    """

    caps: list[Cap] = field(default_factory=list)
    diversity: float = 0.0
    has_cosines: bool = True
    popularity: torch.Tensor | None = None

    def search(
        self,
        index: ExactIndex | FaissIndex,
        queries: torch.Tensor,
        top_k: int,
        hidden: list[list[int]],
        candidates: torch.Tensor | None = None,
        discounts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""
        Chooses the items of each list.

        Args:
            index ([`ExactIndex`] or [`FaissIndex`]): Index of the item vectors.
            queries, top_k, hidden, candidates: As for [`ExactIndex.search`].
            discounts (`torch.FloatTensor` of shape `(num_queries,)`, *optional*):
                By how much the scores of the `hidden` rows are lowered, instead of excluding them: [`search_lowered`].

        Returns:
            `tuple[torch.FloatTensor, torch.LongTensor]` of shape `(num_queries, min(top_k, num_items))`: Scores and rows in
            the order of the list; the score is -inf if fewer items remain.
        """

        def pools(users: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
            asked, own = queries[users.to(queries.device)], [hidden[user] for user in users.tolist()]
            if discounts is not None:
                return search_lowered(index, asked, size, own, discounts[users.to(discounts.device)], candidates)
            scores, rows = index.search(asked, size, own, candidates)
            return scores.cpu(), rows.cpu()

        if not self.caps and self.diversity == 0:
            return pools(torch.arange(len(queries)), top_k)

        return self._fill(index, len(queries), top_k, pools, self.has_cosines)

    def most_popular(
        self, index: ExactIndex | FaissIndex, top_k: int, candidates: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the list of a user without a history, as [`~Rules.search`] does for one user; its scores are the shares
        of the items in all counts, and equal ones are in catalogue order."""
        scores = self.popularity[None]
        if candidates is not None:
            scores = scores.masked_fill(~candidates, -torch.inf)
        if not self.caps and self.diversity == 0:
            return best_columns(scores, top_k)
        return self._fill(index, 1, top_k, lambda users, size: best_columns(scores, size), False)

    def _fill(
        self,
        index: ExactIndex | FaissIndex,
        num_users: int,
        top_k: int,
        pools: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
        has_cosines: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chooses from pools, scores and rows `(num_users, size)`, and from larger ones where a list is not full."""
        top_k = min(top_k, len(index))
        found = torch.full((num_users, top_k), -torch.inf), torch.zeros(num_users, top_k, dtype=torch.long)
        size, users = min(len(index), max(POOL_SIZE, POOL_TIMES * top_k)), torch.arange(num_users)
        while len(users):
            scores, rows = pools(users, size)
            chosen = self._choose(index, scores, rows, top_k, has_cosines)
            found[0][users], found[1][users] = chosen
            is_short = (scores[:, -1] > -torch.inf) & (chosen[0][:, -1] == -torch.inf)  # and more items may be left
            users = users[is_short] if size < len(index) else users[:0]
            size = min(len(index), 4 * size)
        return found

    def _choose(
        self,
        index: ExactIndex | FaissIndex,
        scores: torch.Tensor,
        rows: torch.Tensor,
        top_k: int,
        has_cosines: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chooses from pools of one size, as many users at a time as fit."""
        width = index.vectors.shape[1] if self.diversity else 1
        at_a_time = max(1, NUMBERS_AT_A_TIME // (scores.shape[1] * width))
        places = []
        for part, part_rows in zip(scores.split(at_a_time), rows.split(at_a_time), strict=True):
            vectors = None
            if self.diversity:
                vectors = F.normalize(index.vectors[part_rows.to(index.vectors.device)].float(), dim=-1).cpu()
            groups = [cap.groups[part_rows] for cap in self.caps]
            limits = [cap.limit for cap in self.caps]
            relevance = part if has_cosines else _scaled(part)
            places.append(choose(relevance, top_k, groups, limits, self.diversity, vectors))
        places = torch.cat(places)
        chosen = places.clamp(min=0)
        return scores.gather(1, chosen).where(places >= 0, -torch.inf), rows.gather(1, chosen)


def choose(
    relevance: torch.Tensor,
    top_k: int,
    groups: list[torch.Tensor],
    limits: list[int],
    diversity: float = 0.0,
    vectors: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    Chooses items greedily by maximal marginal relevance and caps, one item of every user at a time.

    Args:
        relevance (`torch.FloatTensor` of shape `(num_users, pool_size)`): Relevance, best first, -inf for no item.
        top_k (`int`): Number of items, at most `pool_size`.
        groups (`list[torch.LongTensor]` of shape `(num_users, pool_size)`): Group of each item for each cap, -1 for none.
        limits (`list[int]`): Number of items of one group for each cap.
        diversity (`float`, *optional*, defaults to 0.0): As for [`Rules`].
        vectors (`torch.FloatTensor` of shape `(num_users, pool_size, hidden_size)`, *optional*):
            Vectors of unit length; needed for diversity.

    Returns:
        `torch.LongTensor` of shape `(num_users, top_k)`: Places in the pool, -1 where no item is left.
    """
    taken = relevance == -torch.inf
    values = (1 - diversity) * relevance.masked_fill(taken, 0)
    nearest = torch.zeros_like(values)  # the largest cosine to an item chosen before
    counts = [torch.zeros_like(each) for each in groups]
    users = torch.arange(len(relevance))
    places = torch.full((len(relevance), top_k), -1)
    for rank in range(top_k):
        if taken.all():
            break
        best = (values - diversity * nearest).masked_fill(taken, -torch.inf).argmax(dim=1)
        is_left = ~taken[users, best]
        places[:, rank] = best.where(is_left, -1)
        for group, count, limit in zip(groups, counts, limits, strict=True):
            count += (group == group[users, best][:, None]) & (group >= 0)
            taken |= count >= limit
        taken[users, best] = True
        if diversity:
            cosines = torch.einsum("upd,ud->up", vectors, vectors[users, best])
            nearest = cosines if rank == 0 else torch.maximum(nearest, cosines)
    return places


def make_rules(
    catalogue: ItemCatalogue,
    cap: Mapping[str, int] | None = None,
    diversity: float = 0.0,
    popularity: Popularity | None = None,
    has_cosines: bool = True,
) -> Rules:
    r"""
    Makes the rules for a catalogue.

    Args:
        catalogue ([`ItemCatalogue`]): The items and their columns.
        cap (`Mapping[str, int]`, *optional*):
            Number of items of a list that may have the same value in a column, by its name, such as `{"brand": 2}`. Items
            without a value are not limited.
        diversity (`float`, *optional*, defaults to 0.0): As for [`Rules`].
        popularity (`str`, `Mapping[str, float]` or [`Domain`], *optional*):
            How often each item was bought, for users without a history: a column of the items, counts by item id, or a
            domain, whose interactions are counted. An item without a count has 0.
        has_cosines (`bool`, *optional*, defaults to `True`): Whether scores are cosines.

    Returns:
        [`Rules`]: The rules.

    Raises:
        ValueError: If a column is unknown, a cap is below 1, diversity is outside of [0, 1], or the counts are no numbers
            of at least 0 or all 0.
    """
    caps = []
    if cap is not None and not isinstance(cap, Mapping):
        raise ValueError(f"cap: {cap!r}, expected a limit for each column, such as {{'brand': 2}}")
    for column, limit in (cap or {}).items():
        check_columns_known(catalogue, [column], "cap")
        if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1:
            raise ValueError(f"cap: {limit!r} for column {column!r}, expected a whole number of at least 1")
        values = catalogue.table([column])[column]
        groups = values.rank("dense").cast(pl.Int64).fill_null(0) - 1
        caps.append(Cap(torch.from_numpy(groups.to_numpy().copy()), min(int(limit), len(catalogue))))
    if isinstance(diversity, bool) or not isinstance(diversity, int | float | np.number) or not 0 <= diversity <= 1:
        raise ValueError(f"diversity: {diversity!r}, expected a number from 0 (none) to 1")
    shares = None if popularity is None else _shares(catalogue, popularity)
    return Rules(caps, float(diversity), has_cosines, shares)


def check_result_columns(catalogue: ItemCatalogue, columns: Sequence[str]) -> None:
    """Raises `ValueError` unless all `columns` are columns of the items that a table of recommendations can hold."""
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise ValueError(f"columns: {columns!r}, expected a list of columns, such as ['price', 'url']")
    check_columns_known(catalogue, columns, "columns")
    for place, name in enumerate(columns):
        if name in OWN_COLUMNS:
            raise ValueError(
                f"columns: {name!r} is a column of the recommendations already; rename it or leave it out"
            )
        if name in columns[:place]:
            raise ValueError(f"columns: {name!r} comes twice, expected once")


def _shares(catalogue: ItemCatalogue, popularity: Popularity) -> torch.Tensor:
    """Returns the share of each item in all counts, float32 `(num_items,)`."""
    if isinstance(popularity, str):
        check_columns_known(catalogue, [popularity], "popularity")
        counts, source = catalogue.table([popularity])[popularity], f"column {popularity!r}"
    else:
        source = "the mapping"
        if isinstance(popularity, Domain):
            found = np.bincount(popularity.flat, minlength=popularity.num_items).tolist()
            popularity, source = (
                dict(zip(popularity.items["item_id"].to_list(), found, strict=True)),
                f"domain {popularity.name!r}",
            )
        if not isinstance(popularity, Mapping):
            raise ValueError(
                f"popularity: got a value of type {type(popularity).__name__}, expected a column of the items, counts by item "
                "id or a Domain"
            )
        try:
            found = [popularity.get(item_id) for item_id in catalogue.item_ids]
            counts = pl.Series([float(count) if type(count) is int else count for count in found], strict=True)
        except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
            raise ValueError("popularity: the counts are not all numbers") from error
    if not (counts.dtype.is_numeric() or counts.dtype == pl.Null):
        raise ValueError(f"popularity: {source} has values of type {counts.dtype}, expected numbers")
    counts = counts.cast(pl.Float64).fill_nan(None).fill_null(0.0)
    if counts.min() < 0 or not np.isfinite(counts.to_numpy()).all():
        raise ValueError(f"popularity: {source} has the value {counts.min()}, expected finite numbers of at least 0")
    if counts.max() == 0:
        raise ValueError(
            f"popularity: {source} has no count above 0 for an item of the catalogue, expected at least one"
        )
    return torch.from_numpy((counts / counts.sum()).to_numpy().astype(np.float32))


def _scaled(scores: torch.Tensor) -> torch.Tensor:
    """Divides scores by the largest absolute one of each row."""
    largest = scores.masked_fill(scores == -torch.inf, 0).abs().amax(dim=1, keepdim=True)
    return scores / largest.clamp(min=torch.finfo(scores.dtype).tiny)


__all__ = ["Cap", "Popularity", "Rules", "check_result_columns", "choose", "make_rules"]
