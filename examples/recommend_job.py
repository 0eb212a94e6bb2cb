# /// script
# requires-python = ">=3.11"
# dependencies = ["unisrec[offline]"]
# ///
"""
Recommendations for all users of a domain, as a parquet file or a dataset of the Hub.

    hf jobs uv run --flavor t4-small --secrets HF_TOKEN examples/recommend_job.py shop/unisrec-shop shop/purchases \
        --push shop/recommendations --top-k 50
    python examples/recommend_job.py runs/shop domains/shop --output tonight.parquet --where "stock > 0"

The domain is a folder, or a dataset that `Domain.push_to_hub` wrote. The dataset of recommendations is private if it is new.

A package index must hold this release of unisrec. Otherwise name the address of a wheel in `dependencies` above:
"unisrec[offline] @ https://.../unisrec-0.1.0-py3-none-any.whl".
"""

import argparse
from pathlib import Path

from unisrec import Domain, Recommender


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint: folder, unisrec-base or Hub id")
    parser.add_argument("domain", help="domain: folder or Hub id")
    parser.add_argument("--output", type=Path, help="parquet file")
    parser.add_argument("--push", metavar="REPO_ID", help="dataset for the recommendations")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--where", metavar="CONDITION", help='condition on columns of the items, such as "stock > 0"')
    args = parser.parse_args(words)
    if args.output is None and args.push is None:
        parser.error("the recommendations go nowhere: add --output or --push")
    domain = Domain.load_from_disk(args.domain) if Path(args.domain).is_dir() else Domain.from_hub(args.domain)
    recommender = Recommender.from_pretrained(args.model)
    if recommender.model.config.num_items is None:  # it ranks any items, so those of the domain
        recommender = Recommender.from_pretrained(args.model, domain)
    found = recommender.recommend_dataset(domain, top_k=args.top_k, where=args.where, progress=True)
    print(f"{found.num_rows:,} recommendations for {domain.num_users:,} users")
    if args.output is not None:
        found.to_parquet(args.output)
    if args.push is not None:
        found.push_to_hub(args.push, private=True)


if __name__ == "__main__":
    main()
