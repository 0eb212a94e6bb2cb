"""Helpers shared by several verbs: their result, loading of a recommender, and formatting for the terminal."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..words import plural


if TYPE_CHECKING:
    from ..modeling_unisrec import ItemCatalogue, UniSRecProcessor
    from ..recommender import Recommender


METRICS = {"R@10": "recall@10", "N@10": "ndcg@10", "R@50": "recall@50", "N@50": "ndcg@50"}
# Options that name files or folders to read, of any verb.
READ = (
    *("model", "text_encoder", "index", "config", "domain", "domains", "compare_with"),
    *("interactions", "items", "item_data", "input", "users", "ratings", "metadata", "official"),
)


class Result(NamedTuple):
    """
    What a verb reports at its end.

    Args:
        text (`str`): For people; printed to standard output.
        data (`dict[str, Any]` or `list[dict[str, Any]]`): The same for programs; written by `--json`.
    """

    text: str
    data: dict[str, Any] | list[dict[str, Any]]


class _Ended(BaseException):
    """Raised on SIGTERM; not an `Exception`, because those are caught and explained where files are loaded."""


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end what is done inside as an exception does, which removes what is half done. Raises
    `InterruptedError`."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise _Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (_Ended, InterruptedError) as error:  # the latter by a training, which handles the signal itself
        raise InterruptedError("ended by SIGTERM; nothing was written") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def add_text_neighbours(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the share of text neighbours in the score of a model."""
    parser.add_argument(
        "--text-neighbours",
        type=float,
        metavar="SHARE",
        help="share, from 0 to 1, that the texts of the latest items have in the score (default: that of the checkpoint, 0.85 "
        "for unisrec-base, after fine-tuning what validation chose; 0: the model alone)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`, which the command line handles for every verb that returns a [`Result`]."""
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the result to a file as JSON, or print it instead of the text if no file is named",
    )


def check_files(args: argparse.Namespace) -> None:
    """Raises an error if a file that the verb writes at its end cannot be written, or would replace something it reads."""
    options = vars(args)
    written = {"json": options.get("json"), "output": options["output"] if args.verb == "recommend" else None}
    written = {name: file for name, file in written.items() if file not in (None, "-")}
    if not written:
        return
    from ..data.atomic import check_apart, check_output_file

    if "json" in written:
        check_output_file(written["json"])
    used = [options.get(name) for name in (*READ, "output", "output_dir") if name not in written]
    used = [
        each
        for value in used
        for each in (value if isinstance(value, list) else [value])
        if isinstance(each, str) and each
    ]
    check_apart({f"--{name}": file for name, file in written.items()}, used)


def add_items_arguments(
    parser: argparse.ArgumentParser, domain: str = "rank the items of this domain folder instead"
) -> None:
    """Adds the options that name the items to rank; `domain` is the help for `--domain`."""
    items = parser.add_mutually_exclusive_group()
    items.add_argument(
        "--items",
        metavar="SOURCE",
        help="rank these products instead of the catalogue of the checkpoint: .csv, .tsv, .jsonl, .parquet or a dataset",
    )
    items.add_argument("--domain", metavar="DIR", help=domain)
    add_product_columns(parser, "--items")


def add_product_columns(parser: argparse.ArgumentParser, option: str) -> None:
    """Adds the options of [`read_products`] on how the table of an option is read."""
    parser.add_argument(
        "--item-column",
        metavar="COLUMN",
        help=f"column of {option} with the ids (default: as the checkpoint remembers, otherwise item_id)",
    )
    parser.add_argument(
        "--text-columns",
        nargs="+",
        metavar="COLUMN",
        help=f"columns of {option} that form the item text, in order (default: as the checkpoint remembers, otherwise "
        "title or text)",
    )
    parser.add_argument(
        "--separator",
        metavar="CHAR",
        help=f"separator of {option} if it is a CSV file (default: as remembered or found)",
    )
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        help=f"encoding of {option} if it is a CSV file (default: as remembered or found)",
    )


