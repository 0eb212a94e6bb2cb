"""Columns of a table recognised by their content: times, ids, customers and texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import polars as pl

from .columns import to_times
from .table import Table
from .values import to_ids, to_texts


SAMPLE, PART = 2_000, 200_000  # rows
LEAST_SHARE = 0.5  # of the sampled ids of one table that are in the other
EPOCHS = 946_684_800, 2**31  # seconds, 2000 to 2038
FIRST_LOG = 631_152_000 * 10**6  # microseconds, 1990: earlier dates are of births, books and films
ONE_TIME = 0.99  # of the ids that come several times have one time: they are orders
MOST_ORDERS = 50  # of a customer on average; what more orders have in common is a country or a state
# Parts of names of what a customer has in common with others, or an order or an event with other ones.
OF_ORDERS = re.compile(
    "country|region|state|status|city|town|zip|postal|currency|payment|shipping|store|channel|source|device|land$|ort$|"
    "total|price|preis|prix|precio|sum|amount|betrag|montant|importe|discount|tax|quantity|qty|menge|anzahl|"
    "rating|score|duration|latency|seconds|^ms$"
)
ROW_NUMBER = re.compile(r"unnamed: \d+")  # as pandas writes it


def sample(table: Table, name: str, convert: Callable[[pl.Series], pl.Series] = to_ids) -> pl.Series:
    """Ids, or texts, of the first rows of a column; empty if it cannot hold any."""
    try:
        return convert(table.frame[name].head(SAMPLE)).drop_nulls()
    except ValueError:
        return pl.Series(name, [], dtype=pl.String)


def times(table: Table, taken: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Columns in which every value is a date, or a number such as those that count from 1970: dates first, and of these the ones
    with most different values."""
    ranks = {}
    for name in table.frame.columns:
        values = table.frame[name].head(SAMPLE)
        if name in taken or values.dtype == pl.Null:
            continue
        try:
            found = to_times(values).drop_nulls()
        except ValueError:
            continue
        is_number = _holds_numbers(values)
        if found.n_unique() > 1 and (not is_number or _count_from_1970(found)):
            ranks[name] = not is_number, is_number or found.min() >= FIRST_LOG, _num_different(table.frame[name])
    for name in sorted(ranks, key=lambda each: ranks[each], reverse=True):
        yield name, "by its content: dates"


def _holds_numbers(values: pl.Series) -> bool:
    if values.dtype in (pl.String, pl.Object):
        return to_ids(values).cast(pl.Float64, strict=False).is_not_null().any()
    return values.dtype.is_numeric()


def _holds_dates(values: pl.Series) -> bool:
    try:
        return not _holds_numbers(values) and len(to_times(values).drop_nulls()) > 0
    except ValueError:
        return False


def _count_from_1970(numbers: pl.Series) -> bool:
    """Whether numbers are, in seconds or a smaller unit, times from 2000 to 2038: others may be anything."""
    least, most = numbers.min(), numbers.max()
    return any(EPOCHS[0] * unit <= least and most < EPOCHS[1] * unit for unit in (1, 10**3, 10**6, 10**9))


def shared_ids(
    interactions: Table,
    items: Table,
    taken: Sequence[str],
    only: str | None = None,
    least: float = LEAST_SHARE,
    least_different: float = 0.9,
) -> Iterator[tuple[str, str, str]]:
    """Pairs of columns of which the first has ids of the second, where each comes once or nearly so; the best first."""
    found, different = [], {}
    for other in items.frame.columns:
        try:
            known = to_ids(items.frame[other]).drop_nulls()
        except ValueError:
            continue
        if len(known) and known.n_unique() >= least_different * len(known) and not ROW_NUMBER.match(other.lower()):
            different[other] = known
    for mine in interactions.frame.columns:
        ids = sample(interactions, mine).unique()
        if mine in taken or len(ids) < 2 or only not in (None, mine):
            continue
        if only is None and (OF_ORDERS.search(mine.lower()) or ROW_NUMBER.match(mine.lower())):
            continue
        has_spaces = ids.str.contains(r"\s").mean() > 0.5  # as a title has
        for other, known in different.items():
            share = ids.is_in(known.implode()).mean()
            is_chance = only is None and len(ids) < min(20, 0.1 * len(known))  # such as numbers of pieces
            if share >= least and share > 0 and not is_chance:
                found.append((round(share, 2), not has_spaces, len(ids), mine, other))
    for share, _, _, mine, other in sorted(found, key=lambda each: each[:3], reverse=True):
        yield mine, other, f"by its content: {share:.0%} of the ids are in the other table"


