from itertools import chain

import numpy as np
import pytest

from unisrec.trainer import TargetBatchSampler, WindowDataset
from unisrec.trainer.batches.datasets import DomainFeatures


def random_histories(num_histories=60, num_items=40, longest=23, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(num_items, size=length).tolist() for length in rng.integers(1, longest + 1, num_histories)]


@pytest.mark.parametrize("max_length", [1, 4, 5, 50])
def test_every_item_but_the_first_of_a_history_is_a_target_once(make_split, max_length):
    # Items count up, so that each one says where it came from.
    lengths = [1, 2, 4, 5, 6, 9, 10, 11, 1, 16]
    starts = np.cumsum([0, *lengths])
    histories = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=False)]
    dataset = WindowDataset([make_split(histories)], [starts[-1]], max_length)
    targets = {}
    for index in range(len(dataset)):
        window = dataset[index]
        items = window["items"].tolist()
        assert 2 <= len(items) <= max_length + 1
        assert items == list(range(items[0], items[-1] + 1))  # one history, no gap
        assert items[0] >= starts[window["sequence"]]
        assert items[-1] < starts[window["sequence"] + 1]
        assert dataset.num_targets[index] == len(items) - 1
        for place, item in enumerate(items[1:], start=1):
            assert item not in targets
            targets[item] = place  # inputs before it
    assert targets.keys() == {item for history in histories for item in history[1:]}
    for history in histories:
        for item in history[max(1, len(history) - max_length) :]:
            full_past = min(item - history[0], max_length - (history[-1] - item))
            assert targets[item] == full_past  # the latest targets see all that fits into the last window


def test_items_and_sequences_are_numbered_over_all_domains(make_split):
    first, second = [[0, 1, 2], [4], [3, 2]], [[0, 5], [1, 1, 1]]
    dataset = WindowDataset([make_split(first), make_split(second)], [5, 6], 10)
    windows = [dataset[index] for index in range(len(dataset))]
    assert [window["items"].tolist() for window in windows] == [[0, 1, 2], [3, 2], [5, 10], [6, 6, 6]]
    assert [window["sequence"] for window in windows] == [0, 2, 3, 4]


def test_index_carries_the_epoch(make_split):
    dataset = WindowDataset([make_split([[0, 1], [2, 3], [4, 5]])], [6], 10)
    late = dataset[7 * len(dataset) + 1]
    assert late["items"].tolist() == [2, 3]
    assert late["index"] == 22


def test_histories_without_a_target_are_refused(make_split):
    with pytest.raises(ValueError, match="No history has two items"):
        WindowDataset([make_split([[0], [1], [2]])], [3], 10)


def test_number_of_catalogues_must_fit(make_split):
    with pytest.raises(ValueError, match="zip"):
        WindowDataset([make_split([[0, 1]])], [2, 2], 10)


