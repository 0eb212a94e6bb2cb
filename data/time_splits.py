"""Splits of a domain at a moment: what was known before it, and what users chose afterwards."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from .domain import Domain
from .readers.columns import EPOCH_UNITS, to_times
from .splits import Split, TimeCut, leave_one_out


PREFIX = "time:"
# Share of the interactions before the cut, the latest ones, on which a training validates.
VALIDATION_SHARE = 0.1


def cut_at(domain: Domain, split: str) -> Domain:
    """
    Returns a domain that is split at a moment, instead of leaving out the last two interactions of each user.

    Training, validation and evaluation of this domain then follow the time, see [`domain_split`] and [`time_test`].

    Args:
        domain ([`Domain`]): Domain with times.
        split (`str`):
            `"time:2024-06-01"`, `"time:2024-06-01 12:00"`: a date, as [`to_times`] reads it (UTC if it names no zone).
            `"time:0.1"`: a share between 0 and 1. The cut is where the last tenth of the interactions begins; all
            interactions of that very time are held out, so that it can be more than a tenth. `"time:1717200000"`: a
            number of 1 or more, in the unit of the domain's times. Interactions at the moment itself are held out.

    Returns:
        [`Domain`]: The same domain with `cut` set.

    Raises:
        ValueError: If `split` is none of these, the domain has no times or holds nothing out, a date is given and the
            unit of the times is not known, or no interaction lies before the cut, or none after it.
    """
    if domain.times is None:
        raise ValueError(
            f"{domain.name!r} has no times, which {split!r} needs: prepare it again from a source with timestamps, "
            "by `unisrec prepare` of this version."
        )
    if not domain.held_out:
        raise ValueError(f"{domain.name!r} holds nothing out, which {split!r} would do: prepare it from raw data.")
    times = np.sort(domain.times)
    unit = _unit(times)
    time = _parse(split, times, unit)
    cut = TimeCut(split, time, _show(time, unit))
    if not times[0] < time <= times[-1]:
        raise ValueError(
            f"{split!r} leaves no interaction of {domain.name!r} on one side: its times are from {_show(times[0], unit)} to "
            f"{_show(times[-1], unit)}; choose a moment between them, or a share such as time:0.1."
        )
    return replace(domain, cut=cut)


def is_time_split(split: str) -> bool:
    """Returns whether a split is one of those that [`cut_at`] takes."""
    return split.startswith(PREFIX)


def domain_split(domain: Domain, part: Literal["train", "valid", "test", "all"]) -> Split:
    """
    Returns a part of a domain, by the split that the domain has.

    Args:
        domain ([`Domain`]): With a `cut` of [`cut_at`], it is split there; otherwise this is [`leave_one_out`].
        part (`str`):
            With a cut at T, and V the moment where the last tenth of the interactions before T begins: `"train"` are the
            interactions before V. `"valid"` has the same histories, and for a target the next item of each user between
            V and T. `"test"` has the histories before T, and for a target the next item from T on; [`time_test`] has all
            later items. `"all"` are the histories before T.

    Returns:
        `Split`: Histories in the order of `domain.sequences`. Users without a history, and for `"valid"` and `"test"`
        without a target, are left out.

    Raises:
        ValueError: If `part` is another one, no interaction lies before V, or no user has a target.
    """
    if domain.cut is None:
        return leave_one_out(domain, part)
    if part not in ("train", "valid", "test", "all"):
        raise ValueError(f"unknown split {part!r}, expected one of 'all', 'train', 'valid', 'test'")
    end = domain.cut.time if part in ("test", "all") else validation_start(domain)
    known = _until(domain, end)
    if part in ("train", "all"):
        return _histories(domain, known, np.flatnonzero(known))
    last = _until(domain, np.inf if part == "test" else domain.cut.time)
    users = np.flatnonzero((known > 0) & (last > known))
    if not len(users):
        raise ValueError(_describe_nobody(domain, end, "validate on" if part == "valid" else "rank"))
    return replace(_histories(domain, known, users), targets=domain.flat[(domain.offsets[:-1] + known)[users]])


@dataclass(frozen=True, eq=False, repr=False)
class TimeTest:
    """
    The test users of a time split: one state each, at the cut, and all that they chose later.

    Args:
        histories (`Split`): Histories before the cut of the users with interactions on both sides, without targets.
        relevant (`np.ndarray` of `int32`, shape `(num_relevant,)`):
            Distinct items of each user from the cut on, one user after the other.
        offsets (`np.ndarray` of `int64`, shape `(num_histories + 1,)`):
            The items of user `n` are `relevant[offsets[n] : offsets[n + 1]]`.
        is_new (`np.ndarray` of `bool`, shape `(num_items,)`): Items whose first interaction is not before the cut.
        counts (`dict[str, int]`):
            `new_items` with an interaction, all of them after the cut; `new_users`, whose interactions all are after it and
            who have no history to rank by; `interactions_after` the cut, and `interactions_of_new_users` among them.
    """

    histories: Split
    relevant: np.ndarray
    offsets: np.ndarray
    is_new: np.ndarray
    counts: dict[str, int]

    def __repr__(self) -> str:
        return f"TimeTest({len(self.histories):,} users, {len(self.relevant):,} later items)"


def time_test(domain: Domain) -> TimeTest:
    """
    Returns the test users of a domain with a cut.

    Args:
        domain ([`Domain`]): Of [`cut_at`].

    Returns:
        [`TimeTest`]

    Raises:
        ValueError: If no user has interactions on both sides of the cut.
    """
    known, lengths = _until(domain, domain.cut.time), np.diff(domain.offsets)
    users = np.flatnonzero((known > 0) & (lengths > known))
    if not len(users):
        raise ValueError(_describe_nobody(domain, domain.cut.time, "rank"))
    places = _places(domain.offsets[:-1] + known, lengths - known, users)
    # Distinct pairs of user and item, sorted by both.
    owners = np.repeat(np.arange(len(users)), (lengths - known)[users])
    pairs = np.unique(owners * domain.num_items + domain.flat[places])
    owners, relevant = np.divmod(pairs, domain.num_items)
    earlier = _places(domain.offsets[:-1], known, np.arange(len(known)))
    is_new = np.ones(domain.num_items, dtype=bool)
    is_new[domain.flat[earlier]] = False
    counts = {
        "new_items": int(is_new[np.unique(domain.flat)].sum()),
        "new_users": int((known == 0).sum()),
        "interactions_after": int((lengths - known).sum()),
        "interactions_of_new_users": int(lengths[known == 0].sum()),
    }
    offsets = np.concatenate(([0], np.cumsum(np.bincount(owners, minlength=len(users)))))
    return TimeTest(_histories(domain, known, users), relevant.astype(np.int32), offsets, is_new, counts)


def before_cut(domain: Domain) -> Domain:
    """Returns what was known at the cut of a domain: its whole catalogue, and the users with an interaction before it, with
    these interactions alone and without a cut."""
    known = _until(domain, domain.cut.time)
    rows = pl.Series(known)
    columns = [pl.col(name).list.head(pl.lit(rows)) for name in ("item_index", "time")]
    return replace(domain, sequences=domain.sequences.with_columns(columns).filter(rows > 0), cut=None)


def after_cut(domain: Domain) -> pl.DataFrame:
    """Returns the interactions from the cut of a domain on, in time order: `user_id`, `item_id` and `time`."""
    owners = np.repeat(np.arange(domain.num_users), np.diff(domain.offsets))
    rows = np.flatnonzero(domain.times >= domain.cut.time)
    rows = rows[np.argsort(domain.times[rows], kind="stable")]
    return pl.DataFrame(
        [
            domain.sequences["user_id"].gather(owners[rows]),
            domain.items["item_id"].gather(domain.flat[rows]),
            pl.Series("time", domain.times[rows]),
        ]
    )


def validation_start(domain: Domain) -> int | float:
    """Returns the moment where the last tenth of the interactions before the cut begins. Raises `ValueError` if none lies
    before that moment."""
    times = np.sort(domain.times[domain.times < domain.cut.time])
    start = times[_first_of_last(VALIDATION_SHARE, len(times))].item()
    if times[0] == start:
        raise ValueError(
            f"the interactions of {domain.name!r} before {domain.cut.shown} have one time, so none can be kept apart to "
            "validate on; choose a later moment."
        )
    return start


def _first_of_last(share: float, number: int) -> int:
    """Returns where the last share of sorted values begins; it has at least one value."""
    return number - max(1, math.ceil(share * number - 1e-9))


def _until(domain: Domain, end: float) -> np.ndarray:
    """Returns for each user the number of interactions before a moment."""
    passed = np.concatenate(([0], np.cumsum(domain.times < end)))
    return np.diff(passed[domain.offsets])


def _places(starts: np.ndarray, lengths: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Returns the positions in `domain.flat` of ranges, those of the given users, one after the other."""
    starts, lengths = starts[users], lengths[users]
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def _histories(domain: Domain, known: np.ndarray, users: np.ndarray) -> Split:
    flat = domain.flat[_places(domain.offsets[:-1], known, users)]
    return Split(flat, np.concatenate(([0], np.cumsum(known[users]))), users)


