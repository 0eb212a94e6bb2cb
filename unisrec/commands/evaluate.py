"""`unisrec evaluate`: full-ranking metrics of a checkpoint on a domain."""

import argparse

from ._shared import Result, add_json, metrics_table, shows_progress


EXAMPLE = """\
example:
  unisrec evaluate --model runs/office --domain domains/office --split test --json office.json

Leave-one-out, full ranking, ties at their mean position; every metric with the items of the history kept among the
candidates (official UniSRec) and with them masked (S3-Rec, HSTU, RecTools).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--model", required=True, metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id"
    )
    parser.add_argument("--domain", required=True, metavar="DIR", help="domain folder, written by unisrec prepare")
    parser.add_argument("--split", choices=["valid", "test"], default="test", help="held-out items to rank (test)")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME_OR_PATH",
        help="text encoder that the checkpoint was trained with, if it contains none",
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
        help="evaluate even if the checkpoint was trained on the held-out items; marked in the table",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int | Result:
    from accelerate import PartialState

    from ..data.training_data import SeenInTraining
    from ..evaluation import evaluate

    if not 1 <= args.batch_size < 2**31:
        raise ValueError(f"--batch-size is {args.batch_size}, expected a number from 1 to 2**31 - 1.")
    row, options = (
        args.split,
        {"text_encoder": args.text_encoder, "text_dtype": args.text_dtype, "batch_size": args.batch_size},
    )
    options |= {"use_cpu": args.use_cpu, "progress": shows_progress()}
    try:
        metrics = evaluate(args.model, args.domain, args.split, **options)
    except SeenInTraining:
        if not args.allow_seen:
            raise
        metrics = evaluate(args.model, args.domain, args.split, **options, allow_seen=True)
        row = f"{args.split}, seen in training"
    return Result(metrics_table({row: metrics}), metrics) if PartialState().is_main_process else 0
