"""One training step of transfer with an ID embedding that moves its candidates alone, against Adam on all of its rows.

    python benchmarks/item_embedding.py

Transductive, paper's sizes, sampled softmax with 1,024 items drawn, short histories, growing catalogues. Both sides are ours and
differ in `--sparse_item_embedding` alone. A step is loss, backward and optimizer. A million items take about 12 GB.
"""

from _steps import Workload, finetune_steps
from _timing import compare, count, describe, header, measure_machine, parser


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="Catalogues.")
    args.add_argument("--targets", type=int, default=2048, help="Targets of a step.")
    args = args.parse_args()
    machine = measure_machine(256, 1 << 16) if args.smoke else measure_machine()
    rounds = 1 if args.smoke else args.rounds
    print(describe(machine), header(), sep="\n\n")
    for num_items in [60] if args.smoke else args.items:
        sizes = {"targets": 64, "length": 8} if args.smoke else {"targets": args.targets}
        workload = Workload("short", num_items, num_batches=rounds, **sizes)
        dense = {"num_negatives": 20 if args.smoke else 1024}
        sparse = dense | {"sparse_item_embedding": True}
        comparison = compare(
            f"fine-tune step, {num_items:,} items",
            finetune_steps(workload, "ours", **sparse),
            finetune_steps(workload, "ours", **dense),
            rounds,
        )
        if not args.smoke:
            comparison.our_cost = count(finetune_steps, workload, "ours", **sparse)
            comparison.reference_cost = count(finetune_steps, workload, "ours", **dense)
        print(comparison.row(machine), flush=True)


if __name__ == "__main__":
    main()
