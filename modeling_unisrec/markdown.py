"""Text of others inside the Markdown of a repository's README."""

import re
from typing import Any


def one_line(text: str) -> str:
    """A text on one line, without what cannot be written as UTF-8 (names of files may hold such bytes)."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>#~&])", r"\\\1", one_line(text))


def code(value: Any) -> str:
    """A value as code in a line."""
    text = one_line(str(value))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}" if longest else f"`{text}`"


__all__ = ["code", "escape", "one_line"]
