"""`unisrec recommend`: the next items for one history."""

import argparse
import json


EXAMPLE = """\
example:
  unisrec recommend --model runs/office --history 1024 77 "text:label maker tape, black on white" --top-k 5

An entry of the history is an id of the catalogue or a text. A text holds a blank or starts with text:, which also
makes a text of a single word; id: in front makes an id of anything.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.epilog = EXAMPLE
    parser.add_argument("--model", required=True, metavar="NAME_OR_PATH", help="checkpoint: folder or Hub id")
    parser.add_argument(
        "--history", required=True, nargs="+", metavar="ID_OR_TEXT", help="items of the history, oldest first"
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="how many items (10)")
    parser.add_argument("--include-seen", action="store_true", help="items of the history may be recommended too")
    parser.add_argument(
        "--domain", metavar="DIR", help="rank the items of this domain folder instead of the checkpoint's catalogue"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")


def parse_entry(entry: str) -> str | dict[str, str]:
    """`text:...` and `id:...` as the processor takes them; all else is left to it."""
    kind, colon, value = entry.partition(":")
    if colon and kind in ("text", "id"):
        return {"text": value} if kind == "text" else {"item_id": value}
    return entry


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from ..recommender import Recommender

    recommender = Recommender.from_pretrained(args.model, args.domain)
    history = [parse_entry(entry) for entry in args.history]
    (items,) = recommender.recommend([history], args.top_k, exclude_seen=not args.include_seen)
    for rank, item in enumerate(items, start=1):
        print(
            json.dumps(item.to_dict()) if args.json else f"{rank:3}  {item.score:7.4f}  {item.item_id:16}  {item.text}"
        )
    return 0
