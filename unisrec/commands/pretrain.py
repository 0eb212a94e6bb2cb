"""`unisrec pretrain`: multi-domain contrastive pre-training."""

import argparse
from collections.abc import Sequence

from ._shared import Result
from ._training import add_training_arguments, had_ended, parse_model_config, parse_training_arguments, tidy


EXAMPLE = """\
example:
  unisrec pretrain --domains domains/beauty domains/toys --text_encoder bert-base-uncased \\
      --output_dir runs/pretrained --num_train_epochs 10
  unisrec pretrain --config transfer --domains domains/beauty domains/toys domains/grocery --text_encoder minilm \\
      --zero_shot_domain domains/office --output_dir runs/transfer
  accelerate launch -m unisrec pretrain --config pretrain.yaml

--config transfer is the recipe for a checkpoint that is used in other shops: each step takes one domain, with negatives
from its catalogue.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--domains", nargs="+", metavar="DIR", help="domain folders, written by unisrec prepare")
    parser.add_argument(
        "--text_encoder",
        metavar="NAME_OR_PATH",
        help="text encoder: Hub id, folder, or minilm for the one in unisrec[offline] "
        "(default: the text vectors that came with the domains)",
    )
    parser.add_argument(
        "--text_pooling",
        metavar="POOLING",
        help="pooling of token states into a text vector: cls, mean, max, mean_sqrt_len, weightedmean, lasttoken, or several "
        "joined by + (default: that of the encoder's files, else lasttoken for decoders and cls for others)",
    )
    parser.add_argument(
        "--text_prompt",
        metavar="TEXT",
        help="text prepended to each item text, such as 'passage: ' (default: that of the encoder's files)",
    )
    parser.add_argument(
        "--text_truncate_dim",
        type=int,
        metavar="N",
        help="components to keep of each text vector, for Matryoshka encoders (default: that of the encoder's files)",
    )
    parser.add_argument(
        "--text_whitening",
        choices=["none", "pca"],
        help="fixed linear map in front of the adaptor, fitted to the items of all domains (default: none)",
    )
    parser.add_argument(
        "--text_whitening_size", type=int, metavar="N", help="components that the whitening keeps (default: all)"
    )
    parser.add_argument(
        "--model_config",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="fields of UniSRecConfig, such as hidden_size=64",
    )
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        help="time:2024-06-01 or time:0.1 (the last tenth): train on what lies before that moment and validate on the last "
        "tenth of it (default: the last two interactions of each user are held out)",
    )
    add_training_arguments(parser, "UniSRecPretrainArguments")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int | Result:
    from ..trainer import UniSRecPretrainArguments, pretrain

    training_args = parse_training_arguments(UniSRecPretrainArguments, args, rest, required=["domains", "output_dir"])
    if (ended := had_ended(training_args)) is not None:
        return ended if training_args.process_index == 0 else 0
    with tidy(training_args):
        result = pretrain(
            args.text_encoder,
            args.domains,
            training_args,
            text_pooling=args.text_pooling,
            text_prompt=args.text_prompt,
            text_truncate_dim=args.text_truncate_dim,
            text_whitening=args.text_whitening or "none",
            text_whitening_size=args.text_whitening_size,
            model_config=parse_model_config(args.model_config),
            split=args.split,
        )
    if not result.trainer.is_world_process_zero():
        return 0
    found = {"metrics": result.metrics, "checkpoint": training_args.output_dir}
    return Result(f"checkpoint: {training_args.output_dir}", found)
