"""One pre-training step, ours against the official way of computing it.

    python benchmarks/pretrain_step.py

Paper's sizes, text vectors of 384 numbers, random histories as short as Office's, 12,000 items. A step is loss, backward and
optimizer; batches and views are ready (the collator is not timed on either side). All views are made by item drop.
"""

from _steps import Workload, pretrain_steps
from _timing import compare, count, describe, header, measure_machine, parser


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--targets", type=int, default=2048, help="Targets of a step.")
    args = args.parse_args()
    sizes = {"num_items": 60, "targets": 64, "length": 8}
    if not args.smoke:
        sizes = {"num_items": 12_000, "targets": args.targets}
    rounds = 1 if args.smoke else args.rounds
    machine = measure_machine(256, 1 << 16) if args.smoke else measure_machine()
    print(describe(machine), header(), sep="\n\n")
    workload = Workload("short", num_batches=rounds, transductive=False, **sizes)
    comparison = compare(
        "pre-train step", pretrain_steps(workload, "ours"), pretrain_steps(workload, "reference"), rounds
    )
    if not args.smoke:
        comparison.our_cost = count(pretrain_steps, workload, "ours")
        comparison.reference_cost = count(pretrain_steps, workload, "reference")
    print(comparison.row(machine), flush=True)


if __name__ == "__main__":
    main()
