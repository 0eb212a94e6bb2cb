"""Reading of histories and ids from files, data frames and domains."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from ..data import Domain
from ..data.readers.column_content import times
from ..data.readers.columns import check_columns, to_times
from ..data.readers.events import event_kinds, frequent_kinds
from ..data.readers.files import suffix_of
from ..data.readers.frames import TableSource, is_path
from ..data.readers.guess import column_by_name
from ..data.readers.json_lines import json_fields
from ..data.readers.table import JSON_LINES, Table, csv_options, is_anonymous, load_table
from ..data.readers.values import place, to_id, to_ids
from ..modeling_unisrec import UniSRecProcessor
from ..modeling_unisrec.item_catalogue import nearest_ids
from ..modeling_unisrec.processing_unisrec import check_histories


logger = logging.getLogger(__name__)


def read_histories(
    source: TableSource,
    tables: Mapping[str, Any] | None = None,
    parse: Callable[[str], str | dict[str, str]] = str,
) -> tuple[list[str], list[list[str | dict[str, str]]]]:
    r"""
    Reads histories from a table with one row for each user, or one for each interaction.

    Args:
        source (`str`, `os.PathLike` or data frame):
            File or frame, as for [`read_table`], with the columns `user_id` and `history`, a list of ids and texts,
            oldest first (in CSV a JSON list, or ids separated by spaces); numbers are ids, converted by [`to_ids`],
            strings are used unchanged. Without a column `history`: a column of user ids, one of item ids and, unless the
            rows are in the order of time, one of times, as for [`read_table`].
        tables (`Mapping[str, Any]`, *optional*):
            Arguments of [`read_table`] that a checkpoint remembers. Its `user_column`, `item_column` and `time_column` are
            taken where the table has them, its `date_format` with the latter; other columns are recognised by their names,
            times otherwise by their content; a warning says so, or that there are none.
            Of a table of interactions, rows of other `events` and, with `drop_anonymous`, those without a user are left
            out, as in the training; a warning says how many. Separator and encoding are those of a CSV file.
        parse (`Callable`, *optional*): Makes an entry of each string in a column `history`. By default they are ids.

    Returns:
        `tuple[list[str], list[list]]`: User ids, in the order of their first rows, and histories.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If a column or an id is missing, a history is not a list of ids and texts (names the row), or no row
            counts.
    """
    table = load_table(source, name="histories", hub=False, **csv_options(source, tables or {}))
    if "history" not in table.frame.columns:
        return _group_interactions(table, tables or {})
    user = _find_column(table.frame.columns, table.source, "user", tables)
    user_ids = _complete_ids(table, user, "for every history")
    if (repeated := user_ids.is_duplicated()).any():
        logger.warning(
            "%s: user %r is in several rows; each row is a history with a list of its own.",
            table.source,
            user_ids.filter(repeated)[0],
        )
    histories = []
    for row, cell in enumerate(table.frame["history"].to_list()):
        try:
            entries = _parse_history(cell)
            histories.append([parse(entry) if isinstance(entry, str) else entry for entry in entries])
        except (TypeError, ValueError, RecursionError) as error:
            where = place(table.source, row, table.first_line)
            raise ValueError(f"{where}: the history cannot be read ({error}).") from error
    return user_ids.to_list(), histories


def find_histories(
    histories: Sequence[Sequence[Any]] | TableSource | Domain,
    user_ids: Sequence[str] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """
    Returns the histories of whatever holds them, with an id for each.

    Args:
        histories (`Sequence` of histories, table or [`Domain`]):
            Histories as for [`Recommender.recommend`]; a file or frame, as for [`read_histories`]; or a domain.
        user_ids (`Sequence[str]`, *optional*):
            User id of each history, by default its number from 0. Of a domain: users to choose, by default all. Not for
            a table, which has user ids of its own.
        tables (`Mapping[str, Any]`, *optional*): As for [`read_histories`].

    Returns:
        `tuple`: User ids and histories.

    Raises:
        KeyError: If a user is not in the domain.
        ValueError: If the numbers of user ids and histories differ, a user id is not a string, or a table cannot be
            read.
    """
    if isinstance(user_ids, str):
        raise ValueError(f"`user_ids` is the string {user_ids!r}, expected a list of ids: [{user_ids!r}] for one")
    if isinstance(histories, Domain):
        return domain_histories(histories, user_ids)
    if is_path(histories) or not isinstance(histories, Sequence):
        if user_ids is not None:
            raise ValueError("the table has user ids of its own; leave `user_ids` out.")
        return read_histories(histories, tables, parse_entry if is_path(histories) else str)
    user_ids = list(map(str, range(len(histories)))) if user_ids is None else user_ids
    if len(user_ids) != len(histories):
        raise ValueError(f"{len(user_ids)} user ids but {len(histories)} histories: give one id for each history.")
    _check_user_ids(user_ids)
    return user_ids, histories


def domain_histories(domain: Domain, user_ids: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """
    Returns the whole histories of the users of a domain, the held-out interactions included.

    Args:
        domain ([`Domain`]): The domain.
        user_ids (`Sequence[str]`, *optional*): Users; by default all of them.

    Returns:
        `tuple[list[str], list[list[str]]]`: User ids and histories of item ids, oldest first.

    Raises:
        KeyError: If a user is not in the domain.
        ValueError: If an id is not a string.
    """
    sequences, ids = domain.sequences, domain.items["item_id"]
    if user_ids is not None:
        user_ids = list(user_ids)
        _check_user_ids(user_ids)
        wanted = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
        if len(unknown := wanted.join(sequences, on="user_id", how="anti", maintain_order="left")):
            wrong, known = unknown["user_id"][0], sequences["user_id"]
            likely = known.filter(known.str.ends_with(wrong) | known.str.starts_with(wrong[:3])).head(1000).to_list()
            nearest = nearest_ids(wrong, known, likely)
            hint = f"; nearest ids: {', '.join(nearest)}" if nearest else ""
            raise KeyError(f"user id {wrong!r} is not among the {domain.num_users:,} of {domain.name!r}{hint}.")
        sequences = wanted.join(sequences, on="user_id", how="left", maintain_order="left")
    histories = [ids.gather(rows).to_list() for rows in sequences["item_index"]]
    return sequences["user_id"].to_list(), histories


def drop_unknown(
    processor: UniSRecProcessor, user_ids: Sequence[str], histories: Sequence[Sequence[Any]], keep_empty: bool = False
) -> tuple[list[str], list[list[Any]]]:
    """
    Leaves ids that are not in the catalogue out of histories, and then users of whom nothing is left.

    Args:
        processor ([`UniSRecProcessor`]): Holds the catalogue.
        user_ids (`Sequence[str]`): User of each history.
        histories (`Sequence` of histories): As for [`Recommender.recommend`].
        keep_empty (`bool`, *optional*, defaults to `False`): Whether empty histories are kept.

    Returns:
        `tuple[list[str], list[list]]`: Users and histories that are left.

    Raises:
        ValueError: If nothing is left of histories that were not empty, or an entry cannot be read.
    """
    check_histories(histories, allow_empty=True)
    known = [[entry for entry in history if _is_known(processor, entry)] for history in histories]
    left = [row for row, history in enumerate(known) if history or keep_empty]
    if (entries := sum(map(len, histories))) and not left:
        raise ValueError(f"nothing is left of the histories: no id is in the catalogue ({entries:,} left out)")
    return [user_ids[row] for row in left], [known[row] for row in left]


def read_ids(path: str | os.PathLike, role: str, tables: Mapping[str, Any] | None = None) -> list[str]:
    r"""
    Reads the distinct ids of a table.

    Args:
        path (`str` or `os.PathLike`): File, as for [`read_histories`].
        role (`str`): `"user"` or `"item"`.
        tables (`Mapping[str, Any]`, *optional*): As for [`read_histories`].

    Returns:
        `list[str]`: The ids, each once, in the order of their first rows.

    Raises:
        FileNotFoundError, OSError, ValueError: As for [`read_histories`].
    """
    columns = []
    if suffix_of(path) in JSON_LINES:  # of which only named columns are read
        columns = [_find_column(json_fields(path), str(path), role, tables)]
    table = load_table(path, columns, hub=False, **csv_options(path, tables or {}))
    column = _find_column(table.frame.columns, table.source, role, tables)
    return _complete_ids(table, column, "in every row").unique(maintain_order=True).to_list()


def parse_entry(entry: str) -> str | dict[str, str]:
    """Parses an entry of a history in a file or on the command line: `text:...` is a text; anything else is an id, optionally
    prefixed with `id:`."""
    kind, colon, value = entry.partition(":")
    if colon and kind in ("text", "id"):
        return {"text": value} if kind == "text" else {"item_id": value}
    return entry


def _is_known(processor: UniSRecProcessor, entry: Any) -> bool:
    try:
        processor.parse(entry)
    except KeyError:
        return False
    return True


def _check_user_ids(user_ids: Sequence[str]) -> None:
    if wrong := [each for each in user_ids if not isinstance(each, str)]:
        raise ValueError(f"user ids are strings, not {wrong[0]!r}: write a number as '12'.")


def _find_column(columns: Sequence[str], source: str, role: str, tables: Mapping[str, Any] | None) -> str:
    """Returns the column of user or item ids: the remembered one, otherwise the one with such a name."""
    found = _remembered(columns, role, tables or {})
    if found is None:
        check_columns(columns, [f"{role}_id"], source)
    return found


def _remembered(columns: Sequence[str], role: str, tables: Mapping[str, Any]) -> str | None:
    name = tables.get(f"{role}_column")
    return name if name in columns else column_by_name(columns, role)


def _group_interactions(table: Table, tables: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Histories of a table with a row for each interaction."""
    columns = table.frame.columns
    user, item, time = (_remembered(columns, role, tables) for role in ("user", "item", "time"))
    if user is None or item is None:
        missing = "users" if user is None else "items"
        raise ValueError(
            f"{table.source}: neither a column 'history' nor one of the {missing}, the columns are {', '.join(columns)}; "
            "expected user_id and history, or user_id, item_id and timestamp."
        )
    if time is None:
        time, _ = next(times(table, [user, item]), (None, ""))
        if time is not None:
            logger.warning("%s: the times are read from %r, by its content.", table.source, time)
        elif table.frame.width > 2:
            logger.warning("%s: no times were recognised; the rows of a user count as oldest first.", table.source)
    counted = _counted_rows(table, user, tables)
    rows = pl.DataFrame(
        [
            _complete_ids(table, user, "in every row", counted),
            _complete_ids(table, item, "in every row", counted).alias("item_id"),
        ]
    )
    if time is not None:
        values = table.frame[time]
        is_remembered = time == tables.get("time_column") and not values.dtype.is_temporal()
        date_format = tables.get("date_format") if is_remembered else None
        values = to_times(values, table.source, first_line=table.first_line, date_format=date_format)
        if (missing := values.is_null() & counted).any():
            where = place(table.source, int(missing.arg_max()), table.first_line)
            raise ValueError(f"{where}: {time!r} is empty, expected a time in every row, or no such column.")
        rows = rows.with_columns(values.alias("time"))
    rows = rows.filter(counted)
    if time is not None:  # repeated rows count once, as in the training
        rows = rows.unique(maintain_order=True)
    users = rows[user].unique(maintain_order=True).to_frame()
    ordered = rows if time is None else rows.sort("time", maintain_order=True)
    histories = ordered.group_by(user, maintain_order=True).agg("item_id")
    grouped = users.join(histories, on=user, how="left", maintain_order="left")
    return grouped[user].to_list(), grouped["item_id"].to_list()


