"""Helpers shared by the training verbs: model settings, YAML files of arguments, and all `TrainingArguments`."""

import argparse
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from ..cli import did_you_mean, is_option
from ._shared import Result, add_json


if TYPE_CHECKING:
    from ..trainer import UniSRecFinetuneArguments, UniSRecPretrainArguments, UniSRecTrainingArguments

    Arguments = TypeVar("Arguments", UniSRecPretrainArguments, UniSRecFinetuneArguments)


CONFIGS = Path(__file__).parents[1] / "configs"

# Options of the verb that make no sense in a file.
NOT_IN_FILES = ("help", "help_all", "config", "json")
# Fields of the model configuration that follow from the data or are not settings.
NOT_IN_MODEL_CONFIG = ("text_config", "num_items", "training_data")


def add_training_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    r"""
    Adds `--output_dir`, `--config`, `--json` and the help; training arguments are parsed when the verb runs.

    Args:
        parser (`argparse.ArgumentParser`): Parser of the verb.
        kind (`str`): Name of the class of the training arguments, imported only if it is needed.
    """
    parser.add_argument("--output_dir", metavar="DIR", help="new folder for the checkpoint")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of arguments, or the name of one of ours: paper (the recipe of the paper), fast (finetune: for "
        "large domains), transfer (pretrain: for a checkpoint to use in other shops); options on the command line take "
        "precedence",
    )
    add_json(parser)
    parser.add_argument("-h", "--help", action=_Help, kind=kind, help="show our own arguments and exit")
    parser.add_argument("--help_all", action=_Help, kind=kind, help="show all arguments and exit")


class _Help(argparse.Action):
    """Shows the options of a verb, then the training arguments: `--help` only ours, `--help_all` all of them."""

    def __init__(self, *args: Any, kind: str, **options: Any):
        super().__init__(*args, nargs=0, **options)
        self._kind = kind

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from transformers import HfArgumentParser, TrainingArguments

        actions = HfArgumentParser(
            getattr(import_module("..trainer", __package__), self._kind), add_help=False
        )._actions
        theirs = {field.name for field in fields(TrainingArguments)}
        groups = {"arguments of the method": [action for action in actions if action.dest not in theirs]}
        more = ""
        if self.dest == "help_all":
            groups["arguments of transformers.TrainingArguments"] = [
                action for action in actions if action.dest in theirs and action.dest != "output_dir"
            ]
        else:
            more = (
                "All arguments of transformers.TrainingArguments are taken too, such as --learning_rate, --num_train_epochs\n"
                f"and --seed: {parser.prog} --help_all shows them.\n\n"
            )
        formatter = argparse.ArgumentDefaultsHelpFormatter(parser.prog)
        for title, group in groups.items():
            formatter.start_section(title)
            for action in group:
                action.option_strings = action.option_strings[:1]  # in one of the two spellings
                action.default = argparse.SUPPRESS if action.default is None else action.default
                formatter.add_argument(action)
            formatter.end_section()
        parser.epilog = f"{formatter.format_help()}\n{more}{parser.epilog}"
        parser.print_help()
        parser.exit()


