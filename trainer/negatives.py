"""Negatives beside the items of a batch: items drawn uniformly from the catalogue, the same in all processes."""

import numpy as np
import torch

from .datasets import WindowDataset


class NegativeSampler:
    r"""
    Draws items uniformly, and knows how probable it is that an item is a candidate of a step.

    Args:
        dataset ([`WindowDataset`]): Windows over one catalogue; the items of a batch of them are candidates.
        num_items (`int`): Size of the catalogue.
        num_negatives (`int`): Items drawn in a step, without replacement; from the size of the catalogue on, all.
        seed (`int`): Of the draws.
        device (`torch.device`): Where the results are.
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
        """Catalogue rows `(num_negatives,)` of the step whose lowest window (with epoch) is `first_window`."""
        stream = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, first_window]))
        drawn = stream.choice(self.num_items, self.num_negatives, replace=False, shuffle=False)
        return torch.from_numpy(drawn).to(self.num_windows.device, non_blocking=True)

    def log_inclusion(self, items: torch.Tensor, num_targets: int) -> torch.Tensor:
        r"""
        Logarithm of the probability `1 - (1 - b)^w (1 - n / num_items)` that an item is a candidate of a step.

        A window is in the step with probability b, the step's share of all targets, so an item that w windows hold is
        in none of its windows with probability `(1 - b)^w` (windows of like length share a batch; that is not counted
        in). The draw of n items misses it with probability `1 - n / num_items`.

        Args:
            items (`torch.LongTensor` of shape `(num_candidates,)`): Catalogue rows of candidates.
            num_targets (`int`): Targets of the step, of all processes.

        Returns:
            `torch.FloatTensor` of shape `(num_candidates,)`: At most 0.
        """
        absent = (1 - num_targets / self.num_targets) ** self.num_windows[items].double()
        return torch.log1p(-absent * (1 - self.num_negatives / self.num_items)).float()


class DomainNegativeSampler:
    r"""
    Draws items uniformly from the catalogue of the one domain that a step trains on.

    Args:
        dataset ([`WindowDataset`]): Windows of the domains.
        num_negatives (`int`): Items drawn in a step, without replacement; at most the domain's catalogue.
        seed (`int`): Random seed of the draws.
    """

    def __init__(self, dataset: WindowDataset, num_negatives: int, seed: int):
        self.dataset = dataset
        self.num_negatives = num_negatives
        self.seed = seed

    def draw(self, first_window: int) -> np.ndarray:
        """Item numbers, ascending, of the step whose lowest window (with epoch) is `first_window`."""
        domain = int(self.dataset.domains_of(first_window))
        first, stop = self.dataset.first_items[domain : domain + 2].tolist()
        # The third word of the counter keeps these draws apart from those of the window's view.
        stream = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 1, first_window]))
        number = min(self.num_negatives, stop - first)
        return first + np.sort(stream.choice(stop - first, number, replace=False, shuffle=False))


__all__ = ["DomainNegativeSampler", "NegativeSampler"]
