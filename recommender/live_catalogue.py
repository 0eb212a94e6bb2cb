"""A catalogue and its index, which can be searched by many threads while it changes."""

import dataclasses
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..data.readers.frames import TableSource
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor, check_catalogue, item_tower_state
from .exact_index import ExactIndex
from .item_changes import ItemChanges, change_items, texts_by_id
from .snapshot import Snapshot, with_catalogue
from .vectors import VectorEncoder


class LiveCatalogue:
    r"""
    Base of [`Recommender`]: the catalogue of a processor, its vectors and its index, and their changes.

    Args:
        model ([`UniSRecModel`]): The model; it is set to evaluation mode.
        processor ([`UniSRecProcessor`]): Processor with a catalogue; it is not changed.

    Raises:
        ValueError: If the processor has no catalogue, or a transductive model was trained on another one.
    """

    def __init__(self, model: UniSRecModel, processor: UniSRecProcessor):
        if processor.catalogue is None:
            raise ValueError(
                "the checkpoint has no catalogue to recommend from; give the items to rank (items=... in Python, --items "
                "products.csv on the command line), or finetune it on a domain."
            )
        self._model = model
        # Two encoders, so that queries need not wait while many new texts are encoded.
        self._encoder, self._writers_encoder = VectorEncoder(model, processor), VectorEncoder(model, processor)
        self._writers_lock = threading.RLock()
        self._snapshot = self._make_snapshot(processor)

    @property
    def model(self) -> UniSRecModel:
        """The model, in evaluation mode. Its weights may be changed; it cannot be replaced."""
        return self._model

    @property
    def processor(self) -> UniSRecProcessor:
        """The processor with the current catalogue; a later change of the items creates a new one."""
        return self._current().processor

    @property
    def item_embeds(self) -> np.ndarray:
        """Searched item vectors `(num_items, hidden_size)`, float32, of unit length unless the model scores
        by the plain product. Their product with [`~Recommender.encode_users`] is the score."""
        return self._current().index.vectors.float().cpu().numpy()

    def add_items(self, items: Mapping[str, str] | TableSource, **columns: Any) -> ItemChanges:
        r"""
        Appends items to the catalogue, represented by their texts alone; nothing is trained. Items that are there already
        get their new text, and keep their ID embedding.

        Args:
            items (`Mapping[str, str]` or table): Texts by id, or a table of products as for [`read_products`].
            columns (*optional*): `item_column`, `text_columns`, `separator` and `encoding` of a table.

        Returns:
            [`ItemChanges`]: What was done.

        Raises:
            OSError: If the table cannot be read.
            ValueError: If an id or text is empty or no string, the table cannot be used, or there is a new text and no text
                encoder. The catalogue is then unchanged.
        """
        return self._change(items, columns, is_complete=False)

    def sync_items(self, items: Mapping[str, str] | TableSource, **columns: Any) -> ItemChanges:
        r"""
        Makes the catalogue that of a complete product list: new items are added, changed texts replaced, and items that
        are not in the list removed. Only new and changed texts are encoded; nothing is trained.

        A removed item is not recommended any more. A history may still name it, and it is then represented by its
        text; when it comes back, it has its ID embedding again.

        Args:
            items (`Mapping[str, str]` or table): All items, in a form that [`~Recommender.add_items`] takes.
            columns (*optional*): As for [`~Recommender.add_items`].

        Returns:
            [`ItemChanges`]: What was done.

        Raises:
            OSError: If the table cannot be read.
            ValueError: As for [`~Recommender.add_items`], or if there are no items.
        """
        return self._change(items, columns, is_complete=True)

    def remove_items(self, item_ids: Iterable[str]) -> ItemChanges:
        r"""
        Removes items from the catalogue and forgets them; the others keep their order and, in a transductive model, their
        ID embedding.

        Args:
            item_ids (`Iterable[str]`): Their ids.

        Returns:
            [`ItemChanges`]: What was done.

        Raises:
            KeyError: If an id is unknown. The catalogue is then unchanged.
            ValueError: If no item would be left.
        """
        with self._writers_lock:
            snapshot, gone = self._current(), list(item_ids)
            for item_id in gone:
                if item_id not in snapshot.catalogue.former:
                    snapshot.catalogue.row(item_id)
            new, changes = change_items(snapshot, self._writers_encoder, {}, dict.fromkeys(gone), keeps_gone=False)
            self._replace_snapshot(new)
        return changes

    def _change(self, items: Any, columns: Mapping[str, Any], is_complete: bool) -> ItemChanges:
        """Adds and changes items and, if they are all there are, removes the others."""
        with self._writers_lock:
            snapshot = self._current()
            old = snapshot.catalogue
            texts, tables = texts_by_id(items, old.tables, columns)
            gone = [item_id for item_id in old.item_ids if item_id not in texts] if is_complete else []
            new, changes = change_items(snapshot, self._writers_encoder, texts, gone, keeps_gone=True)
            new.catalogue.tables = tables
            self._replace_snapshot(new)
        return changes

    def _replace_snapshot(self, new: Snapshot) -> None:
        """Sets the snapshot by one assignment."""
        self._snapshot = dataclasses.replace(new, state=self._state(new.catalogue, new.reads_texts))

    def _current(self) -> Snapshot:
        """Returns the snapshot, rebuilt if the model or the catalogue has changed since it was built."""
        if self._model.training:
            self._model.eval()
        snapshot = self._snapshot
        if snapshot.state != self._state(snapshot.catalogue, snapshot.reads_texts):
            with self._writers_lock:
                if self._snapshot is snapshot:  # otherwise another thread has rebuilt it
                    self._snapshot = self._make_snapshot(snapshot.processor, snapshot)
                return self._snapshot
        return snapshot

    def _make_snapshot(self, processor: UniSRecProcessor, old: Snapshot | None = None) -> Snapshot:
        """Computes vectors and index of a processor's catalogue, with the same kind of index. Raises `ValueError` if the
        model cannot rank it."""
        catalogue = processor.catalogue
        check_catalogue(self._model, catalogue)
        reads_texts = catalogue.item_embeddings is None
        if old is not None and old.state[0] == id(catalogue):
            reads_texts = old.reads_texts and self._model.text_encoder is not None  # otherwise keep the loaded vectors
        if reads_texts:
            catalogue = catalogue.with_embeddings(self._writers_encoder.texts(catalogue.texts, progress=True))
        index = ExactIndex(self._writers_encoder.catalogue(catalogue))
        if old is not None:
            index = old.index.rebuild(index)
        return Snapshot(with_catalogue(processor, catalogue), index, self._state(catalogue, reads_texts), reads_texts)

    def _state(self, catalogue: ItemCatalogue, reads_texts: bool) -> tuple[Any, ...]:
        """Returns a state that changes whenever the vectors of the catalogue change."""
        return item_tower_state(self._model, catalogue, reads_texts)


__all__ = ["LiveCatalogue"]
