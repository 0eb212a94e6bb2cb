"""`unisrec finetune`: transfer of a checkpoint to a domain."""

import argparse
from collections.abc import Sequence

from ._tables import metrics_table
from ._training import add_training_arguments, parse_training_arguments


EXAMPLE = """\
example:
  unisrec finetune --model runs/pretrained --domain domains/office --setting inductive --output_dir runs/office
  unisrec finetune --model runs/pretrained --domain domains/office --setting transductive --from-scratch \\
      --output_dir runs/office-scratch --seed 1

All arguments of transformers.TrainingArguments are taken too, and --freeze_sequence_encoder,
--early_stopping_patience (--help-all lists them).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.epilog = EXAMPLE
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="checkpoint: folder or Hub id")
    parser.add_argument("--domain", metavar="DIR", help="domain folder, written by unisrec prepare")
    parser.add_argument(
        "--setting", choices=["inductive", "transductive"], help="text only, or text and item-ID embedding"
    )
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="take only the settings of the checkpoint and train all weights anew, the row to compare with",
    )
    parser.add_argument(
        "--text-encoder", metavar="NAME_OR_PATH", help="where the checkpoint has none: the one it was trained with"
    )
    add_training_arguments(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the verb."""
    from ..trainer import UniSRecFinetuneArguments, finetune

    training_args = parse_training_arguments(
        UniSRecFinetuneArguments, args, rest, required=["model", "domain", "setting", "output_dir"]
    )
    trainer, metrics = finetune(
        args.model, args.domain, args.setting, training_args, args.text_encoder, args.from_scratch
    )
    if trainer.is_world_process_zero():
        start = "from scratch" if args.from_scratch else "pre-trained"
        print(metrics_table({f"{args.setting}, {start}": metrics}))
        print(f"checkpoint: {training_args.output_dir}")
    return 0
