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
EPOCHS = 100_000_000, 2**31  # seconds
ONE_TIME = 0.99  # of the ids that come several times have one time: they are orders
MOST_ORDERS = 50  # of a customer on average; what more orders have in common is a country or a state
# Parts of names of what a customer has in common with others, or an order with other orders.
OF_ORDERS = re.compile(
    "country|region|state|status|city|town|zip|postal|currency|payment|shipping|store|channel|source|device|land$|ort$|"
    "total|price|sum|amount|betrag|montant|importe|discount|tax|quantity|qty|menge|anzahl"
)


def sample(table: Table, name: str, convert: Callable[[pl.Series], pl.Series] = to_ids) -> pl.Series:
    """Ids, or texts, of the first rows of a column; empty if it cannot hold any."""
    try:
        return convert(table.frame[name].head(SAMPLE)).drop_nulls()
    except ValueError:
        return pl.Series(name, [], dtype=pl.String)


def times(table: Table, taken: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Columns in which every value is a date, or a number such as those that count from 1970."""
    for name in table.frame.columns:
        values = table.frame[name].head(SAMPLE)
        if name in taken or values.dtype == pl.Null:
            continue
        try:
            found = to_times(values).drop_nulls()
        except ValueError:
            continue
        is_number = values.dtype.is_numeric() or (
            values.dtype == pl.String and values.cast(pl.Float64, strict=False).is_not_null().any()
        )
        if found.n_unique() > 1 and (not is_number or _count_from_1970(found)):
            yield name, "by its content: dates"


def _count_from_1970(numbers: pl.Series) -> bool:
    """Whether numbers are, in seconds or a smaller unit, times from 1973 to 2038: others may be anything."""
    least, most = numbers.min(), numbers.max()
    return any(EPOCHS[0] * unit <= least and most < EPOCHS[1] * unit for unit in (1, 10**3, 10**6, 10**9))


def shared_ids(
    interactions: Table, items: Table, taken: Sequence[str], only: str | None = None, least: float = LEAST_SHARE
) -> Iterator[tuple[str, str, str]]:
    """Pairs of columns of which the first has ids of the second, where each comes once; the best first."""
    found = []
    for mine in interactions.frame.columns:
        ids = sample(interactions, mine).unique()
        if mine in taken or len(ids) < 2 or only not in (None, mine):
            continue
        for other in items.frame.columns:
            try:
                known = to_ids(items.frame[other]).drop_nulls()
            except ValueError:
                continue
            if not len(known) or known.n_unique() < 0.9 * len(known):
                continue
            share = ids.is_in(known.implode()).mean()
            if share >= least and share > 0:
                found.append((share, len(ids), mine, other))
    for share, _, mine, other in sorted(found, key=lambda each: each[:2], reverse=True):
        yield mine, other, f"by its content: {share:.0%} of the ids are in the other table"


def customers(table: Table, taken: Sequence[str], time: str) -> Iterator[tuple[str, str]]:
    """
    The column of ids that come several times each: the one with most different ids, unless these are orders, all rows of which
    have one time; then the one that tells most about the orders besides.

    Raises:
        ValueError: If there are orders and nothing that could be their customers.
    """
    ids = {}
    for name in table.frame.columns:
        if name in taken:
            continue
        try:
            found = to_ids(table.frame[name])
        except ValueError:
            continue
        if 2 <= found.drop_nulls().n_unique() <= found.count() / 1.2:
            ids[name] = found
    if not ids:
        return
    counts = {name: found.drop_nulls().n_unique() for name, found in ids.items()}
    finest = max(counts, key=counts.__getitem__)
    try:
        frame = pl.DataFrame([*ids.values(), to_times(table.frame[time]).alias(" time")])
    except (ValueError, pl.exceptions.ColumnNotFoundError):  # which reading the table explains
        frame = pl.DataFrame({" time": [0]})
    if frame[" time"].n_unique() == 1 or not _have_one_time(frame, finest):
        yield finest, f"by its content: {counts[finest]:,} ids, each several times"
        return
    above = [
        name
        for name in counts
        if MOST_ORDERS * counts[name] >= counts[finest]
        and not OF_ORDERS.search(name.lower())
        and not ids[name].drop_nulls().head(SAMPLE).str.contains(r"^-?\d+[.,]\d+$").all()
        and _determines(frame, finest, name)
        and not _have_one_time(frame, name)
    ]
    if not above:
        raise ValueError(
            f"{table.source}: no column of customers was recognised: {finest!r} are orders, each with one time; name the "
            "column by `user_column`, that of the orders if nothing else tells customers apart"
        )
    part = frame.head(PART)
    told = {name: sum(_determines(part, name, other) for other in counts) for name in above}
    best = max(above, key=lambda name: (told[name], counts[name]))
    yield best, f"by its content: {counts[best]:,} ids, each of several orders in {finest!r}"


def _have_one_time(frame: pl.DataFrame, name: str) -> bool:
    """Whether almost all of the ids that come several times have the same time in all rows."""
    rows = frame.drop_nulls(name).group_by(name).agg(pl.len(), pl.col(" time").n_unique()).filter(pl.col("len") > 1)
    return (rows[" time"] == 1).mean() >= ONE_TIME


def _determines(frame: pl.DataFrame, name: str, other: str) -> bool:
    """Whether almost all values of a column go with one value of another one."""
    if name == other:
        return True
    pairs = frame.select(name, other).drop_nulls().unique()
    return pairs.height > 0 and pairs[name].n_unique() >= 0.95 * pairs.height


def columns_of_items(table: Table, item: str) -> Table:
    """The items of a table of interactions, a row each, with the columns that tell about items, not about their sales."""
    if item not in table.frame.columns:
        return table
    frame = table.frame.with_columns(to_ids(table.frame[item])).drop_nulls(item)
    num_items = frame[item].n_unique()
    kept = [
        name
        for name, dtype in frame.schema.items()
        if name == item or dtype == pl.Object or frame.select(item, name).n_unique() <= 2 * num_items
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
