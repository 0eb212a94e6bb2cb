"""`unisrec update`: the interactions since a training -> an updated checkpoint."""

import argparse
import sys
from dataclasses import asdict

from ._shared import Result, add_json, ended_by_sigterm
from .prepare import add_table_options, table_options


EXAMPLE = """\
example:
  unisrec update model --interactions new.csv
  unisrec update model --interactions new.csv --items products.csv --output model-today

A short training that begins at the weights of the checkpoint. It learns from the users with new interactions and, so that
nothing is forgotten, from a sample of the others, which unisrec fit left in the folder. Columns, separator and encoding
are those that the checkpoint remembers. The last line tells the quality before and after, on new interactions that were
kept apart, and how much the answers for users without new interactions changed. Without --output, the folder is replaced
at once when everything is done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "model", metavar="NAME_OR_PATH", help="checkpoint with a catalogue, for example of unisrec fit"
    )
    parser.add_argument(
        "--interactions",
        required=True,
        metavar="SOURCE",
        help="file or dataset of the new interactions, or of all of them: those that are known count once",
    )
    parser.add_argument(
        "--items",
        metavar="SOURCE",
        help="file or dataset of all products; the catalogue becomes that, as by unisrec items sync",
    )
    parser.add_argument("--output", metavar="DIR", help="new folder (default: the folder itself is replaced)")
    parser.add_argument(
        "--domain", metavar="DIR", help="prepared data of the training (default: what unisrec fit left in the folder)"
    )
    parser.add_argument("--budget", type=float, default=5.0, metavar="MINUTES", help="most minutes for training (5)")
    for name in ("user", "item", "time"):
        help = f"column of the {name} (default: as the checkpoint remembers, otherwise recognised)"
        parser.add_argument(f"--{name}-column", metavar="COLUMN", help=help)
    parser.add_argument(
        "--text-columns",
        nargs="+",
        metavar="COLUMN",
        help="columns of the item text, in order (default: as the checkpoint remembers)",
    )
    add_table_options(parser, keeps=False)
    parser.add_argument(
        "--text-encoder", metavar="NAME_OR_PATH", help="text encoder to use if the checkpoint has none"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of training (0)")
    parser.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    from ..updating import update

    options = table_options(args)
    options["drop_anonymous"] = options["drop_anonymous"] or None  # as remembered
    with ended_by_sigterm():
        result = update(
            args.model,
            args.interactions,
            args.items,
            output=args.output,
            domain=args.domain,
            budget=args.budget,
            text_encoder=args.text_encoder,
            user_column=args.user_column,
            item_column=args.item_column,
            time_column=args.time_column,
            text_columns=args.text_columns,
            seed=args.seed,
            use_cpu=args.use_cpu,
            report=lambda line: print(line, file=sys.stderr, flush=True),
            **options,
        )
    return Result(f"{result}: {result.output}", asdict(result) | {"output": str(result.output)})
