"""The work of `unisrec update`: from a checkpoint and new interactions to an updated checkpoint."""

import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from .data import Domain
from .data.atomic import replace_folder
from .data.domain import check_output_folder, new_folder, writing
from .data.interactions import RawData
from .data.readers.columns import MissingColumnError, named_by, names_of
from .data.readers.events import event_kinds
from .data.readers.frames import TableSource
from .data.readers.guess import guess_columns
from .data.readers.table import check_csv_options, csv_options, load_table, read_table
from .data.training_data import merge_records, training_record
from .modeling_unisrec import lock_catalogue
from .modeling_unisrec.checkpoint import load_checkpoint
from .quiet import without_bars
from .recommender import Recommender
from .recommender.item_changes import ItemChanges
from .shop_tables import DOMAIN
from .update_data import merge_histories
from .update_training import WarmStart, warm_start
from .words import plural


# Files of the checkpoint before and of its run, which are not those of the updated one.
OUTDATED = (
    *(".catalogue.*", "*.safetensors*", "adapter_*", "training_data.json"),
    *("checkpoint-*", "log.jsonl", "test_results.json", "trainer_state.json"),
)


@dataclass(frozen=True)
class UpdateResult:
    """
    Result of [`update`].

    Args:
        output (`Path`): Folder of the updated checkpoint.
        num_interactions, num_users (`int`): New interactions that were learnt from, and their users.
        items ([`ItemChanges`], *optional*): What became of the catalogue.
        training ([`WarmStart`]): Quality before and after, and how much the answers for other users changed.
        seconds (`float`): Time of the whole update.
        notes (`list[str]`): Sentences on what was left out.
    """

    output: Path
    num_interactions: int
    num_users: int
    items: ItemChanges | None
    training: WarmStart
    seconds: float
    notes: list[str]

    def recommender(self) -> Recommender:
        """Loads the checkpoint, see [`Recommender`]."""
        return Recommender.from_pretrained(self.output)

    def __str__(self) -> str:
        parts = [f"{plural(self.num_interactions, 'new interaction')} of {plural(self.num_users, 'user')}"]
        if self.items is not None:
            parts.append(f"items: {self.items}")
        return "; ".join([*parts, *self.training.sentences(), f"{self.seconds:.0f} s"])


