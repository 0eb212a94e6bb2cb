"""Ranks by the mean of several checkpoints of one domain, which costs as many models and no training.

    python benchmarks/mean_of_models.py --domain domains/beauty --seeds 1 2 3 \
        --models "runs/beauty-grid/text-id--from-scratch-{seed}" "runs/beauty-grid/text-id--from-text-only-{seed}"

The mean of the cosines is the product of unit vectors laid end to end, so an index of such vectors serves it, too. `{seed}` in a
name stands for each of the seeds. Exit status 2 where a checkpoint knows another catalogue than the domain's.
"""

import argparse
import sys
from pathlib import Path

import torch
from reproduce import METRICS, PROTOCOLS, cell
from torch.nn import functional as F
from torch.utils.data import DataLoader

from unisrec.data import Domain, leave_one_out
from unisrec.modeling_unisrec import encode_catalogue
from unisrec.trainer import RankingDataset, ranking_metrics, ranks_of_targets
from unisrec.trainer.checkpoints import load_checkpoint
from unisrec.trainer.data_collator import RankingCollator


@torch.inference_mode()
def mean_metrics(models: list[str], domain: Domain, split: str) -> dict[str, float]:
    """Metrics of the mean of models, `split` "valid" or "test"."""
    parts = []
    for name in models:
        model, processor = load_checkpoint(name)
        catalogue = processor.catalogue
        if model.config.similarity != "cosine":
            raise ValueError(f"{name}: scores by the plain product, which has no common scale; expected cosine.")
        if catalogue is None or catalogue.item_ids != domain.items["item_id"].to_list():
            raise ValueError(f"{name}: its catalogue is not that of {domain.name}; fine-tune it on this domain first.")
        parts.append((model.eval(), encode_catalogue(model, catalogue)))
    users = RankingDataset(leave_one_out(domain, split), catalogue.texts)
    length = min(model.config.max_position_embeddings for model, _ in parts)
    candidates = torch.cat([F.normalize(items, dim=-1) for _, items in parts], dim=-1)
    ranks = []
    for batch in DataLoader(users, batch_size=512, collate_fn=RankingCollator(length)):
        states = [model.get_sequence_features(batch["item_index"], items) for model, items in parts]
        queries = torch.cat([F.normalize(state, dim=-1) for state in states], dim=-1)
        ranks.append(ranks_of_targets(queries, candidates, batch["labels"], batch["seen"]))
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
