"""Full ranking of users among a catalogue, ours against a matrix of scores and its best 50, batch by batch.

    python benchmarks/evaluation.py

The reference is the official way: in each batch the catalogue goes through the experts again, histories are padded to 50,
scores are a matrix of users and items, of which the best 50 are taken; recall and NDCG as in ours, seen items kept. The second
row ranks ready vectors, so it shows scores and ranks alone. The trainer's whole evaluation is timed, collator included.
"""

from collections.abc import Callable

import numpy as np
import torch
from _steps import Workload
from _timing import compare, count, describe, header, measure_machine, parser
from accelerate import Accelerator
from reference import OfficialUniSRec, pad_rows
from torch.nn import functional as F

from unisrec.data import Split
from unisrec.evaluation import RankingDataset, rank_targets, ranking_metrics, ranks_of_targets


BATCH = 512


def make_split(num_users: int, num_items: int) -> Split:
    """Users with histories as in Office and a target."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(5), 0.7, num_users), 1, 50).astype(int)
    items = rng.integers(num_items, size=lengths.sum())
    targets = rng.integers(num_items, size=num_users)
    return Split(items, np.concatenate([[0], np.cumsum(lengths)]), np.arange(num_users), targets)


def best_50(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """NDCG@50 of each row."""
    hits = scores.topk(min(50, scores.shape[1])).indices == targets[:, None]
    return (hits / torch.log2(torch.arange(hits.shape[1]) + 2.0)).sum(1)


def evaluations(num_users: int, num_items: int, path: str) -> Callable[[], float]:
    """A function that gives NDCG@50, `path` "ours" or "reference"."""
    workload = Workload(num_items=num_items)
    model, texts, split = workload.model().eval(), workload.text_embeds(), make_split(num_users, num_items)
    if path == "ours":
        users, accelerator = RankingDataset(split, texts), Accelerator(cpu=True)
        return lambda: ranking_metrics(rank_targets(model, users, batch_size=BATCH, accelerator=accelerator))[
            "ndcg@50"
        ]

    official = OfficialUniSRec(model, torch.from_numpy(texts)).eval()
    histories = [(part + 1).tolist() for part in np.split(split.flat, split.offsets[1:-1])]
    rows, lengths = pad_rows(histories, workload.length)
    targets = torch.from_numpy(split.targets)

    @torch.no_grad()
    def evaluate() -> float:
        gains = []
        for part in torch.arange(num_users).split(BATCH):
            catalogue = F.normalize(official.items(torch.arange(1, num_items + 1)), dim=-1)
            states = official.encode(official.items(rows[part]), lengths[part])
            gains.append(best_50(F.normalize(states, dim=-1) @ catalogue.T, targets[part]))
        return torch.cat(gains).mean().item()

    return evaluate


def rankings(num_users: int, num_items: int, path: str) -> Callable[[], float]:
    """The same for ready vectors."""
    torch.manual_seed(0)
    queries, items = torch.randn(num_users, 300), torch.randn(num_items, 300)
    targets, seen = torch.randint(num_items, (num_users,)), torch.randint(num_items, (num_users, 6))
    parts = list(zip(queries.split(BATCH), targets.split(BATCH), seen.split(BATCH), strict=True))
    if path == "reference":
        return lambda: torch.cat([best_50(query @ items.T, target) for query, target, _ in parts]).mean().item()

    def rank() -> float:
        ranks = torch.cat([ranks_of_targets(query, items, target, seen) for query, target, seen in parts])[:, 0]
        return ((ranks < 50) / torch.log2(ranks + 2)).mean().item()

    return rank


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--users", type=int, default=16_000)
    args.add_argument("--items", type=int, default=12_000)
    args = args.parse_args()
    sizes = (40, 60) if args.smoke else (args.users, args.items)
    machine = measure_machine(256, 1 << 16) if args.smoke else measure_machine()
    print(describe(machine), header(), sep="\n\n")
    for name, prepare in (("evaluation", evaluations), ("scores and ranks alone", rankings)):
        ours, reference = prepare(*sizes, "ours"), prepare(*sizes, "reference")
        if args.smoke:
            assert abs(ours() - reference()) < 1e-4
        comparison = compare(
            f"{name}, {sizes[0]:,} users x {sizes[1]:,} items", ours, reference, 1 if args.smoke else args.rounds, 1
        )
        if not args.smoke:
            comparison.our_cost = count(prepare, *sizes, "ours")
            comparison.reference_cost = count(prepare, *sizes, "reference")
        print(comparison.row(machine), flush=True)


if __name__ == "__main__":
    main()
