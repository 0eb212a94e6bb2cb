"""`unisrec items`: list, add and remove items of a checkpoint, without training."""

import argparse
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..words import plural
from ._shared import Result, add_json, add_product_columns, product_columns, table


if TYPE_CHECKING:
    from ..modeling_unisrec import UniSRecModel, UniSRecProcessor
    from ..recommender import Recommender
    from ..recommender.item_changes import ItemChanges


EXAMPLE = """\
example:
  unisrec items sync runs/shop products.csv
  unisrec items add runs/office --input new.csv --output runs/office-today
  unisrec items add unisrec-base --input products.csv --text-columns title brand --output runs/shop
  unisrec items add runs/office --item new-1 "label maker tape, white on red"
  unisrec items remove runs/office --id 77 1024
  unisrec items list runs/office --json

A file is a table of products, as for unisrec fit --items; to remove items, a column of ids is enough. A checkpoint of
unisrec fit, or of prepare table and finetune, remembers its columns, separator and encoding. sync takes a complete list:
items that are not in it are not recommended any more, but histories may still name them. remove forgets items. To a
checkpoint without a catalogue, such as unisrec-base, the first items give one. Without --output, the catalogue in the
folder is replaced atomically. A second process that changes the same folder waits for up to a minute.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="list|sync|add|remove", required=True)
    for action, what in {
        "list": "print ids and texts",
        "sync": "make the catalogue that of a product list: new, changed and gone items in one go",
        "add": "add items, represented by their texts; known ids get a new text",
        "remove": "remove items",
    }.items():
        command = actions.add_parser(action, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=EXAMPLE)
        command.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
        add_json(command)
        if action == "list":
            continue
        if action == "sync":
            command.add_argument("input", metavar="PRODUCTS", help="table of all products: file or dataset of the Hub")
        else:
            source = command.add_mutually_exclusive_group(required=True)
            source.add_argument("--input", metavar="FILE", help="file of the items")
        if action == "add":
            source.add_argument(
                "--item", nargs=2, action="append", metavar=("ID", "TEXT"), help="one item; repeatable"
            )
        if action == "remove":
            source.add_argument("--id", nargs="+", metavar="ID", help="ids of the items")
        else:
            add_product_columns(command, "--input" if action == "add" else "PRODUCTS")
            command.add_argument(
                "--text-encoder", metavar="NAME_OR_PATH", help="text encoder to use if the checkpoint has none"
            )
        command.add_argument("--output", metavar="DIR", help="new folder for the whole checkpoint")


def run(args: argparse.Namespace) -> Result:
    if args.action == "list":
        return list_items(args.model)
    from ..data.domain import check_output_folder, new_folder, writing
    from ..modeling_unisrec import lock_catalogue
    from ..modeling_unisrec.checkpoint import load_checkpoint, load_checkpoint_tables
    from ..modeling_unisrec.hub import released_folder
    from ..recommender.histories import read_ids

    if args.output is None and not Path(args.model).is_dir():
        raise ValueError(
            f"{args.model} is not a local folder: name a new folder for the changed checkpoint with --output."
        )
    if args.output is not None:
        check_output_folder(args.output)
    columns = {}
    if args.action == "remove":
        tables = load_checkpoint_tables(args.model)
        tables["item_column"] = tables.get("items_id_column", tables.get("item_column"))
        given = read_ids(args.input, "item", tables) if args.input else args.id
    else:
        columns = product_columns(args, "--input", args.input is not None)
        given = args.input or dict(args.item)
        if not args.input and len(given) < len(args.item):
            raise ValueError("--item: an id is given twice; give each id once.")
    folder = Path(args.model) / "catalogue"
    if args.output is None and not folder.is_dir():
        raise FileNotFoundError(
            f"{args.model}: not a local folder with a catalogue; name an output folder with --output."
        )
    # Locked from reading to replacing the catalogue, so that changes by other processes are not lost.
    with lock_catalogue(folder) if args.output is None else nullcontext():
        recommender, changes = _change(
            *load_checkpoint(args.model, getattr(args, "text_encoder", None)), args, given, columns
        )
        if args.output is None:
            recommender.processor.catalogue.save(folder)
    if args.output is not None:
        with new_folder(args.output) as draft, writing(args.output):
            recommender.save_pretrained(draft)
            if (card := (released_folder(args.model) or Path(args.model)) / "README.md").is_file():
                shutil.copy(card, draft)
    size = len(recommender.processor.catalogue)
    place = f"{size:,} in the catalogue: {args.output or args.model}"
    found = asdict(changes) | {"items": size, "checkpoint": args.output or args.model}
    if args.action == "sync":
        return Result(f"{changes}; {place}", found)
    done = "added" if args.action == "add" else "removed"
    parts = [f"{plural(found[done], 'item')} {done}"]
    if args.action == "add":
        parts += [f"{found[name]:,} {name}" for name in ("changed", "unchanged") if found[name]]
        parts += [f"{changes.updated:,} with other columns"] if changes.updated else []
    return Result(", ".join([*parts, place]), found)


def _change(
    model: "UniSRecModel", processor: "UniSRecProcessor", args: argparse.Namespace, given: Any, columns: dict[str, Any]
) -> "tuple[Recommender, ItemChanges]":
    """Returns a recommender with the changed catalogue, and what has changed."""
    from ..recommender import Recommender
    from ..recommender.catalogue import make_catalogue
    from ..recommender.item_changes import ItemChanges

    if processor.catalogue is None and args.action != "remove":
        processor.catalogue = make_catalogue(given, **columns)
        recommender = Recommender(model, processor)
        return recommender, ItemChanges(len(processor.catalogue), 0, 0, 0)
    recommender = Recommender(model, processor)
    if args.action == "remove":
        return recommender, recommender.remove_items(given)
    return recommender, (recommender.sync_items if args.action == "sync" else recommender.add_items)(given, **columns)


def list_items(model: str) -> Result:
    """Returns the ids and texts of the catalogue of a checkpoint."""
    from ..modeling_unisrec import UniSRecProcessor
    from ..modeling_unisrec.hub import find_model, released_name

    name, options = find_model(model)
    catalogue = None if released_name(name) else UniSRecProcessor.from_pretrained(name, **options).catalogue
    if catalogue is None:
        raise ValueError(f"{model}: the checkpoint has no catalogue; add items to it, or fine-tune it on a domain.")
    items = list(zip(catalogue.item_ids, catalogue.texts, strict=True))
    return Result(table(("item_id", "text"), items), [{"item_id": item_id, "text": text} for item_id, text in items])
