"""Numbers in sentences."""


def plural(number: int, noun: str) -> str:
    """Formats a number with its noun: `1 item`, `2,000 items`, `0 histories`."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun}"


__all__ = ["plural"]
