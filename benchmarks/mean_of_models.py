"""Ranks by the mean of several checkpoints of one domain, which costs as many models and no training.

    python benchmarks/mean_of_models.py --domain domains/beauty --seeds 1 2 3 \
        --models "runs/beauty-grid/text-id--from-scratch-{seed}" "runs/beauty-grid/text-id--from-text-only-{seed}"

The mean of the scores is the product of vectors laid end to end, so an index of such vectors serves it, too. `{seed}` in a
name stands for each of the seeds. Exit status 2 where a checkpoint knows another catalogue than the domain's.
"""

import argparse
import sys
from pathlib import Path

import torch
from reproduce import METRICS, PROTOCOLS, cell
from torch.utils.data import DataLoader

from unisrec.data import Domain, leave_one_out
from unisrec.evaluation import RankingDataset, ranking_metrics, ranks_of_targets
from unisrec.evaluation.ranking import RankingCollator
from unisrec.trainer.ensemble import Ensemble


@torch.inference_mode()
def mean_metrics(models: list[str], domain: Domain, split: str) -> dict[str, float]:
    """Metrics of the mean of models, `split` "valid" or "test"."""
    ensemble = Ensemble.load(models, domain, torch.device("cpu"))
    users = RankingDataset(leave_one_out(domain, split), domain.items["text"].to_list())
    ranks = []
    for batch in DataLoader(users, batch_size=512, collate_fn=RankingCollator(ensemble.max_length)):
        item_index = batch["item_index"]
        rows, length = item_index.shape
        last = torch.arange(rows) * length + (item_index > 0).sum(1) - 1
        queries = ensemble.queries(item_index, last)
        ranks.append(ranks_of_targets(queries, ensemble.candidates, batch["labels"], batch["seen"]))
    return ranking_metrics(torch.cat(ranks).numpy())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", type=Path, required=True, help="domain folder")
    parser.add_argument("--models", nargs="+", required=True, help="checkpoints, with {seed} for the seed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="a mean of models for each")
    parser.add_argument("--split", choices=["valid", "test"], default="test", help="which targets")
    args = parser.parse_args()
    try:
        domain = Domain.load_from_disk(args.domain)
        found = [
            mean_metrics([name.format(seed=seed) for name in args.models], domain, args.split) for seed in args.seeds
        ]
    except (OSError, ValueError) as error:
        print(f"mean_of_models: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print("| | R@10 | N@10 | R@50 | N@50 |\n|---|---:|---:|---:|---:|")
    for protocol, suffix in PROTOCOLS.items():
        cells = [cell([metrics[name + suffix] for metrics in found]) for name in METRICS]
        print(f"| {protocol} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
