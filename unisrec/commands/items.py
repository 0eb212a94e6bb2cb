"""`unisrec items`: list, add and remove items of a checkpoint, without training."""

import argparse
import shutil
from contextlib import nullcontext
from pathlib import Path

from ._shared import Result, add_json, plural, table


EXAMPLE = """\
example:
  unisrec items add runs/office --input new.csv --output runs/office-today
  unisrec items add unisrec-base --input products.csv --text-columns title brand --output runs/shop
  unisrec items add runs/office --item new-1 "label maker tape, white on red"
  unisrec items remove runs/office --id 77 1024
  unisrec items list runs/office --json

A file (.csv, .jsonl, .parquet) has the columns item_id and text; to remove items, item_id is enough. To a checkpoint without
a catalogue, such as unisrec-base, the first items give one. Without --output, the catalogue in the folder is replaced
atomically. A second process that changes the same folder waits for up to a minute.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="list|add|remove", required=True)
    for action, what in {
        "list": "print ids and texts",
        "add": "add items, represented by their texts",
        "remove": "remove items",
    }.items():
        command = actions.add_parser(action, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=EXAMPLE)
        command.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
        add_json(command)
        if action == "list":
            continue
        source = command.add_mutually_exclusive_group(required=True)
        source.add_argument("--input", metavar="FILE", help="file of the items")
        if action == "add":
            command.add_argument(
                "--item-column", metavar="COLUMN", help="column of --input with the ids (default: item_id)"
            )
            command.add_argument(
                "--text-columns",
                nargs="+",
                metavar="COLUMN",
                help="columns of --input that form the item text, in order (default: text)",
            )
            command.add_argument(
                "--text-encoder", metavar="NAME_OR_PATH", help="text encoder to use if the checkpoint has none"
            )
            source.add_argument(
                "--item", nargs=2, action="append", metavar=("ID", "TEXT"), help="one item; repeatable"
            )
        else:
            source.add_argument("--id", nargs="+", metavar="ID", help="ids of the items")
        command.add_argument("--output", metavar="DIR", help="new folder for the whole checkpoint")


def run(args: argparse.Namespace) -> Result:
    if args.action == "list":
        return list_items(args.model)
    from ..data.domain import check_output_folder, new_folder, writing
    from ..modeling_unisrec import lock_catalogue
    from ..modeling_unisrec.checkpoint import load_checkpoint
    from ..modeling_unisrec.hub import released_folder
    from ..recommender import Recommender
    from ..recommender.catalogue import make_catalogue
    from ..recommender.tables import read_item_ids, read_items

    if args.output is None and not Path(args.model).is_dir():
        raise ValueError(
            f"{args.model} is not a local folder: name a new folder for the changed checkpoint with --output."
        )
    if args.output is not None:
        check_output_folder(args.output)
    if args.action == "add":
        columns = {"item_column": args.item_column or "item_id", "text_columns": args.text_columns}
        if args.item and (args.item_column or args.text_columns):
            raise ValueError("--item-column and --text-columns name columns of --input: leave them out with --item.")
        given = read_items(args.input, **columns) if args.input else dict(args.item)
        if args.item and len(given) < len(args.item):
            raise ValueError("--item: an id is given twice; give each id once.")
    else:
        given = read_item_ids(args.input) if args.input else args.id
    folder = Path(args.model) / "catalogue"
    if args.output is None and not folder.is_dir():
        raise FileNotFoundError(
            f"{args.model}: not a local folder with a catalogue; name an output folder with --output."
        )
    # Locked from reading to replacing the catalogue, so that changes by other processes are not lost.
    with lock_catalogue(folder) if args.output is None else nullcontext():
        model, processor = load_checkpoint(args.model, getattr(args, "text_encoder", None))
        before = 0 if processor.catalogue is None else len(processor.catalogue)
        if processor.catalogue is None and args.action == "add":
            processor.catalogue = make_catalogue(given)
            recommender = Recommender(model, processor)
        else:
            recommender = Recommender(model, processor)
            (recommender.add_items if args.action == "add" else recommender.remove_items)(given)
        catalogue = recommender.processor.catalogue
        if args.output is None:
            catalogue.save(folder)
    if args.output is not None:
        with new_folder(args.output) as draft, writing(args.output):
            recommender.save_pretrained(draft)
            if (card := (released_folder(args.model) or Path(args.model)) / "README.md").is_file():
                shutil.copy(card, draft)
    done = "added" if args.action == "add" else "removed"
    found = {done: abs(len(catalogue) - before), "items": len(catalogue), "checkpoint": args.output or args.model}
    text = f"{plural(found[done], 'item')} {done}, {found['items']:,} in the catalogue: {found['checkpoint']}"
    return Result(text, found)


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
