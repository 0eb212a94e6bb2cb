"""Domains mixed by temperature: their shares of an epoch and of a batch, rotation, ranks, resume."""

from itertools import chain

import numpy as np
import pytest

from unisrec.trainer import TargetBatchSampler, UniSRecPretrainArguments, WindowDataset
from unisrec.trainer.batches.samplers import DomainSampler, parse_domain_sampling


SIZES = [400, 60, 5]  # histories of each domain
UNIFORM = float("inf")


@pytest.fixture(scope="module")
def dataset(make_split):
    rng = np.random.default_rng(0)
    splits = [make_split([[0] * length for length in rng.integers(2, 9, size)]) for size in SIZES]
    return WindowDataset(splits, [1] * len(SIZES), 10)


def sampler_of(dataset, temperature, seed=0):
    return DomainSampler(np.split(dataset.num_targets, dataset.first_windows[1:-1]), temperature, seed)


def targets_by_domain(dataset, indices):
    windows = np.asarray(indices) % len(dataset)
    domains = np.searchsorted(dataset.first_windows, windows, side="right") - 1
    return np.bincount(domains, dataset.num_targets[windows], minlength=len(SIZES))


def batches_of(dataset, epoch, *args, **kwargs):
    dataset.set_epoch(epoch)
    return list(TargetBatchSampler(dataset, *args, **kwargs))


@pytest.mark.parametrize(("value", "temperature"), [("proportional", 1), ("uniform", UNIFORM), ("1", 1), ("2.5", 2.5)])
def test_values(value, temperature):
    assert parse_domain_sampling(value) == temperature


@pytest.mark.parametrize("value", ["0.5", "0", "-1", "nan", "even", ""])
def test_other_values_are_refused_with_one_line(value, tmp_path):
    with pytest.raises(ValueError, match="expected proportional, uniform or a temperature of at least 1") as error:
        UniSRecPretrainArguments(output_dir=str(tmp_path), use_cpu=True, domain_sampling=value)
    assert repr(value) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("epoch", [0, 3])
