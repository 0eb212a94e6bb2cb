"""Peak memory and time of a pre-training step, whole and in cached chunks, for growing batches.

    python benchmarks/cached_contrastive.py

The paper's sizes, text vectors of 384 numbers, 12,000 items, random histories of about six items, item drop and word drop.
A step is loss, backward and Adam. Memory is what a step adds to model, optimizer and batch at its peak, each in a process
of its own: of the process on the CPU, of the allocator on a GPU. Times are taken in turns in one process.
"""

import argparse
import gc
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import flop_counter

from unisrec import UniSRecConfig, UniSRecModel, UniSRecPretrainArguments, UniSRecPretrainTrainer
from unisrec.data import Split
from unisrec.trainer import PretrainCollator, WindowDataset
from unisrec.trainer.batches.datasets import DomainFeatures


NUM_ITEMS, TEXT_SIZE = 12_000, 384


class ResidentMemory(threading.Thread):
    """Highest resident memory of this process, in bytes, looked up every two milliseconds while inside."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0
        self._done = threading.Event()

    @staticmethod
    def now() -> int:
        """What it is now; a high-water mark of the system would remember what came before."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def run(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> "ResidentMemory":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self.join()


class Workload:
    """Steps on batches of random histories."""

    def __init__(self, num_targets: int):
        rng = np.random.default_rng(0)
        lengths = rng.integers(2, 11, size=num_targets // 5 + 8)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        split = Split(rng.integers(NUM_ITEMS, size=offsets[-1]), offsets, np.arange(len(lengths)))
        dataset = WindowDataset([split], [NUM_ITEMS], 50)
        tables = rng.normal(size=(2, NUM_ITEMS, TEXT_SIZE)).astype(np.float32)
        torch.manual_seed(0)
        self.trainer = UniSRecPretrainTrainer(
            UniSRecModel(UniSRecConfig(text_embedding_size=TEXT_SIZE)),
            UniSRecPretrainArguments(tempfile.mkdtemp(), eval_strategy="no"),
            data_collator=PretrainCollator(*(DomainFeatures([table]) for table in tables)),
            train_dataset=dataset,
        )
        self.optimizer = self.trainer.create_optimizer()
        count = int(np.searchsorted(np.cumsum(dataset.num_targets), num_targets))
        self.batch, self.small = (
            self.trainer._prepare_inputs(self.trainer.data_collator([dataset[index] for index in range(number)]))
            for number in (count, 8)
        )

    def step(self, batch: dict[str, torch.Tensor], chunk_size: int | None) -> float:
        """Seconds of a step; without `chunk_size`, on the whole batch."""
        self.trainer.args.cache_chunk_size = chunk_size
        start = time.perf_counter()
        self.trainer.training_step(self.trainer.model, batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.trainer.args.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def peak_memory(num_targets: int, chunk_size: int | None) -> float:
    """MB that a step adds to what is there before."""
    work = Workload(num_targets)
    work.step(work.small, chunk_size)  # the state of the optimizer, and what libraries set up once
    gc.collect()
    if work.trainer.args.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work.step(work.batch, chunk_size)
        peak = torch.cuda.max_memory_allocated()
    else:
        before = ResidentMemory.now()
        with ResidentMemory() as memory:
            work.step(work.batch, chunk_size)
        peak = memory.peak
    return (peak - before) / 2**20


def time_ratios(num_targets: int, chunk_size: int, rounds: int) -> list[float]:
    """Seconds in chunks over seconds of the whole batch, in turns."""
    work = Workload(num_targets)
    pairs = [[work.step(work.batch, size) for size in (chunk_size, None)] for _ in range(rounds + 1)]
    return sorted(cached / whole for cached, whole in pairs[1:])


def gflops(num_targets: int, chunk_size: int | None) -> float:
    """Work of a step, counted from its products."""
    work = Workload(num_targets)
    with flop_counter() as counter:
        work.step(work.batch, chunk_size)
    return counter.get_total_flops() / 1e9


def in_own_process(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function gives in a process that has done nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, nargs="+", default=[512, 2048, 8192, 16384], help="Batches to measure.")
    parser.add_argument("--chunk-size", type=int, default=512, help="Targets of a chunk.")
    parser.add_argument("--whole-up-to", type=int, default=16384, help="Largest batch to measure whole too.")
    parser.add_argument("--timed", type=int, nargs="*", default=[2048], help="Batches to time and count both ways.")
    parser.add_argument("--rounds", type=int, default=7, help="Rounds of the timing.")
    args = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)  # what is freed is gone, not kept for later
    print(f"| targets | peak MB, whole | peak MB, chunks of {args.chunk_size} |")
    print("|---:|---:|---:|")
    for targets in args.targets:
        whole = f"{in_own_process(peak_memory, targets, None):,.0f}" if targets <= args.whole_up_to else ""
        print(f"| {targets:,} | {whole} | {in_own_process(peak_memory, targets, args.chunk_size):,.0f} |", flush=True)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    for targets in args.timed:
        low, *_, high = ratios = in_own_process(time_ratios, targets, args.chunk_size, args.rounds)
        ratio = statistics.median(ratios)
        print(
            f"\n{targets:,} targets: chunks take {ratio:.2f} times as long as the whole batch ({low:.2f} .. {high:.2f})"
        )


if __name__ == "__main__":
    main()
