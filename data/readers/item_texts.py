"""Item texts: the cleaning and joining of title, category and brand (section 2.1 of the paper: "the item text")."""

import html
from collections.abc import Iterable

import polars as pl


MAX_CHARS = 2000


def clean_text(text: pl.Expr) -> pl.Expr:
    """
    Clean texts: decode HTML entities, remove tags, styles, scripts, comments and double quotes, and collapse whitespace into
    single spaces.

    Args:
        text (`pl.Expr` of `str`): Raw text.

    Returns:
        `pl.Expr` of `str`: Cleaned text; null stays null, and a text with nothing left becomes null.
    """
    cleaned = (
        text.map_batches(_unescape, return_dtype=pl.String)
        .str.replace_all(r"(?is)<!--.*?-->|<style\b.*?</style\s*>|<script\b.*?</script\s*>", " ")
        .str.replace_all(r"</?[A-Za-z][^<>]*>", " ")
        .str.replace_all('"', "", literal=True)
        .str.replace_all(r"\s+", " ")
        .str.strip_chars()
    )
    return pl.when(cleaned != "").then(cleaned)


def join_texts(parts: Iterable[pl.Expr], max_chars: int = MAX_CHARS) -> pl.Expr:
    """
    Join the cleaned parts of an item text with `". "`.

    The official code replaces a text of 2,000 characters and more by nothing; here it is cut at a word boundary.

    Args:
        parts (iterable of `pl.Expr` of `str`): For example title, category, brand; null and empty parts are left out.
        max_chars (`int`, *optional*, defaults to 2000): Length of the longest text, in characters.

    Returns:
        `pl.Expr` of `str`: The text; null where every part is empty.
    """
    # Official texts end every part in exactly one full stop; the last one is left out so that "red mug" stays "red mug".
    stripped = [clean_text(part).str.strip_chars_end(". ") for part in parts]
    joined = pl.concat_str([pl.when(part != "").then(part) for part in stripped], separator=". ", ignore_nulls=True)
    cut = joined.str.slice(0, max_chars + 1).str.replace(r"\s\S*$", "").str.slice(0, max_chars)
    return pl.when(joined.str.len_chars() > max_chars).then(cut).when(joined != "").then(joined)


def _unescape(texts: pl.Series) -> pl.Series:
    """HTML entities of the distinct texts that hold any."""
    escaped = texts.filter(texts.str.contains("&", literal=True)).unique()
    return texts.replace(escaped, pl.Series([html.unescape(text) for text in escaped], dtype=pl.String))


__all__ = ["MAX_CHARS", "clean_text", "join_texts"]
