"""Full ranking of users with one or several relevant items: the users, the ranks of these items, and the best items."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from ..data import Domain, domain_split, time_test
from ..data.fetching import fetch_late
from ..data.splits import Split
from ..modeling_unisrec.text_neighbours import lower_seen
from .metrics import relevance_metrics, target_ranks
from .ranking import NO_USER, pad_rows, user_batches


Scorer = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
PROTOCOLS = ("", "_seen_masked")  # suffixes of the metrics: items of the history kept among the candidates, or masked


class RelevanceDataset(Dataset):
    r"""
    Users with relevant items to be ranked, sorted by length of history so that a batch pads little.

    Args:
        histories (`Split`): What is known of each user; may be empty.
        relevant (`np.ndarray` of shape `(num_relevant,)`): Relevant items, one user after the other.
        offsets (`np.ndarray` of shape `(num_users + 1,)`): Those of user `n` are `relevant[offsets[n] : offsets[n + 1]]`.
        repeats (`bool`):
            With items of the history masked: whether a relevant item of the history still counts, as the only one of them
            that is not masked (leave-one-out), or is masked and does not count (time split).
    """

    def __init__(self, histories: Split, relevant: np.ndarray, offsets: np.ndarray, repeats: bool):
        self.histories, self.repeats = histories, repeats
        self._relevant, self._offsets = relevant, offsets
        self.order = np.argsort(np.diff(histories.offsets), kind="stable")

    @classmethod
    def of_domain(cls, domain: Domain, part: str = "test") -> "RelevanceDataset":
        """Returns the users of a part of a domain, `"valid"` or `"test"`: each with one target or, for the test of a domain
        with a cut, with all later items. Raises `ValueError` if there are none."""
        if domain.cut is not None and part == "test":
            test = time_test(domain)
            return cls(test.histories, test.relevant, test.offsets, repeats=False)
        split = domain_split(domain, part)
        if len(split) == 0:
            raise ValueError(NO_USER)
        return cls(split, split.targets, np.arange(len(split) + 1), repeats=True)

    @property
    def longest(self) -> int:
        """Number of items of the longest history."""
        return int(np.diff(self.histories.offsets).max())

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = self.order[index]
        history = self.histories.flat[self.histories.offsets[row] : self.histories.offsets[row + 1]]
        relevant = self._relevant[self._offsets[row] : self._offsets[row + 1]]
        seen = np.unique(history)
        return {"items": history, "relevant": relevant, "seen": np.setdiff1d(seen, relevant) if self.repeats else seen}


@dataclass
class RelevanceCollator:
    r"""
    Collates users of a [`RelevanceDataset`].

    Args:
        max_length (`int`): Latest items of each history that are kept.

    Returns:
        `item_index` `(batch_size, length)`: catalogue rows + 1, 0 is padding on the right; `seen` `(batch_size, max_seen)`:
        distinct rows to be masked, padded with -1; `relevant` `(batch_size, max_relevant)`: rows, padded with -1.
    """

    max_length: int

    def __call__(self, features: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        rows = {
            "item_index": [feature["items"][-self.max_length :] + 1 for feature in features],
            "seen": [feature["seen"] for feature in features],
            "relevant": [feature["relevant"] for feature in features],
        }
        return {
            name: torch.from_numpy(pad_rows(values, max(map(len, values)), 0 if name == "item_index" else -1))
            for name, values in rows.items()
        }


@dataclass(frozen=True, eq=False)
class Ranking:
    r"""
    Ranks of the relevant items of all users, and the best items of each user.

    Args:
        users (`np.ndarray` of shape `(num_relevant,)`): User of each relevant item, in the order of the dataset.
        items (`np.ndarray` of shape `(num_relevant,)`): The relevant items.
        ranks (`np.ndarray` of shape `(num_relevant, 2)`):
            Ranks from 0, ties at their mean position: seen items kept, seen items masked. NaN where an item is masked.
        lists (`np.ndarray` of shape `(num_users, depth, 2)`): Best items of each user, by both protocols; -1 where no
            candidate is left.
    """

    users: np.ndarray
    items: np.ndarray
    ranks: np.ndarray
    lists: np.ndarray

    def metrics(self, cutoffs: Sequence[int], chosen: np.ndarray | None = None, prefix: str = "") -> dict[str, float]:
        """Computes [`relevance_metrics`] by both protocols. With `chosen`, `bool` `(num_items,)`, of these items alone."""
        ranks = self.ranks if chosen is None else np.where(chosen[self.items][:, None], self.ranks, np.nan)
        return {
            f"{prefix}{name}{suffix}": value
            for column, suffix in enumerate(PROTOCOLS)
            for name, value in relevance_metrics(ranks[:, column], self.users, cutoffs).items()
        }


def relevant_ranks(scores: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
    r"""
    Computes the rank of each relevant item, from 0, among all candidates; the others of them are candidates too.

    Args:
        scores (`torch.FloatTensor` of shape `(num_users, num_items)`): Scores of the catalogue.
        relevant (`torch.LongTensor` of shape `(num_users, max_relevant)`): Rows of relevant items, padded with -1.

    Returns:
        `torch.FloatTensor` of shape `(num_users, max_relevant)`: Ranks, ties at their mean position. A score that is NaN is
        last if it is of the item itself, and before it if it is of another one. Padding has any rank.
    """
    own = scores.gather(1, relevant.clamp(min=0))
    ordered = scores.masked_fill(scores.isnan(), torch.inf).sort(dim=1).values
    upto = torch.searchsorted(ordered, own, right=True)
    level = upto - torch.searchsorted(ordered, own)
    ranks = scores.shape[1] - upto + (level - 1) / 2
    return ranks.masked_fill(own.isnan(), scores.shape[1] - 1)


def rank_batch(
    scores: torch.Tensor,
    relevant: torch.Tensor,
    seen: torch.Tensor,
    depth: int,
    item_index: torch.Tensor | None = None,
    text_neighbours: float = 0.0,
) -> tuple[torch.Tensor, ...]:
    r"""
    Ranks the relevant items of a batch by both protocols, and takes the best items.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_items)`): Scores of the catalogue.
        relevant (`torch.LongTensor` of shape `(batch_size, max_relevant)`): Rows, padded with -1.
        seen (`torch.LongTensor` of shape `(batch_size, max_seen)`): Rows to be masked, padded with -1.
        depth (`int`): Length of the lists, at most `num_items`.
        item_index, text_neighbours (*optional*): As for [`ranks_of_targets`].

    Returns:
        `tuple(torch.FloatTensor, torch.LongTensor)`: Ranks `(batch_size, max_relevant, 2)`, NaN for masked and for padded
        items, and lists `(batch_size, depth, 2)`, as of [`Ranking`].
    """
    # The column at the end takes what the padding of `seen` masks.
    is_seen = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    is_seen = is_seen.scatter(1, torch.where(seen < 0, scores.shape[1], seen), True)[:, :-1]
    masked = scores.masked_fill(is_seen, -torch.inf)
    kept = lower_seen(scores.clone(), item_index, text_neighbours) if text_neighbours else scores
    if relevant.shape[1] == 1:  # many times faster than sorting
        ranks = target_ranks(scores, relevant[:, 0], seen, kept if text_neighbours else None).unsqueeze(1)
    else:
        ranks = torch.stack([relevant_ranks(kept, relevant), relevant_ranks(masked, relevant)], dim=2)
    ranks[..., 1].masked_fill_(is_seen.gather(1, relevant.clamp(min=0)), torch.nan)
    ranks.masked_fill_((relevant < 0).unsqueeze(2), torch.nan)
    best = masked.topk(depth)
    lists = [kept.topk(depth).indices, best.indices.masked_fill(best.values == -torch.inf, -1)]
    return ranks, torch.stack(lists, dim=2)


def gather_padded(rows: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """Gathers rows of users from all processes, padded with -1 where those of another process are longer."""
    if accelerator.num_processes > 1:
        rows = accelerator.pad_across_processes(rows, dim=1, pad_index=-1)
    return accelerator.gather_for_metrics(rows)


@torch.inference_mode()
def rank_users(
    score: Scorer,
    users: RelevanceDataset,
    num_items: int,
    *,
    depth: int = 50,
    max_length: int | None = None,
    text_neighbours: float = 0.0,
    batch_size: int = 512,
    accelerator: Accelerator,
    progress: bool = False,
) -> Ranking:
    r"""
    Ranks the catalogue for all users.

    Args:
        score (`Callable`):
            Batch of a [`RelevanceCollator`], on the device of the accelerator -> `(batch_size, num_items)` scores in
            float32.
        users ([`RelevanceDataset`]): Users with relevant items.
        num_items (`int`): Size of the catalogue.
        depth (`int`, *optional*, defaults to 50): Length of the lists, the largest cutoff of a metric.
        max_length (`int`, *optional*): Latest items of a history that are scored; by default all.
        text_neighbours (`float`, *optional*, defaults to 0.0):
            Share of text neighbours in the scores, by which items of a history that are kept are lowered: [`lower_seen`].
        batch_size (`int`, *optional*, defaults to 512): Users scored at a time by each process, at most.
        accelerator (`Accelerator`): Device and processes.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar in the first process.

    Returns:
        [`Ranking`]: The same in every process.
    """
    # On a CPU, scores that fit its cache are ranked there.
    rows = max(1, (2**20 if accelerator.device.type == "cpu" else 2**26) // num_items)
    collator = RelevanceCollator(users.longest if max_length is None else max_length)

    def found() -> Iterator[tuple[torch.Tensor, ...]]:
        for batch in user_batches(users, collator, min(batch_size, rows), accelerator, progress):
            parts = (score(batch), batch["relevant"], batch["seen"], min(depth, num_items))
            of_batch = rank_batch(*parts, batch["item_index"], text_neighbours)
            yield tuple(gather_padded(value, accelerator) for value in (batch["relevant"], *of_batch))

    relevant, ranks, lists = zip(*fetch_late(found()), strict=True)
    width = np.concatenate([(rows >= 0).sum(1) for rows in relevant])
    inside = [rows >= 0 for rows in relevant]
    return Ranking(
        np.repeat(np.arange(len(width)), width),
        np.concatenate([rows[mask] for rows, mask in zip(relevant, inside, strict=True)]),
        np.concatenate([rows[mask] for rows, mask in zip(ranks, inside, strict=True)]),
        np.concatenate(lists),
    )


__all__ = [
    "PROTOCOLS",
    "Ranking",
    "RelevanceCollator",
    "RelevanceDataset",
    "Scorer",
    "gather_padded",
    "rank_batch",
    "rank_users",
    "relevant_ranks",
]
