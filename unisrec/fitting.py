"""The work of `unisrec fit`: from the two tables of a shop to a checkpoint that recommends there."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .data import Domain, build_domain, cut_at
from .data.domain import check_output_folder, new_folder
from .data.readers.frames import TableSource
from .data.readers.guess import Columns
from .data.splits import MIN_INTERACTIONS
from .fit_trainings import BASE_MODEL, REPORT, FitResult, Fitting
from .modeling_unisrec.checkpoint import load_checkpoint
from .modeling_unisrec.text_encoders import load_text_encoder
from .quiet import without_bars
from .shop_tables import DOMAIN, read_shop


@without_bars()
def fit(
    interactions: TableSource,
    items: TableSource | None = None,
    *,
    output: str | os.PathLike,
    model: str | os.PathLike | None = None,
    text_encoder: str | None = None,
    budget: float = 30.0,
    train_on_all: bool = False,
    split: str | None = None,
    keep_domain: bool = True,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    text_columns: str | Sequence[str] | None = None,
    items_id_column: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    date_format: str | None = None,
    drop_anonymous: bool = False,
    keep_columns: str | Sequence[str] = (),
    event_column: str | None = None,
    events: str | Sequence[str] = (),
    keep_unsold: bool = True,
    missing_text: Literal["error", "drop", "keep"] = "drop",
    seed: int = 0,
    use_cpu: bool = False,
    report: Callable[[str], None] | None = None,
) -> FitResult:
    r"""
    Fits a recommender to a shop: recognises the columns of its tables, prepares them, trains in several ways, and keeps
    the way that ranks the held-out validation items best.

    The last two interactions of each user are held out. The last but one chooses among the recipes and their epochs, by
    NDCG@10 with seen items masked; the last is only used to measure the chosen one.

    Args:
        interactions (`str`, `os.PathLike` or data frame): Table of interactions, as for [`read_table`].
        items (`str`, `os.PathLike` or data frame, *optional*):
            Table of items. By default the texts are in the interactions.
        output (`str` or `os.PathLike`):
            New folder for the checkpoint, its card and `report.html`; it appears when everything is done.
        model (`str` or `os.PathLike`, *optional*):
            Checkpoint to start from. Defaults to `"unisrec-base"`, or to none if a `text_encoder` is given.
        text_encoder (`str`, *optional*):
            Without `model`: that of a new model, trained on this shop alone. With it: that of a checkpoint without one.
        budget (`float`, *optional*, defaults to 30):
            Minutes for the trainings. Half of them are for all recipes, the rest for the best one to go on.
        train_on_all (`bool`, *optional*, defaults to `False`):
            Whether to train the chosen recipe once more, on all interactions, for as many epochs as were best. The
            newest interactions then count, but no metric says what the result is worth: those of the report are of the
            model before. By default the model that was measured is the one that is saved.
        split (`str`, *optional*):
            Time split of [`cut_at`], such as `"time:2024-06-01"` or `"time:0.1"`: what lies before the cut is learned from,
            its last tenth chooses, and what comes after the cut measures.
        keep_domain (`bool`, *optional*, defaults to `True`):
            Whether the folder also holds the prepared data, in `domain`, which [`update`] learns from again. It has the
            ids and purchases of the customers; it is never uploaded with the checkpoint.
        user_column, item_column, time_column, text_columns, items_id_column (*optional*):
            Columns, as for [`read_table`]. By default they are recognised by name or content, see [`guess_columns`].
        separator, encoding, date_format, drop_anonymous, keep_columns, event_column, events (*optional*):
            As for [`read_table`].
        keep_unsold (`bool`, *optional*, defaults to `True`):
            Whether products that nobody bought can be recommended, see [`build_domain`].
        missing_text (`str`, *optional*, defaults to `"drop"`): As for [`build_domain`].
        seed (`int`, *optional*, defaults to 0): Random seed of the trainings.
        use_cpu (`bool`, *optional*, defaults to `False`): Do not use an accelerator.
        report (`Callable[[str], None]`, *optional*): Receives lines that tell what is done; `print`, for example.

    Returns:
        [`FitResult`]

    Raises:
        FileExistsError: If `output` exists and is not an empty folder.
        OSError: If a table, the checkpoint or the text encoder cannot be read, or the folder cannot be written.
        ValueError: If a column cannot be recognised, the tables cannot be used, no user has three interactions, or
            `budget` is not positive.
    """
    if not 0 < budget < float("inf"):
        raise ValueError(f"`budget` is {budget}, expected a positive number of minutes")
    check_output_folder(output)
    if model is not None or text_encoder is None:
        load_checkpoint(model or BASE_MODEL, text_encoder)  # refused before the tables are read
    else:
        load_text_encoder(text_encoder)
    say = report or (lambda line: None)
    domain, columns = _prepare(
        interactions,
        items,
        name=Path(output).absolute().name,
        say=say,
        columns={
            "user_column": user_column,
            "item_column": item_column,
            "time_column": time_column,
            "text_columns": text_columns,
            "items_id_column": items_id_column,
        },
        csv={"separator": separator, "encoding": encoding},
        reading={
            "date_format": date_format,
            "drop_anonymous": drop_anonymous,
            "keep_columns": keep_columns,
            "event_column": event_column,
            "events": events,
        },
        building={"keep_unsold": keep_unsold, "missing_text": missing_text},
    )
    if split is not None:
        domain = cut_at(domain, split)
    with new_folder(output) as draft:
        fitting = Fitting(domain, draft / ".work", Path(output).absolute().name, seed, use_cpu, say)
        result = fitting.run(draft, model, text_encoder, budget * 60, train_on_all, columns)
        shutil.rmtree(draft / ".work", ignore_errors=True)
        if keep_domain:
            domain.save_to_disk(draft / DOMAIN)
    say(f"written to {output}: checkpoint, README.md, {REPORT}")
    return replace(result, output=Path(output))


def _prepare(
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
    """Reads the tables, recognises their columns and builds the domain."""
    raw, found = read_shop(interactions, items, columns, csv, reading)
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


__all__ = ["FitResult", "fit"]
