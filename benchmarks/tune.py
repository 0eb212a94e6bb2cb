"""Tries settings of a transfer on one domain by its validation split; the test split is not read.

    python benchmarks/tune.py benchmarks/beauty_trials.yaml --domain domains/beauty --pretrained runs/pretrained \
        --output runs/beauty-trials --report beauty_trials.md

A trial file has `seeds`, a `base` (`setting`, `from_scratch`, `model_config`, `arguments` of `unisrec finetune`) and named
`trials`, which say what differs from it. Each trial runs once for each seed, at most to the epochs of the base or to its
early stopping, and leaves one line in `trials.jsonl` of the output folder: what was tried, each epoch's metrics, seconds.
A line that is there is not run again, unless its settings have changed. Exit status 2 for a bad trial file.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unisrec import UniSRecFinetuneArguments
from unisrec.trainer import build_finetune_trainer


METRIC = "eval_ndcg@10_seen_masked"


def merged(base: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial: those of the base where it does not say otherwise."""
    parts = {name: {**base.get(name, {}), **trial.get(name, {})} for name in ("model_config", "arguments")}
    return {**base, **trial, **parts}


def run(settings: Mapping[str, Any], seed: int, domain: Path, pretrained: str, folder: Path) -> dict[str, Any]:
    """Trains one trial; metrics of each epoch and seconds of training, validation included."""
    shutil.rmtree(folder, ignore_errors=True)
    arguments = {"metric_for_best_model": METRIC, **settings["arguments"]}
    # No checkpoints: what counts is the best epoch's metric, not its weights.
    arguments |= {
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
        "seed": seed,
        "text_neighbours": 0.0,
    }
    trainer = build_finetune_trainer(
        settings.get("model", pretrained),
        domain,
        settings["setting"],
        UniSRecFinetuneArguments(str(folder), **arguments),
        from_scratch=settings.get("from_scratch", False),
        model_config=settings["model_config"] or None,
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    shutil.rmtree(folder, ignore_errors=True)
    epochs = [
        {name: value for name, value in line.items() if "@" in name}
        for line in trainer.state.log_history
        if METRIC in line
    ]
    return {"epochs": epochs, "seconds": seconds}


def best_epoch(line: Mapping[str, Any]) -> int:
    """Place of the epoch with the highest metric."""
    return int(np.argmax([epoch[METRIC] for epoch in line["epochs"]]))


def table(trials: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """One row a trial, best first: metrics of its best epoch, against the base over the same seeds, and what it cost."""

    def metric(line: Mapping[str, Any], name: str = METRIC) -> float:
        return line["epochs"][best_epoch(line)][name]

    base = {line["seed"]: metric(line) for line in trials["base"]}
    rows = []
    for name, lines in trials.items():
        recall = np.mean([metric(line, "eval_recall@10_seen_masked") for line in lines])
        ndcg = [metric(line) for line in lines]
        against = np.mean([base[line["seed"]] for line in lines])
        spread = f" ± {np.std(ndcg, ddof=1):.4f}" if len(ndcg) > 1 else ""
        cells = [name, len(lines), f"{recall:.4f}", f"{np.mean(ndcg):.4f}{spread}"]
        cells.append("" if name == "base" else f"{np.mean(ndcg) / against - 1:+.1%}")
        cells.append(f"{np.mean([best_epoch(line) + 1 for line in lines]):.0f}")
        cells.append(f"{np.mean([line['seconds'] / len(line['epochs']) for line in lines]):.0f}")
        rows.append((np.mean(ndcg) / against, f"| {' | '.join(map(str, cells))} |"))
    head = [
        "| | seeds | R@10 masked | N@10 masked | against base | best epoch | seconds an epoch |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join(head + [row for _, row in sorted(rows, reverse=True)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=Path, help="YAML file of trials")
    parser.add_argument("--domain", type=Path, required=True, help="domain folder")
    parser.add_argument(
        "--pretrained", required=True, help="checkpoint whose settings or weights the trials start from"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the log of trials")
    parser.add_argument("--report", type=Path, help="Markdown file of the table (default: in --output)")
    args = parser.parse_args()
    try:
        plan = yaml.safe_load(args.trials.read_text(encoding="utf-8"))
        if missing := sorted({"title", "seeds", "base", "trials"} - set(plan)):
            raise ValueError(f"{args.trials} lacks {', '.join(missing)}; benchmarks/beauty_trials.yaml is an example.")
        args.output.mkdir(parents=True, exist_ok=True)
        log = args.output / "trials.jsonl"
        known = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        found: dict[str, list[dict[str, Any]]] = {}
        for name, trial in {"base": {}, **plan["trials"]}.items():
            settings = merged(plan["base"], trial or {})
            for seed in plan["seeds"]:
                done = [line for line in known if line["seed"] == seed and line["settings"] == settings]
                if not done:
                    result = run(settings, seed, args.domain, args.pretrained, args.output / "run")
                    done = [{"name": name, "seed": seed, "settings": settings, **result}]
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(done[0]) + "\n")
                found.setdefault(name, []).append(done[0])
                metric = done[0]["epochs"][best_epoch(done[0])][METRIC]
                print(f"{name}, seed {seed}: validation N@10 masked {metric:.4f}", flush=True)
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f"tune: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    text = f"# {plan['title']}\n\n{table(found)}\n"
    report = args.report or args.output / "trials.md"
    report.write_text(text, encoding="utf-8")
    print(f"\n{text}\nreport: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
