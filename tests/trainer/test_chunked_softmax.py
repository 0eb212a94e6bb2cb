"""Chunked cross entropy beside the plain one: values, gradients, precision, and no matrix of all logits."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unisrec.trainer.losses import SoftTargets, chunked_cross_entropy


def plain(queries, candidates, labels):
    return F.cross_entropy(queries @ candidates.T, labels, reduction="sum")


def make(num_queries, num_candidates, dtype=torch.float32):
    queries, candidates = (
        torch.randn(rows, 6, dtype=dtype, requires_grad=True) for rows in (num_queries, num_candidates)
    )
    return queries, candidates, torch.randint(num_candidates, (num_queries,))


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 10, 100, None])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_value_and_gradients_equal_the_plain_loss(chunk_size, dtype, atol):
    queries, candidates, labels = make(10, 23, dtype)
    results = []
    for function, options in ((plain, {}), (chunked_cross_entropy, {"chunk_size": chunk_size})):
        # Normalised by autograd, and scaled behind the loss.
        loss = 0.5 * function(8 * F.normalize(queries, dim=-1), F.normalize(candidates, dim=-1), labels, **options)
        results.append((loss.detach(), *torch.autograd.grad(loss, [queries, candidates])))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=atol)


def test_one_tensor_may_be_both_queries_and_candidates():
    vectors, _, _ = make(9, 1, torch.float64)
    gradients = [
        torch.autograd.grad(function(vectors, vectors, torch.arange(9)), vectors)[0]
        for function in (plain, chunked_cross_entropy)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_without_labels_it_is_the_logsumexp():
    queries, candidates, _ = make(10, 23, torch.float64)
    expected = (queries @ candidates.T).logsumexp(1).sum()
    loss = chunked_cross_entropy(queries, candidates, None, chunk_size=3)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(part, [queries, candidates]) for part in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@pytest.mark.parametrize("corrected", [False, True])
def test_soft_targets_are_a_share_of_the_target(corrected):
    queries, candidates, labels = make(10, 23, torch.float64)
    teacher_queries, teacher_candidates, _ = make(10, 23, torch.float64)
    correction = torch.randn(10, 23, dtype=torch.float64) if corrected else torch.zeros(10, 23, dtype=torch.float64)

    def adjust(logits, rows):
        logits -= correction[rows]

    loss = chunked_cross_entropy(
        queries,
        candidates,
        labels,
        adjust if corrected else None,
        SoftTargets(teacher_queries, teacher_candidates, 0.3),
        chunk_size=4,
    )
    with torch.no_grad():
        taught = (teacher_queries @ teacher_candidates.T - correction).softmax(1)
        target = 0.3 * taught + 0.7 * F.one_hot(labels, 23).double()
    expected = F.cross_entropy(queries @ candidates.T - correction, target, reduction="sum")
    results = [torch.autograd.grad(part, [queries, candidates]) for part in (loss, expected)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)


def test_a_second_backward_pass_is_refused():
    queries, candidates, labels = make(10, 23)
    loss = chunked_cross_entropy(queries, candidates, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("size", [1e-3, 1e4])
def test_extreme_logits_stay_finite_and_exact(size):
    queries, candidates, labels = make(10, 23, torch.float64)
    scaled = queries * size
    results = [
        (loss.detach(), *torch.autograd.grad(loss, [queries, candidates], retain_graph=True))
        for loss in (plain(scaled, candidates, labels), chunked_cross_entropy(scaled, candidates, labels))
    ]
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_in_bfloat16_sums_are_kept_in_float32():
    torch.manual_seed(0)
    queries, candidates, labels = make(300, 500)
    exact = plain(queries, candidates, labels)
    exact_gradients = torch.autograd.grad(exact, [queries, candidates])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(queries, candidates, labels, chunk_size=16)
    gradients = torch.autograd.grad(loss, [queries, candidates])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-3)
    for gradient, expected in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - expected).norm() < 0.01 * expected.norm()


class _LargestTensor(TorchDispatchMode):
    """Counts the numbers of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return result


def test_no_matrix_of_all_logits_is_made():
    queries, candidates, labels = make(40, 50)
    sizes = {}
    for function, options in ((plain, {}), (chunked_cross_entropy, {"chunk_size": 4})):
        with _LargestTensor() as largest:
            function(queries, candidates, labels, **options).backward()
        sizes[function] = largest.numbers
    assert sizes[plain] == 40 * 50
    assert sizes[chunked_cross_entropy] == 50 * 6  # the candidates; a chunk has 4 * 50
