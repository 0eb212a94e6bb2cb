"""Items of the official code: numbers, texts and text vectors of a dataset, and the item order of a checkpoint."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl

from ..given_features import ITEM_EMBEDDINGS, WORD_DROP_EMBEDDINGS, first_row_not_finite
from ..interactions import count_step
from .official_rows import read_lines
from .values import present


if TYPE_CHECKING:
    from ...modeling_unisrec import ItemCatalogue
    from ...modeling_unisrec.convert_official import OfficialConversion
    from ..domain import Domain


TEXT_HEADER = "item_id:token\ttext:token_seq"
FEATURES = {ITEM_EMBEDDINGS: "feat1CLS", WORD_DROP_EMBEDDINGS: "feat2CLS"}
FEATURE_SIZE = 768  # of bert-base-uncased
_ROWS_PER_CHECK = 1 << 14
# Minimum share of items whose text vector matches their row. A wrong order or encoder matches almost none; the right
# ones may differ for a few items whose texts were cleaned differently.
ENOUGH = 0.99


class OfficialCatalogue(NamedTuple):
    """
    Items of an official dataset and ids of its users.

    Args:
        items (`pl.DataFrame`): Columns `item_id` and `text`, in the order of the item indices.
        users (`pl.Series` of `str`): User ids in the order of the user numbers; `None` without `NAME.user2index`.
        features (`dict[str, np.ndarray]`): See `given_features` of [`Domain`].
        files (`list[str]`): Names of the files that were read.
        info (`dict`): Facts for the `info` of the domain.
        item_steps (`list[dict]`): Likewise, see [`Domain`].
    """

    items: pl.DataFrame
    users: pl.Series | None
    features: dict[str, np.ndarray]
    files: list[str]
    info: dict[str, Any]
    item_steps: list[dict[str, Any]]


def read_official_catalogue(
    places: Sequence[Path], name: str, missing_text: Literal["error", "keep"]
) -> OfficialCatalogue:
    """
    Read `NAME.item2index`, `NAME.text`, `NAME.feat1CLS`, `NAME.feat2CLS` and `NAME.user2index`.

    Either text vectors or both texts and item numbers are required. Surrounding whitespace is stripped from texts.

    Args:
        places (`Sequence[Path]`): Folders to search; each file is taken from the first folder that has it.
        name (`str`): Name of the dataset.
        missing_text (`str`): `"error"` refuses items without text, `"keep"` keeps them with the item id for a text.

    Returns:
        `OfficialCatalogue`: Items, texts, text vectors and user ids.

    Raises:
        FileNotFoundError: If a required file is missing.
        ValueError: If a file is damaged, or the files are inconsistent.
    """
    endings = ("item2index", "text", *FEATURES.values(), "user2index")
    candidates = {end: [place / f"{name}.{end}" for place in places] for end in endings}
    paths = {end: next(filter(os.path.lexists, paths), None) for end, paths in candidates.items()}
    if paths["item2index"] is None and (paths["text"] is not None or paths["feat1CLS"] is None):
        wanted = f"{name}.item2index" if paths["text"] else f"{name}.feat1CLS, or {name}.text and {name}.item2index"
        raise FileNotFoundError(f"{' and '.join(map(str, places))}: no {wanted}; put the files of {name} there")

    ids = None if paths["item2index"] is None else _read_index(paths["item2index"])
    opened = {
        key: _open_features(paths[end], None if ids is None else len(ids))
        for key, end in FEATURES.items()
        if paths[end] is not None
    }
    features = {key: rows for key, (rows, _) in opened.items()}
    if ids is None:
        ids = pl.Series(np.arange(len(features[ITEM_EMBEDDINGS]))).cast(pl.String)
    items, item_steps = _read_texts(paths["text"] or candidates["text"][0], ids, missing_text)
    return OfficialCatalogue(
        items,
        None if paths["user2index"] is None else _read_index(paths["user2index"]),
        features,
        [path.name for path in paths.values() if path is not None],
        {
            "filters": {"missing_text": missing_text},
            "given_features_source": {key: origin for key, (_, origin) in opened.items()},
        },
        item_steps,
    )


def _read_index(path: Path) -> pl.Series:
    """Returns the ids of an index file in the order of their numbers, which must be 0, 1, 2, ... in any order."""
    frame = pl.concat(list(read_lines(path)))
    tabs = frame["text"].str.count_matches("\t", literal=True)
    frame = frame.with_columns(pl.col("text").str.split_exact("\t", 1).struct.rename_fields(["id", "index"])).unnest(
        "text"
    )
    numbers = frame["index"].cast(pl.UInt32, strict=False)
    checks = {
        "a line of another form, expected an id, a tab and a number": (tabs != 1) | (frame["id"] == ""),
        f"the number is not one of 0 to {frame.height - 1}, each of which is expected once": ~(
            (numbers < frame.height) & numbers.is_first_distinct()
        ).fill_null(False),
        "the id was on a line before, expected each once": ~frame["id"].is_first_distinct(),
    }
    for problem, bad in checks.items():
        if bad.any():
            line, *row = frame.row(int(bad.arg_max()))
            raise ValueError(f"{path}, line {line}: {row}: {problem}; fetch the file again")
    return frame["id"].gather(numbers.arg_sort())


def _open_features(path: Path, num_items: int | None) -> tuple[np.ndarray, dict[str, str]]:
    """Returns a checked memory map of a file of text vectors, and its source."""
    row_bytes = 4 * FEATURE_SIZE
    num_bytes = path.stat().st_size
    rows = num_bytes // row_bytes
    if num_bytes % row_bytes or rows == 0 or num_items not in (None, rows):
        expected = "a multiple of" if num_items is None else f"{num_items:,} items of"
        raise ValueError(
            f"{path}: {num_bytes:,} bytes, expected {expected} {row_bytes:,} bytes ({FEATURE_SIZE} float32 numbers); "
            "fetch the file again"
        )
    features = np.memmap(path, dtype="<f4", mode="r", shape=(rows, FEATURE_SIZE))
    digest = hashlib.sha256()
    for start in range(0, rows, _ROWS_PER_CHECK):
        part = features[start : start + _ROWS_PER_CHECK]
        if (row := first_row_not_finite(part)) is not None:
            raise ValueError(f"{path}, row {start + row}: numbers that are not finite; fetch it again")
        digest.update(part)
    return features, {"file": path.name, "sha256": digest.hexdigest()}


def _read_texts(
    path: Path, ids: pl.Series, missing_text: Literal["error", "keep"]
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Reads the columns `item_id` and `text` in the order of `ids`."""
    if os.path.lexists(path):
        fields = pl.col("text").str.splitn("\t", 2).struct.rename_fields(["item_id", "text"])
        table = pl.concat(list(read_lines(path, TEXT_HEADER))).with_columns(fields).unnest("text")
    else:
        table = pl.DataFrame(schema={"line": pl.UInt32, "item_id": pl.String, "text": pl.String})
    if (repeated := ~table["item_id"].is_first_distinct()).any():
        line, item, _ = table.row(int(repeated.arg_max()))
        raise ValueError(
            f"{path}, line {line}: item {item!r} was on a line before, expected each once; fetch it again"
        )
    items = pl.DataFrame({"item_id": ids}).join(table, on="item_id", how="left", maintain_order="left")
    found = len(ids) - items["line"].null_count()
    items = items.with_columns(present(items["text"]).alias("text"))
    if (count := items["text"].null_count()) and missing_text == "error":
        item, line, _ = items.row(int(items["text"].is_null().arg_max()))
        place = (
            f"{path}, line {line}" if line is not None else f"{path}" + ("" if path.is_file() else " (no such file)")
        )
        raise ValueError(
            f"{place}: no text for item {item!r}, as for {count:,} of {len(ids):,}; complete the file, or keep these items "
            "with their ids as texts (`missing_text='keep'`)"
        )
    steps = [count_step("texts of items not in item2index", table.height, found)]
    if count:
        steps.append(count_step(f"no text, id kept as text ({count:,})", len(ids), len(ids)))
    return items.select("item_id", text=pl.coalesce("text", "item_id")), steps


