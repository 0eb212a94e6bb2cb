"""Helpers shared by the serving commands: parsing of history entries, and loading of a recommender with its index."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..recommender import Recommender


def parse_entry(entry: str) -> str | dict[str, str]:
    """Parses a history entry: `text:...` is a text; anything else is an id, optionally prefixed with `id:`."""
    kind, colon, value = entry.partition(":")
    if colon and kind in ("text", "id"):
        return {"text": value} if kind == "text" else {"item_id": value}
    return entry


def load_recommender(model: str, domain: str | None = None, index: str = "exact") -> "Recommender":
    """Loads a recommender. Raises `ValueError` if FAISS is missing, so that the command exits with status 2."""
    from ..recommender import Recommender

    try:
        return Recommender.from_pretrained(model, domain, index)
    except ImportError as error:
        raise ValueError(str(error)) from error