def customers(table: Table, taken: Sequence[str], time: str, item: str) -> Iterator[tuple[str, str]]:
    """
    The column of ids that come several times each: the one with most different ids, unless these are orders, all rows of which
    have one time; then the one that tells most about the orders besides.

    Raises:
        ValueError: If there are orders and nothing that could be their customers.
    """
    ids = dict(_columns_of_ids(table, taken))
    try:
        when, items = to_times(table.frame[time]), to_ids(table.frame[item])
    except (ValueError, pl.exceptions.ColumnNotFoundError):  # which reading the table explains
        when = items = pl.Series([0] * table.frame.height)
    part = {
        name: found.head(PART) for name, found in ids.items() if not _determines(items.head(PART), found.head(PART))
    }
    counts = {name: ids[name].drop_nulls().n_unique() for name in part}
    has_times = when.n_unique() > 1
    orders = [name for name in counts if has_times and _determines(ids[name], when, ONE_TIME)]
    several = [name for name in counts if counts[name] <= ids[name].count() / 1.2]
    # After a tie, as between the number and the name of a customer, the first column is taken.
    finest = max((name for name in counts if name in (*orders, *several)), key=counts.__getitem__, default=None)
    if finest not in orders:
        if finest is not None:
            yield finest, f"by its content: {counts[finest]:,} ids, each several times"
        return
    above = [
        name
        for name in several
        if name not in orders
        and MOST_ORDERS * counts[name] >= counts[finest]
        and _determines(part[finest], part[name])
    ]
    if not above:
        raise ValueError(
            f"{table.source}: no column of customers was recognised: {finest!r} are orders, each with one time; name the "
            "column by `user_column`, that of the orders if nothing else tells customers apart"
        )

    def rank(name: str) -> tuple[bool, int, int]:
        told = sum(_determines(part[name], other) for other in part.values())
        return ids[name].count() >= 0.9 * table.frame.height, told, counts[name]

    best = max(above, key=rank)
    yield best, f"by its content: {counts[best]:,} ids, each of several orders in {finest!r}"


def _columns_of_ids(table: Table, taken: Sequence[str]) -> Iterator[tuple[str, pl.Series]]:
    """Columns of ids some of which come several times."""
    for name, dtype in table.frame.schema.items():
        column = table.frame[name]
        if name in taken or OF_ORDERS.search(name.lower()) or ROW_NUMBER.match(name.lower()):
            continue
        if (dtype.is_float() and (column % 1 > 0).any()) or _holds_dates(column.head(SAMPLE)):
            continue
        try:
            found = to_ids(column)
        except ValueError:
            continue
        is_decimal = found.drop_nulls().head(SAMPLE).str.contains(r"^-?\d+[.,]\d+$").all()
        if 2 <= found.drop_nulls().n_unique() < found.count() and not is_decimal:
            yield name, found


def _determines(ids: pl.Series, values: pl.Series, least: float = 0.95) -> bool:
    """Whether almost all of the ids that come several times have one value in all of these rows."""
    pairs = pl.DataFrame([ids.alias("id"), values.alias("value")]).drop_nulls()
    rows = pairs.group_by("id").agg(pl.len(), pl.col("value").n_unique()).filter(pl.col("len") > 1)
    return rows.height > 0 and (rows["value"] == 1).mean() >= least


def _num_different(column: pl.Series) -> int:
    return len(set(column.to_list())) if column.dtype == pl.Object else column.n_unique()


def columns_of_items(table: Table, item: str) -> Table:
    """The items of a table of interactions, a row each, with the columns that tell about items, not about their sales."""
    if item not in table.frame.columns:
        return table
    frame = table.frame.with_columns(to_ids(table.frame[item])).drop_nulls(item)
    part, is_several = frame.head(PART), frame[item].is_duplicated().any()
    kept = [
        name
        for name, dtype in frame.schema.items()
        if not is_several or dtype == pl.Object or _determines(part[item], part[name], 0.8)
    ]
    return table._replace(frame=frame.select(kept).filter(frame[item].is_first_distinct()))


def longest_text(table: Table, taken: Sequence[str]) -> Iterator[str]:
    """The column with the longest texts on average, if they have several words."""
    lengths = {
        name: texts.str.len_chars().mean()
        for name, texts in _samples_of_texts(table, taken)
        if len(texts) and texts.str.contains(r"\pL\S*\s+\S").mean() > 0.5
    }
    yield from sorted(lengths, key=lambda each: -lengths[each])[:1]


def name_of_each(table: Table, taken: Sequence[str]) -> Iterator[str]:
    """The column with the longest texts on average that are almost all different, mostly letters, best with spaces."""
    ranks = {}
    for name, texts in _samples_of_texts(table, taken):
        if distinct(texts) <= 0.9 or texts.str.contains("://", literal=True).any():
            continue
        length = texts.str.len_chars().mean()
        if texts.str.count_matches(r"[\pL\pM]").mean() > 0.6 * length:
            ranks[name] = texts.str.contains(r"\s").mean() > 0.5, length  # a name before its short form in an address
    yield from sorted(ranks, key=lambda each: ranks[each], reverse=True)[:1]


def _samples_of_texts(table: Table, taken: Sequence[str]) -> Iterator[tuple[str, pl.Series]]:
    for name in table.frame.columns:
        if name not in taken:
            yield name, sample(table, name, to_texts)


def distinct(texts: pl.Series) -> float:
    """Share of different texts; 0 without any."""
    return texts.n_unique() / max(len(texts), 1)


__all__ = [
    "columns_of_items",
    "customers",
    "distinct",
    "longest_text",
    "name_of_each",
    "sample",
    "shared_ids",
    "times",
]