def official_item_order(conversion: "OfficialConversion", domain: "Domain") -> np.ndarray:
    r"""
    Returns the domain item of each row of a fine-tuned checkpoint, in the order in which RecBole numbers the items of
    an official downstream folder.

    Items are numbered by first appearance: in the targets of the training rows (user by user, latest first), then in
    those of validation and test rows, and last in the histories, where only the first item of a user can be new.

    Args:
        conversion ([`OfficialConversion`]): The checkpoint.
        domain (`Domain`): Domain read from the folder it was fine-tuned on, with users in the order of the files.

    Returns:
        `np.ndarray` of shape `(num_items,)`: Rows of `domain.items`.

    Raises:
        ValueError: If the checkpoint has no items, or another number of items than the domain.
    """
    if conversion.item_embeddings is None:
        raise ValueError("a pre-trained checkpoint has no items; adapt it to the domain with unisrec finetune.")
    items = pl.col("item_index")
    has_train_rows = items.list.len() > 3
    users = domain.sequences
    appearances = [
        users.filter(has_train_rows).select(items.list.slice(1, items.list.len() - 3).list.reverse().explode()),
        users.select(items.list.get(-2, null_on_oob=True)),
        users.select(items.list.get(-1)),
        users.filter(has_train_rows).select(items.list.first()),
        users.filter(~has_train_rows).select(items.list.first()),
    ]
    order = pl.concat(appearances)["item_index"].drop_nulls().unique(maintain_order=True)
    if not len(order) == len(conversion.item_embeddings) == domain.num_items:
        raise ValueError(
            f"the checkpoint has {len(conversion.item_embeddings):,} items, {domain.name} has "
            f"{domain.num_items:,}, {len(order):,} of them in histories; expected the domain that unisrec prepare recbole "
            "made of the official folder that the checkpoint was fine-tuned on."
        )
    return order.to_numpy()


