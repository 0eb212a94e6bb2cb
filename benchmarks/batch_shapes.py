"""Batches of fixed shapes (`--static_batches`): how many shapes there are, and how much of them is filled.

python benchmarks/batch_shapes.py --domains domains/beauty domains/toys domains/online-retail
"""

import argparse

from unisrec.data import Domain, leave_one_out
from unisrec.trainer import PretrainCollator, TargetBatchSampler, WindowDataset
from unisrec.trainer.batches import StaticShapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", required=True, help="prepared domain folders")
    parser.add_argument("--targets", type=int, nargs="+", default=[2048, 8192], help="targets a step")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--length", type=int, default=50, help="most inputs of a window")
    args = parser.parse_args()
    domains = [Domain.load_from_disk(folder) for folder in args.domains]
    sizes = [domain.num_items for domain in domains]
    windows = WindowDataset([leave_one_out(domain, "train") for domain in domains], sizes, args.length)
    print("| targets a step | domains of a step | batches | shapes | places filled |\n|---|---|---:|---:|---:|")
    for targets in args.targets:
        collate = PretrainCollator(None, sum(sizes), shapes=StaticShapes.of(windows.lengths, targets))
        for one_domain in (False, True):
            sampler = TargetBatchSampler(windows, targets, seed=1, one_domain=one_domain)
            shapes, filled, places, batches = set(), 0, 0, 0
            for epoch in range(args.epochs):
                windows.set_epoch(epoch)
                for indices in sampler:
                    batch = collate(windows.__getitems__(indices))
                    originals, _ = batch["item_index"].chunk(2)
                    shapes.add(tuple(batch[name].shape for name in ("item_index", "query_index", "items")))
                    filled, places = filled + int((originals > 0).sum()), places + originals.numel()
                    batches += 1
            kind = "one" if one_domain else "mixed"
            print(f"| {targets:,} | {kind} | {batches} | {len(shapes)} | {filled / places:.0%} |", flush=True)


if __name__ == "__main__":
    main()
