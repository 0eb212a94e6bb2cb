"""A catalogue that is served: vectors and index of its items, which can be added and removed while others read."""

import dataclasses
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data.readers.frames import TableSource
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from ..modeling_unisrec.item_state import item_tower_state
from ..modeling_unisrec.pipeline_unisrec import check_catalogue
from ..modeling_unisrec.text_neighbours import keep_text_space, with_own_text_space
from .catalogue import columns_by_id
from .exact_index import ExactIndex
from .faiss_index import KINDS, FaissIndex, choose_kind
from .item_changes import ItemChanges, Products, change_items, products_by_id
from .snapshot import Snapshot, with_catalogue
from .vectors import VectorEncoder


History = Sequence[str | Mapping[str, str]]


class LiveCatalogue:
    """The part of [`Recommender`] that keeps the item vectors and the index up to date; arguments, errors and what holds
    between threads are documented there."""

    def __init__(self, model: UniSRecModel, processor: UniSRecProcessor, text_neighbours: float | None = None):
        if processor.catalogue is None:
            raise ValueError(
                "the checkpoint has no catalogue to recommend from; give the items to rank (items=... in Python, --items "
                "products.csv on the command line), or finetune it on a domain."
            )
        self._given_model, self._given_share = model, text_neighbours
        self._enters_catalogues, self._model = model.config.text_space == "catalogue", with_own_text_space(model)
        # Two encoders, so that queries need not wait while many new texts are encoded.
        self._encoder = VectorEncoder(self._model, processor, text_neighbours)
        self._writers_encoder = VectorEncoder(self._model, processor, text_neighbours)
        self._writers_lock = threading.RLock()
        self._snapshot = self._make_snapshot(processor)

    def __repr__(self) -> str:
        kind = "inductive" if self._model.config.num_items is None else "transductive"
        return f"{type(self).__name__}({kind}, {self.processor.catalogue!r}, {self._current().index!r})"

    @property
    def model(self) -> UniSRecModel:
        """The model, in evaluation mode. Its weights may be changed; it cannot be replaced. If it is to read texts in the text
        space of each catalogue, this is one that shares the weights of the given one and has that of this catalogue."""
        return self._model

    @property
    def processor(self) -> UniSRecProcessor:
        """The processor with the current catalogue; a later change of the items creates a new one."""
        return self._current().processor

    @property
    def catalogue(self) -> ItemCatalogue:
        """The current catalogue. Unlike `processor`, it is read without checking whether the model has changed."""
        return self._snapshot.catalogue

    @property
    def item_embeds(self) -> np.ndarray:
        """Searched item vectors `(num_items, hidden_size)`, float32, of unit length unless the model scores
        by the plain product. Their product with [`~LiveCatalogue.encode_users`] is the score, with text
        neighbours that of items outside of the history."""
        return self._current().index.vectors.float().cpu().numpy()

    def encode_users(self, histories: Sequence[History], batch_size: int = 256) -> np.ndarray:
        r"""
        Encodes histories into query vectors.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`): As for [`Recommender.recommend`].
            batch_size (`int`, *optional*, defaults to 256): Histories per batch.

        Returns:
            `np.ndarray` of shape `(num_histories, hidden_size)`, float32: Vectors of unit length, unless the model
            scores by the plain product. With text neighbours, items of the history itself score less than by the product
            ([`seen_discount`]).

        Raises:
            KeyError, ValueError: As for [`Recommender.recommend`].
        """
        snapshot = self._current()
        parsed = snapshot.processor.parse_histories(histories)
        vectors = np.empty((len(parsed), snapshot.index.vectors.shape[1]), dtype=np.float32)
        for places, users, _ in self._encoder.users(snapshot.processor, parsed, batch_size, snapshot.space):
            vectors[places] = users.cpu().numpy()
        return vectors

    def encode_items(self, texts: Sequence[str]) -> np.ndarray:
        r"""
        Encodes the texts of items, which need not be in the catalogue.

        Args:
            texts (`Sequence[str]`): Item texts.

        Returns:
            `np.ndarray` of shape `(num_texts, hidden_size)`, float32: Their product with
            [`~LiveCatalogue.encode_users`] is the score that [`~LiveCatalogue.add_items`] would give them.

        Raises:
            ValueError: If there is no text encoder.
        """
        vectors, rows = self._encoder.texts(texts), torch.zeros(len(texts), dtype=torch.long)
        return self._encoder.items(vectors, rows, self._current().space).cpu().numpy()

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
            items (`Mapping[str, str]` or table): All items, in a form that [`~LiveCatalogue.add_items`] takes.
            columns (*optional*): As for [`~LiveCatalogue.add_items`].

        Returns:
            [`ItemChanges`]: What was done.

        Raises:
            OSError: If the table cannot be read.
            ValueError: As for [`~LiveCatalogue.add_items`], or if there are no items.
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
            new, changes = change_items(
                snapshot, self._writers_encoder, Products({}), dict.fromkeys(gone), keeps_gone=False
            )
            self._replace_snapshot(new)
        return changes

    def set_columns(self, table: TableSource, item_column: str | None = None) -> None:
        r"""
        Replaces the columns of the items, such as price and stock, which `where`, `cap`, `popularity` and `columns` of
        [`Recommender.recommend`] refer to. Texts and vectors stay; nothing is encoded.

        Args:
            table, item_column (*optional*): As for [`columns_by_id`].

        Raises:
            OSError, ValueError: As for [`columns_by_id`].
        """
        with self._writers_lock:
            snapshot = self._current()
            catalogue = snapshot.catalogue.with_columns(columns_by_id(table, snapshot.catalogue.item_ids, item_column))
            processor, state = (
                with_catalogue(snapshot.processor, catalogue),
                self._state(catalogue, snapshot.reads_texts),
            )
            self._snapshot = dataclasses.replace(snapshot, processor=processor, state=state)

    def use_index(self, index: str | os.PathLike) -> ExactIndex | FaissIndex:
        r"""
        Replaces the search index.

        Args:
            index (`str` or `os.PathLike`):
                `"exact"`; `"exact-bf16"`, which halves the memory of the item vectors; FAISS as `"ivf"` or `"hnsw"`;
                `"auto"`, one of them or `"exact"` by the size of the catalogue; or the folder of a saved index.

        Returns:
            [`ExactIndex`] or [`FaissIndex`]: The index; the `recall` of FAISS is its share of the exact top 10.

        Raises:
            FileNotFoundError: If there is no such folder.
            ImportError: If FAISS is not installed.
            ValueError: If the folder is damaged or its index belongs to another catalogue, or the kind is `"flat"`.
        """
        with self._writers_lock:
            snapshot = self._current()
            if index in (*KINDS, "flat"):
                index, _ = choose_kind(index, len(snapshot.catalogue))
            if index == "exact-bf16":
                new = ExactIndex(snapshot.index.vectors, torch.bfloat16)
            else:
                on_device = snapshot.index.vectors.float()
                new = ExactIndex(on_device if index == "exact" else on_device.cpu())
            if index in KINDS:
                new = FaissIndex.build(new, self._sample_users(), index)
            elif index not in ("exact", "exact-bf16"):
                new = FaissIndex.load(index, new, snapshot.catalogue.item_ids)
            self._snapshot = dataclasses.replace(snapshot, index=new)
        return new

    def _sample_users(self, count: int = 256) -> torch.Tensor:
        """Returns vectors `(count, hidden_size)` of short random histories, to measure the recall of an index."""
        generator = torch.Generator().manual_seed(0)
        ids = self.processor.catalogue.item_ids
        rows = torch.randint(len(ids), (count, 5), generator=generator).tolist()
        histories = [[ids[row] for row in history[: 1 + place % 5]] for place, history in enumerate(rows)]
        return torch.from_numpy(self.encode_users(histories))

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Saves model and current catalogue, and the share of text neighbours if one was given, to the folder
        `save_directory` for `from_pretrained` and the Auto classes."""
        processor, config = self.processor, self.model.config
        with self._writers_lock:
            before = config.text_neighbours
            config.text_neighbours = before if self._given_share is None else self._given_share
            try:
                self.model.save_pretrained(save_directory)
            finally:
                config.text_neighbours = before
        processor.save_pretrained(save_directory)

    def _change(self, items: Any, columns: Mapping[str, Any], is_complete: bool) -> ItemChanges:
        """Adds and changes items and, if they are all there are, removes the others."""
        with self._writers_lock:
            snapshot = self._current()
            old = snapshot.catalogue
            given = products_by_id(items, old.tables, columns)
            gone = [item_id for item_id in old.item_ids if item_id not in given.texts] if is_complete else []
            new, changes = change_items(snapshot, self._writers_encoder, given, gone, keeps_gone=True)
            self._replace_snapshot(new)
        return changes

    def _replace_snapshot(self, new: Snapshot) -> None:
        """Sets the snapshot by one assignment."""
        self._snapshot = dataclasses.replace(new, state=self._state(new.catalogue, new.reads_texts))

    def _current(self) -> Snapshot:
        """Returns the snapshot, rebuilt if the model or the catalogue has changed since it was built."""
        for model in (self._given_model, self._model):
            if model.training:
                model.eval()
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
        is_same = old is not None and old.state[0] == id(catalogue)
        if is_same:
            reads_texts = old.reads_texts and self._model.text_encoder is not None  # otherwise keep the loaded vectors
        if reads_texts:
            catalogue = catalogue.with_embeddings(self._writers_encoder.texts(catalogue.texts, progress=None))
        if self._enters_catalogues and not is_same:
            # For good, also when saved: items that are added later are mapped alike, and saved indexes fit.
            keep_text_space(self._model, catalogue.item_embeddings)
        space = self._writers_encoder.space(catalogue)
        index = ExactIndex(self._writers_encoder.catalogue(catalogue, space))
        if old is not None:
            index = old.index.rebuild(index)
        state = self._state(catalogue, reads_texts)
        return Snapshot(with_catalogue(processor, catalogue), index, state, reads_texts, space)

    def _state(self, catalogue: ItemCatalogue, reads_texts: bool) -> tuple[Any, ...]:
        """Returns a state that changes whenever the vectors of the catalogue change."""
        return *item_tower_state(self._model, catalogue, reads_texts), self._encoder.text_neighbours


__all__ = ["History", "LiveCatalogue"]
