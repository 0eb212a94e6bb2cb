"""Text vectors supplied with a domain, for models without a text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .readers.files import check_file


if TYPE_CHECKING:
    from .domain import Domain


# The text vectors of the items, and those of their texts with words left out: the second view of pre-training.
ITEM_EMBEDDINGS, WORD_DROP_EMBEDDINGS = "item_embeddings", "word_drop_embeddings"
GIVEN_FEATURES = (ITEM_EMBEDDINGS, WORD_DROP_EMBEDDINGS)
_ROWS_PER_CHECK = 1 << 14


def given_text_features(domain: Domain, text_embedding_size: int, *, word_drop: bool = False) -> np.ndarray | None:
    r"""
    Returns the text vectors supplied with a domain.

    Args:
        domain (`Domain`): The domain.
        text_embedding_size (`int`): Width of the text vectors that the model expects.
        word_drop (`bool`, *optional*, defaults to `False`):
            Whether to return the vectors of the texts after word drop.

    Returns:
        `np.ndarray` of shape `(num_items, text_embedding_size)`, float32: A read-only memory map if the domain was
        loaded from a folder; `None` if the domain has no such vectors.

    Raises:
        ValueError: If the vectors have another width or contain NaN or infinity.
    """
    name = WORD_DROP_EMBEDDINGS if word_drop else ITEM_EMBEDDINGS
    features = domain.given_features.get(name)
    if features is None:
        return None
    if features.shape[1] != text_embedding_size:
        raise ValueError(
            f"the text vectors that came with {domain.name!r} have {features.shape[1]} numbers, the model takes "
            f"{text_embedding_size}; name a text encoder, or take a model with text_embedding_size {features.shape[1]}"
        )
    if (row := first_row_not_finite(features)) is not None:
        item = domain.items["item_id"][row]
        raise ValueError(f"{name} of {domain.name!r}: the vector of item {item!r} is not finite; prepare it again")
    return features


def first_row_not_finite(features: np.ndarray) -> int | None:
    """Returns the first row with NaN or infinity, or `None`; reads a memory map in chunks."""
    for start in range(0, len(features), _ROWS_PER_CHECK):
        finite = np.isfinite(features[start : start + _ROWS_PER_CHECK]).all(axis=1)
        if not finite.all():
            return start + int(finite.argmin())
    return None


def check_given_features(given: Mapping[str, np.ndarray], num_items: int) -> None:
    """Raise `ValueError` unless the names are known and each array has one float32 row for each item."""
    for name, features in given.items():
        if name not in GIVEN_FEATURES:
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
    """Opens the files written by [`save_given_features`] as memory maps. Raises `OSError` for a file that is missing
    or cannot be read, and `ValueError` for a truncated file."""
    given = {}
    for name in names:
        check_file(folder / f"{name}.npy")
        try:
            given[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        except (EOFError, ValueError) as error:
            raise ValueError(f"{name}.npy is damaged") from error
    return given


__all__ = [
    "GIVEN_FEATURES",
    "ITEM_EMBEDDINGS",
    "WORD_DROP_EMBEDDINGS",
    "check_given_features",
    "first_row_not_finite",
    "given_text_features",
    "load_given_features",
    "save_given_features",
]