def _counted_rows(table: Table, user: str, tables: Mapping[str, Any]) -> pl.Series:
    """Mask of the interactions that a training would have counted: of the remembered events, and of known users."""
    frame, events, event_column = table.frame, list(tables.get("events") or ()), tables.get("event_column")
    counted = pl.repeat(True, frame.height, eager=True)
    if events and event_column not in frame.columns:
        logger.warning("%s: no column %r, so that every row counts as %s", table.source, event_column, events[0])
    elif events:
        kinds = event_kinds(frame[event_column], table.source, first_line=table.first_line)
        counted &= kinds.is_in(events).fill_null(False)
        if len(kinds) and not counted.any():
            raise ValueError(
                f"{table.source}: no {event_column!r} is {' or '.join(events)}, as in the training of the checkpoint; the "
                f"most frequent are {frequent_kinds(kinds)}"
            )
        _warn_of_rows(table, counted, f"{event_column} is not {' or '.join(events)}")
    if tables.get("drop_anonymous"):
        users = to_ids(frame[user], table.source, first_line=table.first_line)
        known = users.is_not_null() & ~is_anonymous(users)
        _warn_of_rows(table, known | ~counted, "no user")
        counted &= known
    return counted


def _warn_of_rows(table: Table, kept: pl.Series, reason: str) -> None:
    if left_out := int((~kept).sum()):
        logger.warning("%s: %s of %s rows left out: %s", table.source, f"{left_out:,}", f"{len(kept):,}", reason)