def epoch_batches(dataset, epoch, *args, **kwargs):
    """Windows of each batch, and the batches' raw indices checked for their epoch."""
    dataset.set_epoch(epoch)
    batches = list(TargetBatchSampler(dataset, *args, **kwargs))
    for batch in batches:
        assert {index // len(dataset) for index in batch} == {epoch}
    return [[index % len(dataset) for index in batch] for batch in batches]


@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("targets_per_batch", [1, 30, 64, 10_000])
def test_each_window_once_an_epoch_in_a_constant_number_of_batches(make_split, num_processes, targets_per_batch):
    dataset = WindowDataset([make_split(random_histories())], [40], 10)
    sampler = TargetBatchSampler(dataset, targets_per_batch, num_processes)
    assert len(sampler) % num_processes == 0
    for epoch in range(3):
        batches = epoch_batches(dataset, epoch, targets_per_batch, num_processes)
        assert len(batches) == len(sampler)
        assert all(batches)
        assert sorted(index for batch in batches for index in batch) == list(range(len(dataset)))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_batches_are_near_the_budget(make_split, num_processes):
    dataset = WindowDataset([make_split(random_histories(num_histories=500))], [40], 10)
    sizes = [dataset.num_targets[batch].sum() for batch in epoch_batches(dataset, 0, 64, num_processes)]
    assert np.mean(sizes) <= 64
    assert max(sizes) <= 64 + 10  # a batch ends at a whole window
    assert min(sizes) >= 64 - 2 * 10
    assert len(sizes) == -(-dataset.num_targets.sum() // (64 * num_processes)) * num_processes


def test_prefix_rows_are_every_target_behind_its_latest_items(make_split):
    histories = [*random_histories(num_histories=20), [3], list(range(25))]
    dataset = WindowDataset([make_split(histories), make_split([[1, 2, 0]])], [40, 5], 6, prefix_rows=True)
    rows = [dataset[index] for index in range(len(dataset))]
    expected = [
        history[max(0, end - 6) : end + 1] for history in [*histories, [41, 42, 40]] for end in range(1, len(history))
    ]
    assert sorted(row["items"].tolist() for row in rows) == sorted(expected)
    assert all(row["first_target"] == len(row["items"]) - 1 for row in rows)
    assert len({row["sequence"] for row in rows}) == len(rows)
    assert dataset.num_targets.tolist() == [1] * len(rows)
    batches = epoch_batches(dataset, 0, 30)
    assert all(dataset.lengths[batch].max() - dataset.lengths[batch].min() <= 2 for batch in batches)


def test_windows_of_a_batch_have_similar_lengths(make_split):
    dataset = WindowDataset([make_split(random_histories(num_histories=500))], [40], 10)
    padded = real = 0
    for batch in epoch_batches(dataset, 0, 64):
        padded += dataset.num_targets[batch].max() * len(batch)
        real += dataset.num_targets[batch].sum()
    assert padded < 1.1 * real


def test_epochs_and_seeds_differ_and_repeat(make_split):
    dataset = WindowDataset([make_split(random_histories())], [40], 10)
    first = epoch_batches(dataset, 0, 30)
    assert epoch_batches(dataset, 1, 30) != first
    assert epoch_batches(dataset, 0, 30, seed=1) != first
    assert epoch_batches(dataset, 0, 30) == first
    # Not only the order of the batches differs: windows of equal length are mixed anew.
    assert {frozenset(batch) for batch in epoch_batches(dataset, 1, 30)} != {frozenset(batch) for batch in first}


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_batches_of_one_process(make_split, num_processes):
    dataset = WindowDataset([make_split(random_histories(num_histories=200))], [40], 10)
    for epoch in range(3):
        parts = epoch_batches(dataset, epoch, 40, num_processes)
        joined = [list(chain(*parts[step : step + num_processes])) for step in range(0, len(parts), num_processes)]
        assert joined == epoch_batches(dataset, epoch, 40 * num_processes)


@pytest.mark.parametrize("giant", [0, 3])
def test_window_larger_than_a_batch(make_split, giant):
    histories = [[0, 1]] * 6
    histories[giant] = list(range(100))
    dataset = WindowDataset([make_split(histories)], [100], 200)
    for num_processes in (1, 2, 3):
        batches = epoch_batches(dataset, 0, 2, num_processes)
        assert len(batches) % num_processes == 0
        assert all(batches)
        assert sorted(index for batch in batches for index in batch) == list(range(6))


def test_fewer_windows_than_processes_are_refused(make_split):
    dataset = WindowDataset([make_split([[0, 1], [1, 0]])], [2], 10)
    assert len(TargetBatchSampler(dataset, 100, num_processes=2)) == 2
    with pytest.raises(ValueError, match="2 training windows are too few for 3 processes"):
        TargetBatchSampler(dataset, 100, num_processes=3)


def test_features_of_several_domains():
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(rows, 3)).astype(np.float32) for rows in (4, 6, 2)]
    joined = np.concatenate(tables)
    features = DomainFeatures(tables)
    for items in ([0, 3, 4, 9, 11], [5], [10, 11], [0], list(range(12)), []):
        vectors = features(np.array(items, dtype=np.int64))
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, joined[items])
