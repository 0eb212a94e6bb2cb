"""The text space of a catalogue."""

import numpy as np
import pytest
import torch

from unisrec.modeling_unisrec.text_neighbours import fit_text_space, lower_seen, seen_discount


def normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("num_items", [3, 40])
def test_text_space_by_the_formula(num_items):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(num_items, 6)) * [5, 3, 1, 1, 0.5, 0.1] + 1
    others = rng.normal(size=(4, 6))
    unit = normalized(vectors)
    centred = unit - unit.mean(0)
    covariance = centred.T @ centred / num_items
    # As if 6 more items had the mean variance in each direction.
    shrunk = (num_items * covariance + 6 * np.eye(6) * np.trace(covariance) / 6) / (num_items + 6)
    variances, components = np.linalg.eigh(shrunk)
    expected = normalized((normalized(others) - unit.mean(0)) @ components * variances ** (-3 / 8) @ components.T)
    space = fit_text_space(torch.from_numpy(vectors).float())
    assert space.map(torch.from_numpy(others).float()).numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("num_items", [1, 5])
def test_a_catalogue_of_equal_texts_leaves_vectors_as_they_are(num_items):
    texts = torch.randn(1, 4).expand(num_items, 4)
    others = torch.randn(3, 4)
    expected = torch.nn.functional.normalize(others, dim=-1)
    torch.testing.assert_close(fit_text_space(texts).map(others), expected)


def test_a_large_catalogue_is_sampled(monkeypatch):
    texts = torch.randn(101, 4)
    monkeypatch.setattr("unisrec.modeling_unisrec.text_neighbours._FITTED_ITEMS", 34)
    for found, expected in zip(fit_text_space(texts), fit_text_space(texts[::3]), strict=True):
        torch.testing.assert_close(found, expected)


def test_items_of_a_history_count_less_the_longer_it_is_without_one_twice():
    histories = [[4], [1, 2, 3, 4, 5, 6], [7, 2, 7, 1], [5, 3]]
    item_index = torch.tensor([rows + [0] * (6 - len(rows)) for rows in histories])
    expected = [0.6 / 7, 0.3, 0, 0.15]
    assert seen_discount(item_index).tolist() == pytest.approx(expected)
    scores = torch.randn(4, 8)
    lowered = scores.clone()
    for row, (items, discount) in enumerate(zip(histories, expected, strict=True)):
        for item in set(items):
            lowered[row, item - 1] -= 0.5 * discount
    assert lower_seen(scores, item_index, 0.5) is scores
    torch.testing.assert_close(scores, lowered)
