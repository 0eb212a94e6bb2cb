"""
Zero-shot, inductive and transductive transfer to one domain, pre-trained and from scratch, over seeds, as a table.

    python examples/office_transfer.py --model runs/pretrained --domain domains/office --output runs/office

A run whose results are there is not run again, so a broken table is completed by the same command.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import unisrec
from unisrec.evaluation.baselines import popularity_metrics
from unisrec.trainer import UniSRecFinetuneArguments


METRICS = [
    f"{name}{suffix}" for suffix in ("", "_seen_masked") for name in ("recall@10", "ndcg@10", "recall@50", "ndcg@50")
]


def transfer(args: argparse.Namespace, setting: str, from_scratch: bool, seed: int) -> dict[str, float]:
    """Test metrics, epochs and seconds per epoch of one run."""
    folder = args.output / f"{setting}-{'scratch' if from_scratch else 'pretrained'}-{seed}"
    if not (folder / "README.md").is_file():  # written last
        training_args = UniSRecFinetuneArguments(
            str(folder),
            seed=seed,
            per_device_train_batch_size=args.batch_size,
            use_cpu=args.use_cpu,
            disable_tqdm=True,
        )
        unisrec.finetune(args.model, args.domain, setting, training_args, from_scratch=from_scratch)
    metrics = json.loads((folder / "test_results.json").read_text())
    state = json.loads((folder / "trainer_state.json").read_text())
    seconds = next(entry["train_runtime"] for entry in state["log_history"] if "train_runtime" in entry)
    row = {name: metrics[f"test_{name}"] for name in METRICS}
    return row | {"epochs": state["epoch"], "seconds": seconds / state["epoch"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--domain", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--use-cpu", action="store_true")
    args = parser.parse_args()

    print(f"| | {' | '.join(f'{name[0].upper()}@{name[-2:]}' for name in METRICS[:4] * 2)} | epochs | s / epoch |")
    print("|---|" + "---:|" * 10)
    zero_shot = unisrec.evaluate(args.model, args.domain, "test", use_cpu=args.use_cpu)
    domain = unisrec.Domain.load_from_disk(args.domain)
    train, test = unisrec.leave_one_out(domain, "train"), unisrec.leave_one_out(domain, "test")
    popularity = popularity_metrics(train, test, domain.num_items)
    for name, row in (("popularity", popularity), ("zero-shot", zero_shot)):
        print(f"| {name} | {' | '.join(f'{row[metric]:.4f}' for metric in METRICS)} | | |")
    for setting in ("inductive", "transductive"):
        for from_scratch in (True, False):
            runs = [transfer(args, setting, from_scratch, seed) for seed in args.seeds]
            cells = [
                f"{np.mean([run[name] for run in runs]):.4f} ± {np.std([run[name] for run in runs], ddof=1):.4f}"
                for name in METRICS
            ]
            cells += [
                f"{np.mean([run['epochs'] for run in runs]):.0f}",
                f"{np.mean([run['seconds'] for run in runs]):.1f}",
            ]
            print(
                f"| {setting}, {'from scratch' if from_scratch else 'pre-trained'} | {' | '.join(cells)} |", flush=True
            )


if __name__ == "__main__":
    main()