def parse_training_arguments(
    kind: "type[Arguments]", args: argparse.Namespace, rest: Sequence[str], required: Sequence[str]
) -> "Arguments":
    r"""
    Parses training arguments from the configuration file and the remaining command line.

    Args:
        kind (`type`): Class of the training arguments.
        args (`argparse.Namespace`): Options parsed so far; the file sets those that were not given.
        rest (`Sequence[str]`): Remaining words of the command line.
        required (`Sequence[str]`): Names in `args` that must have a value.

    Returns:
        `kind`: The training arguments.

    Raises:
        ValueError: If an argument is unknown or missing, or the file is not a YAML mapping.
    """
    from transformers import HfArgumentParser

    hints = get_type_hints(kind)  # before the parser below changes the types of the fields
    parser = HfArgumentParser(kind, prog=f"unisrec {args.verb}", usage=argparse.SUPPRESS, allow_abbrev=False)
    options = _options_of_verb(args.verb)
    _check_options(args.verb, rest, [*parser._option_string_actions, *(f"--{name}" for name in options)])
    tokens: list[str] = []
    if args.config is not None:
        file = _find_settings(args.config, args.verb)
        own = {name: option for name, option in options.items() if name not in NOT_IN_FILES}
        known = [*own, *(field.name for field in fields(kind))]
        for name, value in _read_settings(file).items():
            if name not in known:
                raise ValueError(f"{file}: unknown argument {name!r}{did_you_mean(name, known)}.")
            if value is None:  # not given
                continue
            if name in own:
                if getattr(args, name) == own[name].default:  # not given on the command line
                    setattr(args, name, _own_value(file, own[name], value))
            elif isinstance(value, dict | list) and not _takes(hints[name], type(value)):
                raise ValueError(f"{file}: {name} takes one value, got {json.dumps(value)}.")
            elif isinstance(value, dict) or (
                isinstance(value, list) and parser._option_string_actions[f"--{name}"].nargs is None
            ):
                parser.set_defaults(**{name: value})
            elif isinstance(value, list):
                tokens += [f"--{name}", *value]
            else:
                switch = {"on": "true", "off": "false"} if _takes(hints[name], bool) else {}
                tokens.append(f"--{name}={switch.get(value.lower(), value)}")
    for name in required:
        if not getattr(args, name):
            raise ValueError(f"--{name} is missing; see unisrec {args.verb} --help for an example.")
    tokens += [*rest, f"--output_dir={args.output_dir}"]
    # Ignore an unrelated file with a matching name next to the program.
    parsed, unknown = parser.parse_args_into_dataclasses(
        tokens, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise ValueError(f"unexpected argument {unknown[0]!r}; see unisrec {args.verb} --help")
    return parsed


def _check_options(verb: str, words: Sequence[str], known: Sequence[str]) -> None:
    """Raises `ValueError` for the first option that is not known."""
    for word in words:
        name = word.partition("=")[0]
        if is_option(word) and name not in known:
            raise ValueError(
                f"unknown option {name[:100]}{did_you_mean(name, known)}; unisrec {verb} --help_all shows all of them"
            )


def had_ended(args: "UniSRecTrainingArguments") -> Result | None:
    """Returns the result of the verb if the run to be resumed by `--resume_from_checkpoint auto` has already ended."""
    from ..trainer.checkpoint_folders import has_ended

    folder = Path(args.output_dir)
    if str(args.resume_from_checkpoint).lower() != "auto" or not has_ended(folder):
        return None
    text = f"{folder}: this run has ended already; --resume_from_checkpoint true would train on."
    file = folder / "test_results.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    metrics = {name.removeprefix("test_"): value for name, value in found.items() if name.startswith("test_")}
    return Result(text, {"metrics": metrics, "checkpoint": args.output_dir})


def tidy(args: "UniSRecTrainingArguments") -> AbstractContextManager[None]:
    """Context manager that removes incomplete output after an exception, in the main process."""
    from ..trainer.checkpoint_folders import tidy_failure

    return tidy_failure(Path(args.output_dir)) if args.process_index == 0 else nullcontext()


def parse_model_config(pairs: Sequence[str]) -> dict[str, Any]:
    """Parses `["hidden_size=64", ...]` into fields of [`UniSRecConfig`]. Raises `ValueError` for an unknown field."""
    import yaml

    from ..configuration import UniSRecConfig

    known = [name for name in UniSRecConfig.__annotations__ if name not in NOT_IN_MODEL_CONFIG]
    config = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            raise ValueError(
                "--model_config takes NAME=VALUE with a field of UniSRecConfig, such as hidden_size=64; got "
                f"{pair!r}{did_you_mean(name, known)}."
            )
        try:
            config[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--model_config {pair}: expected a number, a word, true, false or null.") from error
    return config


def _find_settings(name: str, verb: str) -> str:
    """Returns a file, or the bundled one of that name: `paper` is `configs/paper-pretrain.yaml` for `pretrain`."""
    packaged = CONFIGS / f"{name}-{verb}.yaml"
    return str(packaged) if packaged.is_file() and not Path(name).is_file() else name


def _read_settings(file: str) -> dict[str, Any]:
    """
    Reads the settings of a file: scalars as strings (`no` is a word, `1e-3` is left to the parser), null as `None`,
    lists as lists of strings, mappings as parsed by YAML.
    """
    import yaml

    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such configuration file.")
    loader = yaml.SafeLoader("")
    try:
        node = yaml.compose(Path(file).read_text(encoding="utf-8"), yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise ValueError(f"{file}: expected a mapping of argument names to values.")
        settings: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value).replace("-", "_")
            if name in settings:
                raise ValueError(f"{file}: {name} occurs twice; keep one of them.")
            if isinstance(value, yaml.MappingNode):
                settings[name] = loader.construct_document(value)
                if not isinstance(settings[name], dict):  # `!!set`
                    raise ValueError(f"{file}: {name} takes plain values, lists or mappings.")
            elif isinstance(value, yaml.SequenceNode):
                if not all(isinstance(each, yaml.ScalarNode) for each in value.value):
                    raise ValueError(f"{file}: {name} takes a list of plain values.")
                settings[name] = [each.value for each in value.value]
            else:
                settings[name] = None if value.tag == "tag:yaml.org,2002:null" else value.value
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a YAML file ({' '.join(str(error).split())}).") from error
    return settings


def _options_of_verb(verb: str) -> dict[str, argparse.Action]:
    """Returns the options of the command's own parser, by name."""
    parser = argparse.ArgumentParser(add_help=False)
    import_module(f".{verb}", __package__).add_arguments(parser)
    return {action.dest: action for action in parser._actions}


def _own_value(file: str, option: argparse.Action, value: Any) -> Any:
    """Converts a setting as the parser of the command would."""
    from transformers.hf_argparser import string_to_bool

    name = option.dest
    if option.nargs == "+":
        if isinstance(value, dict):
            return [f"{key}={json.dumps(each)}" for key, each in value.items()]
        return value if isinstance(value, list) else [value]
    if not isinstance(value, str):
        raise ValueError(f"{file}: {name} takes one value, got {json.dumps(value)}.")
    if option.nargs == 0:
        try:
            return string_to_bool({"on": "true", "off": "false"}.get(value.lower(), value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{file}: {name} is {value!r}, expected true or false.") from error
    if option.choices is not None and value not in option.choices:
        raise ValueError(f"{file}: {name} is {value!r}, expected one of {', '.join(option.choices)}.")
    if option.type is int:
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"{file}: {name} is {value!r}, expected a whole number.") from None
    return value


def _takes(hint: Any, kind: type) -> bool:
    """Returns whether a type, or a member of a union, is a list or a dict."""
    return kind in (hint, get_origin(hint)) or any(_takes(part, kind) for part in get_args(hint))
