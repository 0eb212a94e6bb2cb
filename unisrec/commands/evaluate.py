"""`unisrec evaluate`: full-ranking metrics of checkpoints and baselines on a domain."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..words import plural
from ._shared import Result, add_json, add_text_neighbours, shows_progress, table


if TYPE_CHECKING:
    from ..evaluation import Comparison


EXAMPLE = """\
example:
  unisrec evaluate --model runs/office --domain domains/office --split test --json office.json
  unisrec evaluate --model runs/office unisrec-base popularity text-neighbours --domain domains/office --k 5 10 20
  unisrec evaluate --model runs/june unisrec-base popularity --domain domains/shop --split time:2024-06-01

Full ranking, ties at their mean position; every metric with the items of the history kept among the candidates (official
UniSRec) and with them masked (S3-Rec, HSTU, RecTools). valid and test: leave-one-out. time:DATE or time:SHARE: what was
known before the moment ranks all that each user took later; a checkpoint is trained for it with the same --split.
"""
METRICS = ("recall", "ndcg", "mrr", "map", "hit", "coverage", "novelty", "diversity")
NEW_ITEMS = ("new_items_recall", "new_items_ndcg")
PROTOCOLS = {"": "seen items kept", "_seen_masked": "seen items masked"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--model",
        required=True,
        nargs="+",
        metavar="NAME_OR_PATH",
        help="checkpoints (folder, unisrec-base or Hub id) and baselines: popularity, text-neighbours, "
        "recent-text-neighbours, random",
    )
    parser.add_argument("--domain", required=True, metavar="DIR", help="domain folder, written by unisrec prepare")
    parser.add_argument(
        "--split",
        default="test",
        metavar="SPLIT",
        help="valid or test (leave-one-out), or a moment: time:2024-06-01, time:0.1 for the last tenth (test)",
    )
    parser.add_argument(
        "--k", type=int, nargs="+", default=[10, 50], metavar="K", help="lengths of the lists that are judged (10 50)"
    )
    add_text_neighbours(parser)
    parser.add_argument(
        "--text-encoder",
        metavar="NAME_OR_PATH",
        help="text encoder that the checkpoints were trained with, if they contain none",
    )
    parser.add_argument(
        "--text-dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="precision in which texts are encoded: auto (default) is bfloat16 on GPUs and float32 elsewhere",
    )
    parser.add_argument("--batch-size", type=int, default=512, metavar="N", help="users ranked at a time (512)")
    parser.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    parser.add_argument(
        "--allow-seen",
        action="store_true",
        help="evaluate even a checkpoint that was trained on the held-out items; marked in the table",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int | Result:
    from accelerate import PartialState

    from ..evaluation import compare

    if not 1 <= args.batch_size < 2**31:
        raise ValueError(f"--batch-size is {args.batch_size}, expected a number from 1 to 2**31 - 1.")
    if wrong := [k for k in args.k if not 1 <= k < 2**31]:
        raise ValueError(f"--k is {wrong[0]}, expected a number from 1 to 2**31 - 1.")
    found = compare(
        args.model,
        args.domain,
        args.split,
        cutoffs=list(dict.fromkeys(args.k)),
        text_neighbours=args.text_neighbours,
        text_encoder=args.text_encoder,
        text_dtype=args.text_dtype,
        allow_seen=args.allow_seen,
        batch_size=args.batch_size,
        use_cpu=args.use_cpu,
        progress=shows_progress(),
    )
    if not PartialState().is_main_process:
        return 0
    facts = {"domain": found.domain, "split": found.split, **found.counts}
    facts |= {} if found.cut is None else {"cut": found.cut}
    data = [{"model": name, **facts, **metrics} for name, metrics in found.rows.items()]
    return Result(show_comparison(found), data if len(data) > 1 else data[0])


def show_comparison(found: "Comparison") -> str:
    """Formats a comparison: what was ranked, then a table for each protocol and cutoff."""
    counts, lines = found.counts, []
    lines.append(
        f"{found.domain}, {found.split}: {plural(counts['users'], 'user')}, {plural(counts['items'], 'item')}"
    )
    if found.cut is not None:
        lines[0] += (
            f", {plural(counts['interactions_after'], 'interaction')} from {found.cut} on"
            f"\n{plural(counts['relevant'], 'relevant item')}; {counts['users_seen_masked']:,} users took one that is new to them"
            f"\nfirst seen after the cut: {plural(counts['new_items'], 'item')}, taken by {counts['new_items_users']:,} of the "
            f"users; and {plural(counts['new_users'], 'other user')} with "
            f"{plural(counts['interactions_of_new_users'], 'interaction')}, who have no history to rank by"
        )
    for suffix, protocol in PROTOCOLS.items():
        for k in found.cutoffs:
            lines += ["", _block(found, f"{protocol}, k = {k}", METRICS, k, suffix)]
    if found.cut is not None and counts["new_items_users"]:
        for k in found.cutoffs:
            lines += ["", _block(found, f"new items alone, k = {k}", NEW_ITEMS, k, "")]
    new_users = {name: row for name, row in found.rows.items() if f"new_users_recall@{found.cutoffs[0]}" in row}
    for name, row in new_users.items():
        shown = (
            f"recall@{k} {row[f'new_users_recall@{k}']:.4f}, ndcg@{k} {row[f'new_users_ndcg@{k}']:.4f}"
            for k in found.cutoffs
        )
        lines += ["", f"new users by {name}: {', '.join(shown)}"]
    return "\n".join(lines)


def _block(found: "Comparison", title: str, names: Sequence[str], k: int, suffix: str) -> str:
    names = [name for name in names if any(f"{name}@{k}{suffix}" in row for row in found.rows.values())]
    rows: list[list[Any]] = [
        [model, *(_number(name, metrics.get(f"{name}@{k}{suffix}")) for name in names)]
        for model, metrics in found.rows.items()
    ]
    return table([title, *(name.rpartition("_")[2] for name in names)], rows, right=range(1, len(names) + 1))


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if name == "novelty" else f"{value:.4f}"
