"""One training step of transfer, ours against the official way of computing it.

    python benchmarks/finetune_step.py

Transductive, paper's sizes, text vectors of 384 numbers, random histories as short as Office's and as long as Online Retail's,
catalogue of 3,500 items; then full and sampled softmax on one of 12,000, where the reference computes all of it. A step is loss,
backward and optimizer; batches are ready (the collator is not timed on either side).
"""

from _steps import Workload, finetune_steps
from _timing import compare, count, describe, header, measure_machine, parser


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--targets", type=int, default=2048, help="Targets of a step.")
    args.add_argument("--num-negatives", type=int, default=1024, help="Items that sampled softmax draws.")
    args = args.parse_args()
    machine = measure_machine(256, 1 << 16) if args.smoke else measure_machine()
    rounds = 1 if args.smoke else args.rounds
    print(describe(machine), header(), sep="\n\n")
    cases = (
        ("short histories, full softmax", "short", 3_500, {}),
        ("long histories, full softmax", "long", 3_500, {}),
        ("short histories, full softmax, 12,000 items", "short", 12_000, {}),
        ("short histories, sampled softmax, 12,000 items", "short", 12_000, {"num_negatives": args.num_negatives}),
    )
    for name, histories, num_items, arguments in cases:
        sizes = {"num_items": num_items, "targets": args.targets}
        if args.smoke:
            sizes = {"num_items": 60, "targets": 64, "length": 8}
        workload = Workload(histories, num_batches=rounds, **sizes)
        comparison = compare(
            f"fine-tune step, {name}",
            finetune_steps(workload, "ours", **arguments),
            finetune_steps(workload, "reference"),
            rounds,
        )
        if not args.smoke:
            comparison.our_cost = count(finetune_steps, workload, "ours", **arguments)
            comparison.reference_cost = count(finetune_steps, workload, "reference")
        print(comparison.row(machine), flush=True)


if __name__ == "__main__":
    main()
