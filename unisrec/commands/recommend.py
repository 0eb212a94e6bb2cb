"""`unisrec recommend`: the next items for one history, or for a file of them."""

import argparse
import sys
from typing import TYPE_CHECKING

from ..words import plural
from ._rules import ShopRules, add_rules_arguments
from ._shared import (
    Result,
    add_items_arguments,
    add_json,
    add_text_neighbours,
    kept_domain,
    load_recommender,
    shows_progress,
    table,
)


if TYPE_CHECKING:
    from ..modeling_unisrec import UniSRecProcessor


EXAMPLE = """\
example:
  unisrec recommend --model unisrec-base --items products.csv --text-columns title brand \\
      --history sku-17 "text:garden hose"
  unisrec recommend --model runs/office --history 1024 77 "text:label maker tape, black on white" --top-k 5
  unisrec recommend --model runs/office --input histories.jsonl --output tonight.parquet --top-k 50
  unisrec recommend --model model --users all --output tonight.parquet
  unisrec recommend --model runs/office --domain domains/office --users all --output tonight.parquet
  unisrec recommend --model unisrec-base --items products.csv --history sku-17 \\
      --where "stock > 0" --cap brand=2 --diversity 0.3 --columns price url
  unisrec recommend --model runs/office --history --popularity sales --item-data products.csv

An entry of a history is an id of the catalogue, or text: followed by the text of an item. If an id itself begins with
text: or id:, put id: in front of it. A file has the columns user_id and history, a list of entries; in CSV it is a JSON
list, or ids separated by spaces. In JSON, an entry may also be {"text": "..."} or {"item_id": "..."}. Or it has a row for
each interaction: user_id, item_id and, unless the rows are in the order of time, timestamp. The columns may also have the
names that the checkpoint remembers, or others that unisrec fit recognises.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--model", required=True, metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id"
    )
    histories = parser.add_mutually_exclusive_group(required=True)
    histories.add_argument("--history", nargs="*", metavar="ID|text:TEXT", help="items of one history, oldest first")
    histories.add_argument("--input", metavar="FILE", help="file of histories or of interactions; needs --output")
    histories.add_argument(
        "--users",
        metavar="all|FILE",
        help="all users of --domain (default: what unisrec fit kept with the checkpoint), or those in a file; "
        "needs --output",
    )
    histories.add_argument("--user", metavar="ID", help="one user of --domain, likewise")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="columns user_id, rank, item_id, score and those of --columns, as .parquet, .csv or .jsonl",
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="number of items (10)")
    parser.add_argument("--include-seen", action="store_true", help="also recommend items of the history")
    parser.add_argument(
        "--skip-unknown", action="store_true", help="leave out ids that are not in the catalogue, and print how many"
    )
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="histories at a time (256)")
    add_items_arguments(parser)
    add_rules_arguments(parser)
    add_text_neighbours(parser)
    parser.add_argument(
        "--text-encoder", metavar="NAME_OR_PATH", help="text encoder to use if the checkpoint has none"
    )
    parser.add_argument(
        "--index",
        default="exact",
        metavar="KIND",
        help="exact (default), exact-bf16, auto, ivf, hnsw or a folder",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    if (args.input is None and args.users is None) != (args.output is None):
        raise ValueError(
            "--input and --output belong together, or --users and --output: many histories give a file of "
            "recommendations."
        )
    if (args.users is not None or args.user is not None) and args.domain is None and args.items is None:
        args.domain = kept_domain(args.model)
    if (args.users is not None or args.user is not None) and args.domain is None:
        raise ValueError("--users and --user are those of a domain: add --domain.")
    if args.top_k < 1 or args.batch_size < 1:
        raise ValueError(f"--top-k is {args.top_k} and --batch-size {args.batch_size}; both are at least 1.")
    if args.output is not None:
        return run_file(args)
    from ..recommender.histories import parse_entry

    if args.user is not None:
        user_ids, histories = read_users(args)
    else:
        user_ids, histories = [""], [[parse_entry(entry) for entry in args.history]]
    asked = Asked(args, user_ids, histories)
    recommender = load_recommender(args, args.index, asked.check)
    options = asked.rules.options()
    (items,) = recommender.recommend(asked.histories, args.top_k, exclude_seen=not args.include_seen, **options)
    rows = []
    for rank, item in enumerate(items, start=1):
        values = ("" if value is None else str(value) for value in item.columns.values())
        rows.append((str(rank), f"{item.score:.4f}", item.item_id, *values, item.text))
    text = table(("rank", "score", "item_id", *args.columns, "text"), rows, right=(0, 1))
    return Result(text, [item.to_json() for item in items])


def run_file(args: argparse.Namespace) -> Result:
    """Writes recommendations for a file of histories."""
    from ..modeling_unisrec.checkpoint import load_checkpoint_tables
    from ..recommender.histories import parse_entry, read_histories
    from ..recommender.tables import check_suffix, write_table

    check_suffix(args.output)
    if args.input is None:
        user_ids, histories = read_users(args)
    else:
        user_ids, histories = read_histories(args.input, load_checkpoint_tables(args.model), parse_entry)
    asked = Asked(args, user_ids, histories)
    recommender = load_recommender(args, args.index, asked.check)
    found = recommender.recommend_dataset(
        asked.histories,
        asked.user_ids,
        top_k=args.top_k,
        exclude_seen=not args.include_seen,
        batch_size=args.batch_size,
        progress=shows_progress(),
        **asked.rules.options(),
    )
    write_table(found, args.output)
    counts = {"recommendations": found.num_rows, "histories": len(asked.histories)}
    text = f"{plural(found.num_rows, 'recommendation')} for {plural(len(asked.histories), 'history')}: {args.output}"
    return Result(text, counts | {"output": args.output})


class Asked:
    """
    The histories to recommend for.

    Args:
        args (`argparse.Namespace`): Options of the verb.
        user_ids (`list[str]`): User of each history.
        histories (`list[list]`): Entries, oldest first.
    """

    def __init__(self, args: argparse.Namespace, user_ids: list[str], histories: list[list]) -> None:
        self.args, self.user_ids, self.histories = args, user_ids, histories
        self.rules = ShopRules(args)

    def check(self, processor: "UniSRecProcessor") -> None:
        """Leaves unknown ids out, with `--skip-unknown`, and raises an error for what else cannot be read."""
        self.rules.check(processor)
        if self.args.skip_unknown:
            self._skip_unknown(processor)
        for row, (user_id, history) in enumerate(zip(self.user_ids, self.histories, strict=True)):
            try:
                processor.parse_histories([history], allow_empty=self.args.popularity is not None)
            except (KeyError, ValueError) as error:
                if self.args.output is None:
                    raise
                reason = error.args[0].replace("history 0", "the history")
                where = f"{self.args.input or self.args.domain}, history {row + 1}, user {user_id}"
                raise ValueError(f"{where}: {reason}") from error
        if note := self.rules.note(self.histories):
            print(note, file=sys.stderr)

    def _skip_unknown(self, processor: "UniSRecProcessor") -> None:
        from ..recommender.histories import drop_unknown

        entries, users = sum(map(len, self.histories)), len(self.histories)
        keeps_empty = self.args.popularity is not None
        self.user_ids, self.histories = drop_unknown(processor, self.user_ids, self.histories, keeps_empty)
        left_out = plural(entries - sum(map(len, self.histories)), "unknown id")
        if self.args.output is not None:
            left_out += f", {plural(users - len(self.histories), 'user')} with nothing else"
        print(f"left out: {left_out}", file=sys.stderr)


def read_users(args: argparse.Namespace) -> tuple[list[str], list[list]]:
    """Returns the users of `--domain` that are asked for, and their histories."""
    from ..data import Domain
    from ..modeling_unisrec.checkpoint import load_checkpoint_tables
    from ..recommender.histories import domain_histories, read_ids

    users = None if args.user is None else [args.user]
    if args.users not in (None, "all"):
        users = read_ids(args.users, "user", load_checkpoint_tables(args.model))
    user_ids, histories = domain_histories(Domain.load_from_disk(args.domain), users)
    return user_ids, [[{"item_id": item_id} for item_id in history] for history in histories]
