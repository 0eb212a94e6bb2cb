"""Event handlers of the page."""

import functools
import random
from collections.abc import Callable, Sequence
from html import escape

import gradio as gr
import numpy as np
import pandas as pd

from . import page_html
from .cards import Card, History, OwnProducts
from .explorer import Explorer
from .side_by_side import SideBySide


MAP_POINTS = 2_000  # points of the catalogue; more overlap and are slow to draw


def _plainly(handler: Callable) -> Callable:
    """Shows bad input as one line on the page, which is otherwise unchanged."""

    @functools.wraps(handler)
    def guarded(*args):
        try:
            return handler(*args)
        except (ValueError, KeyError) as error:
            line = " ".join(str(error.args[0]).split())
            gr.Warning(escape(line[:500]), title="Please check")  # it is shown as HTML
            return gr.skip()

    return guarded


class PageEvents:
    """Event handlers of the page. They take and return the values of a visitor and store none."""

    def __init__(self, explorer: Explorer, side_by_side: SideBySide, examples: Sequence[Sequence[str]]):
        self.explorer, self.side_by_side, self.examples = explorer, side_by_side, examples
        size = len(explorer.catalogue)
        # Evenly spaced rows, the same for every visitor.
        self.map_rows = np.linspace(0, size - 1, min(size, MAP_POINTS)).astype(int).tolist()
        self.map_places = explorer.project(explorer.unit_items[self.map_rows]).tolist()
        for name in ("add_words", "pick", "remove", "place", "show", "customer"):
            setattr(self, name, _plainly(getattr(self, name)))

    def search(self, words: str, own: OwnProducts) -> str:
        return page_html.matches(self.explorer.search(words, own), words, self.explorer.reads_text)

    def add_words(self, words: str, history: History, own: OwnProducts):
        return self.explorer.append(history, self.explorer.entry(words, own), own), ""

    def pick(self, history: History, own: OwnProducts, event: gr.EventData):
        return self.explorer.append(history, {"item_id": event.key}, own), ""

    def remove(self, history: History, event: gr.EventData) -> History:
        return [entry for place, entry in enumerate(history) if str(place) != event.key]

    def example(self) -> History:
        if self.examples:
            return [{"item_id": item_id} for item_id in random.choice(self.examples)]
        first = {"item_id": random.choice(self.explorer.catalogue.item_ids)}
        return [first, *({"item_id": card.item_id} for card in self.explorer.neighbours(first, 2))]

    def customer(self, user_id: str) -> History:
        return self.explorer.customer(user_id)

    def place(self, item_id: str, text: str, history: History, own: OwnProducts):
        placed = self.explorer.place(history, own, item_id, text)
        return {**own, placed.item_id: placed.text}, page_html.placement(placed), "", ""

    def show(self, history: History, own: OwnProducts, top_k: int):
        cards = self.explorer.recommend(history, own, int(top_k))
        titles = [self.explorer.title(entry, own) for entry in history]
        labels = [entry.get("item_id", "your words") for entry in history]
        cosine = self.explorer.model.config.similarity == "cosine"
        shown = [
            page_html.history(titles, labels),
            page_html.results(cards, cosine) if cards else page_html.nothing(),
            self._map(history, own, cards),
        ]
        if self.side_by_side:
            rankings = self.side_by_side.rankings(history, own, int(top_k))
            shown.append(page_html.columns(rankings) if history else page_html.nothing())
        return shown

    def _map(self, history: History, own: OwnProducts, cards: Sequence[Card]) -> pd.DataFrame:
        texts = self.explorer.catalogue.texts
        rows = [
            (*place, "catalogue", texts[row][:80]) for row, place in zip(self.map_rows, self.map_places, strict=True)
        ]
        entries = [{"item_id": card.item_id} for card in cards]
        for kind, marked in (("results", entries), ("history", history)):  # later points are drawn on top
            places = self.explorer.positions(marked, own).tolist()
            titles = [self.explorer.title(entry, own)[:80] for entry in marked]
            rows += [(*place, kind, title) for place, title in zip(places, titles, strict=True)]
        return pd.DataFrame(rows, columns=["x", "y", "shown as", "product"])


__all__ = ["PageEvents"]
