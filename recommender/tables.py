"""Reading of histories from files; atomic writing of recommendations, catalogues and vectors."""

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from ..data import Domain
from ..data.atomic import whole_file
from ..data.domain import writing
from ..data.readers.columns import check_columns, to_times
from ..data.readers.files import suffix_of
from ..data.readers.frames import TableSource, is_path
from ..data.readers.guess import column_by_name
from ..data.readers.json_lines import json_records
from ..data.readers.table import JSON_LINES, Table, load_table
from ..data.readers.values import place, to_id, to_ids
from ..modeling_unisrec import ItemCatalogue
from .snapshot import Recommendation


if TYPE_CHECKING:
    from datasets import Dataset


FORMATS = (".parquet", ".csv", ".jsonl")
VECTOR_FORMATS = (".parquet", ".safetensors")


def read_histories(
    source: TableSource, tables: Mapping[str, Any] | None = None
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
            taken where the table has them, its `date_format` with the latter; other columns are recognised by their names.

    Returns:
        `tuple[list[str], list[list]]`: User ids, in the order of their first rows, and histories.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If a column or an id is missing, or a history is not a list of ids and texts; names the row.
    """
    table = load_table(source, name="histories", hub=False)
    if "history" not in table.frame.columns:
        return _group_interactions(table, tables or {})
    user = _find_column(table.frame.columns, table.source, "user", tables)
    user_ids = _complete_ids(table, user, "for every history")
    histories = []
    for row, cell in enumerate(table.frame["history"].to_list()):
        try:
            histories.append(_parse_history(cell))
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
    if isinstance(histories, Domain):
        return domain_histories(histories, user_ids)
    if is_path(histories) or not isinstance(histories, Sequence):
        if user_ids is not None:
            raise ValueError("the table has user ids of its own; leave `user_ids` out.")
        return read_histories(histories, tables)
    user_ids = list(map(str, range(len(histories)))) if user_ids is None else user_ids
    if len(user_ids) != len(histories):
        raise ValueError(f"{len(user_ids)} user ids but {len(histories)} histories: give one id for each history.")
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
        if wrong := [each for each in user_ids if not isinstance(each, str)]:
            raise ValueError(f"user ids are strings, not {wrong[0]!r}: write a number as '12'.")
        wanted = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String})
        if len(unknown := wanted.join(sequences, on="user_id", how="anti", maintain_order="left")):
            wrong, known = unknown["user_id"][0], sequences["user_id"]
            # Those that end or begin alike first: leading zeros are the first thing to be lost.
            likely = known.filter(known.str.ends_with(wrong) | known.str.starts_with(wrong[:3])).head(1000).to_list()
            nearest = difflib.get_close_matches(wrong, likely, n=3, cutoff=0.0)
            hint = f"; nearest ids: {', '.join(nearest)}" if nearest else ""
            raise KeyError(f"user id {wrong!r} is not among the {domain.num_users:,} of {domain.name!r}{hint}.")
        sequences = wanted.join(sequences, on="user_id", how="left", maintain_order="left")
    histories = [ids.gather(rows).to_list() for rows in sequences["item_index"]]
    return sequences["user_id"].to_list(), histories


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
    rows = pl.DataFrame(
        [_complete_ids(table, user, "in every row"), _complete_ids(table, item, "in every row").alias("item_id")]
    )
    if time is not None:
        times = table.frame[time]
        is_remembered = time == tables.get("time_column") and not times.dtype.is_temporal()
        date_format = tables.get("date_format") if is_remembered else None
        times = to_times(times, table.source, first_line=table.first_line, date_format=date_format)
        if times.null_count():
            where = place(table.source, int(times.is_null().arg_max()), table.first_line)
            raise ValueError(f"{where}: {time!r} is empty, expected a time in every row, or no such column.")
        rows = rows.with_columns(times.alias("time"))
    users = rows[user].unique(maintain_order=True).to_frame()
    ordered = rows if time is None else rows.sort("time", maintain_order=True)
    histories = ordered.group_by(user, maintain_order=True).agg("item_id")
    grouped = users.join(histories, on=user, how="left", maintain_order="left")
    return grouped[user].to_list(), grouped["item_id"].to_list()


def _complete_ids(table: Table, column: str, expected: str) -> pl.Series:
    ids = to_ids(table.frame[column], table.source, first_line=table.first_line)
    if ids.null_count():
        where = place(table.source, int(ids.is_null().arg_max()), table.first_line)
        raise ValueError(f"{where}: the {column} is empty, expected one {expected}.")
    return ids


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
        columns = [_find_column(list(next(json_records(path), {})), str(path), role, tables)]
    table = load_table(path, columns, hub=False)
    column = _find_column(table.frame.columns, table.source, role, tables)
    return _complete_ids(table, column, "in every row").unique(maintain_order=True).to_list()


def to_dataset(
    user_ids: Sequence[str],
    found: Sequence[Sequence[Recommendation]],
    catalogue: ItemCatalogue,
    columns: Sequence[str] = (),
) -> "Dataset":
    """Returns recommendations as a table with a row for each item: `user_id`, `rank` (from 1), `item_id`, `score`, and
    `columns` of the items, typed as in the catalogue."""
    from datasets import Dataset, Features, Value

    rows: dict[str, list] = {"user_id": [], "rank": [], "item_id": [], "score": [], **{name: [] for name in columns}}
    for user_id, items in zip(user_ids, found, strict=True):
        rows["user_id"] += [user_id] * len(items)
        rows["rank"] += range(1, len(items) + 1)
        rows["item_id"] += [item.item_id for item in items]
        rows["score"] += [item.score for item in items]
        for name in columns:
            rows[name] += [item.columns[name] for item in items]
    types = {"user_id": "string", "rank": "int32", "item_id": "string", "score": "float32"}
    features = {name: Value(kind) for name, kind in types.items()}
    if columns:
        schema = catalogue.table(columns).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        found_types = Features.from_arrow_schema(schema)
        features |= {
            name: Value("string") if found_types[name].dtype == "large_string" else found_types[name]
            for name in columns
        }
    return Dataset.from_dict(rows, Features(features))


def check_suffix(path: str | os.PathLike, formats: Sequence[str] = FORMATS) -> None:
    """Raises `ValueError` if the suffix of a file name is not a supported output format."""
    if Path(path).suffix.lower() not in formats:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(formats)}.")


def write_table(table: "Dataset", path: str | os.PathLike) -> None:
    """Writes a dataset as parquet, CSV or JSON lines, depending on the suffix. Raises `ValueError` for other
    suffixes."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    check_suffix(path)
    is_quiet = are_progress_bars_disabled()
    disable_progress_bars()  # it takes a moment
    try:
        with _whole_file(path) as draft:
            write = {".parquet": table.to_parquet, ".csv": table.to_csv, ".jsonl": table.to_json}
            write[Path(path).suffix.lower()](draft)
    finally:
        if not is_quiet:
            enable_progress_bars()


def export_vectors(
    ids: Sequence[str],
    vectors: np.ndarray,
    path: str | os.PathLike,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> None:
    r"""
    Writes vectors of items or users for a vector database.

    Args:
        ids (`Sequence[str]`): Id of each row.
        vectors (`np.ndarray` of shape `(num_rows, hidden_size)`, float32): For example [`Recommender.item_embeds`].
        path (`str` or `os.PathLike`):
            A `.parquet` file, with columns `id` and `vector` (arrays of fixed length), or a `.safetensors` file, with
            a tensor `vectors` and the ids as a JSON list in the metadata.
        columns (`Mapping[str, Sequence[str]]`, *optional*): More columns of a parquet file, such as texts.

    Raises:
        ValueError: If the suffix is unknown, or the numbers of ids and vectors differ.
    """
    check_suffix(path, VECTOR_FORMATS)
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids but {len(vectors)} vectors.")
    with _whole_file(path) as draft:
        if Path(path).suffix.lower() == ".safetensors":
            tensors = {"vectors": torch.from_numpy(np.ascontiguousarray(vectors))}
            save_file(tensors, draft, metadata={"format": "pt", "ids": json.dumps(list(ids))})
        else:
            array = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
            pl.DataFrame({"id": list(ids), **(columns or {}), "vector": array}).write_parquet(draft)


@contextmanager
def _whole_file(path: str | os.PathLike) -> Iterator[str]:
    """Like [`whole_file`], but creates a missing folder. Raises `OSError` if it cannot be written."""
    with writing(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            yield str(draft)


def _parse_history(cell: Any) -> list[str | dict[str, str]]:
    """Returns the entries of one history; a string is parsed only if the file format cannot store lists."""
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


__all__ = [
    "check_suffix",
    "domain_histories",
    "export_vectors",
    "find_histories",
    "read_histories",
    "read_ids",
    "to_dataset",
    "write_table",
]