@without_bars()
def update(
    model: str | os.PathLike,
    interactions: TableSource,
    items: TableSource | None = None,
    *,
    output: str | os.PathLike | None = None,
    domain: Domain | str | os.PathLike | None = None,
    budget: float = 3.0,
    text_encoder: str | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    text_columns: str | Sequence[str] | None = None,
    items_id_column: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    date_format: str | None = None,
    drop_anonymous: bool | None = None,
    seed: int = 0,
    use_cpu: bool = False,
    report: Callable[[str], None] | None = None,
) -> UpdateResult:
    r"""
    Teaches a checkpoint the interactions since its training without repeating that training.

    The training begins at the current weights. It sees the histories of users with new interactions and, so that nothing is
    forgotten, as many targets of other users, chosen at random. A fifth of the users with new interactions keep their last
    item apart. By these, the best epoch is chosen, and then the share of the new weights in an average with the old ones.

    Args:
        model (`str` or `os.PathLike`): Checkpoint with a catalogue, for example of [`fit`].
        interactions (`str`, `os.PathLike` or data frame):
            Table of interactions, as for [`read_table`]: the new ones, or all of them. Those that are known count once.
        items (`str`, `os.PathLike` or data frame, *optional*):
            Complete table of products; the catalogue becomes that, as by [`Recommender.sync_items`].
        output (`str` or `os.PathLike`, *optional*):
            New folder. By default the folder `model` is replaced at once when everything is done.
        domain ([`Domain`], `str` or `os.PathLike`, *optional*):
            Prepared data of the training, to choose earlier interactions from. Defaults to what [`fit`] left in the folder;
            if there is nothing, the new interactions alone are learnt from.
        budget (`float`, *optional*, defaults to 3): Most minutes for the training, by default a tenth of those of [`fit`].
        text_encoder (`str`, *optional*): Text encoder to use if the checkpoint has none.
        user_column, item_column, time_column, text_columns, items_id_column (*optional*):
            Columns, as for [`read_table`]. By default as the checkpoint remembers, otherwise they are recognised.
        separator, encoding, date_format, drop_anonymous (*optional*):
            As for [`read_table`]. By default as the checkpoint remembers.
        seed (`int`, *optional*, defaults to 0): Random seed.
        use_cpu (`bool`, *optional*, defaults to `False`): Do not use an accelerator.
        report (`Callable[[str], None]`, *optional*): Receives lines that tell what is done; `print`, for example.

    Returns:
        [`UpdateResult`]

    Raises:
        FileExistsError: If `output` exists and is not an empty folder.
        OSError: If a table, the checkpoint or the domain cannot be read, the folder cannot be written, or another process is
            changing it.
        ValueError: If a table cannot be used, no interaction is new, the checkpoint has no catalogue, or `model` is no folder
            and there is no `output`.
    """
    if not 0 < budget < float("inf"):
        raise ValueError(f"`budget` is {budget}, expected a positive number of minutes")
    start, folder = time.monotonic(), Path(model)
    if output is None and not folder.is_dir():
        raise ValueError(f"{model} is not a local folder: name a new folder for the updated checkpoint (`output`)")
    if output is not None:
        check_output_folder(output)
    given = {
        "user_column": user_column,
        "item_column": item_column,
        "time_column": time_column,
        "text_columns": None if text_columns is None else names_of(text_columns),
        "items_id_column": items_id_column,
        "separator": separator,
        "encoding": encoding,
        "date_format": date_format,
        "drop_anonymous": drop_anonymous,
    }
    say = report or (lambda line: None)
    # Locked from reading to replacing, so that no change of the items by another process is lost.
    with lock_catalogue(folder / "catalogue") if output is None else nullcontext():
        start_model, processor = load_checkpoint(model, text_encoder)
        if processor.catalogue is None:
            raise ValueError(f"{model} has no catalogue, so it was not trained for this shop: use `unisrec fit`")
        kept = folder / DOMAIN
        old = kept if domain is None and kept.is_dir() else domain
        old = None if old is None else Domain.load(old)
        tables = processor.catalogue.tables | {name: value for name, value in given.items() if value is not None}
        new, texts = _read_new(interactions, items, tables, given)
        for note in new.info.get("notes", ()):
            say(note)
        for step in new.info["steps"][1:]:
            say(f"{step['step']}: {plural(step['dropped'], 'row')} left out")
        recommender = Recommender(start_model, processor)
        changes = _change_items(recommender, items, texts, tables)
        name = Path(output or model).absolute().name
        history = merge_histories(new.interactions, old, recommender.processor.catalogue, name)
        for note in history.notes:
            say(note)
        say(f"{plural(history.is_new.sum(), 'new interaction')} of {plural(history.is_touched.sum(), 'user')}")
        if old is None:
            say("the data of the training is not at hand: learning from the new interactions alone")
        with _folder(folder, output) as draft:
            training, updated = warm_start(recommender, history, draft / ".work", budget * 60, seed, use_cpu, say)
            shutil.rmtree(draft / ".work", ignore_errors=True)
            result = UpdateResult(
                Path(output or model),
                int(history.is_new.sum()),
                int(history.is_touched.sum()),
                changes,
                training,
                time.monotonic() - start,
                history.notes,
            )
            records = [
                training_record(replace(each, held_out=False), False)
                for each in (old, history.domain)
                if each is not None
            ]
            config = updated.model.config
            config.training_data = merge_records(config.training_data, records)
            with writing(output or model):
                updated.save_pretrained(draft)
                _copy_rest(folder, draft, result)
                if kept.is_dir() or domain is not None:
                    history.domain.save_to_disk(draft / DOMAIN)
    return replace(result, seconds=time.monotonic() - start)


