"""Weights between those a training started from and those it ended with (WiSE-FT, arXiv 2109.01903)."""

from collections.abc import Callable, Sequence

import torch
from torch import nn


SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def parse_interpolation(value: str) -> float | None:
    r"""
    Share of the fine-tuned weights that `--interpolate` asks for.

    Args:
        value (`str`): `"auto"` or a number from 0 to 1.

    Returns:
        `float` or `None`: The share; `None` if validation users are to choose it.

    Raises:
        ValueError: If it is neither.
    """
    if value == "auto":
        return None
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(
            f"--interpolate is {value!r}, expected auto or the share of the fine-tuned weights, from 0 to 1."
        )
    return share


class WeightInterpolator:
    r"""
    Sets the trained weights of a model to `(1 - share) * start + share * end`.

    An ID embedding starts at random, which is nothing to keep: its rows are taken to start at 0.

    Args:
        model ([`UniSRecModel`]): The model before its training, with frozen what stays as it is.
    """

    def __init__(self, model: nn.Module):
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._start = {
            name: None if "item_embedding" in name else weight.detach().clone()
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def choose(self, shares: Sequence[float], measure: Callable[[], float]) -> dict[float, float]:
        r"""
        Leaves the model at the best of some shares.

        Args:
            shares (`Sequence[float]`): Shares of the weights that the model has now, the end of its training.
            measure (`Callable`): Measures the model as it is; more is better. A single share is not measured.

        Returns:
            `dict[float, float]`: Shares with what was measured, the best one first; of equals the larger one.
        """
        end = {name: weight.detach().clone() for name, weight in self._weights.items()}
        values = {}
        for share in shares:
            self._set(end, share)
            values[share] = measure() if len(shares) > 1 else float("nan")
        ranked = sorted(values.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        self._set(end, ranked[0][0])
        return dict(ranked)

    def _set(self, end: dict[str, torch.Tensor], share: float) -> None:
        for name, weight in self._weights.items():
            start = self._start[name]
            # `lerp` gives either end exactly.
            weight.copy_(end[name] * share if start is None else torch.lerp(start, end[name], share))


__all__ = ["SHARES", "WeightInterpolator", "parse_interpolation"]
