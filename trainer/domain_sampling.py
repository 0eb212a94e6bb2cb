"""Sampling of the windows of an epoch from several domains."""

import math
from collections.abc import Iterator, Sequence

import numpy as np


def parse_domain_sampling(value: str) -> float:
    r"""
    Temperature T of `--domain_sampling`: domains share an epoch by `size ** (1 / T)`.

    Args:
        value (`str`): `"proportional"` (T = 1), `"uniform"` (T = infinity) or a number of at least 1.

    Returns:
        `float`: The temperature.

    Raises:
        ValueError: If it is none of them.
    """
    named = {"proportional": 1.0, "uniform": math.inf}
    try:
        temperature = named[value] if value in named else float(value)
    except ValueError:
        temperature = math.nan
    if not temperature >= 1:
        raise ValueError(
            f"--domain_sampling is {value!r}, expected proportional, uniform or a temperature of at least 1, such as 2."
        )
    return temperature


class DomainSampler:
    r"""
    The windows of an epoch, when domains are mixed by temperature.

    At temperature 1 an epoch has every window once. Otherwise each domain is an endless stream of shuffled passes over
    its windows, and an epoch takes the next part of it: as many targets as the domain's share of the epoch, which has as
    many targets as all domains together. So a domain with a large share repeats whole passes, one with a small share goes
    on in the next epoch where it stopped, and no window is ever left out. What an epoch takes depends on seed and epoch
    alone, to within one window of the share.

    Args:
        num_targets (`Sequence[np.ndarray]` of shape `(num_windows,)`): Targets of each window, domain by domain.
        temperature (`float`, *optional*, defaults to 1): T of [`parse_domain_sampling`].
        seed (`int`, *optional*, defaults to 0): Of the passes.

    Attributes:
        shares (`np.ndarray` of shape `(num_domains,)`): Targets of each domain in an epoch, on average.
        least_windows (`int`): No epoch has fewer windows.
        least_windows_by_domain (`np.ndarray` of shape `(num_domains,)`): No epoch has fewer windows of a domain.
    """

    def __init__(self, num_targets: Sequence[np.ndarray], temperature: float = 1.0, seed: int = 0):
        self.num_targets = list(num_targets)
        self.temperature = temperature
        self.seed = seed
        self.first_windows = np.cumsum([0] + [len(targets) for targets in self.num_targets])
        self.sizes = np.array([int(targets.sum()) for targets in self.num_targets])
        weights = np.where(self.sizes > 0, np.maximum(self.sizes, 1) ** (1 / temperature), 0.0)
        running = np.cumsum(weights)
        bounds = np.floor(running / running[-1] * self.sizes.sum()).astype(np.int64)
        self.shares = self.sizes if temperature == 1 else np.diff(bounds, prepend=0)
        self.least_windows_by_domain = np.diff(self.first_windows)
        if temperature != 1:
            longest = [targets.max(initial=1) for targets in self.num_targets]
            self.least_windows_by_domain = self.shares // longest
        self.least_windows = int(self.least_windows_by_domain.sum())

    def __call__(self, epoch: int) -> np.ndarray:
        """`pass * num_windows + window` of each window of an epoch, `(n,)`; at temperature 1 the pass is the epoch."""
        num_windows = self.first_windows[-1]
        if self.temperature == 1:
            return np.arange(num_windows) + epoch * num_windows
        return np.concatenate([part for domain in range(len(self.sizes)) for part in self._passes(domain, epoch)])

    def _passes(self, domain: int, epoch: int) -> Iterator[np.ndarray]:
        """Windows of the domain's stream whose first target lies between the bounds of the epoch."""
        start, stop = int(self.shares[domain]) * epoch, int(self.shares[domain]) * (epoch + 1)
        size, targets = int(self.sizes[domain]), self.num_targets[domain]
        first, last = (start // size, (stop - 1) // size) if stop > start else (0, -1)
        for number in range(first, last + 1):
            order = np.random.default_rng([self.seed, number, 1 + domain]).permutation(len(targets))
            places = np.cumsum(targets[order]) - targets[order] + number * size  # of first targets in the stream
            taken = order[np.searchsorted(places, start) : np.searchsorted(places, stop)]
            yield taken + self.first_windows[domain] + number * self.first_windows[-1]


__all__ = ["DomainSampler", "parse_domain_sampling"]
