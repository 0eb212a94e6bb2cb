"""Text neighbours: items whose texts are like those of the latest items of a history, without anything learned from shops."""

import torch
from torch.nn import functional as F

from ..configuration import UniSRecConfig
from .modeling_unisrec import unit_vectors


# Weight of an item of a history relative to the one after it, and share of text neighbours in the score. Both were chosen on
# validation users of four shops that the model had never seen; docs/results.md has the figures.
RECENCY = 0.7
SHARE = 0.5


def check_text_neighbours(share: float, config: UniSRecConfig) -> None:
    """
    Checks that a model can be mixed with text neighbours.

    Args:
        share (`float`): Share of the text neighbours in the score.
        config ([`UniSRecConfig`]): Configuration of the model.

    Raises:
        ValueError: If the share is outside of [0, 1], or the model has no texts or scores by the plain product.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of text neighbours is {share}, expected a number from 0 to 1.")
    if share and not config.item_text:
        raise ValueError(
            "text neighbours need texts, and this model represents items by their ID alone: leave them out."
        )
    if share and config.similarity != "cosine":
        raise ValueError(
            "text neighbours are mixed with cosines, and this model scores by the plain product: leave them out."
        )


def recent_texts(item_index: torch.Tensor, text_embeds: torch.Tensor, recency: float = RECENCY) -> torch.Tensor:
    r"""
    Computes the text vector of a history, in which the latest items count most: the weight of an item is `recency` to the
    power of the number of items after it.

    Args:
        item_index (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
            Histories, oldest item first: row of `text_embeds` + 1, 0 is padding on the right.
        text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`): Text vectors.
        recency (`float`, *optional*, defaults to 0.7): From 0 (the latest item alone) to 1 (the mean of all).

    Returns:
        `torch.FloatTensor` of shape `(batch_size, text_embedding_size)`: Unit vectors.
    """
    is_item = item_index > 0
    age = is_item.sum(1, keepdim=True) - 1 - torch.arange(item_index.shape[1], device=item_index.device)
    weights = torch.where(is_item, recency ** age.clamp(min=0).to(text_embeds.dtype), 0)
    rows = (item_index - 1).clamp(min=0)
    return unit_vectors(F.embedding_bag(rows, unit_vectors(text_embeds), per_sample_weights=weights, mode="sum"))


def mix(vectors: torch.Tensor, texts: torch.Tensor, share: float) -> torch.Tensor:
    r"""
    Joins vectors of a model with text vectors, so that the product of two results is a weighted mean of their cosines.

    Args:
        vectors (`torch.FloatTensor` of shape `(num_rows, hidden_size)`): Unit vectors of histories or items.
        texts (`torch.FloatTensor` of shape `(num_rows, text_embedding_size)`): Their text vectors.
        share (`float`): Weight of the cosine of the texts, in [0, 1]; that of the model has the rest.

    Returns:
        `torch.FloatTensor` of shape `(num_rows, hidden_size + text_embedding_size)`: Unit vectors; `vectors` itself if the
        share is 0.
    """
    if not share:
        return vectors
    texts = unit_vectors(texts.to(vectors))
    return torch.cat([(1 - share) ** 0.5 * vectors, share**0.5 * texts], dim=-1)


__all__ = ["RECENCY", "SHARE", "check_text_neighbours", "mix", "recent_texts"]