def _describe_nobody(domain: Domain, moment: float, purpose: str) -> str:
    return (
        f"no user of {domain.name!r} has interactions before and after {_show(moment, _unit(np.sort(domain.times)))}, so there "
        f"is nothing to {purpose}; if the users are orders or sessions, prepare it with a column of customers."
    )


def _unit(times: np.ndarray) -> int | None:
    """Returns the unit of times that count from 1970, as a power of ten of a second; `None` if they cannot be dates."""
    for power in EPOCH_UNITS:  # the years 1980 to 2096 in one unit do not overlap with those in another
        if 3e8 * 10**power <= times[len(times) // 2] <= 4e9 * 10**power:
            return power
    return None


def _parse(split: str, times: np.ndarray, unit: int | None) -> int | float:
    text = split.removeprefix(PREFIX).strip()
    expected = "expected a date (time:2024-06-01), a share (time:0.1) or a time as in the data (time:1717200000)"
    if not is_time_split(split) or not text:
        raise ValueError(f"unknown split {split!r}, {expected}.")
    try:
        number = float(text)
    except ValueError:
        number = None
    if number is not None:
        if 0 < number < 1:
            return times[_first_of_last(number, len(times))].item()
        if not 1 <= number < math.inf:
            raise ValueError(f"unknown split {split!r}, {expected}.")
        return int(text) if text.isdecimal() else number
    try:
        date = int(to_times(pl.Series([text]))[0])
    except ValueError as error:
        raise ValueError(f"unknown split {split!r}, {expected}.") from error
    if unit is None:
        raise ValueError(
            f"{split!r} is a date, and the times of this domain ({times[0]} to {times[-1]}) do not count from 1970; give a "
            "share, such as time:0.1, or a time as in the data."
        )
    return date * 10 ** (unit - 6) if unit >= 6 else date / 10 ** (6 - unit)


def _show(time: float, unit: int | None) -> str:
    if unit is None:
        return f"{time:g}"
    return str(pl.Series([int(time * 10 ** (6 - unit))]).cast(pl.Datetime("us")).dt.to_string("%Y-%m-%d %H:%M")[0])


__all__ = [
    "TimeTest",
    "after_cut",
    "before_cut",
    "cut_at",
    "domain_split",
    "is_time_split",
    "time_test",
    "validation_start",
]
