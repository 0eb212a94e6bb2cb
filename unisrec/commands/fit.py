"""`unisrec fit`: two tables of a shop -> a checkpoint that recommends there, and a report."""

import argparse

from ._shared import Result, add_json, ended_by_sigterm, metrics_table, progress_of
from .prepare import add_table_options, table_options


EXAMPLE = """\
example:
  unisrec fit clicks.csv --items products.csv --output model
  unisrec fit clicks.csv --items products.csv --output model --budget 120 --train-on-all
  unisrec fit orders.xlsx --user-column Kunde --text-columns Titel Marke --text-encoder minilm --output model

Recognises the columns and prints them, prepares the data, trains several candidates within the budget, and keeps the one
that ranks the second-to-last interaction of each user best. The last interaction only measures the result. The folder holds
the checkpoint with its catalogue, a model card and report.html, and appears only when everything is done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "interactions",
        metavar="INTERACTIONS",
        help="table of interactions: a file, or owner/name@revision:config[split] on the Hub",
    )
    parser.add_argument(
        "--items",
        metavar="SOURCE",
        help="table of products: a file or a dataset; not needed if the interactions hold the texts",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the checkpoint and the report")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="checkpoint to start from (default: unisrec-base)")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME_OR_PATH",
        help="train a new model on the data of this shop alone, on top of this text encoder; with --model: the text encoder "
        "of a checkpoint that has none",
    )
    parser.add_argument(
        "--budget", type=float, default=30.0, metavar="MINUTES", help="time for all trainings, in minutes (30)"
    )
    parser.add_argument(
        "--train-on-all",
        action="store_true",
        help="train the chosen candidate again on all interactions, including the held-out ones; the saved model then "
        "has no metrics of its own (default: save the model that was measured)",
    )
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        help="hold out by time: time:2024-06-01, or time:0.1 for the last tenth; train on what comes before and measure what "
        "comes after (default: hold out the last two interactions of each user)",
    )
    parser.add_argument(
        "--keep-domain",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the prepared data, with ids and purchases of customers, in the folder, for unisrec update to learn from; "
        "it is never uploaded (default: kept)",
    )
    for name, what in (("user", "user ids"), ("item", "item ids"), ("time", "times")):
        help = f"column of the {what} (default: recognised by name or content)"
        parser.add_argument(f"--{name}-column", metavar="COLUMN", help=help)
    parser.add_argument(
        "--text-columns",
        nargs="+",
        metavar="COLUMN",
        help="columns that form the item text, in order (default: recognised by name or content)",
    )
    add_table_options(parser)
    parser.add_argument(
        "--drop-unsold",
        action="store_true",
        help="leave products that nobody bought out of the catalogue (default: keep them, so that they can be recommended)",
    )
    parser.add_argument(
        "--missing-text",
        choices=("error", "drop", "keep"),
        default="drop",
        help="what to do with interactions whose item has no text: refuse the data, drop them, or keep them with the item "
        "id as text (default: drop)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of training (0)")
    parser.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    from ..fitting import fit

    with ended_by_sigterm():
        result = fit(
            args.interactions,
            args.items,
            output=args.output,
            model=args.model,
            text_encoder=args.text_encoder,
            budget=args.budget,
            train_on_all=args.train_on_all,
            split=args.split,
            keep_domain=args.keep_domain,
            user_column=args.user_column,
            item_column=args.item_column,
            time_column=args.time_column,
            text_columns=args.text_columns,
            keep_unsold=not args.drop_unsold,
            missing_text=args.missing_text,
            seed=args.seed,
            use_cpu=args.use_cpu,
            report=progress_of(args),
            **table_options(args),
        )
    data = {"output": args.output, "chosen": result.chosen, "test": result.rows}
    data["validation"] = {each.name: each.score for each in result.attempts}
    data["notes"] = result.notes
    return Result("\n".join([metrics_table(result.rows), *result.notes]), data)
