"""From interactions and item texts to a domain: duplicates, items without text, k-core filter, time order."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from .domain import Domain
from .readers.columns import check_columns, to_interactions
from .readers.frames import Frame, to_polars
from .readers.values import to_ids, to_texts


INTERACTIONS = {name: name for name in ("user_id", "item_id", "time")}


class RawData(NamedTuple):
    """
    Result of a reader: interactions, items and facts about their source.

    Args:
        interactions (`pl.DataFrame`):
            Columns `user_id` (`str`), `item_id` (`str`), `time` (`i64` or `f64`); null where one is missing.
        items (`pl.DataFrame`): Columns `item_id` (`str`), `text` (`str`, null if an item has none), and extra ones.
        info (`dict`): Facts about the source: `files`, `steps` (see [`Domain`]), and choices made by the reader.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    info: dict[str, Any]


def count_step(step: str, before: int, left: int) -> dict[str, Any]:
    """Returns a row of `info["steps"]`: the numbers of rows that a step dropped and left."""
    return {"step": step, "dropped": before - left, "left": left}


def drop_incomplete(interactions: pl.DataFrame) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """
    Drop the interactions without a user, an item or a time.

    Args:
        interactions (`pl.DataFrame`): Columns `user_id`, `item_id` and `time`, null where one is missing, and others.

    Returns:
        `tuple[pl.DataFrame, list[dict]]`: The complete rows, and a row for `info["steps"]` if any was dropped.

    Raises:
        ValueError: If no row is complete; names a column that is missing in every row, if there is one.
    """
    columns = ["user_id", "item_id", "time"]
    if not any(interactions[column].null_count() for column in columns):
        return interactions, []
    complete = interactions.drop_nulls(columns)
    if complete.is_empty():
        missing = [column for column in columns if interactions[column].null_count() == interactions.height]
        raise ValueError(
            f"no interaction has a user, an item and a time: {(missing or ['one of the three'])[0]} is missing in all of "
            f"{interactions.height:,} rows"
        )
    return complete, [count_step("no user, item or time", interactions.height, complete.height)]


def k_core(users: np.ndarray, items: np.ndarray, user_k: int = 5, item_k: int = 5) -> tuple[np.ndarray, list[int]]:
    """
    Returns the k-core: the largest subset in which every user has `user_k` and every item `item_k` interactions.

    Args:
        users (`np.ndarray` of shape `(num_rows,)`): Number of the user of each interaction, from 0.
        items (`np.ndarray` of shape `(num_rows,)`): Number of its item, from 0.
        user_k (`int`, *optional*, defaults to 5): Fewest interactions of a user; 0 and 1 keep every user.
        item_k (`int`, *optional*, defaults to 5): Fewest interactions of an item; 0 and 1 keep every item.

    Returns:
        `tuple[np.ndarray, list[int]]`: The remaining rows in their order, and how many were left after each round.

    Raises:
        ValueError: If `user_k` or `item_k` is negative.
    """
    if user_k < 0 or item_k < 0:
        raise ValueError(f"user_k ({user_k}) and item_k ({item_k}) must not be negative; 0 and 1 mean no filter")
    rows = np.arange(len(users))
    left = []
    while len(rows):
        keep = (np.bincount(users) >= user_k)[users] & (np.bincount(items) >= item_k)[items]
        if keep.all():
            break
        kept = np.flatnonzero(keep)
        rows, users, items = rows[kept], users[kept], items[kept]
        left.append(len(rows))
    return rows, left


