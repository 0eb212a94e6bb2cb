"""Runs a grid of transfers and baselines on one domain and renders it as a table and a picture.

    python benchmarks/reproduce.py benchmarks/office.yaml --domain domains/office --pretrained runs/pretrained \
        --output runs/office-grid --report docs/office.md

A grid file names rows; a row is a baseline without a model, or a transfer with the arguments of `unisrec finetune`; its `model`
may be that of another row, with `{seed}` for the seed.
Every transfer runs once for each seed. Runs that are finished are read, not run again, so the command can be stopped and
started; what a stopped run has left is cleared away. Exit status 2 for a bad grid.
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

import unisrec
from unisrec.data import Domain, leave_one_out
from unisrec.data.text_features import load_text_features
from unisrec.evaluation import evaluate
from unisrec.evaluation.baselines import popularity_metrics, random_metrics, text_neighbour_metrics
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.trainer import UniSRecFinetuneArguments, finetune


METRICS = ("recall@10", "ndcg@10", "recall@50", "ndcg@50")
PROTOCOLS = {"seen items kept": "", "seen items masked": "_seen_masked"}
CONFIGS = Path(unisrec.__file__).parent / "configs"


def baseline(kind: str, domain_dir: Path, domain: Domain, pretrained: str) -> dict[str, float]:
    """Metrics of a row without training: `random`, `popularity`, `text-neighbours` or `zero-shot`."""
    train, test = leave_one_out(domain, "train"), leave_one_out(domain, "test")
    if kind == "random":
        return random_metrics(test, domain.num_items)
    if kind == "popularity":
        return popularity_metrics(train, test, domain.num_items)
    if kind == "zero-shot":
        return evaluate(pretrained, domain_dir, "test", text_neighbours=0)  # the model alone
    if kind != "text-neighbours":
        raise ValueError(f"baseline {kind!r}: expected random, popularity, text-neighbours or zero-shot.")
    model, processor = load_checkpoint(pretrained)
    texts = domain.items["text"].to_list()
    vectors = load_text_features(domain_dir, texts, model.text_encoder, processor.tokenizer)
    return text_neighbour_metrics(test, vectors)


def transfer(row: Mapping[str, Any], seed: int, domain_dir: Path, pretrained: str, folder: Path) -> dict[str, float]:
    """Metrics and seconds of one run; those on disk where it is finished."""
    results = folder / "grid.json"
    if results.is_file():
        return json.loads(results.read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    arguments = {"text_neighbours": 0.0} | dict(
        row.get("arguments", {})
    )  # the model alone, unless a row says otherwise
    if row.get("config"):
        arguments = yaml.safe_load((CONFIGS / f"{row['config']}-finetune.yaml").read_text()) | arguments
    start = time.perf_counter()
    result = finetune(
        row.get("model", pretrained).format(seed=seed),
        domain_dir,
        row["setting"],
        UniSRecFinetuneArguments(str(folder), seed=seed, **arguments),
        from_scratch=row.get("from_scratch", False),
        model_config=row.get("model_config"),
    )
    found = result.metrics | {"seconds": time.perf_counter() - start, "epochs": result.trainer.state.epoch}
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    results.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def cell(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds (with n - 1) where there are several."""
    mean = f"{np.mean(values):.4f}".lstrip("0")
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.4f}".replace(" 0.", " .")


def difference(values: list[float], reported: float | None) -> str:
    return "" if reported is None else f"{np.mean(values) / reported - 1:+.1%}"


