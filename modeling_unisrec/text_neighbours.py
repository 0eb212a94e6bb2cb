"""Text neighbours: items whose texts are like those of the latest items of a history, without anything learned from logs."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel


# Weight of an item of a history relative to the one after it, share of text neighbours in the score, and power of the
# covariance of the texts that is divided by (1/2 would whiten them). All were chosen on validation users of four shops that
# the model had never seen; docs/results_base.md has the figures.
RECENCY = 0.7
SHARE = 0.5
WHITENING_POWER = 0.375
# Largest discount of the items of a history themselves, and length of a history at which it is half of that; chosen on
# validation users of fourteen shops, same page.
SEEN_DISCOUNT = 0.6
SEEN_LENGTH = 6
_FITTED_ITEMS = 100_000


def unit_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """Returns `vectors` `(..., hidden_size)` scaled to unit length. A zero vector stays zero, as in `F.normalize`, but its
    gradient is that of the output instead of 1e12 times as large."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return vectors / norms.clamp_min(1e-12).masked_fill(norms == 0, 1.0)


class TextSpace(NamedTuple):
    r"""
    Map of text vectors in which those of a catalogue differ in what tells its products apart; see [`fit_text_space`].

    Args:
        mean (`torch.FloatTensor` of shape `(text_embedding_size,)`): Mean of the unit vectors of the catalogue.
        weight (`torch.FloatTensor` of shape `(text_embedding_size, text_embedding_size)`): Symmetric map.
    """

    mean: torch.Tensor
    weight: torch.Tensor

    def map(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """Returns unit vectors in this space for `text_embeds`; both `(num_items, text_embedding_size)`."""
        mean, weight = self.mean.to(text_embeds.device), self.weight.to(text_embeds.device)
        return unit_vectors((unit_vectors(text_embeds.float()) - mean) @ weight)


def fit_text_space(text_embeds: torch.Tensor) -> TextSpace:
    r"""
    Fits the text space of a catalogue: its text vectors are centred and multiplied by the power -3/8 of their covariance;
    -1/2 would be PCA whitening. The covariance is shrunk towards a multiple of the identity as if `text_embedding_size`
    more items had it, so that small catalogues are little more than centred.

    Args:
        text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`):
            Text vectors of the catalogue. Of more than 100,000 items, as many, evenly spaced, are used.

    Returns:
        [`TextSpace`]: On the CPU. The identity, without centring, for a catalogue whose texts are all alike.
    """
    texts = text_embeds[:: -(-len(text_embeds) // _FITTED_ITEMS)].float().cpu()
    texts, size = unit_vectors(texts), text_embeds.shape[1]
    mean = texts.double().mean(0)
    centred = texts - mean.float()
    covariance = (centred.T @ centred).double()  # times the number of items
    variance = covariance.trace() / size / len(texts)
    if variance <= 1e-9:
        return TextSpace(torch.zeros(size), torch.eye(size))
    # The scale does not matter, because the results are scaled to unit length.
    variances, components = torch.linalg.eigh(covariance + size * variance * torch.eye(size, dtype=torch.float64))
    weight = components * variances**-WHITENING_POWER @ components.T
    return TextSpace(mean.float(), weight.float())


class TextSpaceMap(nn.Module):
    r"""
    The map of text vectors to the text space of a catalogue as a part of a model, which is not trained. At first it only
    scales vectors to unit length.

    Args:
        size (`int`): Width of a text vector.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("weight", torch.eye(size))

    @torch.no_grad()
    def reset(self) -> None:
        """Sets the map to that of a new model."""
        self.mean.zero_()
        self.weight.copy_(torch.eye(len(self.mean)))

    @torch.no_grad()
    def fit(self, text_embeds: torch.Tensor) -> None:
        """Sets the map to [`fit_text_space`] of the text vectors of a catalogue `(num_items, text_embedding_size)`."""
        space = fit_text_space(text_embeds)
        self.mean.copy_(space.mean)
        self.weight.copy_(space.weight)

    @property
    def fitted(self) -> TextSpace:
        """The map itself."""
        return TextSpace(self.mean.float(), self.weight.float())

    def forward(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """Returns unit vectors; both `(num_items, text_embedding_size)`."""
        return self.fitted.map(text_embeds).to(text_embeds.dtype)


def near_rotation(weight: torch.Tensor) -> torch.Tensor:
    r"""
    Returns first weights of an adaptor behind a text space: all experts are near one random orthogonal map, which keeps the
    cosines of texts, so that a new model ranks by the latest texts, better than after many steps from other first weights
    (docs/results_base.md).

    Args:
        weight (`torch.FloatTensor` of shape `(text_embedding_size, num_experts, hidden_size)`):
            Random numbers, a quarter of which is added so that the experts differ.

    Returns:
        `torch.FloatTensor` of the same shape.
    """
    size, _, hidden_size = weight.shape
    rotation = nn.init.orthogonal_(torch.empty(size, hidden_size)) * max(size / hidden_size, 1) ** 0.5
    return rotation.unsqueeze(1).to(weight) + weight / 4


def enter_catalogue(model: PreTrainedModel, text_embeds: torch.Tensor | np.ndarray | None) -> None:
    r"""
    Fits the text space of a model to a catalogue, until it enters another one. Does nothing unless `config.text_space` is
    `"catalogue"`.

    Args:
        model ([`UniSRecModel`]): The model, changed in place.
        text_embeds (`torch.FloatTensor` or `np.ndarray` of shape `(num_items, text_embedding_size)`, *optional*):
            Text vectors of the catalogue. Without them, nothing is done.
    """
    if model.config.text_space == "catalogue":
        _fit(model, text_embeds)


def keep_text_space(model: PreTrainedModel, text_embeds: torch.Tensor | np.ndarray | None) -> None:
    r"""
    Fits the text space of a model to a catalogue for good, also in the place of one of its own: `config.text_space` becomes
    `"own"`. Does nothing if the model has no text space.

    Args:
        model ([`UniSRecModel`]): The model, changed in place.
        text_embeds (`torch.FloatTensor` or `np.ndarray`, *optional*): As for [`enter_catalogue`].
    """
    if model.config.text_space is not None and _fit(model, text_embeds):
        model.config.text_space = "own"


def with_own_text_space(model: PreTrainedModel) -> PreTrainedModel:
    r"""
    Returns a model whose text space can be fitted to a catalogue while the given one stays as it is.

    Args:
        model ([`UniSRecModel`]): The model.

    Returns:
        [`UniSRecModel`]: A model that shares the weights and has a configuration and a text space of its own; the given one if
        `config.text_space` is not `"catalogue"`, or if it is wrapped, or moved between devices while it runs.
    """
    is_wrapped = not isinstance(model, PreTrainedModel) or any(hasattr(each, "_hf_hook") for each in model.modules())
    if model.config.text_space != "catalogue" or is_wrapped:
        return model
    twin, adaptor = _with_same_weights(model), _with_same_weights(model.adaptor)
    twin.config, twin.adaptor, adaptor.space = copy.deepcopy(model.config), adaptor, copy.deepcopy(model.adaptor.space)
    return twin


def _with_same_weights(module: nn.Module) -> nn.Module:
    """Returns another module with the same parameters, buffers and parts; the latter can be replaced."""
    twin = module.__new__(type(module))
    twin.__dict__ = module.__dict__ | {"_modules": module._modules.copy()}
    return twin


def _fit(model: PreTrainedModel, text_embeds: torch.Tensor | np.ndarray | None) -> bool:
    """Fits the text space of a model to text vectors, and returns whether there are any."""
    if text_embeds is None or not len(text_embeds):
        return False
    if isinstance(text_embeds, np.ndarray):
        text_embeds = torch.from_numpy(np.array(text_embeds))  # a copy: PyTorch warns of arrays that are read-only
    model.adaptor.space.fit(text_embeds)
    return True


def text_space_of(model: PreTrainedModel, text_embeds: torch.Tensor) -> TextSpace:
    """Returns the text space in which a model compares text neighbours: its own if it has one (`config.text_space`), otherwise
    that of the text vectors `(num_items, text_embedding_size)` of the catalogue."""
    return model.adaptor.space.fitted if model.config.text_space == "own" else fit_text_space(text_embeds)


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


def seen_discount(item_index: torch.Tensor) -> torch.Tensor:
    r"""
    Computes by how much the cosine of texts is lowered for the items of a history themselves. Nothing is as much like the
    latest items as these items are, but most shops sell an item to a customer once. The longer a history is without any item
    twice, the less likely the next item is one of it: the discount of `n` items is `0.6 n / (n + 6)`, and 0 if one is there
    twice. An item that is told by its text is not one of the catalogue here, even if one has the same text.

    Args:
        item_index (`torch.LongTensor` of shape `(batch_size, sequence_length)`): As for [`recent_texts`].

    Returns:
        `torch.FloatTensor` of shape `(batch_size,)`: The discounts.
    """
    ordered = item_index.sort(dim=1).values
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(1)
    length = (item_index > 0).sum(1)
    return (SEEN_DISCOUNT * length / (length + SEEN_LENGTH)).masked_fill(twice, 0.0)


def lower_seen(scores: torch.Tensor, item_index: torch.Tensor, share: float) -> torch.Tensor:
    r"""
    Lowers the scores of the items of histories by [`seen_discount`].

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_items)`): Scores of the catalogue, changed in place.
        item_index (`torch.LongTensor` of shape `(batch_size, sequence_length)`): As for [`recent_texts`], rows of the catalogue.
        share (`float`): Share of text neighbours in the scores.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_items)`: `scores`.
    """
    # No row is lowered twice: where an item is there twice, the discounts are 0.
    discounts = share * seen_discount(item_index).unsqueeze(1) * (item_index > 0)
    return scores.scatter_add_(1, (item_index - 1).clamp(min=0), -discounts.to(scores.dtype))


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


__all__ = [
    "RECENCY",
    "SHARE",
    "TextSpace",
    "TextSpaceMap",
    "enter_catalogue",
    "fit_text_space",
    "keep_text_space",
    "lower_seen",
    "mix",
    "near_rotation",
    "recent_texts",
    "seen_discount",
    "text_space_of",
    "unit_vectors",
    "with_own_text_space",
]
