"""Word drop: the second view of an item's text in the contrastive pre-training."""

from collections.abc import Sequence
from random import Random


def drop_words(texts: Sequence[str], ratio: float = 0.15, seed: int = 0) -> list[str]:
    r"""
    Returns copies of texts with randomly dropped words, reproducible for a given seed.

    Each word is dropped independently; a text that would lose all its words keeps the first. The result for a text
    depends on `seed` and the text alone, not on its position in the list.

    Args:
        texts (`Sequence[str]`): Item texts; words are separated by whitespace.
        ratio (`float`, *optional*, defaults to 0.15): Probability that a word is dropped, in `[0, 1)`.
        seed (`int`, *optional*, defaults to 0): Random seed.

    Returns:
        `list[str]`: The remaining words of each text, separated by single spaces, in the order of `texts`.

    Raises:
        ValueError: If `ratio` is outside `[0, 1)`.

    Examples:

    ```python
    >>> drop_words(["Nordkap Stainless Steel Kettle 1.7 L"], ratio=0.3, seed=1)
    ['Nordkap Stainless Kettle L']
    ```
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be at least 0 and below 1, got {ratio}")

    dropped = []
    for text in texts:
        draw = Random(f"{seed} {text}").random
        words = text.split()
        dropped.append(" ".join([word for word in words if draw() >= ratio] or words[:1]))
    return dropped


__all__ = ["drop_words"]
