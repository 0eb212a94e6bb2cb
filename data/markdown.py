"""Escaping of external text in Markdown, such as the README of a repository."""

import re
from typing import Any


def one_line(text: str) -> str:
    """Returns a text on one line, without bytes that UTF-8 cannot encode (file names may hold such bytes)."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def escape(text: str) -> str:
    """Escapes a text so that Markdown shows it unchanged, on one line."""
    return re.sub(r"([\\`*_\[\]<>#~&])", r"\\\1", one_line(text))


def code(value: Any) -> str:
    """Formats a value as inline code."""
    text = one_line(str(value))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}" if longest else f"`{text}`"


__all__ = ["code", "escape", "one_line"]
