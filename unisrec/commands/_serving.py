"""What the verbs of serving share: entries of a history, and a recommender with its index."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..recommender import Recommender


def parse_entry(entry: str) -> str | dict[str, str]:
    """An entry of a history as the processor takes it: `text:...` is a text, all else an id, also with `id:` in front."""
    kind, colon, value = entry.partition(":")
    if colon and kind in ("text", "id"):
        return {"text": value} if kind == "text" else {"item_id": value}
    return entry


def load_recommender(model: str, domain: str | None = None, index: str = "exact") -> "Recommender":
    """A recommender; a missing FAISS is bad usage, one line and status 2. Raises `ValueError`."""
    from ..recommender import Recommender

    try:
        return Recommender.from_pretrained(model, domain, index)
    except ImportError as error:
        raise ValueError(str(error)) from error
