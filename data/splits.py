"""Splits of a domain: leave-one-out, which holds out the last two interactions of each user, or at a moment in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np


if TYPE_CHECKING:
    from .domain import Domain


# A user needs one interaction to learn from besides the two targets.
MIN_INTERACTIONS = 3

# How many interactions at the end of each evaluated user are hidden from the history, per split.
HELD_OUT = {"all": 0, "train": 2, "valid": 2, "test": 1}

LEAVE_ONE_OUT = {
    "protocol": "leave-one-out per user in time order",
    "train": f"all but the last two interactions; users with fewer than {MIN_INTERACTIONS} keep all and are not evaluated",
    "valid": "all but the last two interactions, target: the last but one",
    "test": "all but the last interaction, target: the last",
}

ALL_TRAIN = {"protocol": "nothing held out", "train": "all interactions"}


@dataclass(frozen=True)
class TimeCut:
    """
    Moment that divides the interactions of a domain, see [`cut_at`].

    Args:
        name (`str`): The split as it was asked for, `"time:2024-06-01"` or `"time:0.1"`.
        time (`int` or `float`): First time that is held out, in the unit of the domain's times.
        shown (`str`): The time for people, a date if the unit is known.
    """

    name: str
    time: int | float
    shown: str


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """
    Histories and targets of one split as flat arrays.

    Args:
        flat (`np.ndarray` of `int32`, shape `(num_history_items,)`):
            Item rows of all histories, one history after the other, oldest item first.
        offsets (`np.ndarray` of `int64`, shape `(num_histories + 1,)`):
            History `n` is `flat[offsets[n] : offsets[n + 1]]`.
        users (`np.ndarray` of `int64`, shape `(num_histories,)`):
            Row of `domain.sequences` that each history belongs to.
        targets (`np.ndarray` of `int32`, shape `(num_histories,)`, *optional*):
            Item row to be predicted after each history; `None` if the histories have no target.
    """

    flat: np.ndarray
    offsets: np.ndarray
    users: np.ndarray
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        what = "without targets" if self.targets is None else "with targets"
        return f"Split({len(self):,} histories of {len(self.flat):,} items, {what})"


def leave_one_out(domain: Domain, split: Literal["train", "valid", "test", "all"]) -> Split:
    """
    Returns a leave-one-out split of a domain.

    Args:
        domain (`Domain`): Sequences in time order.
        split (`str`):
            `"train"`: everything but the last two interactions; users with fewer than three keep all of theirs.
            `"valid"`: the same histories, target the last but one. `"test"`: everything but the last interaction,
            which is the target. `"all"`: whole histories without targets, for pre-training. Users with fewer than
            three interactions are in `"train"` and `"all"` only. Where `domain.held_out` is false, `"train"` is
            `"all"`.

    Returns:
        `Split`: Histories in the order of `domain.sequences`.

    Raises:
        ValueError: If `split` is none of the four, or `"valid"` or `"test"` of a domain that holds nothing out.
    """
    if split not in HELD_OUT:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(map(repr, HELD_OUT))}")
    if not domain.held_out:
        if split in ("valid", "test"):
            raise ValueError(
                f"{domain.name!r} holds nothing out, so it has no {split!r} split; pre-train on it, and evaluate on a domain "
                "with validation and test items"
            )
        split = "all"
    lengths = np.diff(domain.offsets)
    evaluated = lengths >= MIN_INTERACTIONS
    with_targets = split in ("valid", "test")
    users = np.flatnonzero(evaluated) if with_targets else np.arange(len(lengths))
    kept = np.where(evaluated, lengths - HELD_OUT[split], lengths)[users]
    starts = domain.offsets[:-1][users]
    offsets = np.concatenate(([0], np.cumsum(kept)))
    # One byte per interaction, not eight as in a list of positions: 1 from the start of a history, 0 after its end.
    steps = np.zeros(len(domain.flat) + 1, dtype=np.int8)
    steps[starts] = 1
    steps[starts + kept] -= 1
    inside = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
    targets = domain.flat[starts + kept] if with_targets else None
    return Split(domain.flat[inside], offsets, users, targets)


__all__ = ["ALL_TRAIN", "HELD_OUT", "LEAVE_ONE_OUT", "MIN_INTERACTIONS", "Split", "leave_one_out"]
