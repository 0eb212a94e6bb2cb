"""Training steps on batches of fixed shapes (`--static_batches true`), beside steps as usual, on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/static_step.py --domain domains/beauty

Paper's sizes, random text vectors of 384 numbers. A step is collation of the batch, loss, backward and optimizer; both sides take
the same windows in turns. What counts is processor time, so that other processes disturb little. Fixed shapes are made for GPUs,
which replay them: `gpu_step.py` measures that.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from _steps import Workload, finetune_steps, pretrain_steps
from _timing import header, parser, seconds

from unisrec.data import Domain


def processor_seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def main() -> None:
    args = parser(__doc__)
    args.add_argument(
        "--domain", help="Folder of a prepared domain; by default, random histories as short as Office's."
    )
    args.add_argument("--targets", type=int, default=2048, help="Targets of a step.")
    args.set_defaults(rounds=20)
    args = args.parse_args()
    workload = Workload("short", num_items=12_000, targets=args.targets, num_batches=10)
    if args.domain is not None:
        workload = Workload(
            num_items=Domain.load_from_disk(args.domain).num_items, targets=args.targets, domain=args.domain
        )
    if args.smoke:
        workload = Workload("short", num_items=60, targets=64, length=8)
    inductive = Workload(**(vars(workload) | {"transductive": False}))
    print(
        f"{torch.get_num_threads()} threads\n\n{header(['a step', 'fixed shapes', 'as usual', 'ratio', 'quartiles'])}"
    )
    for name, prepare in (
        ("pre-train", partial(pretrain_steps, inductive)),
        ("fine-tune, full softmax", partial(finetune_steps, workload)),
        ("fine-tune, sampled softmax", partial(finetune_steps, workload, num_negatives=1024)),
    ):
        usual, static = (prepare(path="ours, collated", static_batches=static) for static in (False, True))
        usual(), static()
        times = np.array(
            [(processor_seconds(usual), processor_seconds(static)) for _ in range(2 if args.smoke else args.rounds)]
        )
        low, ratio, high = statistics.quantiles(times[:, 1] / times[:, 0], n=4)
        medians = [seconds(number) for number in np.median(times, axis=0)]
        print(f"| {name} | {medians[1]} | {medians[0]} | {ratio:.2f} | {low:.2f} .. {high:.2f} |", flush=True)


if __name__ == "__main__":
    main()