def build_domain(
    interactions: Frame,
    items: Frame,
    *,
    name: str,
    source: str,
    user_k: int = 5,
    item_k: int = 5,
    missing_text: Literal["error", "drop", "keep"] = "error",
    keep_unsold: bool = False,
    info: dict[str, Any] | None = None,
) -> Domain:
    """
    Filter and order interactions, and join them with the item texts.

    In this order: rows without a user, an item or a time are dropped, repeated `(user, item, time)` rows are dropped,
    items without text are refused or dropped, the k-core is taken, items without interactions are dropped or kept. Users and
    items of the domain are sorted by id, independent of the order of the input rows; histories are in time order,
    and ties keep the order of the input rows.

    Args:
        interactions (data frame, see [`to_polars`]):
            Columns `user_id`, `item_id` and `time`, of what [`to_ids`] and [`to_times`] take; others are
            ignored.
        items (data frame, see [`to_polars`]):
            Columns `item_id` and `text`, of types accepted by [`to_ids`] and [`to_texts`]; others are kept. If an id
            occurs several times, its first row with a text is used.
        name (`str`): Name of the domain.
        source (`str`): Where the data comes from, for `info["source"]`.
        user_k (`int`, *optional*, defaults to 5): Fewest interactions of a user; 0 and 1 mean no filter.
        item_k (`int`, *optional*, defaults to 5): Fewest interactions of an item; 0 and 1 mean no filter.
        missing_text (`str`, *optional*, defaults to `"error"`):
            What to do with interactions whose item has no text: `"error"` refuses them, `"drop"` drops them, `"keep"`
            keeps them with the item id for a text. Counted in any case.
        keep_unsold (`bool`, *optional*, defaults to `False`):
            Whether items with a text that are in no history, such as new ones, stay in the catalogue. They can be
            recommended, are ranked beside the others in every evaluation, which lowers its metrics a little, and are
            among the candidates of training, as items that nobody chose. The default drops them, as the published
            benchmarks do.
        info (`dict`, *optional*): Facts from the reader; its `steps` and `item_steps` precede those added here.

    Returns:
        `Domain`: With `info["source"]`, `info["filters"]`, `info["steps"]` and `info["item_steps"]` filled in.

    Raises:
        ValueError: If a column is missing or of a wrong type, if an item has no text and `missing_text` is `"error"`,
            if nothing is left after a step, or if an argument is out of its range.
    """
    if missing_text not in ("error", "drop", "keep"):
        raise ValueError(f"unknown missing_text {missing_text!r}, expected 'error', 'drop' or 'keep'")
    interactions, items = to_polars(interactions, "interactions"), to_polars(items, "items")
    info = dict(info or {})
    steps, item_steps = list(info.pop("steps", [])), list(info.pop("item_steps", []))

    check_columns(items.columns, ["item_id", "text"], "items")
    interactions, incomplete = drop_incomplete(to_interactions(interactions, INTERACTIONS, "interactions"))
    steps += incomplete

    # Ids become integers once, and all further steps work on integers. The users, the slowest part, get a thread.
    times = interactions["time"].to_numpy()
    with ThreadPoolExecutor(2) as pool:
        numbered = pool.map(_numbers, (interactions["user_id"], interactions["item_id"]))
        order = pool.submit(_stable_order, times).result()
        (user_ids, users), (item_ids, numbers) = numbered
    # From here on rows stand in the order of the histories: one user after the other, oldest first.
    order = order[_stable_order(users[order])]
    users, numbers, times = users[order], numbers[order], times[order]
    rows = _first_of_equals(users, times, numbers)
    steps.append(count_step("same user, item and time", interactions.height, len(rows)))

    items = items.with_columns(to_ids(items["item_id"], "items"), to_texts(items["text"], "items"))
    with_id = items.drop_nulls("item_id")
    if with_id.height < items.height:
        item_steps.append(count_step("no item id", items.height, with_id.height))
    items = with_id
    with_text = items.drop_nulls("text")
    catalogue = with_text.unique("item_id", keep="first", maintain_order=True)
    item_steps.append(count_step("no text", items.height, with_text.height))
    item_steps.append(count_step("repeated item id", with_text.height, catalogue.height))

    if missing_text == "keep":
        textless = item_ids.to_frame("item_id").join(catalogue, on="item_id", how="anti")
        catalogue = pl.concat([catalogue, textless.with_columns(text="item_id")], how="diagonal")
        item_steps.append(
            count_step(f"no text, id kept as text ({textless.height:,})", catalogue.height, catalogue.height)
        )
    has_text = item_ids.is_in(catalogue["item_id"].implode()).to_numpy()
    described = rows if has_text.all() else rows[has_text[numbers[rows]]]
    if len(described) < len(rows) and missing_text == "error":
        raise ValueError(_describe_missing(interactions[np.sort(order[rows])], items, catalogue))
    steps.append(count_step("item without text", len(rows), len(described)))
    if len(described) < len(order):
        users, numbers, times = users[described], numbers[described], times[described]

    core, rounds = k_core(users, numbers, user_k, item_k)
    if not len(described):
        raise ValueError(_describe_nothing_in_common(item_ids, items["item_id"], catalogue["item_id"]))
    if not len(core):
        raise ValueError(_describe_empty(len(described), rounds, user_k, item_k))
    steps.append(
        count_step(f"k-core, user_k={user_k}, item_k={item_k} ({len(rounds)} rounds)", len(described), len(core))
    )

    users, numbers, times = users[core], numbers[core], times[core]
    used = np.zeros(len(item_ids), dtype=bool)
    used[numbers] = True
    ids_left = item_ids.filter(pl.Series(used))
    if keep_unsold:
        unsold = catalogue.height - len(ids_left)
        ids_left = catalogue["item_id"].sort()
        item_steps.append(count_step(f"no interaction left, kept ({unsold:,})", catalogue.height, len(ids_left)))
    else:
        item_steps.append(count_step("no interaction left", catalogue.height, len(ids_left)))
    items_left = ids_left.to_frame("item_id").join(catalogue, on="item_id", how="left", maintain_order="left")
    new_number = np.zeros(len(item_ids), dtype=np.uint32)
    new_number[used] = ids_left.search_sorted(item_ids.filter(pl.Series(used)))
    # polars groups a column that is flagged as sorted without a hash table.
    columns = {"user": pl.Series(users).set_sorted(), "item_index": new_number[numbers], "time": times}
    histories = pl.DataFrame(columns).group_by("user", maintain_order=True).agg("item_index", "time")
    sequences = histories.select(user_ids.gather(histories["user"]).alias("user_id"), "item_index", "time")
    filters = {"user_k": user_k, "item_k": item_k, "missing_text": missing_text}
    if keep_unsold:
        filters["keep_unsold"] = True
    info = {"source": source, "filters": filters, **info, "steps": steps, "item_steps": item_steps}
    return Domain(name, items_left, sequences, info)


