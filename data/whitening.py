"""PCA whitening of the text vectors of catalogues."""

from collections.abc import Sequence

import numpy as np
import torch


_ROWS = 65536  # in float64 at a time
_SMALLEST_VARIANCE = 1e-6  # as a share of the largest


def fit_whitening(features: Sequence[np.ndarray], size: int | None = None) -> dict[str, torch.Tensor]:
    r"""
    Fits the linear map that gives text vectors mean 0, uncorrelated components and variance 1 (PCA whitening).

    Components are sorted by decreasing variance of the input, so that a smaller `size` keeps the largest ones. A
    component
    with (nearly) no variance, as in a catalogue with fewer items than its vectors have components, is set to 0:
    dividing by its standard deviation would inflate the vectors of later items.

    Args:
        features (`Sequence[np.ndarray]`): Text vectors of each catalogue, `(num_items, text_embedding_size)`, float32.
        size (`int`, *optional*): Components to keep. Defaults to all.

    Returns:
        `dict[str, torch.Tensor]`: `weight` `(size, text_embedding_size)` and `bias` `(size,)` of [`TextWhitening`].

    Raises:
        ValueError: If `size` is not between 1 and `text_embedding_size`, or all vectors are equal.
    """
    width = features[0].shape[1]
    size = width if size is None else size
    if not 1 <= size <= width:
        raise ValueError(f"whitened text vectors can have 1 to {width} numbers, not {size}")
    parts = [part for table in features for part in np.array_split(table, max(1, -(-len(table) // _ROWS)))]
    count = sum(map(len, parts))
    mean = sum(part.sum(0, dtype=np.float64) for part in parts) / count
    covariance = sum((centred := part - mean).T @ centred for part in parts) / count
    variances, components = np.linalg.eigh(covariance)  # in rising order
    variances, components = variances[::-1][:size], components[:, ::-1][:, :size]
    if variances[0] <= 0:
        raise ValueError("all texts have the same vector: there is nothing to whiten")
    # The sign of a component is arbitrary; the largest number positive makes it the same on every machine.
    components = components * np.sign(components[np.abs(components).argmax(0), np.arange(size)])
    kept = variances > _SMALLEST_VARIANCE * variances[0]
    scales = np.where(kept, 1 / np.sqrt(np.where(kept, variances, 1)), 0)
    weight = (components * scales).T
    return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(-weight @ mean).float()}


__all__ = ["fit_whitening"]