def test_proportional_is_every_window_once_in_the_order_of_before(dataset, epoch):
    """The order that runs had before domains could be mixed otherwise, written out."""
    rng = np.random.default_rng([7, epoch])
    order = rng.permutation(len(dataset))
    order = order[np.argsort(dataset.lengths[order], kind="stable")]
    total = np.cumsum(dataset.num_targets[order])
    number = -(-int(total[-1]) // 50)
    cuts = np.searchsorted(total, total[-1] * np.arange(1, number) / number)
    batches = [batch.tolist() for batch in np.split(order + epoch * len(dataset), cuts)]
    assert batches_of(dataset, epoch, 50, seed=7) == [batches[step] for step in rng.permutation(number)]


@pytest.mark.parametrize(("temperature", "exponent"), [(UNIFORM, 0), (2, 1 / 2), (5, 1 / 5)])
def test_shares_of_an_epoch(dataset, temperature, exponent):
    sampler = sampler_of(dataset, temperature)
    expected = sampler.sizes**exponent / (sampler.sizes**exponent).sum() * sampler.sizes.sum()
    np.testing.assert_allclose(sampler.shares, expected, atol=1)
    assert sampler.shares.sum() == sampler.sizes.sum()
    for epoch in range(5):
        targets = targets_by_domain(dataset, sampler(epoch))
        np.testing.assert_allclose(targets, sampler.shares, atol=dataset.num_targets.max())
        assert len(sampler(epoch)) >= sampler.least_windows


def test_shares_of_a_batch(dataset):
    """The histories of these domains are of like length, so each batch has about the shares of the epoch."""
    for temperature in (1, 2, UNIFORM):
        shares = sampler_of(dataset, temperature).shares
        batches = [batch for epoch in range(4) for batch in batches_of(dataset, epoch, 400, temperature=temperature)]
        found = np.array([targets_by_domain(dataset, batch) for batch in batches])
        found /= found.sum(1, keepdims=True)
        np.testing.assert_allclose(found.mean(0), shares / shares.sum(), atol=0.02)
        assert (found[:, 0] > 0).all()
        assert (found[:, 1] > 0).all()


@pytest.mark.parametrize("temperature", [2, UNIFORM])
def test_every_domain_goes_through_whole_shuffled_passes(dataset, temperature):
    sampler = sampler_of(dataset, temperature)
    stream = np.concatenate([sampler(epoch) for epoch in range(12)])
    assert len(set(stream.tolist())) == len(stream)  # so that a repeated window draws other views
    passes = {}
    for first, last in zip(dataset.first_windows, dataset.first_windows[1:], strict=False):
        windows = stream[(stream % len(dataset) >= first) & (stream % len(dataset) < last)]
        numbers = windows // len(dataset)
        for number in range(numbers.max()):  # the last one may go on in the epoch after these
            assert sorted(windows[numbers == number] % len(dataset)) == list(range(first, last))
        passes[first] = int(numbers.max())
    assert passes[0] >= 2  # the largest domain, of which an epoch takes a part
    assert passes[dataset.first_windows[2]] > 24  # the smallest, many times in an epoch


def test_epochs_and_seeds_differ_and_repeat(dataset):
    first = sampler_of(dataset, 2)(0).tolist()
    assert sampler_of(dataset, 2)(0).tolist() == first
    assert sampler_of(dataset, 2)(1).tolist() != first
    assert sampler_of(dataset, 2, seed=1)(0).tolist() != first


@pytest.mark.parametrize("temperature", [2, UNIFORM])
def test_a_resumed_run_finds_the_epoch_it_was_in(dataset, temperature):
    straight = TargetBatchSampler(dataset, 60, temperature=temperature)
    epochs = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        epochs.append(list(straight))
        assert len(epochs[-1]) == len(straight)
    for epoch in (3, 1):
        assert batches_of(dataset, epoch, 60, temperature=temperature) == epochs[epoch]


@pytest.mark.parametrize("temperature", [2, UNIFORM])
@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_batches_of_one_process(dataset, temperature, num_processes):
    for epoch in range(3):
        parts = batches_of(dataset, epoch, 40, num_processes, temperature=temperature)
        joined = [list(chain(*parts[step : step + num_processes])) for step in range(0, len(parts), num_processes)]
        assert joined == batches_of(dataset, epoch, 40 * num_processes, temperature=temperature)


@pytest.mark.parametrize("temperature", [1, 2, UNIFORM])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_steps_of_one_domain(dataset, temperature, num_processes):
    sizes = sampler_of(dataset, temperature).shares
    counts = []
    for epoch in range(4):
        parts = batches_of(dataset, epoch, 40, num_processes, temperature=temperature, one_domain=True)
        steps = [list(chain(*parts[step : step + num_processes])) for step in range(0, len(parts), num_processes)]
        assert steps == batches_of(dataset, epoch, 40 * num_processes, temperature=temperature, one_domain=True)
        domains = [np.unique(dataset.domains_of(step)) for step in steps]
        assert [len(of_step) for of_step in domains] == [1] * len(steps)
        order = np.concatenate(domains).tolist()
        assert order != sorted(order)  # domains take turns
        counts.append(np.bincount(order).tolist())
        if temperature == 1:
            assert sorted(chain(*steps)) == list(range(epoch * len(dataset), (epoch + 1) * len(dataset)))
    assert counts == [np.ceil(sizes / (40 * num_processes)).tolist()] * 4


def test_a_domain_with_too_few_windows_for_the_processes_is_refused(dataset):
    with pytest.raises(ValueError, match="5 training windows of domain 3 are too few for 6 processes"):
        TargetBatchSampler(dataset, 40, num_processes=6, one_domain=True)


@pytest.mark.parametrize("one_domain", [False, True])
@pytest.mark.parametrize("temperature", [1, 2, UNIFORM])
def test_a_domain_without_a_target_takes_no_part(make_split, temperature, one_domain):
    splits = [make_split([[0, 0]] * 6), make_split([[0]]), make_split([[0, 0, 0]]), make_split([[0]])]
    dataset = WindowDataset(splits, [1] * 4, 10)
    for epoch in range(4):
        batches = batches_of(dataset, epoch, 4, temperature=temperature, one_domain=one_domain)
        assert len(batches) == (3 if one_domain and temperature != UNIFORM else 2)  # 6 and 2 targets, or 4 and 4
        assert set(dataset.domains_of(np.concatenate(batches)).tolist()) == {0, 2}
        assert all(batches)
