"""Reader of tables of interactions and items: files, data frames, or datasets of the Hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ...modeling_unisrec.hub import pin_revision
from ..interactions import RawData, count_step
from .columns import check_columns, named_by, names_of, to_interactions
from .events import event_kinds, kinds_of, only_events
from .files import check_file, open_csv, parse_csv, read_parquet, read_workbook, suffix_of
from .frames import TableSource, is_path, to_polars
from .item_texts import join_texts
from .json_lines import json_fields, read_json_lines
from .shop_columns import RESERVED, shop_columns
from .values import to_ids, to_texts


SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}  # what goes without saying; any separator is found
JSON_LINES = (".jsonl", ".ndjson", ".json")
ENDINGS = (*SEPARATORS, *JSON_LINES, ".parquet", ".xlsx")
# User ids that shops give to visitors without an account.
ANONYMOUS = (
    *("0", "-1", "-", "anonymous", "guest", "visitor", "unknown", "undefined", "none", "null", "n/a", "na"),
    *("anonym", "gast", "besucher", "unbekannt", "anonyme", "invité", "visiteur", "inconnu", "anónimo", "invitado"),
    *("anonimo", "ospite"),
)
MANY = 5  # times as many rows as others have make a number among these suspicious
DATASET = re.compile(
    r"(?P<path>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?(:(?P<config>[\w.-]+))?(\[(?P<split>[^\[\]]+)\])?"
)


class Table(NamedTuple):
    """
    A table as read, before ids, times and texts are converted.

    Args:
        frame (`pl.DataFrame`): The table.
        source (`str`): File, dataset, or name of the argument that a frame was given by, for messages.
        first_line (`int`, *optional*): Line of the first row in a text file; `None` for others.
        notes (`list[str]`, *optional*): Sentences about what was found out about the file.
    """

    frame: pl.DataFrame
    source: str
    first_line: int | None = None
    notes: Sequence[str] = ()


def read_table(
    interactions: TableSource | Table,
    items: TableSource | Table | None = None,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
    text_columns: str | Sequence[str] = ("title",),
    items_id_column: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    date_format: str | None = None,
    drop_anonymous: bool = False,
    keep_columns: str | Sequence[str] = (),
    event_column: str | None = None,
    events: str | Sequence[str] = (),
) -> RawData:
    """
    Read a table of interactions and the texts of its items.

    Args:
        interactions (`str`, `os.PathLike` or data frame):
            `.csv`, `.tsv`, `.txt`, `.jsonl`, `.ndjson`, `.json` (one object per line), each also with `.gz`;
            `.parquet`; the first sheet of an `.xlsx` workbook; or a dataset for `datasets.load_dataset`, written
            `owner/name`, and behind it in this order `@revision`, `:config` and `[split]`, each if needed (split
            `train` by default). Or a table of pandas, polars, pyarrow or datasets, see [`to_polars`].
        items (`str`, `os.PathLike` or data frame, *optional*):
            As for `interactions`. By default the text columns are read from the interactions, and the first text of an
            item is used.
        user_column (`str`, *optional*, defaults to `"user_id"`): Column of the user ids.
        item_column (`str`, *optional*, defaults to `"item_id"`): Column of the item ids, in both tables.
        time_column (`str`, *optional*, defaults to `"timestamp"`): Column of numbers (any unit) or dates.
        text_columns (`str` or `Sequence[str]`, *optional*, defaults to `("title",)`):
            Columns that form the item text, in order; see [`to_texts`] for the supported types.
        items_id_column (`str`, *optional*): Column of the item ids in `items`. Defaults to `item_column`.
        separator (`str`, *optional*): Separator of the CSV files, see [`open_csv`]. By default it is found.
        encoding (`str`, *optional*): Encoding of the CSV files, see [`open_csv`]. By default it is found.
        date_format (`str`, *optional*): The only format of dates, see [`to_times`].
        drop_anonymous (`bool`, *optional*, defaults to `False`):
            Whether to drop, besides the rows without a user id, those with a word for it ([`ANONYMOUS`], in any
            case), which would make one long history of many visitors.
        keep_columns (`str` or `Sequence[str]`, *optional*):
            Columns of the items, such as price and stock, that stay with them, converted by [`shop_columns`]. The first
            row of an item counts.
        event_column (`str`, *optional*):
            Column of the kind of each interaction, such as view, cart or purchase: texts, whole numbers or booleans.
        events (`str` or `Sequence[str]`, *optional*): Kinds that count; the others are dropped. Both arguments are given, or none.

    Returns:
        `RawData`: Interactions, items and facts about the source, among them these arguments (`info["tables"]`).

    Raises:
        FileNotFoundError: If there is no such file, and the name is not that of a dataset either.
        OSError: If a file cannot be read, see [`check_file`].
        ValueError: If a table cannot be read or lacks a column, a column has a wrong type, or a time is invalid.
    """
    columns = {"user_id": user_column, "item_id": item_column, "time": time_column}
    text_columns, id_column = names_of(text_columns), items_id_column or item_column
    keep_columns, events = list(dict.fromkeys(names_of(keep_columns or ()))), kinds_of(events)
    tables = {
        "user_column": user_column,
        "item_column": item_column,
        "time_column": time_column,
        "text_columns": text_columns,
        "items_id_column": items_id_column,
        "separator": separator,
        "encoding": encoding,
        "date_format": date_format,
        "drop_anonymous": drop_anonymous or None,
        "keep_columns": keep_columns or None,
        "event_column": event_column,
        "events": events or None,
    }
    if twice := next((name for name in text_columns if text_columns.count(name) > 1), None):
        raise ValueError(f"text column {twice!r} is named twice, expected each once")
    if not text_columns:
        raise ValueError("`text_columns` is empty, expected at least one column")
    if items is None and items_id_column is not None:
        raise ValueError("`items_id_column` is a column of `items`, and none are given; leave it out")
    if (event_column is None) != (not events):
        given, other = ("events", "event_column") if event_column is None else ("event_column", "events")
        raise ValueError(f"`{given}` needs `{other}`: name the column and the kinds of interactions that count")
    check_csv_options([interactions, items], separator, encoding)
    options = {"separator": separator, "encoding": encoding}
    extra = [*text_columns, *keep_columns] if items is None else []
    extra += [] if event_column is None else [event_column]
    # Who named a column knows the argument already.
    arguments = {
        "user_id": "user_column",
        "item_id": "item_column",
        "timestamp": "time_column",
        "title": "text_columns",
    }
    with named_by(arguments):
        table = load_table(interactions, [*columns.values(), *extra], name="interactions", **options)
    frame, source, first_line, notes = table
    rows = to_interactions(frame, columns, source, first_line=first_line, date_format=date_format)
    steps = [count_step(f"read {Path(source).name}", rows.height, rows.height)]
    if event_column is not None:
        kinds = event_kinds(frame[event_column], source, first_line=first_line)
        rows, step = only_events(rows, kinds, events, source)
        steps.append(step)
    catalogue_table, catalogue_columns = table, [item_column, *text_columns, *keep_columns]
    if items is not None:
        catalogue_columns = [id_column, *text_columns, *keep_columns]
        with named_by({"title": "text_columns"} | ({} if items_id_column else {id_column: "items_id_column"})):
            catalogue_table = load_table(items, catalogue_columns, name="items", **options)
    ids = to_ids(
        catalogue_table.frame[catalogue_columns[0]], catalogue_table.source, first_line=catalogue_table.first_line
    )
    catalogue = _item_texts(ids, catalogue_table, text_columns, keep_columns)
    item_step = f"read {Path(catalogue_table.source).name}"
    if items is None:
        catalogue = catalogue.drop_nulls(["item_id", "text"]).unique("item_id", keep="first", maintain_order=True)
        item_step = "items with a text in the interactions"
    if drop_anonymous:
        rows, step = _drop_anonymous(rows)
        steps.append(step)
    elif visitors := _visitors(rows):
        notes = [*notes, f"{Path(source).name}: {visitors}"]
    sources = [source] if items is None else [source, catalogue_table.source]
    info = {
        "files": sources,
        "columns": {**columns, "text": text_columns},
        "tables": {name: value for name, value in tables.items() if value is not None},
        "steps": steps,
        "item_steps": [count_step(item_step, catalogue.height, catalogue.height)],
    }
    if keep_columns:
        info["columns"]["kept"] = keep_columns
    if id_column != item_column:
        info["columns"]["items_id"] = id_column
    if notes := [*notes, *(catalogue_table.notes if items is not None else ())]:
        info["notes"] = notes
    return RawData(rows, catalogue, info)


def check_csv_options(sources: Sequence[TableSource | None], separator: str | None, encoding: str | None) -> None:
    """Raises `ValueError` for a separator or an encoding where no source is a CSV file."""
    if any(is_path(source) and suffix_of(source) in SEPARATORS for source in sources):
        return
    for name, value in (("separator", separator), ("encoding", encoding)):
        if value is not None:
            raise ValueError(f"`{name}` is for .csv, .tsv and .txt files, and there is none; leave it out")


def load_table(
    source: TableSource | Table,
    columns: Sequence[str] = (),
    *,
    name: str = "table",
    hub: bool = True,
    separator: str | None = None,
    encoding: str | None = None,
) -> Table:
    """
    Read a table from a file of any supported format, a data frame, or a dataset of the Hub.

    Args:
        source (`str`, `os.PathLike`, data frame or [`Table`]):
            As for [`read_table`]; the case of a suffix is ignored. A table is checked and returned as it is.
        columns (`Sequence[str]`, *optional*):
            Required columns. Of JSON lines, no others are read; by default all are.
        name (`str`, *optional*, defaults to `"table"`): Name of the argument, for messages about a data frame.
        hub (`bool`, *optional*, defaults to `True`): Whether `source` may name a dataset of the Hub.
        separator (`str`, *optional*): Separator of a CSV file, see [`open_csv`].
        encoding (`str`, *optional*): Encoding of a CSV file, see [`open_csv`].

    Returns:
        [`Table`]: The table, with at least these columns.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read, see [`check_file`].
        ValueError: If it is damaged, lacks a column, or has an unknown format; names the file.
    """
    if isinstance(source, Table):
        check_columns(source.frame.columns, columns, source.source)
        return source
    if not is_path(source):
        frame = to_polars(source, name)
        check_columns(frame.columns, columns, name)
        return Table(frame, name)
    suffix, path = suffix_of(source), str(source)
    first_line, notes = None, []
    if suffix in SEPARATORS:
        text = open_csv(source, separator, encoding)
        frame, first_line = parse_csv(source, text), 2
        if separator is None and text.separator != SEPARATORS[suffix]:
            notes.append(f"{Path(source).name}: separator {text.separator!r} was found")
        if encoding is None and text.encoding != "utf-8":
            notes.append(f"{Path(source).name}: not UTF-8, read as {text.encoding}")
    elif suffix in JSON_LINES:
        columns = columns or json_fields(source)
        return Table(read_json_lines(source, columns), path, 1)
    elif suffix == ".parquet":
        frame = read_parquet(source)
    elif suffix == ".xlsx":
        sheets = read_workbook(source)
        first, *others = sheets
        frame = sheets[first]
        if frame.is_empty():
            raise ValueError(f"{source}: sheet {first!r} has no rows")
        if others:
            notes.append(f"{Path(source).name}: sheet {first!r} was read, the first of {len(sheets)}")
    elif hub and not Path(source).is_file():
        frame = _load_dataset(path)
    else:
        check_file(source)
        raise ValueError(f"{source}: unknown ending {suffix!r}, expected {', '.join(ENDINGS)}")
    check_columns(frame.columns, columns, path)
    return Table(frame, path, first_line, notes)


def csv_options(source: TableSource, tables: Mapping[str, Any]) -> dict[str, str | None]:
    """Returns separator and encoding of `tables`, as a checkpoint remembers them, for a CSV file; `None` for others."""
    is_csv = is_path(source) and suffix_of(source) in SEPARATORS
    return {name: tables.get(name) if is_csv else None for name in ("separator", "encoding")}


def _visitors(rows: pl.DataFrame) -> str | None:
    """Returns a sentence on the user ids that seem to stand for visitors without an account, if there are any."""
    found = rows["user_id"].filter(is_anonymous(rows["user_id"])).value_counts(sort=True)
    if not found.is_empty():
        usual = rows.height / rows["user_id"].n_unique()
        found = found.filter(~pl.col("user_id").str.contains(r"^-?\d+$") | (pl.col("count") > MANY * usual))
    if found.is_empty():
        return None
    names = ", ".join(map(repr, found["user_id"].head(3)))
    return (
        f"{found['count'].sum():,} rows are of users such as {names}, who look like visitors without an account; "
        "`drop_anonymous` leaves them out"
    )


def is_anonymous(user_ids: pl.Series) -> pl.Series:
    """Mask of the user ids that stand for visitors without an account, such as "guest"."""
    return user_ids.str.to_lowercase().is_in(ANONYMOUS).fill_null(False)


def _drop_anonymous(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict]:
    """Drops the rows whose user id is missing or stands for a visitor without an account."""
    known = rows.filter(rows["user_id"].is_not_null() & ~is_anonymous(rows["user_id"]))
    if known.is_empty():
        raise ValueError("no interaction has a user id: `drop_anonymous` leaves nothing")
    return known, count_step("anonymous user", rows.height, known.height)


def _item_texts(
    ids: pl.Series, table: Table, text_columns: Sequence[str], keep_columns: Sequence[str]
) -> pl.DataFrame:
    """Returns the columns `item_id` and `text` of the distinct rows, and those to keep. Raises `ValueError` for one that
    cannot be kept."""
    texts = [
        to_texts(table.frame[column], table.source, first_line=table.first_line).alias(f"text {n}")
        for n, column in enumerate(text_columns)
    ]
    kept = shop_columns(table.frame.select(keep_columns))
    if lost := [name for name in keep_columns if name not in kept.columns]:
        raise ValueError(
            f"{table.source}: column {lost[0]!r} cannot be kept, expected numbers, texts, dates or booleans, and none of "
            f"the names {', '.join(RESERVED)}"
        )
    rows = pl.DataFrame([ids.alias("item_id"), *texts])
    first = rows.with_row_index("row").unique(rows.columns, keep="first", maintain_order=True)
    joined = first.select("item_id", text=join_texts(pl.col(text.name) for text in texts))
    return joined.hstack(kept[first["row"]]) if kept.width else joined


def _load_dataset(source: str) -> pl.DataFrame:
    match = DATASET.fullmatch(source)
    if match is None:
        raise FileNotFoundError(
            f"{source}: expected a {', '.join(ENDINGS)} file, or a dataset such as owner/name@revision:config[split]"
        )
    # Imported here because it is slow to import and local files do not need it.
    from datasets import load_dataset

    path, revision = match["path"], match["revision"]
    try:
        if not Path(path).is_dir():
            revision = pin_revision(path, revision, "dataset")["revision"]
        dataset = load_dataset(path, match["config"], revision=revision, split=match["split"] or "train")
        return dataset.to_polars()
    except (
        Exception
    ) as error:  # damaged files make datasets, pyarrow, pandas, fsspec or polars raise errors of any type
        # the message of datasets is generic, whereas errors of the Hub are already one clear line
        cause = error if isinstance(error, OSError) else error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ValueError(f"{source}: cannot be loaded as a dataset of the Hub ({reason})") from error


__all__ = [
    "ANONYMOUS",
    "DATASET",
    "ENDINGS",
    "JSON_LINES",
    "SEPARATORS",
    "Table",
    "check_csv_options",
    "csv_options",
    "is_anonymous",
    "load_table",
    "read_table",
]
