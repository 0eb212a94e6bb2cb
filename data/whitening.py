"""PCA whitening of the text vectors of catalogues."""

from collections.abc import Sequence

import numpy as np
import torch


_ROWS = 65536  # in float64 at a time
_SMALLEST_VARIANCE = 1e-6  # as a share of the largest


def fit_whitening(features: Sequence[np.ndarray], size: int | None = None) -> dict[str, torch.Tensor]:
    r"""
    The linear map after which the text vectors of some catalogues have mean 0, uncorrelated components and variance 1.

    Components come in the order of their variance before, so that a smaller `size` keeps the largest ones. A component of
    (nearly) no variance, of which a catalogue smaller than the width of its vectors has some, becomes 0: to divide by its
    deviation would let the texts of later items explode.

    Args:
        features (`Sequence[np.ndarray]`): For each catalogue `(num_items, text_embedding_size)`, float32.
        size (`int`, *optional*): Components to keep. Defaults to all.

    Returns:
        `dict[str, torch.Tensor]`: `weight` `(size, text_embedding_size)` and `bias` `(size,)` of [`TextWhitening`].

    Raises:
        ValueError: If `size` is not between 1 and the width, or the vectors do not differ.
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
