"""`unisrec index`: item vectors of a checkpoint -> index for quick search."""

import argparse
import time
from pathlib import Path

from ._shared import Result, add_items_arguments, add_json, add_text_neighbours, load_recommender


EXAMPLE = """\
example:
  unisrec index runs/office --output runs/office-index
  unisrec recommend --model runs/office --index runs/office-index --history 1024

The kind is chosen by the size of the catalogue; recall is the share of the exact top 10 that the index finds for random
histories. Needs pip install "unisrec[ann]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the index")
    parser.add_argument("--kind", default="auto", metavar="KIND", help="auto (default), ivf or hnsw")
    add_items_arguments(parser)
    add_text_neighbours(parser)
    parser.add_argument(
        "--text-encoder", metavar="NAME_OR_PATH", help="text encoder to use if the checkpoint has none"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    from ..data.domain import check_output_folder
    from ..recommender.faiss_index import check_faiss, check_kind, choose_kind

    check_kind(args.kind)
    check_output_folder(args.output)
    try:
        check_faiss()
    except ImportError as error:  # not ours: one line and status 2
        raise ValueError(str(error)) from error
    recommender = load_recommender(args)
    kind, reason = choose_kind(args.kind, len(recommender.processor.catalogue))
    if kind == "exact":  # an index is asked for all the same
        kind, reason = "hnsw", f"with {reason}, exact search is as quick"
    start = time.perf_counter()
    index = recommender.use_index(kind)
    index.save(args.output, recommender.processor.catalogue.item_ids)
    found = {
        "kind": kind,
        "reason": reason,
        "items": len(index),
        "recall": index.recall,
        "index_bytes": (Path(args.output) / "index.faiss").stat().st_size,
        "vector_bytes": index.vectors.nbytes,
        "seconds": time.perf_counter() - start,
        "output": args.output,
    }
    text = f"""\
kind    {kind} ({reason})
items   {found["items"]:,}
recall  {index.recall:.3f} of the exact top 10, for random histories
memory  {found["index_bytes"] / 1e6:,.1f} MB, and {found["vector_bytes"] / 1e6:,.1f} MB of item vectors
built   in {found["seconds"]:,.1f} s: {args.output}"""
    return Result(text, found)
