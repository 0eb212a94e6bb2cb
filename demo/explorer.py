"""Answers of the page: search, ranking with reasons, placement of a new product, and a map.

Objects are immutable: the history and products of a visitor are arguments, so visitors are isolated from each other.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch.nn import functional as F

from ..evaluation.analysis import principal_plane
from ..modeling_unisrec import ItemCatalogue
from ..modeling_unisrec.checkpoint import load_checkpoint
from ..recommender.recommender import Recommender
from ..recommender.rules import OWN_COLUMNS
from .cards import MAX_ID, MAX_OWN, MAX_TEXT, Card, Entry, History, OwnProducts, Placement, clean, fold


def load_recommender(
    model: str | os.PathLike, items: ItemCatalogue | None, text_neighbours: float | None = None
) -> Recommender:
    """Loads a checkpoint with the given items if it is inductive, otherwise with its own catalogue; `text_neighbours` is as
    for [`Recommender`]."""
    network, processor = load_checkpoint(model)
    if items is not None and network.config.num_items is None:
        own = processor.catalogue  # the vectors of equal items are stored
        if own is None or (own.item_ids, own.texts) != (items.item_ids, items.texts):
            processor.catalogue = items
        else:
            processor.catalogue = own.with_columns(own.columns if items.columns is None else items.columns)
    return Recommender(network, processor, text_neighbours)


class Explorer:
    r"""
    Answers for the page from one checkpoint.

    Args:
        recommender ([`Recommender`]): Checkpoint and catalogue.
        customers (`Mapping[str, Sequence[str]]`, *optional*): Item ids of customers whose histories visitors may open.

    Attributes:
        reads_text (`bool`): Whether products can be given by text, which takes a text encoder.
    """

    def __init__(self, recommender: Recommender, customers: Mapping[str, Sequence[str]] | None = None):
        self.recommender, self.customers = recommender, customers
        self.model, self.processor = recommender.model, recommender.processor
        self.catalogue = recommender.processor.catalogue
        readable = self.model.config.item_text and self.model.text_encoder is not None
        self.reads_text = readable and self.processor.tokenizer is not None
        self.columns = [name for name in self.catalogue.column_names[2:] if name not in OWN_COLUMNS]
        self.items = torch.from_numpy(recommender.item_embeds)
        self.unit_items = F.normalize(self.items, dim=-1)
        self.mean, self.axes = principal_plane(self.unit_items)
        pairs = zip(self.catalogue.item_ids, self.catalogue.texts, strict=True)
        self._searched = [fold(f"{text} {item_id}") for item_id, text in pairs]
        self._vector = lru_cache(maxsize=4096)(self._encode)

    @property
    def kind(self) -> str:
        """Returns how the checkpoint represents items: by text, by ID or by both."""
        if not self.model.config.item_text:
            return "ID only"
        return "Text only" if self.model.config.num_items is None else "Text + ID"

    def title(self, entry: Entry, own: OwnProducts) -> str:
        """Returns the text of a history entry."""
        if "text" in entry:
            return entry["text"]
        item_id = entry["item_id"]
        return own[item_id] if item_id in own else self.catalogue.texts[self.catalogue.row(item_id)]

    def entry(self, words: str, own: OwnProducts) -> Entry:
        r"""
        Converts typed words to a history entry: the product with this id or text, or a free text.

        Raises:
            ValueError: If the words are empty, too long, or a free text for a model without a text encoder.
        """
        words = clean(words)
        if words in own or words in self.catalogue:
            return {"item_id": words}
        for item_id, text in [*own.items(), *zip(self.catalogue.item_ids, self.catalogue.texts, strict=True)]:
            if text.casefold() == words.casefold():
                return {"item_id": item_id}
        if not self.reads_text:
            raise ValueError("This checkpoint has no text encoder: pick a product of the list instead of free text.")
        return {"text": words}

    def append(self, history: History, entry: Entry, own: OwnProducts) -> list[Entry]:
        r"""
        Returns the history with one more entry.

        Raises:
            KeyError: If an id is neither in the catalogue nor among the products of the visitor.
            ValueError: If the history is as long as the model reads.
        """
        self.title(entry, own)
        if len(history) >= self.processor.max_history_length:
            raise ValueError(f"The history is full: the model reads {len(history)} products. Remove one first.")
        return [*history, entry]

    def search(self, words: str, own: OwnProducts, limit: int = 8) -> list[Card]:
        """Finds products whose text or id contains all words, whatever their case and accents: the visitor's own first,
        then those that start with the words."""
        if len(words) > MAX_TEXT or not (wanted := fold(words).split()[:20]):
            return []
        found = [
            Card(item_id, text, 0.0, own=True)
            for item_id, text in own.items()
            if all(word in fold(f"{text} {item_id}") for word in wanted)
        ]
        rows = [row for row, line in enumerate(self._searched) if all(word in line for word in wanted)]
        rows.sort(key=lambda row: not self._searched[row].startswith(wanted[0]))
        found += [Card(self.catalogue.item_ids[row], self.catalogue.texts[row], 0.0) for row in rows[:limit]]
        return found[:limit]

    def recommend(self, history: History, own: OwnProducts, top_k: int) -> list[Card]:
        """Returns the best products for a history, including the visitor's own, each with the nearest item of the
        history."""
        if not history:
            return []
        entries = self._resolve(history, own)
        (items,) = self.recommender.recommend([entries], top_k, columns=self.columns)
        seen = {entry.get("item_id") for entry in history}
        unseen = {item_id: text for item_id, text in own.items() if item_id not in seen}
        cards = [Card(item.item_id, item.text, item.score, columns=item.columns) for item in items]
        if unseen:
            scores = self._vectors(unseen.values()) @ self._user(entries)
            cards += [
                Card(*pair, score, own=True) for pair, score in zip(unseen.items(), scores.tolist(), strict=True)
            ]
        cards.sort(key=lambda card: -card.score)  # stable sort: ties in catalogue order
        return self._with_reasons(cards[:top_k], history, own)

    def place(self, history: History, own: OwnProducts, item_id: str, text: str, neighbours: int = 5) -> Placement:
        r"""
        Ranks a new product for a history.

        Raises:
            ValueError: If id or text is empty or too long, the id is taken, or there are too many own products.
        """
        item_id, text = clean(item_id, "id", MAX_ID), clean(text)
        if item_id in self.catalogue or item_id in own:
            taken = self.title({"item_id": item_id}, own)
            raise ValueError(f"The id {item_id!r} is taken by {taken[:80]!r}. Choose another one.")
        if len(own) >= MAX_OWN:
            raise ValueError(f"You have added {MAX_OWN} products, which is the most. Reload the page to start again.")
        near = self.neighbours({"text": text}, neighbours)
        if not history:
            return Placement(item_id, text, None, len(self.catalogue) + len(own) + 1, None, near)
        user = self._user(self._resolve(history, own))
        seen = {entry.get("item_id") for entry in history}
        others = torch.cat([self.items, self._vectors(own.values())]) @ user
        unseen = torch.tensor([each not in seen for each in [*self.catalogue.item_ids, *own]])
        score = self._vector(text) @ user
        rank = int((others[unseen] > score).sum()) + 1
        return Placement(item_id, text, rank, int(unseen.sum()) + 1, score.item(), near)

    def customer(self, user_id: str) -> list[Entry]:
        r"""
        Returns the latest purchases of a customer, as many as the model reads, without products that are not in the
        catalogue.

        Raises:
            ValueError: If there is no such customer, or none of the products is in the catalogue.
        """
        user_id = clean(user_id, "customer id", MAX_ID)
        if user_id not in (self.customers or {}):
            raise ValueError(f"There is no customer {user_id!r}. Type the id as it is in the data.")
        known = [item_id for item_id in self.customers[user_id] if item_id in self.catalogue]
        if not known:
            raise ValueError(f"None of the products that {user_id!r} bought is in the catalogue.")
        return [{"item_id": item_id} for item_id in known[-self.processor.max_history_length :]]

    def neighbours(self, entry: Entry, top_k: int) -> list[Card]:
        """Returns the products of the catalogue with the highest cosine to a product or text."""
        items = self.recommender.similar_items(entry, top_k)
        return [Card(item.item_id, item.text, item.score) for item in items]

    def positions(self, history: History, own: OwnProducts) -> torch.Tensor:
        """Returns the positions of the history entries on the map, `(len(history), 2)`."""
        return self.project(self._history_vectors(history, own))

    def project(self, unit_vectors: torch.Tensor) -> torch.Tensor:
        """Projects unit vectors onto the map: `(num_vectors, hidden_size)` in, `(num_vectors, 2)` out."""
        return (unit_vectors - self.mean) @ self.axes

    def _resolve(self, history: History, own: OwnProducts) -> list[Entry]:
        """Replaces the visitor's own products by their texts, which represent them in the model."""
        return [{"text": own[entry["item_id"]]} if entry.get("item_id") in own else entry for entry in history]

    def _encode(self, text: str) -> torch.Tensor:
        return torch.from_numpy(self.recommender.encode_items([text]))[0]

    def _vectors(self, texts: Iterable[str]) -> torch.Tensor:
        """Returns the item vectors of texts, `(num_texts, hidden_size)`."""
        vectors = [self._vector(text) for text in texts]
        return torch.stack(vectors) if vectors else self.items[:0]

    def _user(self, entries: History) -> torch.Tensor:
        """Returns the vector of a history, `(hidden_size,)`; its dot product with item vectors is the score."""
        return torch.from_numpy(self.recommender.encode_users([entries]))[0]

    def _history_vectors(self, history: History, own: OwnProducts) -> torch.Tensor:
        vectors = [
            self.unit_items[self.catalogue.row(entry["item_id"])]
            if "item_id" in entry
            else F.normalize(self._vector(entry["text"]), dim=-1)
            for entry in self._resolve(history, own)
        ]
        return torch.stack(vectors) if vectors else self.unit_items[:0]

    def _with_reasons(self, cards: Sequence[Card], history: History, own: OwnProducts) -> list[Card]:
        shown = self._history_vectors([{"item_id": card.item_id} for card in cards], own)
        cosines, nearest = (shown @ self._history_vectors(history, own).T).max(dim=1)
        titles = [self.title(entry, own) for entry in history]
        return [
            replace(card, nearest=titles[place], cosine=cosine)
            for card, place, cosine in zip(cards, nearest.tolist(), cosines.tolist(), strict=True)
        ]


__all__ = ["Explorer", "load_recommender"]