def arrange_items(
    conversion: "OfficialConversion", domain: "Domain", order: np.ndarray, vectors: np.ndarray | None
) -> "ItemCatalogue":
    r"""
    Reorders the items of a fine-tuned checkpoint, including its ID embedding, into the order of a domain, in place.

    Args:
        conversion ([`OfficialConversion`]): The checkpoint.
        domain (`Domain`): The domain it was fine-tuned on.
        order (`np.ndarray` of shape `(num_items,)`): Result of [`official_item_order`].
        vectors (`np.ndarray` of shape `(num_items, text_embedding_size)` or `None`):
            Text vectors of the domain, used to verify the order.

    Returns:
        [`ItemCatalogue`]: The items of the domain with the text vectors of the checkpoint.

    Raises:
        ValueError: If the items are not those of the domain, or there are no text vectors to verify the order.
    """
    import torch
    from torch.nn import functional as F

    from ...modeling_unisrec import ItemCatalogue

    if vectors is None:
        raise ValueError(
            f"{domain.name} has no text vectors, so the order of its items cannot be checked; name the text encoder of the "
            "checkpoint too."
        )
    row_of_item = torch.from_numpy(order.astype("int64")).argsort()
    embeddings = conversion.item_embeddings[row_of_item].float()
    expected = torch.from_numpy(vectors.copy())
    centre = expected.mean(0)  # raw text vectors all point into one direction
    found, expected = F.normalize(embeddings - centre, dim=-1), F.normalize(expected - centre, dim=-1)
    nearest = torch.cat([(rows @ expected.T).amax(1) for rows in found.split(1024)])
    share = ((found * expected).sum(1) >= nearest - 1e-3).float().mean().item()
    if share < ENOUGH:
        raise ValueError(
            f"only {share:.1%} of the items of {domain.name} have the text vector of their row in the "
            "checkpoint; expected the official data and the text encoder that it was fine-tuned with."
        )
    if conversion.model.item_embedding is not None:
        weight = conversion.model.item_embedding.weight.data
        weight[1:] = weight[1:][row_of_item]
    catalogue = ItemCatalogue(domain.items["item_id"].to_list(), domain.items["text"].to_list(), embeddings)
    if conversion.model.item_embedding is not None:
        conversion.model.config.item_ids_hash = catalogue.item_ids_hash
    return catalogue


__all__ = [
    "FEATURES",
    "FEATURE_SIZE",
    "OfficialCatalogue",
    "arrange_items",
    "official_item_order",
    "read_official_catalogue",
]
