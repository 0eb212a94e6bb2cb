"""Training steps on a GPU: the official way, ours in float32, TF32 and bfloat16, beside what the GPU can do.

    python benchmarks/gpu_step.py

Workloads as in finetune_step.py and pretrain_step.py, and pre-training with a batch of 8,192 and with 128 numbers a head instead of
150. Of each way: the median time of a step and its quartiles, targets a second, the share of what large products reach in the
same type, peak memory, and how often the processor waited for the GPU in a step.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from _steps import Step, Workload, finetune_steps, pretrain_steps
from _timing import flop_counter, header, parser, seconds


COLUMNS = ["what", "way", "step", "quartiles", "targets/s", "GFLOP", "share of GEMM", "peak MB", "waits"]
# Name -> whether products of float32 are rounded to TF32, and arguments of the trainer; None is the reference.
WAYS = {
    "reference, float32": (False, None),
    "float32": (False, {}),
    "bfloat16": (True, {"bf16": True}),
    "float32, replayed": (False, {"static_batches": True}),
    "TF32, replayed": (True, {"static_batches": True}),
    "bfloat16, replayed": (True, {"bf16": True, "static_batches": True}),
}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def times(step: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Seconds of `rounds` calls, each until the GPU is done with it."""
    found = []
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return found


def gemm(device: str, size: int, dtype: torch.dtype, tf32: bool) -> float:
    """GFLOP/s of the best of ten products of two large matrices."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(times(lambda: left @ right, device, 10)) / 1e9


def waits(step: Step, device: str) -> str:
    """How often a step waits for the GPU, by what torch warns of."""
    if device != "cuda":
        return ""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return str(sum("synchronizing" in str(warning.message) for warning in caught))


def row(
    name: str, way: str, prepare: Callable[..., Step], workload: Workload, ceiling: float, rounds: int, **arguments
) -> str:
    """One line of the table; `arguments` are those of the trainer."""
    tf32, options = WAYS[way]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    side, options = ("reference", {}) if options is None else ("ours", {**arguments, **options})
    step = prepare(workload, side, **options)
    for _ in range(2 * workload.num_batches):  # each shape of a batch twice: it is recorded then
        step()
    if workload.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = times(step, workload.device, rounds)
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:,.0f}" if workload.device == "cuda" else ""
    waited = waits(step, workload.device)
    low, _, high = statistics.quantiles(found, n=4)
    median = statistics.median(found)
    gflop = share = ""
    if "replayed" not in way:  # the counter does not see into what is recorded
        with flop_counter() as flops:
            step()
        gflop = f"{flops.get_total_flops() / 1e9:,.1f}"
        share = f"{flops.get_total_flops() / 1e9 / median / ceiling:.0%}"
    cells = [name, way, seconds(median), f"{seconds(low)} .. {seconds(high)}", f"{workload.targets / median:,.0f}"]
    return f"| {' | '.join([*cells, gflop, share, memory, waited])} |"


def main() -> None:
    args = parser(__doc__)
    args.set_defaults(rounds=20)
    args = args.parse_args()
    device = "cpu" if args.smoke else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "gpu_step: error: torch sees no CUDA device; finetune_step.py and pretrain_step.py are for CPUs.",
            file=sys.stderr,
        )
        sys.exit(2)
    rounds = 2 if args.smoke else args.rounds
    size = 64 if args.smoke else 8192
    ceilings = {
        "float32": gemm(device, size, torch.float32, False),
        "TF32": gemm(device, size, torch.float32, True),
        "bfloat16": gemm(device, size, torch.bfloat16, True),
    }
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    measured = ", ".join(f"{way} {gflops / 1e3:,.1f}" for way, gflops in ceilings.items())
    print(f"{name}, torch {torch.__version__}; products of {size} x {size} matrices in TFLOP/s: {measured}\n")
    print(header(COLUMNS))
    short = Workload("short", num_items=12_000, device=device)
    views = replace(short, transductive=False)
    cases = (
        ("fine-tune, full", finetune_steps, short, {}),
        ("fine-tune, sampled", finetune_steps, short, {"num_negatives": 1024}),
        ("fine-tune, long histories", finetune_steps, Workload("long", device=device), {}),
        ("pre-train", pretrain_steps, views, {}),
        ("pre-train, 128 a head", pretrain_steps, replace(views, settings=(("hidden_size", 256),)), {}),
        ("pre-train, 8,192 targets", pretrain_steps, replace(views, targets=8192), {}),
    )
    for name, prepare, workload, arguments in cases[::3] if args.smoke else cases:  # a case of each trainer
        if args.smoke:
            workload = replace(workload, num_items=60, targets=64, length=8, num_batches=1)
        for way in WAYS:
            if args.smoke and "TF32" in way:
                continue
            ceiling = ceilings[next(kind for kind in ceilings if kind in way)]
            print(row(name, way, prepare, workload, ceiling, rounds, **arguments), flush=True)
            torch.compiler.reset()


if __name__ == "__main__":
    main()
