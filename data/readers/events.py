"""Kinds of interactions, such as views and purchases, and the choice of those that count."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from ..interactions import count_step
from .values import to_id, to_ids


def kinds_of(events: Any) -> list[str]:
    """Returns kinds of interactions, one or several, as [`event_kinds`] writes them. Raises `ValueError` for others."""
    if isinstance(events, (str, bool, int, float)):
        events = [events]
    kinds = []
    for event in events or ():
        kind = str(event).lower() if isinstance(event, bool) else to_id(event)
        if kind is None:
            raise ValueError(f"`events` holds {event!r}, expected kinds of interactions")
        kinds.append(kind)
    return kinds


def event_kinds(values: pl.Series, source: str = "", *, first_line: int | None = None) -> pl.Series:
    """Returns the kind of each interaction as a string, "true" or "false" for a boolean; null if missing. The arguments and
    errors are those of [`to_ids`]."""
    return values.cast(pl.String) if values.dtype == pl.Boolean else to_ids(values, source, first_line=first_line)


def frequent_kinds(kinds: pl.Series) -> str:
    """Lists the ten most frequent kinds of [`event_kinds`] with their numbers."""
    found = kinds.drop_nulls().value_counts(sort=True).head(10)
    return ", ".join(f"{kind} ({count:,})" for kind, count in found.iter_rows()) or "none"


def only_events(rows: pl.DataFrame, kinds: pl.Series, events: Sequence[str], source: str) -> tuple[pl.DataFrame, dict]:
    """Drops the rows of other kinds than `events`. Raises `ValueError` for one that does not occur."""
    found = set(kinds.unique())
    if (missing := next((event for event in events if event not in found), None)) is not None:
        raise ValueError(
            f"{source}: no {kinds.name!r} is {missing!r}, the most frequent are {frequent_kinds(kinds)}; check `events`"
        )
    left = rows.filter(kinds.is_in(list(events)))
    return left, count_step(f"{kinds.name} is not {' or '.join(events)}", rows.height, left.height)


__all__ = ["event_kinds", "frequent_kinds", "kinds_of", "only_events"]
