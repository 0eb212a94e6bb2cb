"""Samplers of training steps: windows of several domains, batches by number of targets, and negatives."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from .datasets import WindowDataset


def parse_domain_sampling(value: str) -> float:
    r"""
    Parses the temperature T of `--domain_sampling`, by which the share of a domain is proportional to `size ** (1 / T)`.

    Args:
        value (`str`): `"proportional"` (T = 1), `"uniform"` (T = infinity) or a number of at least 1.

    Returns:
        `float`: The temperature.

    Raises:
        ValueError: If the value is none of these.
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
    Selects the windows of each epoch when domains are mixed by temperature.

    At temperature 1, an epoch contains every window once. Otherwise each domain is an endless stream of shuffled passes
    over its windows, and each epoch takes the next part of the stream, up to the domain's share of the targets. The total
    number of targets per epoch is that of all domains. A domain with a large share therefore repeats whole passes, a
    domain with a small share continues in the next epoch where it stopped, and no window is skipped. The selection
    depends only on seed and epoch and meets the share to within one window.

    Args:
        num_targets (`Sequence[np.ndarray]` of shape `(num_windows,)`): Targets of each window, domain by domain.
        temperature (`float`, *optional*, defaults to 1): T of [`parse_domain_sampling`].
        seed (`int`, *optional*, defaults to 0): Random seed of the passes.

    Attributes:
        shares (`np.ndarray` of shape `(num_domains,)`): Mean number of targets of each domain per epoch.
        least_windows (`int`): Lower bound of the windows per epoch.
        least_windows_by_domain (`np.ndarray` of shape `(num_domains,)`): The same for each domain.
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


