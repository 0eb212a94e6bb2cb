"""The lists of the page as HTML; all external text is escaped."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from .cards import Card, Placement


MAX_COLUMNS = 6  # of a product that are shown
# One listener for all buttons of a list: the clicked key is passed to Python as `event.key`.
ON_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-key]');
  if (button) trigger('click', {key: button.dataset.key});
});
"""


def empty(title: str, hint: str) -> str:
    """Returns the placeholder of an empty list."""
    return f'<div class="us-empty"><strong>{escape(title)}</strong><span>{escape(hint)}</span></div>'


def nothing() -> str:
    """Returns the placeholder of the recommendations for an empty history."""
    return empty("Nothing to recommend from yet", "Add a product, and what comes next appears here.")


def matches(cards: Sequence[Card], query: str, reads_text: bool) -> str:
    """Returns the products found by a search, as buttons that add them to the history."""
    if not query.strip():
        return "<span></span>"  # the page would keep its content if the update were empty
    if not cards:
        hint = "Press Enter to add it as free text." if reads_text else "Try fewer or other words."
        return empty("No product holds these words", hint)
    rows = "".join(
        f'<li><button class="us-match" data-key="{escape(card.item_id)}">{_title(card)}'
        f'<span class="us-plus" aria-hidden="true">+</span></button></li>'
        for card in cards
    )
    return f'<ul class="us-matches" aria-label="Products found">{rows}</ul>'


def history(titles: Sequence[str], labels: Sequence[str]) -> str:
    """Returns the history, oldest first, with a remove button for each entry."""
    if not titles:
        return empty("Your history is empty", "Search for a product, type your own words, or show an example.")
    rows = "".join(
        f'<li class="us-row"><span class="us-rank">{place}</span><span class="us-text">'
        f'<span class="us-title" title="{escape(title[:500])}">{escape(title[:500])}</span>'
        f'<span class="us-id">{escape(label)}</span></span>'
        f'<button class="us-icon" data-key="{place - 1}" aria-label="Remove {escape(title[:80])}" title="Remove">'
        f"&times;</button></li>"
        for place, (title, label) in enumerate(zip(titles, labels, strict=True), start=1)
    )
    return f'<ol class="us-list" aria-label="History">{rows}</ol>'


def results(cards: Sequence[Card], cosine: bool) -> str:
    """Returns ranked cards; `cosine` says whether scores are cosines, which are also shown as bars."""
    return f'<ol class="us-list">{"".join(_card(rank, card, cosine) for rank, card in enumerate(cards, 1))}</ol>'


def columns(rankings: Mapping[str, Sequence[Card]]) -> str:
    """Returns rankings side by side; products that occur in more than one ranking are marked."""
    places: dict[str, int] = {}
    for cards in rankings.values():
        for card in cards:
            places[card.item_id] = places.get(card.item_id, 0) + 1
    parts = []
    for heading, cards in rankings.items():
        rows = "".join(
            f'<li class="us-row{" us-shared" if places[card.item_id] > 1 else ""}">'
            f'<span class="us-rank">{rank}</span>{_title(card, _number(card.score))}</li>'
            for rank, card in enumerate(cards, 1)
        )
        body = f'<ol class="us-list">{rows}</ol>' if cards else empty("Nothing", "It knows none of these products.")
        parts.append(f"<section><h3>{escape(heading)}</h3>{body}</section>")
    note = '<p class="us-note">Marked products stand in more than one ranking.</p>'
    return f'<div class="us-columns">{"".join(parts)}</div>{note}'


def placement(placed: Placement) -> str:
    """Returns the rank of a new product for the history, and the products most similar to it."""
    if placed.rank is None:
        where = "<p>Build a history to see its rank.</p>"
    else:
        where = (
            f'<p class="us-figure"><b>#{placed.rank:,}</b> of {placed.total:,} products for your history'
            f"<span>score {placed.score:.3f}</span></p>"
        )
    near = "".join(_card(rank, card, cosine=True) for rank, card in enumerate(placed.neighbours, 1))
    return (
        f'<div class="us-placed"><div class="us-title">{escape(placed.text[:500])}</div>{where}</div>'
        f'<h3>Nearest products of the catalogue</h3><ol class="us-list">{near}</ol>'
    )


def _card(rank: int, card: Card, cosine: bool) -> str:
    reason = ""
    if card.nearest is not None:
        reason = (
            f'<span class="us-reason">Nearest in history, cosine {card.cosine:.2f}: '
            f"<em>{escape(card.nearest[:120])}</em></span>"
        )
    bar = f'<i style="width:{max(0.0, min(1.0, card.score)):.0%}"></i>' if cosine else ""
    return (
        f'<li class="us-row" data-item="{escape(card.item_id)}"><span class="us-rank">{rank}</span>'
        f'{_title(card, below=_columns(card) + reason)}<span class="us-score">{_number(card.score)}<span class="us-bar">{bar}</span></span>'
        f'<button class="us-icon" data-key="{escape(card.item_id)}" title="Add to the history" '
        f'aria-label="Add {escape(card.text[:80])} to the history">+</button></li>'
    )


def _columns(card: Card) -> str:
    """Returns the columns of a product that its text does not hold: addresses as links, everything else as text."""
    parts = []
    for name, value in card.columns.items():
        text = "" if value is None else str(value)
        if re.match(r"https?://", text):
            parts.append(
                f'<a href="{escape(text)}" target="_blank" rel="noopener noreferrer nofollow">{escape(name)}</a>'
            )
        elif text and not (isinstance(value, str) and value in card.text):
            parts.append(f"{escape(name)} {escape(text[:80])}")
    return f'<span class="us-reason">{" · ".join(parts[:MAX_COLUMNS])}</span>' if parts else ""


def _title(card: Card, beside: str = "", below: str = "") -> str:
    own = '<span class="us-own">yours</span>' if card.own else ""
    beside = f" · {beside}" if beside else ""
    return (
        f'<span class="us-text"><span class="us-title" title="{escape(card.text[:500])}">{escape(card.text[:500])}</span>'
        f'<span class="us-id">{own}{escape(card.item_id)}{beside}</span>{below}</span>'
    )


def _number(score: float) -> str:
    return f"{score:,} sold" if isinstance(score, int) else f"{score:.3f}"


__all__ = ["ON_CLICK", "columns", "empty", "history", "matches", "nothing", "placement", "results"]
