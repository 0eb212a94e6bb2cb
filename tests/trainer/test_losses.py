import math

import pytest
import torch
from torch.nn import functional as F

from unisrec.trainer import catalogue_loss, contrastive_loss, sampled_softmax_loss


TEMPERATURE = 0.07


def loop_loss(query, positive, candidates, counted, constants):
    """-log of exp(q.p / t) over the sum of exp(q.c / t) over the counted candidates, with `constants` added to it."""
    denominator = constants
    for candidate, takes_part in zip(candidates, counted, strict=True):
        if takes_part:
            denominator = denominator + torch.exp(torch.dot(query, candidate) / TEMPERATURE)
    return -torch.log(torch.exp(torch.dot(query, positive) / TEMPERATURE) / denominator)


@pytest.fixture
def vectors():
    """4 queries, 6 candidates, 4 positives apart, in float64."""
    return [F.normalize(torch.randn(rows, 5, dtype=torch.float64), dim=-1).requires_grad_() for rows in (4, 6, 4)]


LABELS = torch.tensor([2, 0, 5, 1])
EXCLUDED = torch.tensor(
    [
        [False, True, True, False, False, False],  # its own label (2) is marked too
        [False, False, False, True, True, False],
        [False, False, False, False, False, False],
        [True, True, True, True, True, True],  # nothing but its own label (1) is left
    ]
)


@pytest.mark.parametrize("duplicate_mask", ["exclude", "official"])
@pytest.mark.parametrize("positives_apart", [False, True])
def test_contrastive_loss_and_gradient_equal_a_loop(vectors, duplicate_mask, positives_apart):
    queries, candidates, positives = vectors
    expected = []
    for row, label in enumerate(LABELS.tolist()):
        excluded = EXCLUDED[row].tolist()
        excluded[label] = False
        # The official code multiplies the logit of a duplicate by 0 before the exponential, which leaves exp(0) = 1.
        constants = float(sum(excluded)) if duplicate_mask == "official" else 0.0
        positive = positives[row] if positives_apart else candidates[label]
        expected.append(loop_loss(queries[row], positive, candidates, [not out for out in excluded], constants))
    expected = torch.stack(expected)
    loss = contrastive_loss(
        queries,
        candidates,
        LABELS,
        EXCLUDED.__getitem__,
        TEMPERATURE,
        positives=positives if positives_apart else None,
        duplicate_mask=duplicate_mask,
    )
    torch.testing.assert_close(loss, expected.sum(), rtol=0, atol=1e-12)

    inputs = vectors if positives_apart else vectors[:2]
    gradients = torch.autograd.grad(3 * loss, inputs)
    for gradient, slow in zip(gradients, torch.autograd.grad(3 * expected.sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, slow, rtol=0, atol=1e-10)


def test_equal_candidates_give_log_of_their_number():
    queries = F.normalize(torch.randn(3, 5), dim=-1)
    candidates = F.normalize(torch.ones(7, 5), dim=-1)
    excluded = torch.zeros(3, 7, dtype=torch.bool)
    loss = contrastive_loss(queries, candidates, torch.tensor([0, 3, 6]), excluded.__getitem__, TEMPERATURE)
    torch.testing.assert_close(loss, torch.tensor(3 * math.log(7)))
    excluded[:, 4] = True
    loss = contrastive_loss(queries, candidates, torch.tensor([0, 3, 6]), excluded.__getitem__, TEMPERATURE)
    torch.testing.assert_close(loss, torch.tensor(3 * math.log(6)))


def test_query_with_only_its_own_candidate_left_has_no_loss(vectors):
    queries, candidates, _ = vectors
    last = slice(3, 4)
    loss = contrastive_loss(queries[last], candidates, LABELS[last], EXCLUDED[last].__getitem__, TEMPERATURE)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, [queries])
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_excluded_mask_is_left_as_it_was(vectors):
    queries, candidates, _ = vectors
    excluded = EXCLUDED.clone()
    contrastive_loss(queries, candidates, LABELS, excluded.__getitem__, TEMPERATURE)
    assert torch.equal(excluded, EXCLUDED)


def test_small_temperature_does_not_overflow():
    queries = F.normalize(torch.randn(3, 5), dim=-1)
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    loss = contrastive_loss(queries, queries, torch.arange(3), nothing.__getitem__, 1e-3)
    assert loss.isfinite().all()


def test_catalogue_loss_and_gradient_equal_a_loop():
    scores = (5 * torch.randn(4, 9, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([8, 0, 3, 3])
    expected = torch.stack(
        [
            -torch.log(torch.exp(row[label]) / sum(torch.exp(score) for score in row))
            for row, label in zip(scores, labels, strict=True)
        ]
    )
    loss = catalogue_loss(scores, torch.eye(9, dtype=torch.float64), labels)
    torch.testing.assert_close(loss, expected.sum(), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(loss, [scores])
    (slow,) = torch.autograd.grad(expected.sum(), [scores])
    torch.testing.assert_close(gradient, slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        catalogue_loss(torch.zeros(2, 3), torch.ones(9, 3), labels[:2]), torch.tensor(2 * math.log(9))
    )


def test_sampled_softmax_counts_each_candidate_by_how_rarely_it_is_one():
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    labels, inclusion = torch.tensor([4, 0, 2]), torch.tensor([0.5, 1.0, 0.25, 0.1, 0.2], dtype=torch.float64)
    certain = torch.tensor([[4, 1, 4], [0, 0, 0], [3, 2, 1]])
    loss = sampled_softmax_loss(scores, torch.eye(5, dtype=torch.float64), labels, inclusion.log(), certain)
    expected = []
    for row, label in enumerate(labels.tolist()):
        total = sum(
            torch.exp(scores[row, item]) / (1.0 if item in certain[row].tolist() else inclusion[item])
            for item in range(5)
        )
        expected.append(total.log() - scores[row, label])
    torch.testing.assert_close(loss, sum(expected), rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(part, scores)[0] for part in (loss, sum(expected))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_sampled_softmax_of_all_items_is_the_catalogue_loss():
    queries, candidates, labels = torch.randn(4, 5), torch.randn(7, 5), torch.tensor([0, 6, 3, 3])
    loss = sampled_softmax_loss(queries, candidates, labels, torch.zeros(7), labels.unsqueeze(1))
    assert torch.equal(loss, catalogue_loss(queries, candidates, labels))
