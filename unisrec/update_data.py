"""The interactions of a shop before and after a training, and those that an update learns from."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from .data import Domain, Split
from .data.interactions import drop_incomplete
from .modeling_unisrec import ItemCatalogue
from .words import plural


VALIDATION_SHARE, MOST_VALIDATION = 0.2, 2000  # of the users with new interactions
OTHER_UNIT = 300  # ratio of two times beyond which they cannot be in one unit


@dataclass(frozen=True)
class ShopHistory:
    """
    Histories of all known users.

    Args:
        domain ([`Domain`]): Items, those sold no more behind the others, and whole histories.
        is_new (`np.ndarray` of `bool`, shape `(num_interactions,)`): Interactions since the training, as in `domain.flat`.
        notes (`list[str]`): Sentences on interactions that were left out.
    """

    domain: Domain
    is_new: np.ndarray
    notes: list[str]

    @property
    def is_touched(self) -> np.ndarray:
        """`bool (num_users,)`: users with new interactions."""
        return np.add.reduceat(self.is_new, self.domain.offsets[:-1]) > 0


def merge_histories(new: pl.DataFrame, old: Domain | None, catalogue: ItemCatalogue, name: str) -> ShopHistory:
    r"""
    Appends new interactions to the histories of a domain.

    Args:
        new (`pl.DataFrame`): Columns `user_id`, `item_id` and `time`.
        old ([`Domain`], *optional*): Prepared data of the training. Interactions that it has already count once.
        catalogue ([`ItemCatalogue`]): The items. Interactions with others are left out.
        name (`str`): Name of the domain where there is no old one.

    Returns:
        [`ShopHistory`]

    Raises:
        ValueError: If no new interaction is left, or the times of both are in different units.
    """
    notes, (new, incomplete) = [], drop_incomplete(new)
    if incomplete:
        notes.append(f"{plural(incomplete[0]['dropped'], 'interaction')} without user, item or time left out")
    items = pl.DataFrame(
        {
            "item_id": [*catalogue.item_ids, *catalogue.former],
            "text": [*catalogue.texts, *(item.text for item in catalogue.former.values())],
        }
    )
    known = new.filter(pl.col("item_id").is_in(items["item_id"].implode()))
    if unknown := new.height - known.height:
        notes.append(f"{plural(unknown, 'interaction')} with unknown products left out; `items` adds products")
    rows = known.with_columns(is_new=pl.lit(True))
    if old is not None:
        before = _interactions(old, None if known.is_empty() else rows["time"].min())
        _check_units(before["time"], rows["time"], old.times is not None)
        before = before.filter(pl.col("item_id").is_in(items["item_id"].implode()))
        rows = pl.concat([before, rows], how="vertical_relaxed")
        if not known.is_empty() and old.times is None:
            notes.append("the earlier interactions have no times: all of them count as older than the new ones")
    rows = rows.unique(["user_id", "item_id", "time"], keep="first", maintain_order=True)
    num_new = int(rows["is_new"].sum())
    if repeated := known.height - num_new:
        notes.append(f"{plural(repeated, 'interaction')} already known")
    if num_new == 0:
        raise ValueError(
            "there is no new interaction with a product of the catalogue: " + ("; ".join(notes) or "none")
        )
    numbers = items.with_row_index("item_index").select("item_id", pl.col("item_index").cast(pl.UInt32))
    rows = rows.join(numbers, on="item_id", how="left", maintain_order="left").sort("time", maintain_order=True)
    # Users in the order of their ids, as `build_domain` puts them.
    histories = rows.group_by("user_id", maintain_order=True).agg("item_index", "time", "is_new").sort("user_id")
    info = {"source": "update"} if old is None else dict(old.info)
    domain = Domain(name if old is None else old.name, items, histories.select("user_id", "item_index", "time"), info)
    return ShopHistory(domain, histories["is_new"].explode().to_numpy(), notes)


def training_histories(
    history: ShopHistory, max_length: int, replay: float, generator: np.random.Generator
) -> tuple[Split, Split | None]:
    r"""
    Selects the histories that an update is trained and validated on.

    Users with new interactions are trained on, with up to `max_length` of their older items. A fifth of them, at most 2,000,
    keep their last item apart for validation. So that nothing is forgotten, other users are trained on as well, chosen at
    random.

    Args:
        history ([`ShopHistory`]): All histories.
        max_length (`int`): Maximum length of a history of the model.
        replay (`float`): Targets of the other users, as a multiple of those of users with new interactions.
        generator (`np.random.Generator`): Random generator.

    Returns:
        `tuple[Split, Split | None]`: Training histories, and validation histories with targets, `None` if no user has two
        items of which the last is new.
    """
    domain = history.domain
    starts, ends, touched = domain.offsets[:-1].copy(), domain.offsets[1:].copy(), history.is_touched
    first_new = np.full(domain.num_users, domain.num_interactions)
    np.minimum.at(
        first_new,
        np.repeat(np.arange(domain.num_users), ends - starts)[history.is_new],
        np.flatnonzero(history.is_new),
    )
    can_validate = np.flatnonzero(touched & (ends - starts > 1) & history.is_new[ends - 1])
    number = min(MOST_VALIDATION, int(np.ceil(VALIDATION_SHARE * len(can_validate))))
    users = np.sort(generator.permutation(can_validate)[:number])
    valid = None
    if len(users):
        lengths = ends[users] - 1 - starts[users]
        flat = np.concatenate([domain.flat[starts[user] : ends[user] - 1] for user in users])
        valid = Split(flat, np.concatenate(([0], np.cumsum(lengths))), users, domain.flat[ends[users] - 1])
    ends[users] -= 1
    starts = np.maximum(starts, np.where(touched, first_new, ends) - max_length)
    targets = np.maximum(ends - starts - 1, 0)
    others = generator.permutation(np.flatnonzero(~touched))
    enough = np.searchsorted(np.cumsum(targets[others]), replay * targets[touched].sum()) + 1
    users = np.sort(np.concatenate((np.flatnonzero(touched), others[: enough if replay > 0 else 0])))
    lengths = ends[users] - starts[users]
    flat = np.concatenate([domain.flat[starts[user] : ends[user]] for user in users])
    return Split(flat, np.concatenate(([0], np.cumsum(lengths))), users), valid


def _interactions(domain: Domain, before: float | None) -> pl.DataFrame:
    """Interactions of a domain; those without times get numbers before a moment."""
    owners = np.repeat(np.arange(domain.num_users), np.diff(domain.offsets))
    times = domain.times
    if times is None:
        times = np.arange(-domain.num_interactions, 0) + (0 if before is None else before)
    return pl.DataFrame(
        {
            "user_id": domain.sequences["user_id"].gather(owners),
            "item_id": domain.items["item_id"].gather(domain.flat),
            "time": times,
            "is_new": np.zeros(len(owners), dtype=bool),
        }
    )


def _check_units(old: pl.Series, new: pl.Series, has_times: bool) -> None:
    """Raises `ValueError` if one kind of times must be seconds and the other milliseconds, or the like."""
    old_median, new_median = abs(old.median() or 0), abs(new.median() or 0)
    if (
        has_times
        and min(old_median, new_median) > 1e6
        and max(old_median, new_median) > OTHER_UNIT * min(old_median, new_median)
    ):
        raise ValueError(
            f"the new times (about {new_median:.4g}) are in another unit than those the model was trained on (about "
            f"{old_median:.4g}); write both alike, for example as dates"
        )


__all__ = ["ShopHistory", "merge_histories", "training_histories"]
