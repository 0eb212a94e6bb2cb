"""What the training verbs share: model settings, a YAML file of arguments, and all arguments of `TrainingArguments`."""

import argparse
import difflib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar


if TYPE_CHECKING:
    from ..trainer import UniSRecFinetuneArguments, UniSRecPretrainArguments, UniSRecTrainingArguments

    Arguments = TypeVar("Arguments", UniSRecPretrainArguments, UniSRecFinetuneArguments)


CONFIGS = Path(__file__).parents[1] / "configs"

# Options with several values, which a file may give as one.
LISTS = ("domains", "model_config")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """`--output_dir` and `--config`; all else of the training arguments is parsed when the verb runs."""
    parser.add_argument("--output_dir", "--output-dir", metavar="DIR", help="new folder for the checkpoint")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of arguments, or one of ours: paper, the paper's recipe; fast (finetune), for large domains; "
        "transfer (pretrain), for a checkpoint to carry to other shops; the "
        "command line wins over it",
    )
    parser.add_argument("--help-all", action="store_true", help="list every training argument and leave")


def parse_training_arguments(
    kind: "type[Arguments]", args: argparse.Namespace, rest: Sequence[str], required: Sequence[str]
) -> "Arguments":
    r"""
    Training arguments from the configuration file and what the verb's own parser left over.

    Args:
        kind (`type`): Class of the arguments.
        args (`argparse.Namespace`): What the verb's parser understood; values of the file fill what was not given.
        rest (`Sequence[str]`): What it did not understand.
        required (`Sequence[str]`): Names in `args` that must have a value.

    Returns:
        The arguments.

    Raises:
        ValueError: If an argument is unknown or missing, or the file is not a YAML mapping.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(kind, prog=f"unisrec {args.verb}", usage=argparse.SUPPRESS, allow_abbrev=False)
    if args.help_all:
        parser.print_help()
        raise SystemExit(0)
    settings = {} if args.config is None else _read_settings(_find_settings(args.config, args.verb))
    tokens: list[str] = []
    for name, value in settings.items():
        if name not in vars(args):
            tokens += [f"--{name}", *map(str, value if isinstance(value, list) else [_as_text(value)])]
        elif not getattr(args, name):
            setattr(args, name, [value] if name in LISTS and isinstance(value, str) else value)
    for name in required:
        if not getattr(args, name):
            raise ValueError(f"--{name} is missing; see unisrec {args.verb} --help for an example.")
    tokens += [*rest, "--output_dir", args.output_dir]
    parsed, unknown = parser.parse_args_into_dataclasses(tokens, return_remaining_strings=True)
    if unknown:
        known = [option for option in parser._option_string_actions if option.startswith("--")]
        nearest = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown argument {unknown[0]!r}; did you mean {nearest}? --help-all lists them.")
    return parsed


def had_ended(args: "UniSRecTrainingArguments") -> bool:
    """Whether the run that is to be resumed by `--resume_from_checkpoint auto` has come to its end; says so."""
    from ..trainer.safe_folders import has_ended

    folder = Path(args.output_dir)
    if str(args.resume_from_checkpoint).lower() != "auto" or not has_ended(folder):
        return False
    if args.process_index == 0:
        print(f"{folder}: this run has ended already; --resume_from_checkpoint true would train on.")
    return True


def tidy(args: "UniSRecTrainingArguments") -> AbstractContextManager[None]:
    """Context of a run that, after an exception, leaves nothing half-written; the main process sees to it."""
    from ..trainer.safe_folders import tidy_failure

    return tidy_failure(Path(args.output_dir)) if args.process_index == 0 else nullcontext()


def parse_model_config(pairs: Sequence[str]) -> dict[str, Any]:
    """`["hidden_size=64", ...]` as fields of [`UniSRecConfig`]. Raises `ValueError` for an unknown field."""
    import yaml

    from ..configuration import UniSRecConfig

    fields = UniSRecConfig.__annotations__
    config = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in fields:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"--model-config takes NAME=VALUE with a field of UniSRecConfig, such as {nearest}; got {pair!r}."
            )
        config[name] = yaml.safe_load(value)
    return config


def _find_settings(name: str, verb: str) -> str:
    """A file, or the one of that name among ours: `paper` is `configs/paper-pretrain.yaml` for `pretrain`."""
    packaged = CONFIGS / f"{name}-{verb}.yaml"
    return str(packaged) if packaged.is_file() and not Path(name).is_file() else name


def _read_settings(file: str) -> dict[str, Any]:
    import yaml

    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such configuration file.")
    try:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not a YAML file ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: expected a mapping of argument names to values.")
    return {name.replace("-", "_"): value for name, value in settings.items()}


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)