def product_columns(args: argparse.Namespace, option: str, is_given: bool) -> dict[str, Any]:
    """Returns the values of the options of [`add_product_columns`]. Raises `ValueError` for one of them without a
    table."""
    columns = {name: getattr(args, name) for name in ("item_column", "text_columns", "separator", "encoding")}
    if not is_given and (named := [f"--{name.replace('_', '-')}" for name in columns if columns[name] is not None]):
        raise ValueError(
            f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} for {option}: name the products too."
        )
    return columns


def kept_domain(model: str) -> str | None:
    """Returns the folder in which `unisrec fit` keeps its prepared data beside a checkpoint, `None` if there is none."""
    from ..shop_tables import DOMAIN

    folder = os.path.join(model, DOMAIN)
    return folder if os.path.isfile(os.path.join(folder, "domain.json")) else None


def is_kept_domain(args: argparse.Namespace) -> bool:
    """Returns whether `--domain` is that of the checkpoint, whose catalogue is more recent and has text vectors."""
    kept = kept_domain(args.model)
    return None not in (args.domain, kept) and os.path.realpath(args.domain) == os.path.realpath(kept)


def given_items(args: argparse.Namespace) -> "ItemCatalogue | None":
    """Returns the items named by the options of [`add_items_arguments`], or `None`."""
    from ..modeling_unisrec.checkpoint import load_checkpoint_tables
    from ..recommender.catalogue import make_catalogue

    columns = product_columns(args, "--items", args.items is not None)
    if args.items is None:
        return make_catalogue(None if is_kept_domain(args) else args.domain)
    return make_catalogue(args.items, **columns, tables=load_checkpoint_tables(args.model))


def load_recommender(
    args: argparse.Namespace, index: str = "exact", check: "Callable[[UniSRecProcessor], None] | None" = None
) -> "Recommender":
    """Loads a recommender for the options of a verb, and prints how long the encoding of texts took. `check` is called
    with processor and catalogue before texts are encoded. Raises `ValueError` if FAISS is missing, so that the verb exits
    with status 2."""
    from ..modeling_unisrec.checkpoint import load_checkpoint
    from ..recommender import Recommender
    from ..recommender.catalogue import take_catalogue, use_text_vectors_of

    catalogue = given_items(args)
    model, processor = load_checkpoint(args.model, args.text_encoder)
    if catalogue is not None:
        take_catalogue(catalogue, model, processor)
    if check is not None and processor.catalogue is not None:
        check(processor)
    use_text_vectors_of(None if is_kept_domain(args) else args.domain, model, processor)
    start = time.perf_counter()
    recommender = Recommender(model, processor, args.text_neighbours)
    if processor.catalogue.item_embeddings is None:
        seconds = time.perf_counter() - start
        columns = processor.catalogue.tables.get("text_columns") if catalogue is not None else None
        read = f" (text: {', '.join(columns)})" if columns else ""
        print(f"{plural(len(processor.catalogue), 'item')} encoded in {seconds:.1f} s{read}", file=sys.stderr)
    try:
        if index != "exact":
            recommender.use_index(index)
    except ImportError as error:
        raise ValueError(str(error)) from error
    return recommender


def progress_of(args: argparse.Namespace) -> Callable[[str], None]:
    """Returns a function that prints lines on the progress of a verb, in which arguments in backticks become its options."""
    from ..cli import as_flags

    return lambda line: print(as_flags(line, [args.verb]), file=sys.stderr, flush=True)


def shows_progress() -> bool:
    """Returns whether to show progress bars: only if somebody watches them."""
    return sys.stderr.isatty()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Formats a table with columns as wide as their cells; columns listed in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


def metrics_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Formats metrics by row name, with seen items kept and masked side by side."""
    width = max(len(name) for name in rows)
    lines = [
        f"{'':{width}}  {'seen items kept':^39}  {'seen items masked':^39}",
        f"{'':{width}}  " + "  ".join(" ".join(f"{name:>9}" for name in METRICS) for _ in range(2)),
    ]
    for name, metrics in rows.items():
        cells = [[f"{metrics[key + suffix]:9.4f}" for key in METRICS.values()] for suffix in ("", "_seen_masked")]
        lines.append(f"{name:{width}}  " + "  ".join(" ".join(group) for group in cells))
    return "\n".join(lines)
