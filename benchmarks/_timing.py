"""Two ways of doing one thing, measured in one run: time in turns, then memory, FLOPs and bytes of each in a process of its own."""

import argparse
import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


COLUMNS = "what|ours|reference|ratio|quartiles|GFLOP|share of GEMM|GB moved|share of memory|peak MB".split("|")


class Machine(NamedTuple):
    """What the machine reaches: products of large matrices in GFLOP/s, a triad over large arrays in GB/s."""

    gflops: float
    gbytes: float


class Cost(NamedTuple):
    """One call of a function in a fresh process: peak memory above what was there before, counted work."""

    peak_mb: float
    gflop: float
    gbyte: float


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, with those that are added in place, which the counter of torch passes over."""
    in_place = {torch.ops.aten.addmm_: lambda total, left, right, **options: 2 * left[0] * left[1] * right[1]}
    return FlopCounterMode(display=False, custom_mapping=in_place)


class _ByteCounter(TorchDispatchMode):
    """Bytes that operations read and write if none of it stays in a cache; views move nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


@dataclass
class Comparison:
    """Seconds of both ways, round by round, and the cost of each where it was counted."""

    name: str
    ours: list[float]
    reference: list[float]
    our_cost: Cost | None = None
    reference_cost: Cost | None = None

    def row(self, machine: Machine | None = None) -> str:
        """A line of the Markdown table: medians, the ratio with its quartiles, work per call as ours / reference."""
        low, ratio, high = np.percentile(np.array(self.reference) / np.array(self.ours), [25, 50, 75])
        cells = [
            self.name,
            seconds(np.median(self.ours)),
            seconds(np.median(self.reference)),
            f"**{ratio:.1f}x**",
            f"{low:.1f} .. {high:.1f}",
        ]
        if self.our_cost is None:
            return _line([*cells, *[""] * (len(COLUMNS) - len(cells))])
        sides = [(self.our_cost, np.median(self.ours)), (self.reference_cost, np.median(self.reference))]
        for work, ceiling in (("gflop", "gflops"), ("gbyte", "gbytes")):
            counted = [getattr(cost, work) for cost, _ in sides]
            cells.append(" / ".join(f"{value:.1f}" for value in counted) if any(counted) else "")
            shares = [
                getattr(cost, work) / duration / getattr(machine, ceiling) if machine else 0
                for cost, duration in sides
            ]
            cells.append(" / ".join(f"{share:.0%}" for share in shares) if any(shares) else "")
        cells.append(" / ".join(f"{cost.peak_mb:,.0f}" for cost, _ in sides))
        return _line(cells)


def seconds(value: float) -> str:
    """A duration with the unit that suits it."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def header(columns: Sequence[str] = COLUMNS) -> str:
    """Head of a Markdown table; all columns but the first are numbers."""
    return "\n".join([_line(columns), _line(["---", *["---:"] * (len(columns) - 1)])])


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(
    name: str, ours: Callable[[], Any], reference: Callable[[], Any], rounds: int = 5, calls: int = 3
) -> Comparison:
    """Rounds of the reference once, then ours `calls` times (their median counts), after a call of ours to warm up. In turns,
    so that what else the machine does hits both."""
    ours()
    comparison = Comparison(name, [], [])
    for _ in range(rounds):
        comparison.reference.append(timed(reference))
        comparison.ours.append(float(np.median([timed(ours) for _ in range(calls)])))
    return comparison


def measure_machine(size: int = 2048, triad_elements: int = 1 << 26) -> Machine:
    """The best of several products of `size` x `size` matrices and of several triads `a = b + s c`, in float32."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    product = torch.empty(size, size)
    product_seconds = min(timed(lambda: torch.mm(left, right, out=product)) for _ in range(8))
    a, b, c = (torch.ones(triad_elements) for _ in range(3))
    triad_seconds = min(timed(lambda: torch.add(b, c, alpha=0.5, out=a)) for _ in range(5))
    return Machine(2 * size**3 / product_seconds / 1e9, 12 * triad_elements / triad_seconds / 1e9)


def describe(machine: Machine) -> str:
    """One line on the machine, for the head of a table."""
    return (
        f"{torch.get_num_threads()} threads; ceilings measured in this run, float32: GEMM {machine.gflops:.0f} GFLOP/s, "
        f"triad {machine.gbytes:.1f} GB/s"
    )


def _memory_mb(field: str) -> float:
    """A field of /proc/self/status: `VmRSS` now, `VmHWM` at its highest. The `ru_maxrss` of a child starts at its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def _count(connection, prepare: Callable[..., Callable[[], Any]], args: tuple, kwargs: dict) -> None:
    function = prepare(*args, **kwargs)
    gc.collect()
    before = _memory_mb("VmRSS")
    with flop_counter() as flops, _ByteCounter() as traffic:
        function()
    # What was there while the input was made is not what the call needs.
    peak = max(_memory_mb("VmHWM") - before, 0)
    connection.send(Cost(peak, flops.get_total_flops() / 1e9, traffic.bytes / 1e9))


def count(prepare: Callable[..., Callable[[], Any]], *args, **kwargs) -> Cost:
    """What one call of the function that `prepare(...)` returns takes, in a fresh process. `prepare` is a function of the
    script itself, which does all that is not to be measured."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_count, args=(theirs, prepare, args, kwargs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def parser(description: str) -> argparse.ArgumentParser:
    """What all scripts have: help, the number of rounds, and tiny sizes that only show that the script runs."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--smoke", action="store_true", help="Tiny sizes, one round, nothing counted: shows that the script runs."
    )
    made.add_argument("--rounds", type=int, default=3, help="Measurements of each way, in turns.")
    return made
