"""Comparison of the rankings of the main checkpoint with those of a second checkpoint and of popularity."""

from collections.abc import Mapping

import numpy as np

from ..data import Domain, leave_one_out
from .cards import Card, Entry, History, OwnProducts
from .explorer import Explorer


def training_counts(domain: Domain) -> dict[str, int]:
    """Counts the interactions of each item in the training histories, by item id, without held-out ones."""
    counts = np.bincount(leave_one_out(domain, "train").flat, minlength=domain.num_items).tolist()
    return dict(zip(domain.items["item_id"].to_list(), counts, strict=True))


def example_histories(domain: Domain, count: int = 20, length: int = 4) -> list[list[str]]:
    """Returns the item ids of the first purchases of some users, evenly spaced over all users."""
    train, ids = leave_one_out(domain, "train"), domain.items["item_id"].to_list()
    users = np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)
    starts, ends = train.offsets[users], np.minimum(train.offsets[users + 1], train.offsets[users] + length)
    return [[ids[row] for row in train.flat[start:end]] for start, end in zip(starts, ends, strict=True)]


class Popularity:
    r"""
    Recommends the most popular products, the same for every user.

    Args:
        counts (`Mapping[str, int]`): Number of training interactions of each item, by item id.
        texts (`Mapping[str, str]`): Item texts, by item id.
    """

    def __init__(self, counts: Mapping[str, int], texts: Mapping[str, str]):
        self.counts = {item_id: count for item_id, count in counts.items() if item_id in texts and count > 0}
        order = sorted(
            self.counts, key=lambda item_id: -self.counts[item_id]
        )  # stable sort: ties in the order of the domain
        self._cards = [Card(item_id, texts[item_id], self.counts[item_id]) for item_id in order]

    def recommend(self, history: History, top_k: int) -> list[Card]:
        """Returns the most popular products that are not in the history."""
        seen = {entry.get("item_id") for entry in history}
        return [card for card in self._cards[: top_k + len(seen)] if card.item_id not in seen][:top_k]


class SideBySide:
    r"""
    Ranks products for one history by several models.

    Args:
        explorer ([`Explorer`]): Main checkpoint of the page, shown in the first column.
        other ([`Explorer`], *optional*): A second checkpoint.
        popularity ([`Popularity`], *optional*): Counts of the domain.
    """

    def __init__(self, explorer: Explorer, other: Explorer | None = None, popularity: Popularity | None = None):
        self.explorer, self.other, self.popularity = explorer, other, popularity

    def __bool__(self) -> bool:
        """Returns whether there is anything to compare with."""
        return self.other is not None or self.popularity is not None

    def rankings(self, history: History, own: OwnProducts, top_k: int) -> dict[str, list[Card]]:
        """Returns ranked cards by column heading; no cards if a checkpoint knows no item of the history."""
        columns = {self.explorer.kind: self.explorer.recommend(history, own, top_k)}
        if self.other is not None:
            same = self.other.kind == self.explorer.kind
            heading = f"{self.other.kind}, second checkpoint" if same else self.other.kind
            entries = [entry for entry in (self._translate(entry, own) for entry in history) if entry is not None]
            products = own if self.other.reads_text else {}
            columns[heading] = self.other.recommend(entries, products, top_k)
        if self.popularity is not None:
            columns["Popularity"] = self.popularity.recommend(history, top_k) if history else []
        return columns

    def _translate(self, entry: Entry, own: OwnProducts) -> Entry | None:
        """Translates an entry for the second checkpoint: by id, otherwise by text, otherwise `None`."""
        item_id = entry.get("item_id")
        if item_id in self.other.catalogue or (item_id in own and self.other.reads_text):
            return entry
        return {"text": self.explorer.title(entry, own)} if self.other.reads_text else None


__all__ = ["Popularity", "SideBySide", "example_histories", "training_counts"]
