"""`unisrec index`: item vectors of a checkpoint -> index for quick search."""

import argparse
import time
from pathlib import Path

from ._serving import load_recommender


EXAMPLE = """\
example:
  unisrec index runs/office --output runs/office-index
  unisrec recommend --model runs/office --index runs/office-index --history 1024

The kind is chosen by the size of the catalogue; recall is the share of the exact top 10 that the index finds for random
histories. Needs pip install "unisrec[ann]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder or Hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the index")
    parser.add_argument("--kind", default="auto", metavar="KIND", help="auto (default), ivf or hnsw")
    parser.add_argument(
        "--domain", metavar="DIR", help="index the items of this domain folder instead of the checkpoint's catalogue"
    )


def run(args: argparse.Namespace) -> int:
    from ..data.domain import check_output_folder
    from ..recommender.faiss_index import check_faiss, check_kind, choose_kind

    check_kind(args.kind)
    check_output_folder(args.output)
    try:
        check_faiss()
    except ImportError as error:  # not ours: one line and status 2
        raise ValueError(str(error)) from error
    recommender = load_recommender(args.model, args.domain)
    kind, reason = choose_kind(args.kind, len(recommender.processor.catalogue))
    if kind == "exact":  # an index is asked for all the same
        kind, reason = "hnsw", f"with {reason}, exact search is as quick"
    print(f"kind    {kind} ({reason})")
    start = time.perf_counter()
    index = recommender.use_index(kind)
    index.save(args.output, recommender.processor.catalogue.item_ids)
    size = (Path(args.output) / "index.faiss").stat().st_size
    print(f"items   {len(index):,}")
    print(f"recall  {index.recall:.3f} of the exact top 10, random histories")
    print(f"memory  {size / 1e6:,.1f} MB, and {index.vectors.nbytes / 1e6:,.1f} MB of item vectors")
    print(f"built   in {time.perf_counter() - start:,.1f} s: {args.output}")
    return 0
