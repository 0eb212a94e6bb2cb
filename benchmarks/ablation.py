"""Pre-trainings that differ from the recipe of base.yaml, several at a time, and what each is worth on shops never seen.

    python benchmarks/ablation.py --domains runs/base/domains --output runs/ablation --jobs 4 [--runs "mixed batches" ...]
        [--seeds 1 2 3] [--bf16 true --static_batches true ...]

`--domains` is the folder that `base.py` prepares. Each run saves twenty checkpoints; the mean of the weights of the last ten is
ranked zero-shot on the validation and test users of Office and of the domains that the run leaves out. Further arguments are
those of `unisrec pretrain`, for all runs. `OUTPUT/results.jsonl` holds a line for each run; runs that are there are not repeated,
so the command can be stopped and started again.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from base import RECIPE, mean_weights

from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec.checkpoint import load_checkpoint


RUNS = Path(__file__).with_suffix(".yaml")
NUM_CHECKPOINTS, NUM_AVERAGED = 20, 10


def command(run: dict[str, Any], seed: int, domains: Path, output: Path, rest: list[str]) -> list[str]:
    """The command of one run. Raises `ValueError` for a domain that is not there."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    (unseen,) = recipe["zero_shot_domain"]
    run = dict(run)
    names = run.pop("only", [name for name in recipe["domains"] if name not in run.get("without", ())])
    run.pop("without", None)
    for name in [*names, unseen]:
        if not (domains / name).is_dir():
            raise ValueError(f"{domains / name} is missing: prepare the domains by `python benchmarks/base.py` first.")
    settings = recipe["pretrain"] | {"save_total_limit": None, "load_best_model_at_end": False, "seed": seed}
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


def measure(run: dict[str, Any], domains: Path, output: Path) -> dict[str, Any]:
    """Zero-shot metrics of the mean of the last checkpoints, and the speed of the run."""
    steps = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    model, processor = load_checkpoint(output)
    model.load_state_dict(mean_weights(steps[-NUM_AVERAGED:]), strict=False)  # checkpoints have no text encoder
    averaged = output.with_name(f"{output.name}-averaged")
    model.save_pretrained(averaged)
    processor.save_pretrained(averaged)
    found: dict[str, Any] = {}
    for name in ["office", *run.get("without", ())]:
        for split in ("valid", "test"):
            metrics = evaluate(averaged, domains / name, split, text_neighbours=0)  # the model alone
            found |= {f"{name} {split} {metric}": metrics[metric] for metric in ("ndcg@10", "ndcg@10_seen_masked")}
    log = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = sorted(entry["targets_per_second"] for entry in log if "targets_per_second" in entry)
    return found | {"targets_per_second": speeds[len(speeds) // 2]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=Path, required=True, help="folder of the prepared domains")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results.jsonl")
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="runs of ablation.yaml (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options, rest = parser.parse_known_args()
    specification = yaml.safe_load(RUNS.read_text(encoding="utf-8"))
    runs = {name: specification["common"] | run for name, run in specification["runs"].items()}
    if unknown := set(options.runs or ()) - set(runs):
        parser.error(f"--runs {sorted(unknown)[0]!r} is none of {', '.join(runs)}.")
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
            line = {"run": name, "seed": seed} | measure(runs[name], options.domains, output)
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            print(line, flush=True)
        time.sleep(0.5)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
