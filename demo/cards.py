"""Input and output types of the page: histories, products of the visitor, cards and sanitised texts."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


MAX_TEXT, MAX_ID, MAX_OWN = 5_000, 100, 50
# Bidirectional marks and overrides, which would change the direction of the surrounding text.
DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}

Entry = Mapping[str, str]  # {"item_id": ...} or {"text": ...}, as `Recommender.recommend` takes it
History = Sequence[Entry]
OwnProducts = Mapping[str, str]  # id -> text


@dataclass(frozen=True)
class Card:
    """A ranked product; `nearest` is the item of the history with the largest cosine, `cosine` that cosine, and `columns`
    are those of the catalogue, such as price."""

    item_id: str
    text: str
    score: float
    nearest: str | None = None
    cosine: float | None = None
    own: bool = False
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Placement:
    """Placement of a new product: its rank among `total` products for a history (`None` without one) and its
    neighbours."""

    item_id: str
    text: str
    rank: int | None
    total: int
    score: float | None
    neighbours: list[Card]


def clean(text: str, what: str = "text", longest: int = MAX_TEXT) -> str:
    r"""
    Returns a text as one line without control characters.

    Raises:
        ValueError: If the text is empty after cleaning or longer than `longest` characters.
    """
    if len(text) > longest:
        raise ValueError(f"The {what} has {len(text):,} characters; at most {longest:,} are read. Shorten it.")
    kept = (
        " " if unicodedata.category(sign) in ("Cc", "Cs") or ord(sign) in DIRECTIONS else sign
        for sign in text  # emoji stay
    )
    line = " ".join("".join(kept).split())
    if not line:
        raise ValueError(f"The {what} is empty. Type a few words, such as the title of a product.")
    return line


def fold(text: str) -> str:
    """Returns a text for search: without case and accents, `Stövchen` as `stovchen`, and `ß` as `ss`."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(sign for sign in parts if not unicodedata.combining(sign))


__all__ = ["MAX_ID", "MAX_OWN", "MAX_TEXT", "Card", "Entry", "History", "OwnProducts", "Placement", "clean", "fold"]
