"""`unisrec update` against a refit: quality of what is recommended next, and time, for a tenth of new interactions.

The interactions are cut at two moments. `fit` learns from those before the first; `update` and a second `fit` then also
get those up to the second one, a tenth of what is known there. Each model recommends ten products to the customers that
bought before and after the second moment. What they bought after it for the first time is what should be found.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

import unisrec
from unisrec import fit_trainings
from unisrec.data import read_amazon
from unisrec.data.readers.item_texts import join_texts
from unisrec.recipes import recipes
from unisrec.recommender import Recommender


LATER, NEW = 0.1, 0.1  # share of all interactions after the second moment; share between both of those before it
COLUMNS = {"user_column": "user_id", "item_column": "item_id", "time_column": "time", "text_columns": ["text"]}


def sample(rows: pl.DataFrame, share: float) -> pl.DataFrame:
    """Interactions of a share of the users, chosen at random."""
    users = rows["user_id"].unique().sort().sample(fraction=share, seed=0)
    return rows.filter(pl.col("user_id").is_in(users.implode()))


def office(raw: Path, share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Amazon Office Products; its days only give the order of the reviews of a customer."""
    name = "Office_Products"
    found = read_amazon(raw / f"amazon/Ratings/{name}.csv.gz", raw / f"amazon/Metadata/meta_{name}.json.gz")
    return sample(found.interactions, share), found.items.drop_nulls("text")


def online_retail(raw: Path, share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Online Retail II with its customers for users; no returns, no postage and the like."""
    rows = pl.read_parquet(raw / "online_retail/online_retail_II_2009-2010.parquet")
    rows = rows.drop_nulls(["Customer ID", "Description"]).filter(
        (pl.col("Quantity") > 0) & pl.col("StockCode").str.contains(r"^\d{5}")
    )
    rows = rows.select(
        user_id=pl.col("Customer ID").cast(pl.Int64).cast(pl.String),
        item_id="StockCode",
        time=pl.col("InvoiceDate").str.to_datetime(),
        text=join_texts([pl.col("Description").str.to_lowercase()]),
    ).drop_nulls("text")
    rows = sample(rows, share)
    return rows.drop("text").unique(maintain_order=True), rows.group_by("item_id").agg(pl.col("text").mode().min())


SHOPS = {"office": office, "online-retail": online_retail}


def measure(folder: Path, known: pl.DataFrame, later: pl.DataFrame) -> dict[str, float]:
    """Recall@10 and NDCG@10 of the first purchases after the second moment."""
    recommender = Recommender.from_pretrained(folder)
    ids = set(recommender.processor.catalogue.item_ids)
    histories = {
        user: [item for item in items if item in ids]
        for user, items in known.sort("time", maintain_order=True).group_by("user_id").agg("item_id").iter_rows()
    }
    wanted = {
        user: set(items) & ids - set(histories.get(user, ()))
        for user, items in later.group_by("user_id").agg("item_id").iter_rows()
    }
    users = sorted(user for user, items in wanted.items() if items and histories.get(user))
    gains = 1 / np.log2(np.arange(10) + 2)
    recalls, ndcgs = [], []
    for user, items in zip(users, recommender.recommend([histories[user] for user in users], 10), strict=True):
        hits = np.array([item.item_id in wanted[user] for item in items], dtype=float)
        recalls.append(hits.sum() / min(len(wanted[user]), 10))
        ndcgs.append((hits * gains[: len(hits)]).sum() / gains[: len(wanted[user])].sum())
    return {"users": len(users), "recall@10": float(np.mean(recalls)), "ndcg@10": float(np.mean(ndcgs))}


def compare(name: str, args: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """Fits, updates and fits again. Returns metrics and processor seconds by row."""
    rows, items = SHOPS[name](args.raw, args.share)
    items = items.filter(pl.col("item_id").is_in(rows["item_id"].implode()))
    rows = rows.sort("time", maintain_order=True)  # of equal times some are before a moment: those of Office are days
    second = int((1 - LATER) * len(rows))
    first = int((1 - NEW) * second)
    known, later = rows[:second], rows[second:]
    old, new = known[:first], known[first:]
    print(f"{name}: {len(old):,} interactions, {len(new):,} new ones, {len(later):,} later ones", flush=True)
    table = {}

    def run(row: str, output: Path, work) -> None:
        start, wall = time.process_time(), time.monotonic()
        result = work()
        took = {"cpu_s": time.process_time() - start, "wall_s": time.monotonic() - wall}
        what = getattr(result, "chosen", None) or str(result)
        table[row] = measure(output, known, later) | took | {"what": what}
        print(f"{name}, {row}: {json.dumps(table[row])}", flush=True)

    options = {"budget": args.budget, "use_cpu": not args.gpu, "report": print if args.verbose else None, **COLUMNS}
    run("before", folder / "old", lambda: unisrec.fit(old, items, output=folder / "old", **options))
    for seed in range(args.updates):
        output = folder / f"updated-{seed}"
        quiet = {"output": output, "use_cpu": not args.gpu, "report": options["report"], "seed": seed}
        run(f"update, seed {seed}", output, lambda quiet=quiet: unisrec.update(folder / "old", new, **quiet))
    if not args.no_refit:
        run("refit", folder / "refit", lambda: unisrec.fit(known, items, output=folder / "refit", **options))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder of amazon/ and online_retail/")
    parser.add_argument("--shops", nargs="+", choices=SHOPS, default=list(SHOPS))
    parser.add_argument("--budget", type=float, default=10, help="minutes of each fit (10)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the users (1)")
    parser.add_argument("--recipes", type=int, metavar="N", help="only the first recipes that fit tries (all)")
    parser.add_argument("--updates", type=int, default=1, help="seeds of the update (1)")
    parser.add_argument("--gpu", action="store_true", help="train on an accelerator (default: on the CPU)")
    parser.add_argument("--no-refit", action="store_true", help="measure the update alone")
    parser.add_argument("--work", type=Path, help="folder to keep the checkpoints in")
    parser.add_argument("--verbose", action="store_true", help="print what fit and update say")
    args = parser.parse_args()
    if args.recipes is not None:
        fit_trainings.recipes = lambda *shop: recipes(*shop)[: args.recipes]
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.shops:
            table = compare(name, args, (args.work or Path(temporary)) / name)
            print(f"\n| {name} | Recall@10 | NDCG@10 | CPU s | s |\n|---|---|---|---|---|")
            for row, found in table.items():
                cells = (
                    f"{found['recall@10']:.4f} | {found['ndcg@10']:.4f} | {found['cpu_s']:.0f} | {found['wall_s']:.0f}"
                )
                print(f"| {row} ({found['users']:,} users) | {cells} |")
            print(flush=True)


if __name__ == "__main__":
    main()
