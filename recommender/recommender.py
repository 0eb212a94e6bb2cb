"""Recommendations from a checkpoint and its catalogue, with items that can be added and removed."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from ..data import Domain
from ..data.readers.frames import TableSource
from ..data.readers.values import check_count
from ..modeling_unisrec.checkpoint import load_checkpoint, load_checkpoint_tables
from .catalogue import Items, make_catalogue, use_text_vectors_of
from .exact_index import ExactIndex
from .faiss_index import KINDS, FaissIndex, choose_kind
from .live_catalogue import LiveCatalogue
from .snapshot import Recommendation
from .tables import find_histories


if TYPE_CHECKING:
    from datasets import Dataset


History = Sequence[str | Mapping[str, str]]


class Recommender(LiveCatalogue):
    r"""
    Ranks a catalogue for histories of item ids and of free texts.

    Thread-safe: while one thread adds or removes items, calls from other threads see the catalogue either before or
    after the change. If the weights were trained, moved or cast, or `processor.catalogue` was replaced, the next call
    recomputes the item vectors.

    Args:
        model ([`UniSRecModel`]): The model; it is set to evaluation mode.
        processor ([`UniSRecProcessor`]): Processor with a catalogue; it is not changed.

    Raises:
        ValueError: If the processor has no catalogue, or a transductive model was trained on another one.

    Example:

    ```python
    >>> recommender = Recommender.from_pretrained("unisrec-base", "products.csv")  # doctest: +SKIP
    >>> recommender.recommend([["sku-17", {"text": "garden hose, 15 m"}]], top_k=3)  # doctest: +SKIP
    >>> recommender.add_items({"new-1": "garden hose with a reel, 20 m"})  # doctest: +SKIP

    ```
    """

    def __repr__(self) -> str:
        kind = "inductive" if self._model.config.num_items is None else "transductive"
        return f"Recommender({kind}, {self.processor.catalogue!r}, {self._current().index!r})"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        items: "Items | None" = None,
        index: str | os.PathLike = "exact",
        *,
        item_column: str | None = None,
        text_columns: str | Sequence[str] | None = None,
        separator: str | None = None,
        encoding: str | None = None,
        text_encoder: str | None = None,
    ) -> "Recommender":
        r"""
        Returns a recommender of a checkpoint.

        Args:
            name_or_path (`str` or `os.PathLike`): Folder, `"unisrec-base"` or Hub id.
            items (table of products, `Mapping`, [`Domain`] or [`ItemCatalogue`], *optional*):
                Items to rank instead of the checkpoint's own catalogue, in a form that [`make_catalogue`] takes, such
                as `"products.csv"`. Their texts are encoded now; [`~Recommender.save_pretrained`] keeps the vectors.
            index (`str` or `os.PathLike`, *optional*, defaults to `"exact"`): See [`~Recommender.use_index`].
            item_column, text_columns, separator, encoding (*optional*):
                How a table of items is read, see [`read_products`]; by default as the checkpoint remembers it.
            text_encoder (`str`, *optional*): Where the checkpoint has no text encoder, the one it was trained with.
        """
        # The items come first because their errors are found quickly.
        named = {
            "item_column": item_column,
            "text_columns": text_columns,
            "separator": separator,
            "encoding": encoding,
        }
        tables = None if items is None else load_checkpoint_tables(name_or_path)
        catalogue = make_catalogue(items, **named, tables=tables)
        model, processor = load_checkpoint(name_or_path, text_encoder)
        if catalogue is not None:
            processor.catalogue = catalogue
            use_text_vectors_of(items, model, processor)
        recommender = cls(model, processor)
        if index != "exact":
            recommender.use_index(index)
        return recommender

    def recommend(
        self,
        histories: Sequence[History],
        top_k: int = 10,
        exclude_seen: bool = True,
        allowed: Iterable[str] | None = None,
        blocked: Iterable[str] | None = None,
        batch_size: int = 256,
        progress: bool = False,
    ) -> list[list[Recommendation]]:
        r"""
        Recommends the best items for each history.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`):
                Oldest item first, each an id of the catalogue or `{"text": ...}`; see [`UniSRecProcessor.parse`].
            top_k (`int`, *optional*, defaults to 10): Number of items per history, at most the size of the catalogue.
            exclude_seen (`bool`, *optional*, defaults to `True`): Whether to exclude the items of the history.
            allowed (`Iterable[str]`, *optional*): Ids of the only items that may be recommended.
            blocked (`Iterable[str]`, *optional*): Ids of items that must not be recommended.
            batch_size (`int`, *optional*, defaults to 256): Histories per batch; similar lengths are batched together.
            progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

        Returns:
            `list[list[Recommendation]]`: For each history, best first; equal scores in catalogue order.

        Raises:
            KeyError: If an id is unknown; names the nearest known ids.
            ValueError: If a history is empty, a text is given without a text encoder, or a count is below 1.
        """
        check_count("top_k", top_k)
        snapshot = self._current()
        candidates = snapshot.candidates(allowed, blocked)
        parsed = snapshot.processor.parse_histories(histories)
        results: list[list[Recommendation]] = [[] for _ in parsed]
        for places, users in self._encoder.users(snapshot.processor, parsed, batch_size, progress):
            seen = [[row for row, _ in parsed[place] if row is not None and exclude_seen] for place in places]
            scores, rows = snapshot.index.search(users, top_k, seen, candidates)
            for place, items in zip(places, snapshot.recommendations(scores, rows), strict=True):
                results[place] = items
        return results

    def recommend_dataset(
        self, histories: Sequence[History] | TableSource | Domain, user_ids: Sequence[str] | None = None, **options
    ) -> "Dataset":
        r"""
        Returns the result of [`~Recommender.recommend`] as a table (`to_pandas`, `to_polars`, `to_parquet`).

        Args:
            histories, user_ids (*optional*): As for [`find_histories`]: also a file, a data frame or a [`Domain`].
            options: As for `recommend`.

        Returns:
            `datasets.Dataset`: Columns `user_id`, `rank` (from 1), `item_id` and `score`, a row for each item.

        Raises:
            KeyError, ValueError: As for `recommend` and [`find_histories`].
        """
        from datasets import Dataset, Features, Value

        user_ids, histories = find_histories(histories, user_ids)
        columns: dict[str, list] = {"user_id": [], "rank": [], "item_id": [], "score": []}
        for user_id, items in zip(user_ids, self.recommend(histories, **options), strict=True):
            columns["user_id"] += [user_id] * len(items)
            columns["rank"] += range(1, len(items) + 1)
            columns["item_id"] += [item.item_id for item in items]
            columns["score"] += [item.score for item in items]
        types = {"user_id": "string", "rank": "int32", "item_id": "string", "score": "float32"}
        return Dataset.from_dict(columns, Features({name: Value(kind) for name, kind in types.items()}))

    def similar_items(self, item: str | Mapping[str, str], top_k: int = 10) -> list[Recommendation]:
        r"""
        Returns the items most similar to a given one, independent of any history.

        Args:
            item (`str` or `dict`): An id of the catalogue or `{"text": ...}`; see [`UniSRecProcessor.parse`].
            top_k (`int`, *optional*, defaults to 10): Number of items, at most the size of the catalogue.

        Returns:
            `list[Recommendation]`: Nearest first, without the item itself; `score` is the cosine of the item vectors.

        Raises:
            KeyError: For an unknown id.
            ValueError: If a text is given without a text encoder, or `top_k` is below 1.
        """
        check_count("top_k", top_k)
        snapshot = self._current()
        row, text = snapshot.processor.parse(item)
        if row is None:
            query = self._encoder.items(self._encoder.texts([text]), torch.tensor([0]))
        else:
            query = snapshot.index.vectors[row : row + 1].float()
        index = snapshot.index
        if self.model.config.similarity != "cosine":
            index = ExactIndex(F.normalize(index.vectors.float(), dim=-1))
        scores, rows = index.search(F.normalize(query, dim=-1), top_k, [[] if row is None else [row]])
        return snapshot.recommendations(scores, rows)[0]

    def encode_users(self, histories: Sequence[History], batch_size: int = 256) -> np.ndarray:
        r"""
        Encodes histories into query vectors.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`): As for [`~Recommender.recommend`].
            batch_size (`int`, *optional*, defaults to 256): Histories per batch.

        Returns:
            `np.ndarray` of shape `(num_histories, hidden_size)`, float32: Vectors of unit length, unless the model
            scores by the plain product.

        Raises:
            KeyError, ValueError: As for [`~Recommender.recommend`].
        """
        snapshot = self._current()
        parsed = snapshot.processor.parse_histories(histories)
        vectors = np.empty((len(parsed), self.model.config.hidden_size), dtype=np.float32)
        for places, users in self._encoder.users(snapshot.processor, parsed, batch_size):
            vectors[places] = users.cpu().numpy()
        return vectors

    def encode_items(self, texts: Sequence[str]) -> np.ndarray:
        r"""
        Encodes the texts of items, which need not be in the catalogue.

        Args:
            texts (`Sequence[str]`): Item texts.

        Returns:
            `np.ndarray` of shape `(num_texts, hidden_size)`, float32: Their product with
            [`~Recommender.encode_users`] is the score that [`~Recommender.add_items`] would give them.

        Raises:
            ValueError: If there is no text encoder.
        """
        vectors = self._encoder.texts(texts)
        return self._encoder.items(vectors, torch.zeros(len(texts), dtype=torch.long)).cpu().numpy()

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
        """Saves model and current catalogue to the folder `save_directory` for `from_pretrained` and the Auto
        classes."""
        processor = self.processor
        self.model.save_pretrained(save_directory)
        processor.save_pretrained(save_directory)


__all__ = ["Recommendation", "Recommender"]