def _complete_ids(table: Table, column: str, expected: str, needed: pl.Series | None = None) -> pl.Series:
    """Ids of a column. Raises `ValueError` if one is missing, among the rows of the mask `needed` if it is given."""
    ids = to_ids(table.frame[column], table.source, first_line=table.first_line)
    missing = ids.is_null() if needed is None else ids.is_null() & needed
    if missing.any():
        where = place(table.source, int(missing.arg_max()), table.first_line)
        raise ValueError(f"{where}: the {column} is empty, expected one {expected}.")
    return ids


def _parse_history(cell: Any) -> list[str | dict[str, str]]:
    """Returns the entries of one history; a string is parsed only if the file format cannot store lists."""
    if cell is None:
        return []
    if isinstance(cell, str):
        cell = json.loads(cell) if cell.lstrip().startswith("[") else cell.split()
    if not isinstance(cell, list):
        raise TypeError(f"expected a list, got {repr(cell)[:80]}")
    return [_parse_entry(entry) for entry in cell]


def _parse_entry(entry: Any) -> str | dict[str, str]:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):  # in parquet every entry has all fields
        return {name: value if name == "text" else to_id(value) for name, value in entry.items() if value is not None}
    try:
        item_id = to_id(entry)
    except (TypeError, ValueError) as error:
        raise ValueError(f"an entry is {repr(entry)[:80]}, {error}, expected an id or a text") from error
    if item_id is None:
        raise ValueError(f"an entry is {entry!r}, expected an id or a text")
    return item_id


__all__ = ["domain_histories", "drop_unknown", "find_histories", "parse_entry", "read_histories", "read_ids"]
