"""`unisrec prepare`: raw files -> domain folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._shared import Result, add_json


if TYPE_CHECKING:
    from ..data import Domain
    from ..data.interactions import RawData


DEFAULT_K = 5

EXAMPLE = """\
example:
  unisrec prepare table --interactions clicks.csv --items products.csv --text-columns title brand --output domains/shop

unisrec prepare SOURCE --help shows the options of a source.
"""

AMAZON_EXAMPLE = """example:
  unisrec prepare amazon --ratings Office_Products.csv.gz --metadata meta_Office_Products.json.gz --output domains/office
"""
ONLINE_RETAIL_EXAMPLE = """example:
  unisrec prepare online-retail --input online_retail_II.xlsx --output domains/online-retail
"""
RECBOLE_EXAMPLE = """examples:
  unisrec prepare recbole --input dataset/ml-100k --text-columns movie_title class --output domains/ml-100k
  unisrec prepare recbole --input dataset/downstream/Scientific --output domains/scientific
  unisrec prepare recbole --input dataset/pretrain/FHCKM --missing-text keep --output domains/fhckm

Folders of the official UniSRec code are taken whole, with their splits and text vectors: --user-k, --item-k and
--text-columns do not apply. A merged folder such as FHCKM becomes a folder of domains, domains/fhckm/Food and so on.
"""
TABLE_EXAMPLE = """examples:
  unisrec prepare table --interactions clicks.csv --items products.csv --user-column customer --item-column sku \\
      --time-column clicked_at --text-columns name brand --output domains/shop
  unisrec prepare table --interactions owner/clicks:2024[train] --text-columns title --output domains/clicks
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("output")
    group.add_argument("--output", required=True, metavar="DIR", help="domain folder to write; must not exist yet")
    group.add_argument("--name", help="name of the domain (default: name of the output folder)")
    group.add_argument(
        "--user-k", type=int, metavar="K", help="minimum number of interactions of a user; 1 keeps all (default: 5)"
    )
    group.add_argument(
        "--item-k", type=int, metavar="K", help="minimum number of interactions of an item; 1 keeps all (default: 5)"
    )
    group.add_argument(
        "--missing-text",
        choices=("error", "drop", "keep"),
        default="error",
        help="interactions whose item has no text: refuse, drop, or keep with the item id as text (default: error)",
    )
    group.add_argument(
        "--keep-unsold",
        action="store_true",
        help="keep items that nobody bought in the catalogue: they can be recommended, and are ranked and trained against "
        "like the others (default: dropped, as in the published benchmarks)",
    )
    add_json(group)

    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)

    def add_source(name: str, help: str, epilog: str) -> argparse.ArgumentParser:
        return sources.add_parser(name, help=help, description=f"Read {help}.", epilog=epilog, parents=[shared])

    amazon = add_source("amazon", "one category of the Amazon review data of 2014, 2018 or 2023", AMAZON_EXAMPLE)
    amazon.add_argument(
        "--ratings", required=True, metavar="FILE", help="ratings-only CSV or reviews as JSON lines, plain or gzipped"
    )
    amazon.add_argument(
        "--metadata", required=True, metavar="FILE", help="item metadata as JSON lines, plain or gzipped"
    )
    amazon.add_argument(
        "--text-fields",
        nargs="+",
        default=("title", "category", "brand"),
        metavar="FIELD",
        help="parts of the item text, of title, category, brand, description (default: title category brand)",
    )

    retail = add_source("online-retail", "the UCI Online Retail tables, I or II", ONLINE_RETAIL_EXAMPLE)
    retail.add_argument("--input", required=True, metavar="FILE", help=".xlsx, .csv, .csv.gz or .parquet")

    recbole = add_source("recbole", "RecBole atomic files, or a processed folder of official UniSRec", RECBOLE_EXAMPLE)
    recbole.add_argument(
        "--input", required=True, metavar="DIR", help="folder with NAME.inter and NAME.item, or with NAME.train.inter"
    )
    recbole.add_argument(
        "--text-columns", nargs="+", metavar="COLUMN", help="columns of NAME.item (default: all token, token_seq)"
    )

    table = add_source("table", "any CSV, JSON-lines, parquet or Excel file, or a dataset of the Hub", TABLE_EXAMPLE)
    table.add_argument(
        "--interactions", required=True, metavar="SOURCE", help="file, or owner/name@revision:config[split] on the Hub"
    )
    table.add_argument(
        "--items",
        metavar="SOURCE",
        help="file or dataset with the item texts; not needed if the interactions hold them",
    )
    for name, default in (("user", "user_id"), ("item", "item_id"), ("time", "timestamp")):
        help = f"column of the {name} (default: {default})"
        table.add_argument(f"--{name}-column", default=default, metavar="COLUMN", help=help)
    table.add_argument(
        "--text-columns", nargs="+", default=("title",), metavar="COLUMN", help="item text, in order (default: title)"
    )
    add_table_options(table)


