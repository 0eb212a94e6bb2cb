"""Text neighbours: items whose texts are like those of the latest items of a history, without anything learned from shops."""

import torch
from torch.nn import functional as F


# Weight of an item of a history relative to the one after it, and share of text neighbours in the score. Both were chosen on
# validation users of four shops that the model had never seen; docs/results.md has the figures.
RECENCY = 0.7
SHARE = 0.5


def unit_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """Returns `vectors` `(..., hidden_size)` scaled to unit length. A zero vector stays zero, as in `F.normalize`, but its
    gradient is that of the output instead of 1e12 times as large."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return vectors / norms.clamp_min(1e-12).masked_fill(norms == 0, 1.0)


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


__all__ = ["RECENCY", "SHARE", "mix", "recent_texts", "unit_vectors"]
