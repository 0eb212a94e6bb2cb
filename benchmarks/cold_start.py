"""How well items are recommended that came after training: a fifth of a domain is held out of it and added by text.

    python benchmarks/cold_start.py --domain domains/office --pretrained runs/pretrained --output runs/cold-start \
        --report cold_start.md

The held-out items are drawn once for each seed; nobody's training or validation history holds one of them. The models are
trained on the catalogue of the others, then the held-out items are added by `Recommender.add_items`, and all users are
ranked whose test item is one of them, in the whole catalogue. Runs that are finished are read, not run again.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F

import unisrec
from unisrec.data import Domain
from unisrec.evaluation.metrics import ranking_metrics, target_ranks
from unisrec.recommender import Recommender
from unisrec.trainer import UniSRecFinetuneArguments, finetune


MODELS: dict[str, dict[str, Any]] = {
    "ID only (SASRec)": {
        "setting": "transductive",
        "from_scratch": True,
        "model_config": {"item_text": False, "similarity": "dot"},
    },
    "text + ID": {"setting": "transductive"},
    "text only": {"setting": "inductive"},
}
METRICS = ("recall@10", "ndcg@10", "recall@10_seen_masked", "ndcg@10_seen_masked")


def hold_out(domain: Domain, share: float, seed: int) -> tuple[Domain, np.ndarray]:
    """The domain without a share of its items, and which of its items are left, `(num_items,)`. Users with fewer than
    three interactions left are gone too: they would be trained on up to the item that they are to be tested with."""
    left = np.ones(domain.num_items, dtype=bool)
    left[np.random.default_rng(seed).choice(domain.num_items, int(share * domain.num_items), replace=False)] = False
    new_row = np.cumsum(left) - 1
    histories = [
        [int(new_row[row]) for row in domain.flat[start:end] if left[row]]
        for start, end in zip(domain.offsets, domain.offsets[1:], strict=False)
    ]
    sequences = pl.DataFrame(
        {"user_id": domain.sequences["user_id"], "item_index": histories},
        schema=domain.sequences.select("user_id", "item_index").schema,
    ).filter(pl.col("item_index").list.len() >= 3)
    info = {**domain.info, "held_out_items": int((~left).sum()), "held_out_seed": seed}
    return Domain(f"{domain.name}-warm", domain.items.filter(pl.Series(left)), sequences, info), left


class Users:
    """Users whose test item is held out: their histories, and the ranks that scores of the catalogue give the targets."""

    def __init__(self, domain: Domain, left: np.ndarray):
        ids = domain.items["item_id"].to_list()
        spans = list(zip(domain.offsets[:-1], domain.offsets[1:], strict=True))
        spans = [(start, end) for start, end in spans if not left[domain.flat[end - 1]]]
        rows = [domain.flat[start : end - 1].tolist() for start, end in spans]
        self.histories = [[ids[row] for row in history] for history in rows]
        self.targets = torch.tensor([int(domain.flat[end - 1]) for _, end in spans])
        seen = [torch.tensor(sorted(set(history))) for history in rows]
        self.seen = torch.nn.utils.rnn.pad_sequence(seen, batch_first=True, padding_value=-1)

    def metrics(self, scores: np.ndarray) -> dict[str, float]:
        """Of scores `(num_users, num_items)` in the order of the domain's items."""
        return ranking_metrics(target_ranks(torch.from_numpy(scores), self.targets, self.seen).numpy())


def measure(folder: Path, domain: Domain, left: np.ndarray, users: Users) -> dict[str, float]:
    """Metrics of a checkpoint to which the held-out items are added."""
    recommender = Recommender.from_pretrained(folder)
    new = domain.items.filter(pl.Series(~left))
    recommender.add_items(dict(zip(new["item_id"], new["text"], strict=True)))
    catalogue = recommender.processor.catalogue
    order = [catalogue.row(item_id) for item_id in domain.items["item_id"]]
    return users.metrics(recommender.encode_users(users.histories) @ recommender.item_embeds[order].T)


def text_neighbours(options: argparse.Namespace, users: Users) -> dict[str, float]:
    """Metrics of the cosine between text vectors and the mean of the history's."""
    catalogue = Recommender.from_pretrained(options.pretrained, options.domain).processor.catalogue
    vectors = F.normalize(catalogue.item_embeddings, dim=-1)
    means = [vectors[[catalogue.row(item_id) for item_id in history]].mean(0) for history in users.histories]
    return users.metrics((torch.stack(means) @ vectors.T).numpy())


def run_seed(options: argparse.Namespace, domain: Domain, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of all rows for one choice of items and one seed of training."""
    warm, left = hold_out(domain, options.share, seed)
    users = Users(domain, left)
    folder = options.output / f"seed-{seed}"
    if not (folder / "domain").is_dir():
        warm.save_to_disk(folder / "domain")
    found = {"users": {"count": len(users.histories), "items": int((~left).sum())}}
    found["text neighbours"] = text_neighbours(options, users)
    for name, how in MODELS.items():
        run = folder / "".join(letter if letter.isalnum() else "-" for letter in name)
        results = run / "cold_start.json"
        if not results.is_file():
            arguments = UniSRecFinetuneArguments(
                str(run),
                seed=seed,
                per_device_train_batch_size=512,
                freeze_sequence_encoder=not how.get("from_scratch", False),
                disable_tqdm=True,
            )
            finetune(options.pretrained, folder / "domain", args=arguments, **how)
            results.write_text(json.dumps(measure(run, domain, left, users)))
        found[name] = json.loads(results.read_text())
        print(f"seed {seed}  {name:18}  R@10 {found[name]['recall@10']:.4f}  N@10 {found[name]['ndcg@10']:.4f}")
    return found


def table(found: list[Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: means over seeds."""
    counts = [f"{run['users']['count']:,} users, {run['users']['items']:,} items" for run in found]
    lines = [
        f"Test items held out: {'; '.join(counts)}; {len(found)} seed{'s' if len(found) > 1 else ''}.",
        "",
        "| | R@10 kept | N@10 kept | R@10 masked | N@10 masked |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in ("text neighbours", *MODELS):
        means = [np.mean([run[name][metric] for run in found]) for metric in METRICS]
        lines.append(f"| {name} | {' | '.join(f'{mean:.4f}'.removeprefix('0') for mean in means)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", type=Path, required=True, help="domain folder")
    parser.add_argument("--pretrained", required=True, help="pre-trained checkpoint with its text encoder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--report", type=Path, required=True, help="Markdown file")
    parser.add_argument("--share", type=float, default=0.2, help="of the items that are held out (0.2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one run of every model for each (1)")
    options = parser.parse_args()
    unisrec.register()
    domain = Domain.load_from_disk(options.domain)
    found = [run_seed(options, domain, seed) for seed in options.seeds]
    options.report.write_text(table(found), encoding="utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
