"""Options of `unisrec recommend` for the rules of a shop, and their counterparts in Python."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..words import plural


if TYPE_CHECKING:
    from ..modeling_unisrec import UniSRecProcessor


def add_rules_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; they need those of `add_items_arguments`."""
    parser.add_argument(
        "--where", metavar="CONDITION", help='condition on columns of the items, such as "stock > 0 AND price < 50"'
    )
    parser.add_argument(
        "--cap", nargs="+", metavar="COLUMN=N", help="at most N items with the same value of a column: brand=2"
    )
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="weight of the difference to the items above, from 0 (default) to 1",
    )
    parser.add_argument(
        "--popularity",
        nargs="?",
        const="",
        metavar="COLUMN",
        help="for an empty history, rank by this column of the items, or without COLUMN by the purchases in --domain",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns of the items to add to the result: price url",
    )
    add_item_data(parser)


def add_item_data(parser: argparse.ArgumentParser) -> None:
    """Adds `--item-data`."""
    parser.add_argument(
        "--item-data",
        metavar="FILE",
        help="table with the columns of the items as they are now, such as stock; its ids are in item_id",
    )


def use_item_data(file: str | None, processor: "UniSRecProcessor") -> None:
    """Replaces columns of the catalogue by those of a table, if one is named."""
    from ..recommender.catalogue import columns_by_id

    if file is not None:
        columns = columns_by_id(file, processor.catalogue.item_ids)
        processor.catalogue = processor.catalogue.with_columns(columns)


class ShopRules:
    """
    The rules that the options ask for.

    Args:
        args (`argparse.Namespace`): Options of the verb.

    Raises:
        ValueError: If a cap is not written `COLUMN=N`, or purchases are to be counted without a domain.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        if args.popularity == "" and args.domain is None:
            raise ValueError("--popularity: name a column of the items that counts purchases, or add --domain.")
        self.cap: dict[str, int] = {}
        for word in args.cap or ():
            column, _, limit = word.rpartition("=")
            if not column or not limit.isdecimal():
                raise ValueError(f"--cap: {word!r}, expected COLUMN=N, such as brand=2")
            if column in self.cap:
                raise ValueError(f"--cap: column {column!r} comes twice, expected once")
            self.cap[column] = int(limit)
        self._popularity: Any = args.popularity

    def check(self, processor: "UniSRecProcessor") -> None:
        """Reads `--item-data` into the catalogue, and raises `ValueError` for a rule that does not fit it."""
        from ..data import Domain
        from ..modeling_unisrec.item_columns import item_mask
        from ..recommender.rules import check_result_columns, make_rules

        args = self.args
        use_item_data(args.item_data, processor)
        if args.popularity == "":
            self._popularity = Domain.load_from_disk(args.domain)
        make_rules(processor.catalogue, self.cap, args.diversity, self._popularity)
        check_result_columns(processor.catalogue, args.columns)
        if args.where is not None and not item_mask(processor.catalogue, args.where).any():
            raise ValueError(f"--where: no item of the catalogue fulfils {args.where!r}, expected at least one")

    def options(self) -> dict[str, Any]:
        """Returns the options of [`Recommender.recommend`]."""
        args = self.args
        rules = {"where": args.where, "cap": self.cap, "diversity": args.diversity, "popularity": self._popularity}
        return rules | {"columns": args.columns}

    def note(self, histories: Sequence[Sequence[Any]]) -> str | None:
        """Returns a line about empty histories, or `None` if there are none."""
        empty = sum(1 for history in histories if not history)
        if not empty or self.args.popularity is None:
            return None
        source = (
            f"the column {self.args.popularity!r}" if self.args.popularity else f"the purchases in {self.args.domain}"
        )
        return f"{plural(empty, 'empty history')}: the most popular items, by {source}"


__all__ = ["ShopRules", "add_item_data", "add_rules_arguments", "use_item_data"]
