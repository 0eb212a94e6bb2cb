"""`unisrec evaluate`: full-ranking metrics of a checkpoint on a domain."""

import argparse
import json

from ._tables import metrics_table


EXAMPLE = """\
example:
  unisrec evaluate --model runs/office --domain domains/office --split test --json office.json

Leave-one-out, full ranking, ties at their mean position; every metric with the items of the history kept among the
candidates (official UniSRec) and with them masked (S3-Rec, HSTU, RecTools).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--model", required=True, metavar="NAME_OR_PATH", help="checkpoint: folder or Hub id")
    parser.add_argument("--domain", required=True, metavar="DIR", help="domain folder, written by unisrec prepare")
    parser.add_argument("--split", choices=["valid", "test"], default="test", help="which held-out items (test)")
    parser.add_argument("--text-encoder", metavar="NAME_OR_PATH", help="where the checkpoint has no text encoder")
    parser.add_argument("--batch-size", type=int, default=512, metavar="N", help="users ranked at a time (512)")
    parser.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    parser.add_argument(
        "--allow-seen",
        action="store_true",
        help="evaluate even if the checkpoint was trained on the held-out items; the table says so",
    )
    parser.add_argument("--json", metavar="FILE", help="write the metrics there too")


def run(args: argparse.Namespace) -> int:
    from accelerate import PartialState
    from transformers.utils import logging

    from ..data.atomic import check_output_file, whole_file
    from ..data.training_data import SeenInTraining
    from ..evaluation import evaluate

    if not 1 <= args.batch_size < 2**31:
        raise ValueError(f"--batch-size is {args.batch_size}, expected a number from 1 to 2**31 - 1.")
    if args.json is not None:
        check_output_file(args.json)
    row, options = args.split, {"text_encoder": args.text_encoder, "batch_size": args.batch_size}
    options |= {"use_cpu": args.use_cpu, "progress": logging.is_progress_bar_enabled()}
    try:
        metrics = evaluate(args.model, args.domain, args.split, **options)
    except SeenInTraining:
        if not args.allow_seen:
            raise
        metrics = evaluate(args.model, args.domain, args.split, **options, allow_seen=True)
        row = f"{args.split}, seen in training"
    if PartialState().is_main_process:
        if args.json is not None:
            with whole_file(args.json) as draft:
                draft.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        print(metrics_table({row: metrics}))
    return 0
