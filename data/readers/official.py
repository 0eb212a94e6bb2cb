"""Reader of the processed folders published with the official UniSRec code, such as `downstream/Scientific`."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from ..domain import Domain
from ..interactions import count_step
from .official_histories import Histories, join_histories
from .official_items import OfficialCatalogue, read_official_catalogue
from .official_rows import read_prefix_rows


SPLITS = ("train", "valid", "test")


def find_official(folder: str | os.PathLike) -> str | None:
    """
    Return the name of the dataset in a folder of the official code.

    Args:
        folder (`str` or `os.PathLike`): Folder.

    Returns:
        `str`: For example `"Scientific"` if the folder holds `Scientific.train.inter`; `None` without such a file.

    Raises:
        ValueError: If there are several datasets.
    """
    endings = [f".{split}.inter" for split in SPLITS] + [".pt_datasets"]
    names = sorted({path.name.removesuffix(end) for end in endings for path in Path(folder).glob(f"*{end}")})
    if len(names) > 1:
        raise ValueError(f"{folder}: several datasets ({', '.join(names)}), expected one; move the others out")
    return names[0] if names else None


def read_official(folder: str | os.PathLike, *, missing_text: Literal["error", "keep"] = "error") -> list[Domain]:
    """
    Read the domains of a processed folder, with the released splits, item numbers and text vectors.

    [`leave_one_out`] returns the histories and targets of the `.inter` files. Those files cut histories at 50 items;
    the domain holds complete histories, reconstructed from the train rows. Item row `k` is item index `k`, and so row
    `k` of the text vectors in `NAME.feat1CLS` and `NAME.feat2CLS`, which become `given_features` as memory maps.

    A folder with `NAME.pt_datasets` is a merged dataset and gives one domain per source dataset. The files of a source
    (`Food.feat1CLS`, `Food.text`, ...) may be in this folder or in its sibling folder `Food`. Without validation and
    test rows, the domains hold nothing out.

    Args:
        folder (`str` or `os.PathLike`): Folder with `NAME.train.inter`.
        missing_text (`str`, *optional*, defaults to `"error"`):
            `"error"` refuses items without text, `"keep"` keeps them with the item id for a text.

    Returns:
        `list[Domain]`: One domain, or one for each source dataset of a merged folder, in its order.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is damaged, files do not fit each other, or the rows are not leave-one-out.
    """
    folder = Path(folder)
    if missing_text not in ("error", "keep"):
        raise ValueError(
            f"missing_text is {missing_text!r}, expected 'error' or 'keep': the released splits hold every item"
        )
    if not folder.is_dir() or (name := find_official(folder)) is None:
        raise FileNotFoundError(f"{folder}: no such folder, or no NAME.train.inter in it")

    merged = folder / f"{name}.pt_datasets"
    if merged.exists():
        sources = _read_sources(merged)
        prefixes = [f"{number}-" for number in range(len(sources))]
        places = {source: [folder, folder.parent / source] for source in sources}
    else:
        sources, prefixes, places = [name], [""], {name: [folder]}
    catalogues = [read_official_catalogue(places[source], source, missing_text) for source in sources]

    paths = [folder / f"{name}.{split}.inter" for split in SPLITS]
    if merged.exists() and not any(path.exists() for path in paths[1:]):
        paths = paths[:1]
    sizes = [catalogue.items.height for catalogue in catalogues]
    rows = [read_prefix_rows(path, sizes, prefixes) for path in paths]
    domains = []
    for source, catalogue, train, *held_out in zip(sources, catalogues, *rows, strict=True):
        histories = join_histories(train, *held_out)
        if histories.users.is_empty():
            raise ValueError(f"{paths[0]}: no row of {source}; fetch the file again, or mend {name}.pt_datasets")
        domains.append(_make_domain(source, catalogue, histories, [path.name for path in paths]))
    return domains


def _read_sources(path: Path) -> list[str]:
    """Returns the names of the source datasets; their positions prefix the users and items of a merged folder."""
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    sources = text.split(",")
    if len(set(sources)) < len(sources) or any(
        source in ("", ".", "..") or {*source} & {*"/\\\n"} for source in sources
    ):
        raise ValueError(
            f"{path}: {text[:100]!r}, expected different names of datasets separated by commas: Food,Home"
        )
    return sources


def _make_domain(name: str, catalogue: OfficialCatalogue, histories: Histories, files: list[str]) -> Domain:
    items, features, flat = catalogue.items, catalogue.features, histories.flat
    used = np.zeros(items.height, dtype=bool)
    used[flat] = True
    if not used.all():  # the official code ranks the items of the .inter files only
        items = items.filter(pl.Series(used))
        features = {key: rows[used] for key, rows in features.items()}
        flat = (np.cumsum(used, dtype=np.uint32) - 1)[flat]

    users = histories.users
    if catalogue.users is not None:
        users = _name_users(name, users, catalogue.users, histories.held_out)
    owners = np.repeat(np.arange(len(users), dtype=np.uint32), np.diff(histories.offsets))
    sequences = (
        pl.DataFrame({"owner": owners, "item_index": flat})
        .group_by("owner", maintain_order=True)
        .agg("item_index")
        .select(user_id=users, item_index="item_index")
    )
    info = {
        "source": "official UniSRec",
        "files": [*files, *catalogue.files],
        **catalogue.info,
        "steps": [count_step(f"histories of {name}", len(flat), len(flat))],
        "item_steps": [*catalogue.item_steps, count_step("in no history", len(used), items.height)],
    }
    return Domain(name, items, sequences, info, histories.held_out, features)


def _name_users(name: str, numbers: pl.Series, ids: pl.Series, held_out: bool) -> pl.Series:
    rows = numbers.cast(pl.UInt32, strict=False)
    known = (rows < len(ids)).fill_null(False)
    if not known.all():
        number = numbers[int((~known).arg_max())]
        raise ValueError(
            f"{name}.user2index: no user has number {number!r}, which the .inter files use; fetch both again"
        )
    if held_out and len(rows) < len(ids):
        raise ValueError(
            f"{name}.user2index has {len(ids):,} users, the .inter files only {len(rows):,}; fetch the .inter files again"
        )
    return ids.gather(rows)


__all__ = ["find_official", "read_official"]
