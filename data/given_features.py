"""Text vectors that come with a domain instead of being encoded, for models without a text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from .domain import Domain


# The text vectors of the items, and those of their texts with words left out: the second view of pre-training.
ITEM_EMBEDDINGS, WORD_DROP_EMBEDDINGS = "item_embeddings", "word_drop_embeddings"


def given_text_features(domain: Domain, text_embedding_size: int, *, word_drop: bool = False) -> np.ndarray | None:
    r"""
    The text vectors that came with a domain.

    Args:
        domain (`Domain`): The domain.
        text_embedding_size (`int`): Width of the text vectors that the model takes.
        word_drop (`bool`, *optional*, defaults to `False`): Take those of the texts with words left out.

    Returns:
        `np.ndarray` of shape `(num_items, text_embedding_size)`, float32: A read-only memory map if the domain was
        loaded from a folder; `None` where it has none.

    Raises:
        ValueError: If they have another width.
    """
    features = domain.given_features.get(WORD_DROP_EMBEDDINGS if word_drop else ITEM_EMBEDDINGS)
    if features is not None and features.shape[1] != text_embedding_size:
        raise ValueError(
            f"the text vectors that came with {domain.name!r} have {features.shape[1]} numbers, the model takes "
            f"{text_embedding_size}; name a text encoder, or take a model with text_embedding_size {features.shape[1]}"
        )
    return features


def check_given_features(given: Mapping[str, np.ndarray], num_items: int) -> None:
    """Raise `ValueError` unless the names are known and each array has one float32 row for each item."""
    for name, features in given.items():
        if name not in (ITEM_EMBEDDINGS, WORD_DROP_EMBEDDINGS):
            raise ValueError(f"given_features: {name!r}, expected {ITEM_EMBEDDINGS!r} or {WORD_DROP_EMBEDDINGS!r}")
        if features.dtype != np.float32 or features.ndim != 2 or len(features) != num_items:
            raise ValueError(
                f"{name}: {features.dtype} of shape {features.shape}, expected float32 of shape ({num_items}, "
                "text_embedding_size), one row for each item"
            )


def save_given_features(folder: Path, given: Mapping[str, np.ndarray]) -> None:
    """Write one `.npy` file for each array."""
    for name, features in given.items():
        np.save(folder / f"{name}.npy", features)


def load_given_features(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Memory maps of what [`save_given_features`] wrote; raises `ValueError` for a file that is missing or cut short."""
    given = {}
    for name in names:
        try:
            given[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{name}.npy is missing or damaged") from error
    return given


__all__ = [
    "ITEM_EMBEDDINGS",
    "WORD_DROP_EMBEDDINGS",
    "check_given_features",
    "given_text_features",
    "load_given_features",
    "save_given_features",
]