def table(rows: Mapping[str, Any], found: Mapping[str, list[dict[str, float]]], suffix: str) -> str:
    """Reported / ours / difference of R@10 and N@10, and R@50 and N@50, in Markdown."""
    lines = [
        "| | seeds | reported R@10 / N@10 | R@10 | diff | N@10 | diff | R@50 | N@50 | epochs | minutes |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, runs in found.items():
        # What was reported was measured with seen items kept.
        reported = rows[name].get("reported", {}) if suffix == "" else {}
        values = {metric: [run[metric + suffix] for run in runs] for metric in METRICS}
        said = " / ".join(f"{reported[metric]:.4f}".lstrip("0") for metric in METRICS[:2]) if reported else ""
        cost = ["", ""]
        if "seconds" in runs[0]:
            cost = [
                f"{np.mean([run['epochs'] for run in runs]):.0f}",
                f"{np.mean([run['seconds'] for run in runs]) / 60:.1f}",
            ]
        cells = [name, str(len(runs)), said]
        for metric in METRICS[:2]:
            cells += [cell(values[metric]), difference(values[metric], reported.get(metric))]
        cells += [cell(values[metric]) for metric in METRICS[2:]] + cost
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Mapping[str, list[dict[str, float]]], rows: Mapping[str, Any], title: str, file: Path) -> None:
    """N@10 of each row, one dot a seed, what was reported as a line across."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 0.36 * len(found) + 1.2), layout="constrained")
    for place, (name, runs) in enumerate(found.items()):
        values = [run["ndcg@10"] for run in runs]
        axes.barh(place, np.mean(values), color="#9ecae1")
        axes.plot(values, [place] * len(values), "o", color="#08519c", markersize=4)
        if reported := rows[name].get("reported"):
            axes.plot([reported["ndcg@10"]] * 2, [place - 0.4, place + 0.4], color="#cb181d", linewidth=2)
    axes.set_yticks(range(len(found)), found)
    axes.invert_yaxis()
    axes.set_xlabel("NDCG@10, seen items kept (dots: seeds; red: reported)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def report(grid: Mapping[str, Any], domain: Domain, found: Mapping[str, list[dict[str, float]]]) -> str:
    """The Markdown of a grid."""
    test = leave_one_out(domain, "test")
    parts = [
        f"# {grid['title']}",
        grid.get("note", "").strip(),
        f"Domain `{domain.name}`, content hash `{domain.content_hash[:12]}`: {domain.num_users:,} users, "
        f"{domain.num_items:,} items, {domain.num_interactions:,} interactions. Leave-one-out, test split, {len(test):,} "
        "users, full ranking, ties at their mean position. Mean ± standard deviation over seeds.",
    ]
    for protocol, suffix in PROTOCOLS.items():
        parts += [f"## {protocol.capitalize()}", table(grid["rows"], found, suffix)]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path, help="YAML file of rows")
    parser.add_argument("--domain", type=Path, required=True, help="domain folder")
    parser.add_argument("--pretrained", required=True, help="pre-trained checkpoint: folder or Hub id")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--report", type=Path, help="Markdown file; the picture goes beside it (default: in --output)")
    parser.add_argument("--rows", nargs="+", help="only these rows")
    args = parser.parse_args()
    try:
        grid = yaml.safe_load(args.grid.read_text(encoding="utf-8"))
        domain = Domain.load_from_disk(args.domain)
        found: dict[str, list[dict[str, float]]] = {}
        for name, row in grid["rows"].items():
            if args.rows and name not in args.rows:
                continue
            if "baseline" in row:
                found[name] = [baseline(row["baseline"], args.domain, domain, row.get("model", args.pretrained))]
            else:
                slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
                seeds = row.get("seeds", grid["seeds"])
                found[name] = [
                    transfer(row, seed, args.domain, args.pretrained, args.output / f"{slug}-{seed}") for seed in seeds
                ]
            print(f"{name}: N@10 {cell([run['ndcg@10'] for run in found[name]])}", flush=True)
    except (OSError, KeyError, ValueError) as error:
        print(f"reproduce: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    file = args.report or args.output / "report.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = file.with_suffix(".png")
    plot(found, grid["rows"], grid["title"], picture)
    file.write_text(report(grid, domain, found) + f"\n![{grid['title']}]({picture.name})\n", encoding="utf-8")
    print(f"report: {file}, picture: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
