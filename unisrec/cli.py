"""Command line: one subcommand for each step of the workflow.

Exit status: 0 for success; 2 for bad usage, bad input or exhausted resources, with one line on stderr; 1 for a bug in
unisrec, with its traceback; 130 for Ctrl-C, 141 for a closed output pipe, 143 for SIGTERM.
"""

import argparse
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib import import_module
from opcode import opname
from typing import Any, NoReturn, TextIO


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

# Exceptions that indicate a programming error, if they are raised in our own code.
PROGRAMMING = (AssertionError, AttributeError, IndexError, NameError, TypeError, StopIteration)
ENOUGH_WORDS = 4  # a shorter message, such as that of a missing key, does not explain the error


class OneLineParser(argparse.ArgumentParser):
    """Argument parser that accepts only full option names and reports bad usage in one line."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with status 2."""
        self.exit(2, f"{self.prog}: error: {_shorten(message, 600)}; see {self.prog} --help\n")


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
        )
        import_module(f".commands.{verb}", __package__).add_arguments(command)
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
    args, rest = build_parser().parse_known_args(argv)
    takes_training_arguments = args.verb in ("pretrain", "finetune")
    if rest and not takes_training_arguments:
        raise ValueError(f"{args.verb} does not know {_shorten(rest[0], 100)!r}; see unisrec {args.verb} --help")
    command = import_module(f".commands.{args.verb}", __package__)
    with nullcontext() if args.verb in NO_MODEL else _transformers():
        return command.run(args, rest) if takes_training_arguments else command.run(args)


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


__all__ = ["as_flags", "build_parser", "explain", "main"]
