"""Helpers shared by the serving commands: history entries, the items to rank, and loading of a recommender."""

import argparse
import sys
import time
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..modeling_unisrec import ItemCatalogue
    from ..recommender import Recommender


def parse_entry(entry: str) -> str | dict[str, str]:
    """Parses a history entry: `text:...` is a text; anything else is an id, optionally prefixed with `id:`."""
    kind, colon, value = entry.partition(":")
    if colon and kind in ("text", "id"):
        return {"text": value} if kind == "text" else {"item_id": value}
    return entry


def add_items_arguments(
    parser: argparse.ArgumentParser, domain: str = "likewise, the items of a domain folder"
) -> None:
    """Adds the options that name the items to rank; `domain` is the help for `--domain`."""
    items = parser.add_mutually_exclusive_group()
    items.add_argument(
        "--items",
        metavar="SOURCE",
        help="these products instead of the checkpoint's catalogue: .csv, .tsv, .jsonl, .parquet or a dataset",
    )
    items.add_argument("--domain", metavar="DIR", help=domain)
    parser.add_argument("--item-column", metavar="COLUMN", help="ids of --items (default: item_id)")
    parser.add_argument(
        "--text-columns",
        nargs="+",
        metavar="COLUMN",
        help="item text of --items, in order (default: title, or else text)",
    )


def given_items(args: argparse.Namespace) -> "ItemCatalogue | None":
    """Returns the items that the options of a command name, `None` for none."""
    from ..recommender.catalogue import make_catalogue

    if args.items is None and (args.item_column is not None or args.text_columns is not None):
        raise ValueError("--item-column and --text-columns name columns of --items: name the products by --items too.")
    items = args.items if args.domain is None else args.domain
    return make_catalogue(items, item_column=args.item_column, text_columns=args.text_columns)


def load_recommender(args: argparse.Namespace, index: str = "exact") -> "Recommender":
    """Loads the recommender that the options of a command ask for, and says how long texts took to encode. Raises
    `ValueError` if FAISS is missing, so that the command exits with status 2."""
    from ..modeling_unisrec.checkpoint import load_checkpoint
    from ..recommender import Recommender

    catalogue = given_items(args)
    model, processor = load_checkpoint(args.model, args.text_encoder)
    processor.catalogue = processor.catalogue if catalogue is None else catalogue
    start = time.perf_counter()
    recommender = Recommender(model, processor)
    if processor.catalogue.item_embeddings is None:
        seconds = time.perf_counter() - start
        print(f"{len(processor.catalogue):,} items encoded in {seconds:.1f} s", file=sys.stderr)
    try:
        if index != "exact":
            recommender.use_index(index)
    except ImportError as error:
        raise ValueError(str(error)) from error
    return recommender
