"""Columns of the items, such as price and stock: which there are, and which items a condition on them leaves."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch

from .item_catalogue import ItemCatalogue, import_polars


# Or a polars expression or series, or a numpy array: transformers takes every import, also for type checking alone, as one
# that remote code needs.
Where: TypeAlias = str | torch.Tensor | Sequence[bool] | Any
MAX_CHARACTERS, MAX_WORDS = 1_000, 200  # of a condition; a longer one could take a parser to its limits
# What a condition may hold besides columns, numbers and texts. In particular no SELECT, by which polars reads files.
KEYWORDS = frozenset("AND OR NOT IN IS NULL LIKE ILIKE BETWEEN TRUE FALSE CASE WHEN THEN ELSE END".split())
FUNCTIONS = frozenset("ABS COALESCE ENDS_WITH LENGTH LOWER ROUND STARTS_WITH UPPER".split())
DATES = frozenset(("DATE", "TIMESTAMP"))  # in front of a text: DATE '2026-01-31'
TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*")|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))"""
    r"""|(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|==|[-+*/%(),=<>]))"""
)


def item_mask(catalogue: ItemCatalogue, where: Where) -> torch.Tensor:
    r"""
    Finds the items for which a condition holds.

    A condition is written in SQL: comparisons of columns with numbers, texts in single quotes and dates
    (`DATE '2026-01-31'`), arithmetic, `AND`, `OR`, `NOT`, `IN`, `IS NULL`, `LIKE`, `BETWEEN`, `CASE`, and the functions
    `abs`, `coalesce`, `ends_with`, `length`, `lower`, `round`, `starts_with` and `upper`. Names of columns that are no
    single word are in double quotes. Nothing else is evaluated: no queries, no files, no Python.

    Args:
        catalogue ([`ItemCatalogue`]): The items.
        where (`str`, `polars.Expr` or sequence of `bool`):
            A condition such as `"stock > 0 AND brand IN ('Acme', 'Umbra')"`, at most 1,000 characters; a polars
            expression; or `True` or `False` for each item. An item for which the condition is neither true nor false,
            such as one whose stock is unknown, is left out.

    Returns:
        `torch.BoolTensor` of shape `(num_items,)`: Whether the condition holds.

    Raises:
        ValueError: If the condition names an unknown column, cannot be read or is no condition on items, or the number
            of values is not that of the items.
    """
    polars = import_polars()
    if isinstance(where, str):
        expression, names = _parse(where, catalogue)
    elif isinstance(where, polars.Expr):
        expression, names = where, list(dict.fromkeys(where.meta.root_names()))
        if not names or not set(names) <= set(catalogue.column_names):  # selectors, or an unknown one to be named
            names = None
    else:
        return _given_mask(where, len(catalogue))
    shown = repr(where) if isinstance(where, str) else "the expression"
    try:
        found = catalogue.table(names).select(expression)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, TypeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"where: {shown} cannot be evaluated ({reason[:160]}); {describe(catalogue)}") from error
    if names == [] or found.width != 1 or found.height != len(catalogue) or found.dtypes[0] != polars.Boolean:
        raise ValueError(
            f"where: {shown} is no condition on each item, expected one such as stock > 0; {describe(catalogue)}"
        )
    return torch.from_numpy(found.to_series().fill_null(False).to_numpy().copy())


def check_columns_known(catalogue: ItemCatalogue, names: Iterable[str], option: str) -> None:
    """Raises `ValueError`, which begins with the name of an `option`, if the items of a `catalogue` lack one of the columns
    `names`."""
    known = catalogue.column_names
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{option}: the items have no column {name!r}; {hint}{describe(catalogue)}")


def describe(catalogue: ItemCatalogue) -> str:
    """Returns the names and kinds of the columns for a message."""
    polars = import_polars()
    schema = {"item_id": polars.String, "text": polars.String}
    schema |= {} if catalogue.columns is None else dict(catalogue.columns.schema)
    kinds = {polars.String: "text", polars.Boolean: "true or false"}
    parts = [
        f"{name} ({'number' if dtype.is_numeric() else kinds.get(dtype, str(dtype).lower())})"
        for name, dtype in schema.items()
    ]
    shown = ", ".join(parts[:30]) + (f" and {len(parts) - 30} more" if len(parts) > 30 else "")
    return f"the columns are {shown}"


def _parse(where: str, catalogue: ItemCatalogue) -> tuple[Any, list[str]]:
    """Parses a condition, and returns the columns that it needs as well. In the SQL that polars gets, columns come out in quotes
    and every other word is one of ours, so that it can be nothing but an expression."""
    polars = import_polars()
    tokens, place = [], 0
    if len(where) > MAX_CHARACTERS:
        raise ValueError(f"where: the condition has {len(where):,} characters, expected at most {MAX_CHARACTERS:,}")
    while where[place:].strip():
        token = TOKEN.match(where, place)
        if token is None:
            rest = where[place:].strip()
            raise ValueError(f"where: {where!r} cannot be read at {rest[:20]!r}; {describe(catalogue)}")
        tokens.append((token.lastgroup, token[token.lastgroup]))
        place = token.end()
    if not tokens:
        raise ValueError(f"where: the condition is empty, expected one such as stock > 0; {describe(catalogue)}")
    if len(tokens) > MAX_WORDS:
        raise ValueError(f"where: the condition has {len(tokens)} words and signs, expected at most {MAX_WORDS}")
    parts, names = [], []
    for (kind, token), (next_kind, next_token) in zip(tokens, [*tokens[1:], ("", "")], strict=True):
        word = token.upper()
        is_ours = kind in ("text", "number", "sign")
        is_ours |= kind == "word" and (
            word in KEYWORDS or (word in FUNCTIONS and next_token == "(") or (word in DATES and next_kind == "text")
        )
        if not is_ours:
            name = token if kind == "word" else token[1:-1].replace('""', '"')
            if next_token == "(":
                raise ValueError(
                    f"where: {name!r} is no function here, expected one of {', '.join(sorted(FUNCTIONS)).lower()}"
                )
            if kind == "quoted" and name not in catalogue.column_names:
                name_in_quotes = name.replace("'", "''")
                raise ValueError(
                    f"where: no column {name!r}; a text is written in single quotes, '{name_in_quotes}'; "
                    f"{describe(catalogue)}"
                )
            check_columns_known(catalogue, [name], "where")
            names.append(name)
            token = '"' + name.replace('"', '""') + '"'
        parts.append(token)
    try:
        return polars.sql_expr(" ".join(parts)), list(dict.fromkeys(names))
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        reason = "" if reason.startswith("unable to parse") else f" ({reason[:160]})"
        raise ValueError(
            f"where: {where!r} is no condition that can be read{reason}; {describe(catalogue)}"
        ) from error


def _given_mask(where: Any, num_items: int) -> torch.Tensor:
    """Checks values given for each item."""
    values = where.to_list() if hasattr(where, "to_list") else where.tolist() if hasattr(where, "tolist") else where
    if not isinstance(values, Sequence) or not all(value is None or isinstance(value, bool) for value in values):
        raise ValueError(
            f"where: a {type(where).__name__}, expected a condition such as 'stock > 0', a polars expression, or True or "
            "False for each item"
        )
    if len(values) != num_items:
        raise ValueError(f"where: {len(values):,} values, expected one for each of the {num_items:,} items")
    return torch.tensor([bool(value) for value in values], dtype=torch.bool)


__all__ = ["Where", "check_columns_known", "describe", "item_mask"]
