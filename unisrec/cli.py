"""Command line: one verb for each step of the main job. Exit status 0, 2 (bad usage or input, one line) or 1 (ours)."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module


VERBS = {
    "prepare": "raw files -> domain folder",
    "pretrain": "multi-domain contrastive pre-training",
    "finetune": "transfer of a checkpoint to a domain, inductive or transductive",
    "evaluate": "full-ranking metrics of a checkpoint on a domain",
    "recommend": "the next items for a history of ids or texts, or for a file of them",
    "items": "list, add or remove items of a checkpoint, without training",
    "index": "index of the item vectors for quick search in a large catalogue",
    "convert": "official checkpoint (.pth) -> checkpoint folder",
    "demo": "web page to click through a checkpoint",
    "plot": "pictures: training curves, catalogue map, use of the experts, recall by popularity",
    "export": "item and sequence towers as ONNX files",
    "push": "checkpoint folder -> Hugging Face Hub",
    "quickstart": "the whole story on embedded data",
    "env": "versions and devices, for bug reports",
}


NO_MODEL = ("prepare", "push", "env")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; quick, since verbs import what is heavy when they run."""
    parser = argparse.ArgumentParser(
        prog="unisrec",
        description="Sequential recommendation that transfers: items by their text, checkpoints for transformers.",
        epilog="example: unisrec quickstart",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, what in VERBS.items():
        command = verbs.add_parser(
            verb,
            help=what,
            description=f"{verb}: {what}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        import_module(f".commands.{verb}", __package__).add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; `argv` defaults to the command line. Returns the exit status."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    command = import_module(f".commands.{args.verb}", __package__)
    takes_training_arguments = args.verb in ("pretrain", "finetune")
    if rest and not takes_training_arguments:
        parser.error(f"{args.verb} does not know {' '.join(rest)}; see unisrec {args.verb} --help")
    try:
        if args.verb not in NO_MODEL:
            _prepare_transformers()
        return command.run(args, rest) if takes_training_arguments else command.run(args)
    except KeyboardInterrupt:
        print(f"unisrec {args.verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as in `unisrec recommend ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InterruptedError as error:  # a training has saved a checkpoint on SIGTERM
        if os.environ.get("RANK", "0") == "0":
            print(f"unisrec {args.verb}: {error}", file=sys.stderr)
        return 143
    except (ValueError, KeyError, OSError) as error:
        if os.environ.get("UNISREC_DEBUG"):
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"unisrec {args.verb}: error: {' '.join(str(message).split())}", file=sys.stderr)
        return 2


def _prepare_transformers() -> None:
    """Registers the model, and keeps the bars of weight files from cutting into the bar of the training."""
    from transformers.utils import logging

    from . import register

    register()
    logging.disable_progress_bar()


__all__ = ["build_parser", "main"]
