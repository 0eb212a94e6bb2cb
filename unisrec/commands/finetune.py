"""`unisrec finetune`: transfer of a checkpoint to a domain."""

import argparse
from collections.abc import Sequence

from ._tables import metrics_table
from ._training import add_training_arguments, had_ended, parse_model_config, parse_training_arguments, tidy


EXAMPLE = """\
example:
  unisrec finetune --model runs/pretrained --domain domains/office --setting inductive --output_dir runs/office
  unisrec finetune --model runs/pretrained --domain domains/office --setting transductive --from-scratch \\
      --output_dir runs/office-scratch --seed 1
  unisrec finetune --model runs/pretrained --domain domains/office --setting inductive --lora text,sequence \\
      --output_dir runs/office-adapters
  unisrec finetune --model runs/pretrained --domain domains/office --setting transductive --from-scratch --config fast \\
      --teachers runs/office-1 runs/office-2 runs/office-3 --output_dir runs/office-taught

All arguments of transformers.TrainingArguments are taken too, and --freeze_sequence_encoder, --train_text_encoder,
--lora, --num_negatives, --teachers, --early_stopping_patience (--help-all lists them).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="checkpoint: folder or Hub id")
    parser.add_argument("--domain", metavar="DIR", help="domain folder, written by unisrec prepare")
    parser.add_argument(
        "--setting", choices=["inductive", "transductive"], help="text only, or text and item-ID embedding"
    )
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="take only the settings of the checkpoint and train all weights from random values, as a baseline",
    )
    parser.add_argument(
        "--model-config",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="from scratch only: fields of UniSRecConfig that differ from the checkpoint's, num_experts=1",
    )
    parser.add_argument(
        "--compare-with",
        metavar="DIR",
        help="output folder of another run on this domain, compared with this one in the model card",
    )
    parser.add_argument(
        "--text-encoder", metavar="NAME_OR_PATH", help="where the checkpoint has none: the one it was trained with"
    )
    add_training_arguments(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from ..trainer import UniSRecFinetuneArguments, finetune

    training_args = parse_training_arguments(
        UniSRecFinetuneArguments, args, rest, required=["model", "domain", "setting", "output_dir"]
    )
    if had_ended(training_args):
        return 0
    with tidy(training_args):
        result = finetune(
            args.model,
            args.domain,
            args.setting,
            training_args,
            text_encoder=args.text_encoder,
            from_scratch=args.from_scratch,
            compare_with=args.compare_with,
            model_config=parse_model_config(args.model_config),
        )
    if result.trainer.is_world_process_zero():
        start = "from scratch" if args.from_scratch else "pre-trained"
        if result.metrics:
            print(metrics_table({f"{args.setting}, {start}": result.metrics}))
        trained, total = result.trainer.count_parameters()
        print(f"trained: {trained:,} of {total:,} parameters ({trained / total:.1%})")
        print(f"checkpoint: {training_args.output_dir}")
    return 0
