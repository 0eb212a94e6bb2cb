"""Command line: one subcommand for each step of the workflow.

Exit status: 0 for success; 2 for bad usage, bad input or exhausted resources, with one line on stderr; 1 for a bug in
unisrec, with its traceback; 130 for Ctrl-C, 141 for a closed output pipe, 143 for SIGTERM.
"""

import argparse
import difflib
import io
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from importlib import import_module
from importlib.metadata import version
from opcode import opname
from typing import Any, NoReturn, TextIO


VERBS = {
    "fit": "turn the two tables of a shop into a recommender for it, with a report",
    "update": "teach a checkpoint the interactions since its training, in minutes",
    "prepare": "turn raw files into a domain folder",
    "pretrain": "pre-train a model on several domains",
    "finetune": "fine-tune a checkpoint on one domain",
    "evaluate": "rank the full catalogue of a domain and print the metrics",
    "recommend": "recommend the next items for one history or for a file of histories",
    "items": "list, sync, add or remove items of a checkpoint, without training",
    "index": "build an index for fast search in a large catalogue",
    "convert": "convert an official checkpoint (.pth) to a checkpoint folder",
    "serve": "answer requests for recommendations over HTTP",
    "demo": "serve a web page that shows what a checkpoint recommends",
    "plot": "plot a training run or what a model has learnt",
    "export": "write text encoder, item tower and sequence tower as ONNX files",
    "push": "upload a checkpoint folder to the Hugging Face Hub",
    "quickstart": "unisrec-base on an invented shop: zero-shot, then fine-tuned",
    "env": "print versions and devices, for bug reports",
}
# The verbs whose parser accepts options that it does not know: `run(args, rest)` gets them.
TRAINING = ("pretrain", "finetune")
NO_MODEL = ("prepare", "push", "env")  # need no registration of the model with transformers
NO_TEXT_ENCODER = ("prepare", "quickstart", "env")  # load no text encoder that a user names

# Exceptions that indicate a programming error, if they are raised in our own code.
PROGRAMMING = (AssertionError, AttributeError, IndexError, NameError, TypeError, StopIteration)
ENOUGH_WORDS = 4  # a shorter message, such as that of a missing key, does not explain the error


