"""Recommendations from a checkpoint and its catalogue."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ..data import Domain
from ..data.readers.frames import TableSource
from ..data.readers.values import check_count
from ..modeling_unisrec import Where
from ..modeling_unisrec.checkpoint import load_checkpoint, load_checkpoint_tables
from .catalogue import Items, make_catalogue, take_catalogue, use_text_vectors_of
from .exact_index import ExactIndex
from .histories import drop_unknown, find_histories
from .live_catalogue import History, LiveCatalogue
from .rules import Popularity, check_result_columns, make_rules
from .snapshot import Recommendation
from .tables import to_dataset


if TYPE_CHECKING:
    from datasets import Dataset


class Recommender(LiveCatalogue):
    r"""
    Ranks a catalogue for histories of item ids and of free texts.

    Thread-safe: while one thread adds or removes items, calls from other threads see the catalogue either before or
    after the change. If the weights were trained, moved or cast, or `processor.catalogue` was replaced, the next call
    recomputes the item vectors.

    Args:
        model ([`UniSRecModel`]): The model; it is set to evaluation mode.
        processor ([`UniSRecProcessor`]): Processor with a catalogue; it is not changed.
        text_neighbours (`float`, *optional*):
            Share, from 0 to 1, of text neighbours in the score, instead of that in the configuration of the model; it is
            saved by [`~LiveCatalogue.save_pretrained`]. With any, the score is a weighted mean of the model's cosine and of
            the cosine between the text of an item and those of the latest items of the history ([`recent_texts`]), in the
            text space of the catalogue ([`fit_text_space`]), lower for items of the history itself ([`seen_discount`]), and
            vectors have `hidden_size + text_embedding_size` numbers.

    Raises:
        ValueError: If the processor has no catalogue, a transductive model was trained on another one, or the model cannot
            be mixed with text neighbours.

    Example:

    ```python
    >>> recommender = Recommender.from_pretrained("unisrec-base", "products.csv")  # doctest: +SKIP
    >>> recommender.recommend([["sku-17", {"text": "garden hose, 15 m"}]], top_k=3)  # doctest: +SKIP
    >>> recommender.add_items({"new-1": "garden hose with a reel, 20 m"})  # doctest: +SKIP

    ```
    """

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
        text_neighbours: float | None = None,
    ) -> "Recommender":
        r"""
        Returns a recommender of a checkpoint.

        Args:
            name_or_path (`str` or `os.PathLike`): Folder, `"unisrec-base"` or Hub id.
            items (table of products, `Mapping`, [`Domain`] or [`ItemCatalogue`], *optional*):
                Items to rank instead of the checkpoint's own catalogue, in a form that [`make_catalogue`] takes, such
                as `"products.csv"`. Their texts are encoded now; [`~LiveCatalogue.save_pretrained`] keeps the vectors.
            index (`str` or `os.PathLike`, *optional*, defaults to `"exact"`): See [`~LiveCatalogue.use_index`].
            item_column, text_columns, separator, encoding (*optional*):
                How a table of items is read, see [`read_products`]; by default as the checkpoint remembers it.
            text_encoder (`str`, *optional*): Where the checkpoint has no text encoder, the one it was trained with.
            text_neighbours (`float`, *optional*): As for the class.
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
            take_catalogue(catalogue, model, processor)
            use_text_vectors_of(items, model, processor)
        recommender = cls(model, processor, text_neighbours)
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
        *,
        where: Where | None = None,
        cap: Mapping[str, int] | None = None,
        diversity: float = 0.0,
        popularity: Popularity | None = None,
        columns: Sequence[str] = (),
    ) -> list[list[Recommendation]]:
        r"""
        Recommends the best items for each history.

        Args:
            histories (`Sequence` of `Sequence` of `str` or `dict`):
                Oldest item first, each an id of the catalogue or `{"text": ...}`; see [`UniSRecProcessor.parse`].
            top_k (`int`, *optional*, defaults to 10): Number of items per history, at most the size of the catalogue.
            exclude_seen (`bool`, *optional*, defaults to `True`): Whether to exclude the items of the history. Otherwise
                text neighbours lower their scores, unless the history holds an item twice: [`seen_discount`].
            allowed (`Iterable[str]`, *optional*): Ids of the only items that may be recommended.
            blocked (`Iterable[str]`, *optional*): Ids of items that must not be recommended.
            batch_size (`int`, *optional*, defaults to 256): Histories per batch; similar lengths are batched together.
            progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.
            where (`str`, `pl.Expr` or sequence of `bool`, *optional*):
                Condition on the columns of the items, such as `"stock > 0"`; see [`item_mask`].
            cap (`Mapping[str, int]`, *optional*): Largest number of items with the same value in a column, such as
                `{"brand": 2}`; see [`make_rules`].
            diversity (`float`, *optional*, defaults to 0.0): Weight of the difference to the items before, in [0, 1]; see
                [`Rules`].
            popularity (`str`, `Mapping[str, float]` or [`Domain`], *optional*): Counts by which items are ranked for an
                empty history; see [`make_rules`].
            columns (`Sequence[str]`, *optional*): Columns of the items that the result holds.

        Returns:
            `list[list[Recommendation]]`: For each history, best first; equal scores in catalogue order.

        Raises:
            KeyError: If an id is unknown; names the nearest known ids.
            ValueError: If a history is empty and `popularity` not given, a text is given without a text encoder, a count
                is below 1, or as [`item_mask`] and [`make_rules`].
        """
        check_count("top_k", top_k)
        snapshot = self._current()
        rules = make_rules(snapshot.catalogue, cap, diversity, popularity, self.model.config.similarity == "cosine")
        check_result_columns(snapshot.catalogue, columns)
        candidates = snapshot.candidates(allowed, blocked, where)
        parsed = snapshot.processor.parse_histories(histories, allow_empty=popularity is not None)
        results: list[list[Recommendation]] = [[] for _ in parsed]
        batches = self._encoder.users(snapshot.processor, parsed, batch_size, snapshot.space, progress)
        # Only what the model reads of a history is lowered, as in evaluations.
        first = 0 if exclude_seen else -snapshot.processor.max_history_length
        for places, users, discounts in batches:
            discounts = None if exclude_seen else discounts
            matters = exclude_seen or discounts is not None
            seen = [[row for row, _ in parsed[place][first:] if row is not None and matters] for place in places]
            found = rules.search(snapshot.index, users, top_k, seen, candidates, discounts)
            for place, items in zip(places, snapshot.recommendations(*found, columns), strict=True):
                results[place] = items
        if empty := [place for place, entries in enumerate(parsed) if not entries]:
            (items,) = snapshot.recommendations(*rules.most_popular(snapshot.index, top_k, candidates), columns)
            for place in empty:
                results[place] = list(items)
        return results

    def recommend_dataset(
        self,
        histories: Sequence[History] | TableSource | Domain,
        user_ids: Sequence[str] | None = None,
        *,
        skip_unknown: bool = False,
        **options,
    ) -> "Dataset":
        r"""
        Returns the result of [`~Recommender.recommend`] as a table (`to_pandas`, `to_polars`, `to_parquet`).

        Args:
            histories, user_ids (*optional*): As for [`find_histories`]: also a file, a data frame or a [`Domain`].
            skip_unknown (`bool`, *optional*, defaults to `False`):
                Whether ids that are not in the catalogue are left out, and users who have no others.
            options: As for `recommend`.

        Returns:
            `datasets.Dataset`: Columns `user_id`, `rank` (from 1), `item_id` and `score`, and then the `columns` that are
            asked for; a row for each item.

        Raises:
            KeyError, ValueError: As for `recommend` and [`find_histories`].
        """
        processor = self._current().processor
        catalogue = processor.catalogue
        user_ids, histories = find_histories(histories, user_ids, catalogue.tables)
        if skip_unknown:
            keep_empty = options.get("popularity") is not None
            user_ids, histories = drop_unknown(processor, user_ids, histories, keep_empty)
        return to_dataset(user_ids, self.recommend(histories, **options), catalogue, options.get("columns", ()))

    def similar_items(self, item: str | Mapping[str, str], top_k: int = 10) -> list[Recommendation]:
        r"""
        Returns the items most similar to a given one, independent of any history.

        Args:
            item (`str` or `dict`): An id of the catalogue or `{"text": ...}`; see [`UniSRecProcessor.parse`].
            top_k (`int`, *optional*, defaults to 10): Number of items, at most the size of the catalogue.

        Returns:
            `list[Recommendation]`: Nearest first, without the item itself; `score` is the cosine of the item vectors,
            which with text neighbours hold the texts too.

        Raises:
            KeyError: For an unknown id.
            ValueError: If a text is given without a text encoder, or `top_k` is below 1.
        """
        check_count("top_k", top_k)
        snapshot = self._current()
        row, text = snapshot.processor.parse(item)
        if row is None:
            query = self._encoder.items(self._encoder.texts([text]), torch.tensor([0]), snapshot.space)
        else:
            query = snapshot.index.vectors[row : row + 1].float()
        index = snapshot.index
        if self.model.config.similarity != "cosine":
            index = ExactIndex(F.normalize(index.vectors.float(), dim=-1))
        scores, rows = index.search(F.normalize(query, dim=-1), top_k, [[] if row is None else [row]])
        return snapshot.recommendations(scores, rows)[0]


__all__ = ["Recommendation", "Recommender"]
