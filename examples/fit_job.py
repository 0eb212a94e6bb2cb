# /// script
# requires-python = ">=3.11"
# dependencies = ["unisrec[offline,plots]"]
# ///
"""
From two tables of a shop, which may be datasets of the Hub, to a checkpoint on the Hub: `unisrec fit` and `unisrec push`.

    hf jobs uv run --flavor t4-small --timeout 2h --secrets HF_TOKEN examples/fit_job.py shop/clicks --items shop/products \
        --push shop/unisrec-shop --private
    python examples/fit_job.py clicks.csv --items products.csv --output model

The first runs on a machine of Hugging Face, the second here. Columns are recognised by name or content. All other options
behind the name of the interactions are passed to `unisrec fit`, such as --user-column customer --budget 60.

A package index must hold this release of unisrec. Otherwise name the address of a wheel in `dependencies` above:
"unisrec[offline,plots] @ https://.../unisrec-0.1.0-py3-none-any.whl".
"""

import argparse
import sys
import tempfile
from pathlib import Path

from unisrec.cli import main as unisrec


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("interactions", help="file, or owner/name of a dataset")
    parser.add_argument("--items", help="file, or owner/name of a dataset")
    parser.add_argument("--output", type=Path, help="new folder for the checkpoint (default: a temporary one)")
    parser.add_argument("--push", metavar="REPO_ID", help="repository for the checkpoint")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    args, options = parser.parse_known_args(words)
    if args.output is None and args.push is None:
        parser.error("the checkpoint goes nowhere: add --output or --push")
    with tempfile.TemporaryDirectory() as scratch:
        output = str(args.output or Path(scratch) / (args.push or "").rpartition("/")[2])
        items = [] if args.items is None else ["--items", args.items]
        status = unisrec(["fit", args.interactions, *items, "--output", output, *options])
        if status == 0 and args.push is not None:
            status = unisrec(["push", output, args.push, *(["--private"] if args.private else [])])
    return status


if __name__ == "__main__":
    sys.exit(main())