class OneLineParser(argparse.ArgumentParser):
    """Argument parser that takes each option in two spellings, `--top-k` and `--top_k`, but not abbreviated, and
    reports bad usage in one line."""

    def __init__(self, *args: Any, **options: Any):
        defaults = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*args, **defaults | options)
        self._words: list[str] = []

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parses the arguments after giving each option the spelling of its definition."""
        words = sys.argv[1:] if args is None else list(args)
        options = {action for action in self._actions if action.option_strings}
        spellings = {_plain(name): name for action in options for name in action.option_strings if len(name) > 2}
        for place, word in enumerate(words):
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                break  # what follows are operands, or words for the parser of a subcommand
            if is_option(word):
                name, equals, value = word.partition("=")
                words[place] = spellings.get(_plain(name), name) + equals + value
                if _plain(name) not in spellings and self.get_default("verb") not in TRAINING:
                    self.error(f"unknown option {_shorten(name, 100)}{did_you_mean(name, spellings.values())}")
        self._words = words
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with status 2."""
        choice = re.fullmatch(r"argument \S+: invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if choice is not None and self._subparsers is not None:
            known = re.findall(r"[\w-]+", choice[2])
            advice = did_you_mean(choice[1], known) or f" (expected {', '.join(known)})" * (len(known) < 10)
            message = f"unknown command {_shorten(choice[1], 100)!r}{advice}"
        if re.search("arguments are required: [^-]", message) and "--json" in self._words[:-1]:
            file = self._words[self._words.index("--json") + 1]
            message += f" ({file!r} was taken as the file of --json; put --json last)"
        self.exit(2, f"{self.prog}: error: {_shorten(message, 600)}; see {self.prog} --help\n")


def is_option(word: str) -> bool:
    """Returns whether a word of the command line is a long option, with or without a value."""
    return re.match(r"--[A-Za-z][\w-]*(=|$)", word) is not None


def _plain(option: str) -> str:
    """Returns an option in the one of its two spellings that has hyphens."""
    return option.replace("_", "-")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean ...?)` with the nearest of the known words, or nothing if none is near."""
    spellings = {_plain(name): name for name in reversed([*known])}  # the first spelling of a name is its own
    word = _plain(word)
    begins = sorted((name for name in spellings if len(word) > 3 and name.startswith(word)), key=len)
    nearest = begins or difflib.get_close_matches(word, spellings, n=1)
    return f" (did you mean {spellings[nearest[0]]}?)" if nearest else ""


class OutputError(OSError):
    """Raised if standard output cannot be written to, for example because the disk is full."""


class Output:
    """Wrapper of standard output whose errors can be distinguished from those of other files."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes to the stream; does nothing if Python has no standard output."""
        with self._failures():
            return len(text) if self._stream is None else self._stream.write(text)

    def flush(self) -> None:
        """Flushes the stream."""
        with self._failures():
            if self._stream is not None:
                self._stream.flush()

    @staticmethod
    @contextmanager
    def _failures() -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all subcommands; fast, because subcommands import heavy packages only when they run."""
    parser = OneLineParser(
        prog="unisrec",
        description="Sequential recommendation that transfers between shops: items are represented by their text.",
        epilog="unisrec VERB --help shows the options of a verb with an example.\n\nexample:\n  unisrec quickstart",
        usage="unisrec [-h] [--version] VERB ...",
    )
    parser.add_argument("--version", action="version", version=f"unisrec {version('unisrec')}")
    listed = "\n".join(f"{verb:12}{what}" for verb, what in VERBS.items())  # argparse would break lines in long verbs
    shown = {"metavar": "VERB", "title": "verbs", "description": listed, "help": argparse.SUPPRESS}
    verbs = parser.add_subparsers(dest="verb", required=True, prog="unisrec", **shown)
    for verb, what in VERBS.items():
        command = verbs.add_parser(
            verb,
            description=f"{what[0].upper()}{what[1:]}.",
            conflict_handler="resolve" if verb in TRAINING else "error",  # these have a --help of their own
        )
        command.set_defaults(verb=verb)
        import_module(f".commands.{verb}", __package__).add_arguments(command)
        if verb not in NO_TEXT_ENCODER:
            command.add_argument(
                "--trust-remote-code",
                nargs="?",
                const="true",
                type=str.lower,
                choices=("true", "false"),
                help="run the code that a text encoder brings along; false: use the class that transformers has for it "
                "(default: refuse such an encoder)",
            )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; `argv` defaults to the command line. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = f"unisrec {argv[0]}" if argv and argv[0] in VERBS else "unisrec"
    _print_any_text()
    is_done = False
    try:
        with redirect_stdout(Output(sys.stdout)) as output:
            try:
                status = _run(argv)
                is_done = True
            finally:
                output.flush()  # flush here, so that a full disk is still reported
        return status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as in `unisrec recommend ... | head -1`
        _discard_output()
        return 141
    except InterruptedError as error:  # a training has saved a checkpoint on SIGTERM
        if os.environ.get("RANK", "0") == "0":
            print(f"{name}: {error}", file=sys.stderr)
        return 143
    except OutputError as error:
        _discard_output()
        rest = "the work is done" if is_done else "each file that was written is complete"
        print(f"{name}: error: standard output cannot be written to ({error.strerror}); {rest}", file=sys.stderr)
        return 2
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of a library in Rust
            raise
        message = explain(error, ["unisrec", *argv])
        if message is None:
            error.add_note("A fault of unisrec: please report it with this traceback and the output of `unisrec env`.")
            raise
        if os.environ.get("UNISREC_DEBUG"):
            traceback.print_exc()
        print(f"{name}: error: {as_flags(message, argv)}", file=sys.stderr)
        return 2


def _run(argv: Sequence[str]) -> int:
    parser = build_parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    if argv[0] == "help":
        argv = [*argv[1:], "--help"]
    args, rest = parser.parse_known_args(argv)
    if rest and args.verb not in TRAINING:
        raise ValueError(f"unexpected argument {_shorten(rest[0], 100)!r}; see unisrec {args.verb} --help")
    json_file = getattr(args, "json", None)
    import_module(".commands._shared", __package__).check_files(args)
    command = import_module(f".commands.{args.verb}", __package__)
    # Where the result goes to standard output as JSON, messages on the way there go to standard error.
    with (
        redirect_stdout(sys.stderr) if json_file == "-" else nullcontext(),
        nullcontext() if args.verb in NO_MODEL else _transformers(),
        _trusting(getattr(args, "trust_remote_code", None)),
    ):
        result = command.run(args, rest) if args.verb in TRAINING else command.run(args)
    if isinstance(result, int):
        return result
    if json_file is not None:
        _write_json(json_file, result.data)
    if json_file != "-":
        print(result.text)
    return 0


def _trusting(choice: str | None) -> AbstractContextManager[None]:
    """Returns the context manager for `--trust-remote-code`."""
    if choice is None:
        return nullcontext()
    from .modeling_unisrec.own_code import trusting_remote_code

    return trusting_remote_code(choice == "true")


def _write_json(file: str, data: Any) -> None:
    """Writes a result as one JSON object, or as one line for each object of a list."""
    encoding = (sys.stdout.encoding if file == "-" else None) or "utf-8"
    parts, indent = (data, None) if isinstance(data, list) else ([data], 2)
    text = "".join(json.dumps(each, indent=indent, ensure_ascii=False) + "\n" for each in parts)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:  # printed as \u escapes
        text = "".join(json.dumps(each, indent=indent) + "\n" for each in parts)
    if file == "-":
        sys.stdout.write(text)
        return
    from .data.atomic import whole_file

    with whole_file(file) as draft:
        draft.write_text(text, encoding="utf-8")


def explain(error: BaseException, command: Sequence[str]) -> str | None:
    r"""
    Describes an exception caused by the input or the machine in one line.

    An exception is a bug in unisrec only if it is one of `PROGRAMMING` and was raised in our own code. Errors that our
    code raises with a message are shown unchanged. All others come from a library or from Python; the message of their
    cause is shown with the command that was run.

    Args:
        error (`BaseException`): The uncaught exception.
        command (`Sequence[str]`): Words of the command.

    Returns:
        `str` or `None`: The line, without a line break; `None` for a bug in unisrec.
    """
    place, is_raised_by_us = _origin(error)
    message = _message(error)
    if is_raised_by_us and len(message.split()) >= ENOUGH_WORDS:
        return message
    if isinstance(error, PROGRAMMING) and place == __package__:
        return None
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"cannot access {str(error.filename)!r}: {error.strerror}"
    cause = error
    while type(cause).__module__ != "builtins" and cause.__cause__ is not None:
        cause = cause.__cause__  # the outer exception of a library often has a generic message
    if len(_message(cause).split()) >= ENOUGH_WORDS:
        message = _message(cause)
    elif cause is not error:
        message = f"{message}: {_message(cause)}"
    library = type(error).__module__.partition(".")[0]
    library = place if library == "builtins" else library
    kind = type(cause).__name__ + ("" if library == __package__ else f" of {library}")
    run = _shorten(" ".join(command), 300)
    return f"{_shorten(message, 600) or 'no message'} ({kind} while running `{run}`; UNISREC_DEBUG=1 shows where)"


def as_flags(message: str, argv: Sequence[str]) -> str:
    r"""
    Writes the arguments that a message names in backticks as options of the command.

    Args:
        message (`str`): For example "... (`missing_text='drop'`)".
        argv (`Sequence[str]`): Words of the command.

    Returns:
        `str`: "... (--missing-text drop)" if the verb has such an option; other words stay as they are.
    """

    def option_of(match: re.Match) -> str:
        name, value = match["name"], match["value"]
        if name not in options:
            return match[0]
        return options[name] if value is None else f"{options[name]} {value}"

    options: dict[str, str] = {}
    parsers = [build_parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += [choice for word, choice in action.choices.items() if word in argv]
            elif flags := [flag for flag in action.option_strings if flag.startswith("--")]:
                options[action.dest] = flags[-1]
    return re.sub(r"`(?P<name>\w+)(?:='?(?P<value>[^'`]*)'?)?`", option_of, message)


def _origin(error: BaseException) -> tuple[str, bool]:
    """Returns the package that raised an exception, and whether it is ours and used a `raise` statement."""
    step = error.__traceback__
    while step.tb_next is not None:
        step = step.tb_next
    package = step.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    is_statement = opname[step.tb_frame.f_code.co_code[step.tb_lasti]] == "RAISE_VARARGS"
    return package, package == __package__ and is_statement


def _message(error: BaseException) -> str:
    """Returns the message of an exception in one line, without the traceback that worker processes add."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())


def _shorten(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 2 :]}"


def _print_any_text() -> None:
    """Lets the terminal escape characters it cannot encode, such as Japanese in a Windows code page."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Prevents Python from flushing the output again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _transformers() -> Iterator[None]:
    """Registers the model, hides the progress bars of weight files, and silences library warnings meant for
    programmers (`TRANSFORMERS_VERBOSITY=warning` and `python -W default` show them again)."""
    from transformers.utils import logging

    from . import register

    register()
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                for kind in (FutureWarning, DeprecationWarning):
                    warnings.simplefilter("ignore", kind)
            yield
    finally:
        logging.set_verbosity(verbosity)


__all__ = ["OneLineParser", "as_flags", "build_parser", "did_you_mean", "explain", "is_option", "main"]
