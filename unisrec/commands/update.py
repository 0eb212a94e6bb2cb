"""`unisrec update`: the interactions since a training -> an updated checkpoint."""

import argparse
from dataclasses import asdict

from ._shared import Result, add_json, ended_by_sigterm, progress_of
from .prepare import add_table_options, table_options


EXAMPLE = """\
example:
  unisrec update model --interactions new.csv
  unisrec update model --interactions new.csv --items products.csv --output model-today

A short training that starts from the weights of the checkpoint. It learns from the users with new interactions and, so that
it does not forget, from a sample of the others, whose data unisrec fit keeps in the folder. Columns, separator and encoding
are those that the checkpoint remembers. The last line shows the quality before and after, on new interactions that were set
aside, and how much the recommendations for users without new interactions changed. Without --output, the folder is replaced
in one step when everything is done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "model", metavar="NAME_OR_PATH", help="checkpoint with a catalogue, such as one of unisrec fit"
    )
    parser.add_argument(
        "--interactions",
        required=True,
        metavar="SOURCE",
        help="table of the new interactions, or of all interactions: those already known count once",
    )
    parser.add_argument(
        "--items",
        metavar="SOURCE",
        help="table of all products, which the catalogue is brought in line with, as by unisrec items sync",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="new folder for the result (default: replace the folder of the checkpoint)"
    )
    parser.add_argument(
        "--domain", metavar="DIR", help="prepared data of the training (default: what unisrec fit keeps in the folder)"
    )
    parser.add_argument(
        "--budget", type=float, default=3.0, metavar="MINUTES", help="time limit of the training, in minutes (3)"
    )
    for name in ("user", "item", "time"):
        help = f"column of the {name}s (default: as the checkpoint remembers, otherwise recognised)"
        parser.add_argument(f"--{name}-column", metavar="COLUMN", help=help)
    parser.add_argument(
        "--text-columns",
        nargs="+",
        metavar="COLUMN",
        help="columns that form the item text, in order (default: as the checkpoint remembers)",
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
            report=progress_of(args),
            **options,
        )
    return Result(f"{result}: {result.output}", asdict(result) | {"output": str(result.output)})