class TargetBatchSampler(Sampler[list[int]]):
    r"""
    Batches of windows of similar length with about the same number of targets.

    Windows are shuffled, sorted by length and cut where the running number of targets passes a multiple of the batch
    size; then the batches are shuffled. Every epoch has the same number of batches, a multiple of the number of
    processes. The windows that n processes take in one step are those of one process with a batch n times as large.

    With `one_domain`, each domain is cut separately, and all batches of a step hold windows of the same domain. The
    number of steps of a domain is proportional to its share of the epoch, and at least one.

    Args:
        dataset ([`WindowDataset`]): Windows to sample from; its `epoch` selects the order.
        targets_per_batch (`int`): Upper bound of the mean number of targets per batch of one process.
        num_processes (`int`, *optional*, defaults to 1): Processes that share the batches of a step.
        seed (`int`, *optional*, defaults to 0): Random seed for the shuffle.
        temperature (`float`, *optional*, defaults to 1):
            Temperature of the shares of the domains, see [`DomainSampler`]. Batches group windows by length, so the shares
            hold for an epoch, but for a single batch only if the domains have histories of similar length.
        one_domain (`bool`, *optional*, defaults to `False`):
            Whether a step takes windows of one domain instead of all.

    Raises:
        ValueError: If there are fewer windows than processes, in a domain with `one_domain`, otherwise in all.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        targets_per_batch: int,
        num_processes: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        one_domain: bool = False,
    ):
        self.dataset = dataset
        self.num_processes = num_processes
        self.seed = seed
        self.one_domain = one_domain
        num_targets = np.split(dataset.num_targets, dataset.first_windows[1:-1])
        self.domain_sampler = DomainSampler(num_targets, temperature, seed)
        shares, least_windows = self.domain_sampler.shares, self.domain_sampler.least_windows_by_domain
        if not one_domain:
            shares, least_windows = shares.sum(keepdims=True), least_windows.sum(keepdims=True)
        steps = np.minimum(-(-shares // (targets_per_batch * num_processes)), least_windows // num_processes)
        self.num_batches = steps * num_processes  # of each domain, or of all
        for domain, (share, number) in enumerate(zip(shares.tolist(), steps.tolist(), strict=True)):
            if share > 0 and number == 0:
                which = f" of domain {domain + 1}" if one_domain else ""
                raise ValueError(
                    f"{least_windows[domain]} training windows{which} are too few for {num_processes} processes."
                )

    def __len__(self) -> int:
        return int(self.num_batches.sum())

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.dataset.epoch])
        windows = self.domain_sampler(self.dataset.epoch)
        groups = [windows]
        if self.one_domain:
            domains = self.dataset.domains_of(windows)
            groups = [windows[domains == domain] for domain in range(len(self.num_batches))]
        batches = []
        for group, number in zip(groups, self.num_batches.tolist(), strict=True):
            if number > 0:
                batches += self._cut(rng.permutation(group), number)
        for step in rng.permutation(len(batches) // self.num_processes):
            for batch in batches[step * self.num_processes : (step + 1) * self.num_processes]:
                yield batch.tolist()

    def _cut(self, order: np.ndarray, num_batches: int) -> list[np.ndarray]:
        """Cuts windows, sorted by length, into batches with about the same number of targets."""
        order = order[np.argsort(self.dataset.lengths[order % len(self.dataset)], kind="stable")]
        total = np.cumsum(self.dataset.num_targets[order % len(self.dataset)], dtype=np.int64)
        cuts = np.searchsorted(total, total[-1] * np.arange(1, num_batches) / num_batches)
        # At least one window in each batch, also where a window is larger than a batch.
        places = np.arange(1, num_batches)
        cuts = np.clip(np.maximum.accumulate(cuts - places) + places, places, len(order) - num_batches + places)
        return np.split(order, cuts)


class NegativeSampler:
    r"""
    Draws items uniformly, and computes the probability that an item is a candidate of a step.

    Args:
        dataset ([`WindowDataset`]): Windows over one catalogue; the items of a batch of them are candidates.
        num_items (`int`): Size of the catalogue.
        num_negatives (`int`): Number of items drawn per step, without replacement; at most the whole catalogue.
        seed (`int`): Random seed of the draws.
        device (`torch.device`): Device of the results.
    """

    def __init__(self, dataset: WindowDataset, num_items: int, num_negatives: int, seed: int, device: torch.device):
        self.num_items = num_items
        self.num_negatives = min(num_negatives, num_items)
        self.seed = seed
        self.num_targets = int(dataset.num_targets.sum())
        lengths = dataset.lengths
        from_start = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        (flat,) = dataset.flats
        items = flat[np.repeat(dataset.starts, lengths) + from_start]
        pairs = np.unique(np.repeat(np.arange(len(lengths)), lengths) * num_items + items)  # (window, item)
        self.num_windows = torch.from_numpy(np.bincount(pairs % num_items, minlength=num_items)).to(device)

    def draw(self, first_window: int) -> torch.Tensor:
        """Returns catalogue rows `(num_negatives,)` for the step whose lowest window index (with epoch) is `first_window`."""
        stream = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, first_window]))
        drawn = stream.choice(self.num_items, self.num_negatives, replace=False, shuffle=False)
        return torch.from_numpy(drawn).to(self.num_windows.device, non_blocking=True)

    def log_inclusion(self, items: torch.Tensor, num_targets: int | torch.Tensor) -> torch.Tensor:
        r"""
        Computes the logarithm of the probability `1 - (1 - b)^w (1 - n / num_items)` that an item is a candidate of a step.

        A window is in the step with probability b, the step's share of all targets, so an item that w windows hold is
        in none of its windows with probability `(1 - b)^w` (neglecting that windows of similar length share a batch).
        The draw of n items misses it with probability `1 - n / num_items`.

        Args:
            items (`torch.LongTensor` of shape `(num_candidates,)`): Catalogue rows of candidates.
            num_targets (`int` or `torch.Tensor`): Targets of the step, of all processes.

        Returns:
            `torch.FloatTensor` of shape `(num_candidates,)`: At most 0.
        """
        if isinstance(num_targets, torch.Tensor):
            num_targets = num_targets.double()
        absent = (1 - num_targets / self.num_targets) ** self.num_windows[items].double()
        return torch.log1p(-absent * (1 - self.num_negatives / self.num_items)).float()


class DomainNegativeSampler:
    r"""
    Draws items uniformly from the catalogue of the one domain that a step trains on.

    Args:
        dataset ([`WindowDataset`]): Windows of the domains.
        num_negatives (`int`): Number of items drawn per step, without replacement; at most the catalogue of the domain.
        seed (`int`): Random seed of the draws.
    """

    def __init__(self, dataset: WindowDataset, num_negatives: int, seed: int):
        self.dataset = dataset
        self.num_negatives = num_negatives
        self.seed = seed

    def draw(self, first_window: int) -> np.ndarray:
        """Returns ascending item numbers for the step whose lowest window index (with epoch) is `first_window`."""
        domain = int(self.dataset.domains_of(first_window))
        first, stop = self.dataset.first_items[domain : domain + 2].tolist()
        # The third word of the counter keeps these draws apart from those of the window's view.
        stream = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 1, first_window]))
        number = min(self.num_negatives, stop - first)
        return first + np.sort(stream.choice(stop - first, number, replace=False, shuffle=False))


__all__ = ["DomainNegativeSampler", "DomainSampler", "NegativeSampler", "TargetBatchSampler", "parse_domain_sampling"]
