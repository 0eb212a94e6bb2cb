"""Pre-trainings that differ from the recipe of base.yaml, several at a time, and what each is worth on shops never seen.

    python benchmarks/ablation.py --domains runs/base/domains --output runs/ablation --jobs 4 [--runs "mixed batches" ...]
        [--targets 0.8] [--seeds 1 2 3] [--bf16 true --static_batches true ...]

`--domains` is the folder that `base.py` prepares. Each run saves twenty checkpoints. The mean of the weights of the last ten is
ranked zero-shot, alone and with half of the score from text neighbours, for test users of Office and of the domains that no run
trains on, on Office also for the validation users, and by the mean of the second quarter, which has seen half of the targets.
Further arguments are those of `unisrec pretrain`, for all runs. `OUTPUT/results.jsonl` holds a line for each run; runs that are
there are not repeated, so the command can be stopped and started again.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from base import RECIPE, mean_weights

from unisrec.data import Domain, domain_split
from unisrec.data.domain_features import domain_features
from unisrec.data.splits import Split
from unisrec.evaluation.launch import make_accelerator
from unisrec.evaluation.metrics import ranking_metrics
from unisrec.evaluation.ranking import RankingDataset, rank_targets
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.text_neighbours import SHARE, enter_catalogue


RUNS = Path(__file__).with_suffix(".yaml")
NUM_CHECKPOINTS, NUM_AVERAGED = 20, 10
MOST_USERS = 5000
METRICS = [f"{name}@10{masked}" for name in ("recall", "ndcg") for masked in ("", "_seen_masked")]


def command(run: dict[str, Any], seed: int, domains: Path, output: Path, rest: list[str]) -> list[str]:
    """The command of one run. Raises `ValueError` for a domain that is not there."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    run = dict(run)
    unseen = [*run.pop("unseen"), *recipe["zero_shot_domain"]]
    names = run.pop("only", [name for name in recipe["domains"] if name not in unseen])
    for name in [*names, *unseen]:
        if not (domains / name).is_dir():
            raise ValueError(f"{domains / name} is missing: prepare the domains by `python benchmarks/base.py` first.")
    settings = recipe["pretrain"] | {
        "save_total_limit": NUM_CHECKPOINTS,
        "load_best_model_at_end": False,
        "seed": seed,
    }
    targets = run.pop("targets")
    settings |= run
    steps = max(NUM_CHECKPOINTS, round(1e6 * targets / settings["per_device_train_batch_size"]))
    every = steps // NUM_CHECKPOINTS
    settings |= {
        "max_steps": every * NUM_CHECKPOINTS,
        "save_steps": every,
        "eval_strategy": "no",
        "metric_for_best_model": None,
        "logging_steps": every,
        "domains": [str(domains / name) for name in names],
        "output_dir": str(output),
        "disable_tqdm": True,
        "resume_from_checkpoint": "auto",
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({name: value for name, value in settings.items() if value is not None}))
    return [sys.executable, "-m", "unisrec", "pretrain", "--config", str(file), *rest]


def some_users(domain: Domain, split: str) -> Split:
    """The users of a split, or `MOST_USERS` of them, the same in all runs."""
    users = domain_split(domain, split)
    chosen = np.sort(np.random.default_rng(0).permutation(len(users))[:MOST_USERS])
    rows = [users.flat[users.offsets[user] : users.offsets[user + 1]] for user in chosen]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return Split(np.concatenate(rows), offsets, users.users[chosen], users.targets[chosen])


def measure(domains: Path, names: list[str], output: Path) -> dict[str, Any]:
    """Zero-shot metrics of means of checkpoints, and the speed of the run."""
    steps = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    model, processor = load_checkpoint(output)
    accelerator, encoder = make_accelerator(use_cpu=not torch.cuda.is_available()), model.text_encoder
    means = {"": steps[-NUM_AVERAGED:], "half of the targets, ": steps[NUM_CHECKPOINTS // 4 : NUM_CHECKPOINTS // 2]}
    found: dict[str, Any] = {}
    for name in names:
        domain = Domain.load(domains / name)
        vectors = domain_features(domain, encoder, processor.tokenizer, model.config, device=accelerator.device)
        for split in ("valid", "test") if name == names[0] else ("test",):
            users = RankingDataset(some_users(domain, split), vectors)
            for which, checkpoints in means.items() if name == names[0] else [("", steps[-NUM_AVERAGED:])]:
                model.load_state_dict(mean_weights(checkpoints), strict=False)  # checkpoints have no text encoder
                enter_catalogue(model, vectors)
                for share in (0, SHARE):
                    model.config.text_neighbours = share
                    metrics = ranking_metrics(rank_targets(model, users, accelerator=accelerator))
                    row = f"{which}{name} {split}{' with text neighbours' if share else ''}"
                    found |= {f"{row} {metric}": metrics[metric] for metric in METRICS}
    log = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = sorted(entry["targets_per_second"] for entry in log if "targets_per_second" in entry)
    return found | {"targets_per_second": speeds[len(speeds) // 2]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=Path, required=True, help="folder of the prepared domains")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results.jsonl")
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="runs of ablation.yaml (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--targets", type=float, help="millions of targets of each run (default: of ablation.yaml)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options, rest = parser.parse_known_args()
    specification = yaml.safe_load(RUNS.read_text(encoding="utf-8"))
    common = specification["common"] | {"unseen": specification["unseen"]}
    if options.targets is not None:
        common["targets"] = options.targets
    runs = {name: common | run for name, run in specification["runs"].items()}
    if unknown := set(options.runs or ()) - set(runs):
        parser.error(f"--runs {sorted(unknown)[0]!r} is none of {', '.join(runs)}.")
    tested = ["office", *specification["unseen"]]
    results = options.output / "results.jsonl"
    done = set()
    if results.exists():
        done = {(line["run"], line["seed"]) for line in map(json.loads, results.read_text().splitlines())}
    waiting = [(name, seed) for seed in options.seeds for name in options.runs or runs if (name, seed) not in done]
    working: dict[tuple[str, int], tuple[subprocess.Popen, Path]] = {}
    failed = 0
    while waiting or working:
        while waiting and len(working) < options.jobs:
            name, seed = waiting.pop(0)
            output = options.output / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            try:
                words = command(runs[name], seed, options.domains, output, rest)
            except ValueError as error:
                parser.error(str(error))
            with output.with_suffix(".txt").open("w") as stream:
                working[name, seed] = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT), output
        for (name, seed), (process, output) in list(working.items()):
            if process.poll() is None:
                continue
            del working[name, seed]
            if process.returncode:
                failed += 1
                print(f"{name}, seed {seed}: exit status {process.returncode}, see {output.with_suffix('.txt')}")
                continue
            names = [each for each in tested if each not in runs[name].get("only", ())]
            line = {"run": name, "seed": seed} | measure(options.domains, names, output)
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            print(line, flush=True)
        time.sleep(0.5)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