def _read_new(
    interactions: TableSource, items: TableSource | None, tables: dict[str, Any], given: dict[str, Any]
) -> tuple[RawData, pl.DataFrame | None]:
    """Reads the new interactions and, if they contain them, the texts of their items."""
    check_csv_options([interactions, items], given["separator"], given["encoding"])
    clicks = load_table(interactions, name="interactions", **csv_options(interactions, tables))
    columns = {name: tables.get(name) for name in ("user_column", "item_column", "time_column")}
    texts = tables.get("text_columns") or []
    has_texts = items is None and bool(texts) and set(texts) <= set(clicks.frame.columns)
    # Without texts, any column stands in for them.
    found = guess_columns(clicks, None, **columns, text_columns=texts if has_texts else clicks.frame.columns[:1])
    event_column, events = tables.get("event_column"), tables.get("events") or ()
    if event_column in clicks.frame.columns:  # a day need not have all of them
        kinds = set(event_kinds(clicks.frame[event_column], clicks.source))
        events = [kind for kind in events if kind in kinds] or events
    holds_dates = clicks.frame.schema.get(found.time, pl.String).is_temporal()  # which no remembered format is for
    with named_by({found.user: "user_column", found.item: "item_column", found.time: "time_column"}):
        raw = read_table(
            clicks,
            user_column=found.user,
            item_column=found.item,
            time_column=found.time,
            text_columns=texts if has_texts else [found.item],
            date_format=given["date_format"] if holds_dates else tables.get("date_format"),
            drop_anonymous=bool(tables.get("drop_anonymous")),
            event_column=event_column,
            events=events,
        )
    return raw, raw.items if has_texts else None


def _change_items(
    recommender: Recommender, items: TableSource | None, texts: pl.DataFrame | None, tables: dict[str, Any]
) -> ItemChanges | None:
    """Replaces the catalogue by the given products, or adds the products that the interactions describe."""
    if items is not None:
        columns = {"item_column": tables.get("items_id_column") or tables.get("item_column")}
        columns |= {"text_columns": tables.get("text_columns"), **csv_options(items, tables)}
        try:
            return recommender.sync_items(items, **columns)
        except ValueError as error:  # which names the argument of `sync_items`
            if isinstance(cause := error.__cause__, MissingColumnError) and cause.column == columns["item_column"]:
                raise ValueError(f"{cause}; name the column by `items_id_column`") from cause
            raise
    if texts is None:
        return None
    known = recommender.processor.catalogue
    new = {each: text for each, text in texts.select("item_id", "text").iter_rows() if each not in known}
    return recommender.add_items(new) if new else None


@contextmanager
def _folder(folder: Path, output: str | os.PathLike | None) -> Iterator[Path]:
    """Yields an empty folder, which becomes `output` or, without one, replaces `folder` at the end."""
    if output is not None:
        with new_folder(output) as draft:
            yield draft
        return
    target = folder.absolute().resolve()
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(folder):
            draft.mkdir(mode=stat.S_IMODE(target.stat().st_mode))
        yield draft
        with writing(folder):
            replace_folder(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy_rest(folder: Path, draft: Path, result: UpdateResult) -> None:
    """Copies the other files of the folder, such as the report of the training, and adds a line to the card."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if (draft / path.name).exists() or any(path.match(pattern) for pattern in OUTDATED):
            continue
        if path.is_dir() and path.name != DOMAIN:
            shutil.copytree(path, draft / path.name, symlinks=True, copy_function=_link)
        elif path.is_file():
            _link(path, draft / path.name)
    if not (draft / "README.md").is_file():
        return
    card = (draft / "README.md").read_text(encoding="utf-8").rstrip()
    (draft / "README.md").unlink()  # not to be changed in the folder before, too
    title = "## Updates"
    if title not in card:
        card += f"\n\n{title}\n\nMetrics above and in the report are those before the updates.\n"
    (draft / "README.md").write_text(f"{card}\n- {time.strftime('%Y-%m-%d')}: {result}\n", encoding="utf-8")


def _link(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Hard-links a file, or copies it where that is impossible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


__all__ = ["UpdateResult", "update"]
