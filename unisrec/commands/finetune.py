"""`unisrec finetune`: transfer of a checkpoint to a domain."""

import argparse
from collections.abc import Sequence

from ._shared import Result, metrics_table
from ._training import add_training_arguments, had_ended, parse_model_config, parse_training_arguments, tidy


EXAMPLE = """\
example:
  unisrec finetune --model runs/pretrained --domain domains/office --setting inductive --output_dir runs/office
  unisrec finetune --model runs/pretrained --domain domains/office --setting transductive --from_scratch \\
      --output_dir runs/office-scratch --seed 1
  unisrec finetune --model runs/pretrained --domain domains/office --setting inductive --lora text,sequence \\
      --output_dir runs/office-adapters
  unisrec finetune --model runs/pretrained --domain domains/office --setting transductive --from_scratch --config fast \\
      --teachers runs/office-1 runs/office-2 runs/office-3 --output_dir runs/office-taught
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
    parser.add_argument("--domain", metavar="DIR", help="domain folder, written by unisrec prepare")
    parser.add_argument(
        "--setting", choices=["inductive", "transductive"], help="text only, or text and item-ID embedding"
    )
    parser.add_argument(
        "--from_scratch",
        action="store_true",
        help="keep only the settings of the checkpoint and train all weights from random values, as a baseline",
    )
    parser.add_argument(
        "--model_config",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="with --from_scratch: fields of UniSRecConfig that differ from the checkpoint, such as num_experts=1",
    )
    parser.add_argument(
        "--compare_with",
        metavar="DIR",
        help="output folder of another run on this domain, to compare with in the model card",
    )
    parser.add_argument(
        "--text_encoder",
        metavar="NAME_OR_PATH",
        help="text encoder that the checkpoint was trained with, if it contains none",
    )
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        help="time:2024-06-01 or time:0.1 (the last tenth): train on what lies before that moment and validate on the last "
        "tenth of it (default: the last two interactions of each user are held out)",
    )
    add_training_arguments(parser, "UniSRecFinetuneArguments")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int | Result:
    from ..trainer import UniSRecFinetuneArguments, finetune

    training_args = parse_training_arguments(
        UniSRecFinetuneArguments, args, rest, required=["model", "domain", "setting", "output_dir"]
    )
    if (ended := had_ended(training_args)) is not None:
        return ended if training_args.process_index == 0 else 0
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
            split=args.split,
        )
    if not result.trainer.is_world_process_zero():
        return 0
    trained, total = result.trainer.count_parameters()
    lines = [f"trained: {trained:,} of {total:,} parameters ({trained / total:.1%})"]
    lines.append(f"checkpoint: {training_args.output_dir}")
    if result.metrics:
        start = "from scratch" if args.from_scratch else "pre-trained"
        lines.insert(0, metrics_table({f"{args.setting}, {start}": result.metrics}))
    found = {
        "metrics": result.metrics,
        "trained_parameters": trained,
        "parameters": total,
        "checkpoint": training_args.output_dir,
    }
    return Result("\n".join(lines), found)