def _numbers(ids: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Returns the sorted distinct ids, and the position of each row's id among them."""
    # Categories are numbered by first appearance, in one pass; only the distinct ids are then sorted.
    codes = ids.cast(pl.Categorical(pl.Categories.random())).to_physical().to_numpy()
    row_of_code = np.full(int(codes.max(initial=0)) + 1, -1)
    row_of_code[codes] = np.arange(len(codes))
    used = np.flatnonzero(row_of_code >= 0)
    different = ids[row_of_code[used]]
    order = different.arg_sort()
    place = np.empty(len(row_of_code), dtype=np.uint32)
    place[used[order]] = np.arange(len(order))
    return different[order], place[codes]


def _stable_order(values: np.ndarray) -> np.ndarray:
    """Returns `np.argsort(values, kind="stable")`; sorts integers faster, with their rows packed into the low bits."""
    row_bits = max(len(values) - 1, 0).bit_length()
    if not len(values) or values.dtype.kind not in "iu":
        return np.argsort(values, kind="stable")
    # Modulo 2 ** 64, where the distance from the minimum is exact for any integer.
    packed = values.astype(np.uint64)
    packed -= values.min().astype(np.uint64)
    if int(packed.max()).bit_length() + row_bits > 64:
        return np.argsort(values, kind="stable")
    packed <<= np.uint64(row_bits)
    packed |= np.arange(len(values), dtype=np.uint64)
    packed.sort()
    packed &= np.uint64((1 << row_bits) - 1)
    return packed.view(np.int64)


def _first_of_equals(users: np.ndarray, times: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns the rows left after removing duplicates of user, item and time, in the order of users and times."""
    # Only rows with the user and the time of a neighbour can be equal; most data have few of them.
    together = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    rows = np.arange(len(users))
    if not together.any():
        return rows
    moment = np.cumsum(np.concatenate(([True], ~together)))  # number of the user and time of each row
    candidates = rows[np.concatenate((together, [False])) | np.concatenate(([False], together))]
    candidates = candidates[_stable_order(items[candidates])]
    candidates = candidates[_stable_order(moment[candidates])]
    here, before = candidates[1:], candidates[:-1]
    repeated = here[(moment[here] == moment[before]) & (items[here] == items[before])]
    return np.delete(rows, repeated)


def _describe_missing(rows: pl.DataFrame, items: pl.DataFrame, catalogue: pl.DataFrame) -> str:
    missing = rows.join(catalogue, on="item_id", how="anti", maintain_order="left")
    first = missing["item_id"][0]
    reason = "has an empty text" if (items["item_id"] == first).any() else "is not in the items table"
    return (
        f"items without text: {missing['item_id'].n_unique():,} ({missing.height:,} of {rows.height:,} interactions); the "
        f"first is {first!r}, which {reason}; complete the items, drop these interactions (`missing_text='drop'`) or keep "
        "them with the item id as text (`missing_text='keep'`)"
    )


def _describe_nothing_in_common(bought: pl.Series, listed: pl.Series, with_text: pl.Series) -> str:
    message = "no interaction is left before the k-core: "
    if with_text.is_empty():
        return f"{message}none of the {len(listed):,} items has an id and a text"
    if bought.is_in(listed.implode()).any():
        return f"{message}none of the items that occur in the interactions has a text"
    message += "the interactions and the items have no item id in common"
    plain, known = bought.str.strip_chars_start("0"), with_text.str.strip_chars_start("0")
    same = plain.is_in(known.implode())
    if not same.any():
        return f"{message}, for example {bought[0]!r} and {with_text[0]!r}; check that both are the same ids"
    place = int(same.arg_max())
    other = with_text[int((known == plain[place]).arg_max())]
    return (
        f"{message}, but {bought[place]!r} and {other!r} differ only in leading zeros, which spreadsheets and data frames "
        "drop from numbers; read the ids as text in both"
    )


def _describe_empty(before: int, rounds: Sequence[int], user_k: int, item_k: int) -> str:
    counts = " -> ".join(f"{count:,}" for count in (before, *rounds))
    return (
        f"the k-core (user_k={user_k}, item_k={item_k}) leaves nothing: {counts} interactions; "
        "lower `user_k` or `item_k` (1 means no filter)"
    )


__all__ = ["RawData", "build_domain", "count_step", "drop_incomplete", "k_core"]
