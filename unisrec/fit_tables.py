"""From the tables of a shop to a domain, with the columns recognised."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .data import Domain, build_domain, read_table
from .data.readers.frames import TableSource
from .data.readers.guess import Columns, guess_columns
from .data.readers.table import check_csv_options, load_table
from .data.splits import MIN_INTERACTIONS


def prepare_tables(
    interactions: TableSource,
    items: TableSource | None,
    *,
    name: str,
    say: Callable[[str], None],
    columns: dict[str, Any],
    csv: dict[str, Any],
    reading: dict[str, Any],
    building: dict[str, Any],
) -> tuple[Domain, Columns]:
    """Reads the tables, recognises their columns and builds the domain. The groups of options are the arguments of
    [`guess_columns`], [`load_table`], [`read_table`] and [`build_domain`]; `say` receives what was found. Raises `ValueError`
    if no user can be evaluated."""
    check_csv_options([interactions, items], **csv)
    clicks = load_table(interactions, name="interactions", **csv)
    products = None if items is None else load_table(items, name="items", **csv)
    found = guess_columns(clicks, products, **columns)
    raw = read_table(
        clicks,
        products,
        user_column=found.user,
        item_column=found.item,
        time_column=found.time,
        text_columns=found.texts,
        items_id_column=found.items_id,
        **reading,
    )
    domain = build_domain(
        raw.interactions, raw.items, name=name, source="table", user_k=1, item_k=1, info=raw.info, **building
    )
    if not (np.diff(domain.offsets) >= MIN_INTERACTIONS).any():
        raise ValueError(
            f"no user has {MIN_INTERACTIONS} interactions, which it takes to learn from one and hold out two; "
            f"are the users in the column {found.user!r} (`user_column`)?"
        )
    for line in (*found.reasons, domain.report()):  # once nothing is refused any more
        say(line)
    return domain, found


__all__ = ["prepare_tables"]
