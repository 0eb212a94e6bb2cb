"""Items that are added, changed and removed: the catalogue and the index afterwards."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from ..modeling_unisrec import ItemCatalogue
from ..modeling_unisrec.item_catalogue import FormerItem
from .catalogue import check_items, read_products
from .exact_index import ExactIndex
from .snapshot import Snapshot, with_catalogue
from .vectors import VectorEncoder


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemChanges:
    """
    What a change did to a catalogue.

    Args:
        added (`int`): Items that were not in it.
        changed (`int`): Items that have another text now.
        removed (`int`): Items that are in it no more.
        unchanged (`int`): Given items that were there with the same text and columns.
        updated (`int`, *optional*, defaults to 0): Given items that have the same text, but other columns now.
    """

    added: int
    changed: int
    removed: int
    unchanged: int
    updated: int = 0

    def __str__(self) -> str:
        counts = {name: count for name, count in vars(self).items() if name != "updated"}
        parts = [f"{count:,} {name}" for name, count in counts.items()]
        return ", ".join(parts + ([f"{self.updated:,} with other columns"] if self.updated else []))


@dataclass(frozen=True)
class Products:
    """
    Items as they are now.

    Args:
        texts (`Mapping[str, str]`): Texts by id.
        columns (`pl.DataFrame`, *optional*): `item_id` and more columns of these items.
        tables (`Mapping[str, Any]`, *optional*): How tables of the shop are read, `tables` of [`ItemCatalogue`].
    """

    texts: Mapping[str, str]
    columns: pl.DataFrame | None = None
    tables: Mapping[str, Any] | None = None


def products_by_id(items: Any, tables: Mapping[str, Any], columns: Mapping[str, Any]) -> Products:
    """Returns the items of a mapping of texts, or of a table by the arguments of [`read_products`]. Raises its errors, and
    `ValueError` if an id or text of a mapping is empty or no string."""
    if not isinstance(items, Mapping):
        table, how = read_products(items, **columns, tables=tables)
        return Products(dict(table.select("item_id", "text").iter_rows()), table.drop("text"), how)
    if any(value is not None for value in columns.values()):
        raise ValueError(f"{', '.join(columns)} are of a table of items, not of texts by id; leave them out.")
    check_items(items)
    return Products(items)


def change_items(
    snapshot: Snapshot, encoder: VectorEncoder, products: Products, gone: Collection[str], keeps_gone: bool
) -> tuple[Snapshot, ItemChanges]:
    r"""
    Adds items, changes texts, and removes items. Only new texts are encoded, but with text neighbours all item vectors are
    computed anew, unless the model has a text space of its own; an item keeps its row in the ID embedding when its text
    changes and when it comes back.

    Args:
        snapshot ([`Snapshot`]): The state before; it is not changed.
        encoder ([`VectorEncoder`]): Encoder of the new texts.
        products ([`Products`]): Items to be added, or in the catalogue.
        gone (`Collection[str]`): Ids of the catalogue, or of its former items, to be removed.
        keeps_gone (`bool`): Whether the removed items become former items, which histories may name.

    Returns:
        `tuple[Snapshot, ItemChanges]`: The new state, whose `state` is still that of the old one, and the counts.

    Raises:
        ValueError: If no item would be left, or there is a new text and no text encoder.
    """
    items = products.texts
    old, has_rows = snapshot.catalogue, encoder.model.config.num_items is not None
    changed = [item_id for item_id, text in items.items() if item_id in old and old.texts[old.row(item_id)] != text]
    added = [item_id for item_id in items if item_id not in old]
    removed = [old.row(item_id) for item_id in gone if item_id in old]
    stays = torch.ones(len(old), dtype=torch.bool)
    stays[removed] = False
    changed_rows = torch.tensor([old.row(item_id) for item_id in changed], dtype=torch.long)
    stays[changed_rows] = False  # they come again behind the others
    kept = stays.nonzero()[:, 0]
    ids = [*changed, *added]
    if len(kept) + len(ids) == 0:
        raise ValueError("no item would be left in the catalogue; add new items first.")
    new_rows = torch.tensor([old.former[item_id].id_row if item_id in old.former else 0 for item_id in added])
    new_rows = torch.cat([old.id_rows_of(changed_rows), new_rows.long()]) if has_rows else torch.zeros(len(ids)).long()
    texts = [items[item_id] for item_id in ids]
    text_vectors = encoder.texts(texts)
    former = {item_id: item for item_id, item in old.former.items() if item_id not in items and item_id not in gone}
    if keeps_gone:
        rows = old.id_rows_of(torch.tensor(removed, dtype=torch.long)).tolist() if has_rows else [0] * len(removed)
        former |= {old.item_ids[row]: FormerItem(old.texts[row], at) for row, at in zip(removed, rows, strict=True)}
    item_ids = [old.item_ids[row] for row in kept.tolist()] + ids
    columns = _columns(old, products.columns, item_ids)
    updated = _num_updated(old, columns, kept)
    num_same = len(items) - len(added) - len(changed)
    changes = ItemChanges(len(added), len(changed), len(removed), num_same - updated, updated)
    catalogue = ItemCatalogue(
        item_ids,
        [old.texts[row] for row in kept.tolist()] + texts,
        torch.cat([old.item_embeddings[kept], text_vectors]),
        torch.cat([old.id_rows_of(kept), new_rows]) if has_rows else None,
        old.item_ids_hash if has_rows else None,
        columns,
        former,
        old.tables if products.tables is None else products.tables,
    )
    space = encoder.space(catalogue)
    if space is None or encoder.model.config.text_space == "own":
        index = snapshot.index.update(kept, encoder.items(text_vectors, new_rows, space))
    else:  # the space of the catalogue changes with it, and every item has a part in it
        index = snapshot.index.rebuild(ExactIndex(encoder.catalogue(catalogue, space)))
    processor = with_catalogue(snapshot.processor, catalogue)
    return replace(snapshot, processor=processor, index=index, space=space), changes


def _columns(old: ItemCatalogue, given: pl.DataFrame | None, item_ids: Sequence[str]) -> pl.DataFrame | None:
    """Columns of the items of a changed catalogue: those given, otherwise those they had."""
    if old.columns is None and given is None:
        return None
    known = old.table().drop("text")
    if given is not None:
        if missing := [name for name in known.columns if name not in given.columns]:
            logger.warning(
                "the list of items has no column %s: items that were there keep what they had in it.",
                ", ".join(map(repr, missing)),
            )
        # Only the items that are not given keep their columns, but all keep those that are not among the given.
        of_rest = pl.Series(list(set(item_ids).difference(given["item_id"])), dtype=pl.String)
        rest = known.filter(pl.col("item_id").is_in(of_rest.implode()))
        others = known.select("item_id", *(name for name in known.columns if name not in given.columns))
        given = given.join(others, on="item_id", how="left", maintain_order="left")
        # Types are joined only where both have rows: a complete list decides alone.
        known = given if rest.is_empty() else pl.concat([rest, given], how="diagonal_relaxed")
    wanted = pl.DataFrame({"item_id": list(item_ids)}, schema={"item_id": pl.String})
    return wanted.join(known, on="item_id", how="left", maintain_order="left").drop("item_id")


def _num_updated(old: ItemCatalogue, columns: pl.DataFrame | None, kept: torch.Tensor) -> int:
    """Number of items `kept`, the first ones of the changed catalogue, that have other values in `columns`."""
    if columns is None or not len(kept):
        return 0
    differ = pl.repeat(False, len(kept), eager=True)
    for new in columns.head(len(kept)):
        if old.columns is None or new.name not in old.columns.columns:
            differ |= new.is_not_null()
            continue
        before = old.columns[new.name][kept.numpy()]
        if before.dtype != new.dtype and not (before.dtype.is_numeric() and new.dtype.is_numeric()):
            before, new = before.cast(pl.String), new.cast(pl.String)
        differ |= before.ne_missing(new)
    return int(differ.sum())


__all__ = ["ItemChanges", "Products", "change_items", "products_by_id"]
