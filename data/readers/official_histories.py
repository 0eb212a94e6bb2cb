"""Reconstruction of complete histories from the rows of the official code, each a history prefix and the next item."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from .official_rows import PrefixRows


_ITEMS_PER_CHECK = 1 << 22


class Histories(NamedTuple):
    """
    Complete user histories as flat arrays.

    Args:
        users (`pl.Series` of `str`): The users, each once.
        offsets (`np.ndarray` of shape `(num_users + 1,)`): History `n` is `flat[offsets[n] : offsets[n + 1]]`.
        flat (`np.ndarray` of `uint32`): Item indices of all histories, oldest first.
        held_out (`bool`): Whether the last two items of each history are its validation and its test target.
    """

    users: pl.Series
    offsets: np.ndarray
    flat: np.ndarray
    held_out: bool


def join_histories(train: PrefixRows, valid: PrefixRows | None = None, test: PrefixRows | None = None) -> Histories:
    r"""


    Reconstruct complete histories from their prefixes; histories longer than those in the files come from the targets.

    Every row is checked against the result, so that the histories match the files exactly: train rows are all proper
    prefixes of the history without its last two items, longest first, followed by one validation and one test row.

    Args:
        train (`PrefixRows`): Train rows.
        valid (`PrefixRows`, *optional*): One validation row for each user; goes with `test`.
        test (`PrefixRows`, *optional*): One test row for each user. If both are empty, nothing is held out.

    Returns:
        `Histories`: Users in the order of the test rows, or of the train rows if there are no test rows.

    Raises:
        ValueError: If the rows of a user are not the leave-one-out split of one history; names user, file and line.
    """
    held_out = any(rows is not None and len(rows.users) for rows in (valid, test))
    if held_out:
        parts = [train, valid, test]
        users = _check_unique(test)
        _check_unique(valid)
    else:
        parts = [train]
        users = train.users.unique(maintain_order=True)
    owners = [_owners(rows, users, test if held_out else train) for rows in parts]
    if held_out and len(valid.users) < len(users):
        missing = users[int((np.bincount(owners[1], minlength=len(users)) == 0).argmax())]
        raise ValueError(f"{valid}: user {missing!r} has no row, expected one as in {test}; fetch both files again")

    # The targets of a user's train rows are the history in reverse order, without its first item.
    num_train = np.bincount(owners[0], minlength=len(users))
    offsets = np.concatenate(([0], np.cumsum(num_train + (3 if held_out else 1))))
    order = np.argsort(owners[0], kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(num_train) - num_train, num_train)
    places = [offsets[owners[0]] + num_train[owners[0]] - rank]
    places += [offsets[owner] + num_train[owner] + step for step, owner in enumerate(owners[1:], start=1)]

    flat = np.empty(offsets[-1], dtype=np.uint32)
    for rows, owner, place in zip(parts[:2], owners[:2], places[:2], strict=False):
        shortest = place == offsets[owner] + 1
        flat[offsets[owner[shortest]]] = rows.items[(np.cumsum(rows.lengths) - rows.lengths)[shortest]]
    for rows, place in zip(parts, places, strict=True):
        flat[place] = rows.targets
    longest = max(int(rows.lengths.max(initial=0)) for rows in parts)
    for rows, owner, place in zip(parts, owners, places, strict=True):
        _check_prefixes(rows, flat, offsets[owner], place, longest)
    return Histories(users, offsets, flat, held_out)


def _check_unique(rows: PrefixRows) -> pl.Series:
    """Returns the users of validation or test rows. Raises `ValueError` if a user has more than one row."""
    if (repeated := ~rows.users.is_first_distinct()).any():
        raise ValueError(f"{rows.place(int(repeated.arg_max()))} has a second row, expected one for each user")
    return rows.users


def _owners(rows: PrefixRows, users: pl.Series, reference: PrefixRows) -> np.ndarray:
    """Returns the position of each row's user among the users."""
    runs = rows.users.rle().struct.unnest()  # the rows of a user mostly follow each other
    numbered = pl.DataFrame({"value": users}).with_row_index("owner")
    owners = runs.join(numbered, on="value", how="left", maintain_order="left")["owner"]
    if owners.null_count():
        row = int(runs["len"][: int(owners.is_null().arg_max())].sum())
        raise ValueError(
            f"{rows.place(row)} has no row in {reference}, expected one validation and one test row for each user; "
            "fetch the files again"
        )
    return np.repeat(owners.to_numpy().astype(np.int64), runs["len"].to_numpy())


def _check_prefixes(rows: PrefixRows, flat: np.ndarray, starts: np.ndarray, places: np.ndarray, longest: int) -> None:
    """Raise `ValueError` unless every row's history is the (at most `longest`) items before its target."""
    lengths = np.minimum(places - starts, longest)
    if (lengths != rows.lengths).any():
        row = int((lengths != rows.lengths).argmax())
    elif (row := _first_other_item(rows, flat, places)) is None:
        return
    expected = flat[places[row] - lengths[row] : places[row]]
    raise ValueError(
        f"{rows.place(row)} has the history {_show(rows.history(row))}, expected {_show(expected)}; only leave-one-out "
        f"files can be taken: train rows with all prefixes of one history, longest first, at most {longest} items of "
        "each, then one validation and one test row"
    )


def _first_other_item(rows: PrefixRows, flat: np.ndarray, places: np.ndarray) -> int | None:
    """Returns the first row whose items differ from those before its target in the complete history."""
    ends = np.cumsum(rows.lengths)
    cuts = np.searchsorted(ends, np.arange(0, len(rows.items), _ITEMS_PER_CHECK), side="right")
    for first, last in pairwise([*cuts, len(ends)]):
        lengths = rows.lengths[first:last]
        begin = int(ends[first] - rows.lengths[first])
        positions = np.arange(begin, begin + lengths.sum()) + np.repeat(places[first:last] - ends[first:last], lengths)
        differs = flat[positions] != rows.items[begin : begin + len(positions)]
        if differs.any():
            return int(np.searchsorted(ends, begin + int(differs.argmax()), side="right"))
    return None


def _show(history: np.ndarray) -> str:
    shown = " ".join(map(str, history[-6:]))
    return f"'{shown}'" if len(history) <= 6 else f"'... {shown}' ({len(history)} items)"


__all__ = ["Histories", "join_histories"]