def add_table_options(parser: argparse.ArgumentParser, keeps: bool = True) -> None:
    """Adds the options of [`read_table`] on how files are read, and with `keeps` on the columns that stay with items; without,
    for a checkpoint that remembers them."""
    remembered = "" if keeps else "as remembered, otherwise "
    parser.add_argument(
        "--items-id-column",
        metavar="COLUMN",
        help="column of the item ids in --items, if it differs from --item-column",
    )
    parser.add_argument(
        "--separator", metavar="CHAR", help=f"separator of CSV files: , ; | or tab (default: {remembered}detected)"
    )
    parser.add_argument(
        "--encoding", metavar="NAME", help=f"encoding of CSV files (default: {remembered}UTF-8 or cp1252)"
    )
    parser.add_argument(
        "--date-format",
        metavar="FORMAT",
        help=f"format of the times, such as %%d/%%m/%%Y (default: {remembered}numbers, ISO 8601, or 31.12.2024 18:05)",
    )
    parser.add_argument(
        "--drop-anonymous",
        action="store_true",
        help="drop rows whose user id stands for visitors without an account (0, -1, guest, anonymous, null, ...); rows "
        "without any user id are always dropped",
    )
    if not keeps:
        return
    parser.add_argument(
        "--keep-columns",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="product columns to keep, to filter recommendations by and to show beside them: price stock url",
    )
    parser.add_argument(
        "--event-column", metavar="COLUMN", help="column with the kind of each interaction, such as view or purchase"
    )
    parser.add_argument(
        "--events",
        nargs="+",
        default=(),
        metavar="EVENT",
        help="kinds of interactions that count, such as: purchase cart (default: all)",
    )


def table_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of [`read_table`] that [`add_table_options`] adds."""
    names = (
        "items_id_column",
        "separator",
        "encoding",
        "date_format",
        "drop_anonymous",
        "keep_columns",
        "event_column",
    )
    names += ("events",)
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def run(args: argparse.Namespace) -> Result:
    from ..data import build_domain
    from ..data.domain import check_output_folder
    from ..data.readers.official import find_official

    output = Path(args.output)
    check_output_folder(output)
    if args.source == "recbole" and find_official(args.input) is not None:
        return _run_official(args, output)
    interactions, items, info = _read(args)
    domain = build_domain(
        interactions,
        items,
        name=args.name or output.absolute().name,
        source=args.source,
        user_k=DEFAULT_K if args.user_k is None else args.user_k,
        item_k=DEFAULT_K if args.item_k is None else args.item_k,
        missing_text=args.missing_text,
        keep_unsold=args.keep_unsold,
        info=info,
    )
    domain.save_to_disk(output)
    return _result(args, [domain], [output], f"written to {output}")


def _run_official(args: argparse.Namespace, output: Path) -> Result:
    """Writes domains with the splits and text vectors of the official code, one folder each."""
    from dataclasses import replace

    from ..data.domain import new_folder
    from ..data.readers.official import read_official

    ignored = {"--user-k": args.user_k, "--item-k": args.item_k, "--text-columns": args.text_columns}
    ignored["--keep-unsold"] = args.keep_unsold or None
    if given := [option for option, value in ignored.items() if value is not None]:
        raise ValueError(
            f"{args.input} is a folder of the official code, which is read as it is; leave out {', '.join(given)}."
        )
    domains = read_official(args.input, missing_text=args.missing_text)
    if len(domains) == 1:
        domains = [replace(domains[0], name=args.name or output.absolute().name)]
        domains[0].save_to_disk(output)
        return _result(args, domains, [output], f"written to {output}")
    if args.name is not None:
        raise ValueError(f"--name {args.name}: {args.input} holds {len(domains)} domains, which have names already.")
    with new_folder(output) as draft:
        for domain in domains:
            domain.save_to_disk(draft / domain.name)
    names = [domain.name for domain in domains]
    return _result(args, domains, [output / name for name in names], f"written to {output}: {' '.join(names)}")


def _result(args: argparse.Namespace, domains: "Sequence[Domain]", folders: Sequence[Path], last_line: str) -> Result:
    """Reports the number of rows dropped by each step."""
    from ..cli import as_flags

    counts = ("name", "num_users", "num_items", "num_interactions", "info")
    found = [
        {name: getattr(domain, name) for name in counts} | {"output": str(folder)}
        for domain, folder in zip(domains, folders, strict=True)
    ]
    reports = [as_flags(domain.report(), [args.verb, args.source]) for domain in domains]
    return Result("\n\n".join([*reports, last_line]), {"domains": found})


def _read(args: argparse.Namespace) -> "RawData":
    from ..data import read_amazon, read_online_retail, read_recbole, read_table

    if args.source == "amazon":
        return read_amazon(args.ratings, args.metadata, text_fields=args.text_fields)
    if args.source == "online-retail":
        return read_online_retail(args.input)
    if args.source == "recbole":
        return read_recbole(args.input, text_columns=args.text_columns)
    return read_table(
        args.interactions,
        args.items,
        user_column=args.user_column,
        item_column=args.item_column,
        time_column=args.time_column,
        text_columns=args.text_columns,
        **table_options(args),
    )
