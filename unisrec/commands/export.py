"""`unisrec export`: text encoder, item tower and sequence tower as ONNX files."""

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ._shared import Result, add_json, table


if TYPE_CHECKING:
    from ..modeling_unisrec import UniSRecModel


EXAMPLE = """\
example:
  unisrec export runs/office --output onnx/office

Each file is run in ONNX Runtime and compared with the model; exit status 1 if they differ.
"""
TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the files")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME_OR_PATH",
        help="text encoder that the checkpoint was trained with, if it contains none",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int | Result:
    from ..data.domain import check_output_folder
    from ..modeling_unisrec.checkpoint import load_checkpoint
    from ..recommender.onnx_export import check_export_packages, export_onnx

    try:
        check_export_packages()
    except ImportError as error:  # not ours: one line and status 2
        raise ValueError(str(error)) from error
    check_output_folder(args.output)
    model, processor = load_checkpoint(args.model, args.text_encoder)
    model.float()
    with _quiet():
        export_onnx(model, args.output, processor)
    return report(model, Path(args.output))


def report(model: "UniSRecModel", folder: Path) -> int | Result:
    """Returns the file sizes and their deviations from the model, or exit status 1 if one deviates too far."""
    from ..recommender.onnx_export import onnx_differences

    differences = onnx_differences(model, folder)
    sizes = {name: sum(file.stat().st_size for file in folder.glob(f"{name}*")) for name in differences}
    rows = [(name, f"{sizes[name] / 1e6:.1f}", f"{differences[name]:.1e}") for name in differences]
    text = table(("file", "MB", "largest difference from torch"), rows, right=(1,))
    worst = max(differences, key=differences.get)
    if not differences[worst] <= TOLERANCE:
        print(text)
        print(
            f"unisrec export: error: {folder / worst} differs from the model by {differences[worst]:.1e}, more than "
            f"{TOLERANCE:.0e}: do not serve it; another version of torch, onnx or onnxscript may export it well.",
            file=sys.stderr,
        )
        return 1
    files = {name: {"bytes": sizes[name], "largest_difference": differences[name]} for name in differences}
    return Result(f"{text}\n\nwritten to {folder}", {"files": files, "output": str(folder)})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the internal messages of the exporters; the files are verified instead."""
    from transformers.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

    torch_logger = logging.getLogger("torch.onnx")
    levels = get_verbosity(), torch_logger.level
    set_verbosity_error()
    torch_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        set_verbosity(levels[0])
        torch_logger.setLevel(levels[1])
