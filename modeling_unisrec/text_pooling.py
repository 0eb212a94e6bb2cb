"""Conversion of token states to text vectors: pooling, and the layers after it that belong to an encoder."""

from math import sqrt

import torch
from torch import nn
from torch.nn import functional as F

from ..configuration.configuration_unisrec import UniSRecConfig
from ..configuration.text_vectors import text_vector_size


def pool_tokens(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor, pooling: str, prompt_tokens: int = 0
) -> torch.Tensor:
    r"""
    Pools token states into one vector per text, as in sentence-transformers. Sums are taken in float32 or wider;
    padding may be on either side.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(num_texts, num_tokens, hidden_size)`): Token states.
        attention_mask (`torch.LongTensor` of shape `(num_texts, num_tokens)`): 1 for real tokens.
        pooling (`str`): One or more of [`TEXT_POOLINGS`], joined by `+`; their vectors are concatenated.
        prompt_tokens (`int`, *optional*, defaults to 0): Number of leading real tokens to exclude.

    Returns:
        `torch.FloatTensor` of shape `(num_texts, num_poolings * hidden_size)`, float32 or wider.
    """
    states, real = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32)), attention_mask > 0
    place = real.cumsum(1)  # of each token in its text, from 1
    mask = real & (place > prompt_tokens) if prompt_tokens else real
    weights = mask.unsqueeze(-1).to(states.dtype)
    rows = torch.arange(states.shape[0], device=states.device)
    vectors = []
    for name in pooling.split("+"):
        if name == "cls":
            vectors.append(states[rows, mask.int().argmax(1)])
        elif name == "lasttoken":
            vectors.append(states[rows, (mask * place).argmax(1)])
        elif name == "max":
            vectors.append(states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1))
        elif name == "mean":
            vectors.append((states * weights).sum(1) / weights.sum(1).clamp(min=1))
        elif name == "mean_sqrt_len":
            vectors.append((states * weights).sum(1) / weights.sum(1).clamp(min=1).sqrt())
        elif name == "weightedmean":  # SGPT (arXiv 2202.08904): later tokens, which have seen more, count more
            by_place = weights * place.unsqueeze(-1)
            vectors.append((states * by_place).sum(1) / by_place.sum(1).clamp(min=1))
        else:
            raise ValueError(f"unknown pooling {name!r}")
    return torch.cat(vectors, dim=-1)


class Dense(nn.Module):
    """Linear layer, activation, and optionally the input added to the output."""

    def __init__(self, in_features: int, out_features: int, bias: bool, activation: str, residual: bool = False):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = getattr(nn, activation)()
        self.add_input = residual
        self.residual = None
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        output = self.activation(self.linear(vectors))
        if not self.add_input:
            return output
        return output + (vectors if self.residual is None else self.residual(vectors))


class Normalize(nn.Module):
    """Normalises vectors to unit length."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors, dim=-1)


class Truncate(nn.Module):
    """Keeps the first `size` components of each vector (Matryoshka representations, arXiv 2205.13147)."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[:, : self.size]


LAYERS = {
    "dense": Dense,
    "layer_norm": lambda size: nn.LayerNorm(size),
    "dropout": lambda p: nn.Dropout(p),
    "normalize": Normalize,
    "truncate": Truncate,
}


def new_text_scale(layers: list[dict] | None, size: int) -> float:
    """Returns `text_scale` of a new model for text vectors of `size` numbers, which is 1 unless the last layer normalises."""
    return sqrt(size) / 4 if layers and layers[-1]["type"] == "normalize" else 1.0


class TextHead(nn.Module):
    r"""
    Turns the token states of a text encoder into text vectors. It is kept as `text_head` of the encoder, so that both
    are saved, moved and trained together.

    Args:
        pooling (`str`, *optional*, defaults to `"cls"`): As for [`pool_tokens`].
        layers (`list[dict]`, *optional*): Layers behind the pooling, see `text_layers` of [`UniSRecConfig`].
        prompt (`str`, *optional*, defaults to `""`): Text put before each item text.
        prompt_tokens (`int`, *optional*, defaults to 0): Leading tokens that the pooling leaves out.
        max_length (`int`, *optional*): Maximum number of tokens of a text.
    """

    def __init__(
        self,
        pooling: str = "cls",
        layers: list[dict] | None = None,
        prompt: str = "",
        prompt_tokens: int = 0,
        max_length: int | None = None,
    ):
        super().__init__()
        self.pooling, self.prompt, self.prompt_tokens, self.max_length = pooling, prompt, prompt_tokens, max_length
        self.settings = [dict(layer) for layer in layers or []]
        self.layers = nn.ModuleList()
        for layer in self.settings:
            options = {name: value for name, value in layer.items() if name != "type"}
            self.layers.append(LAYERS[layer["type"]](**options))

    @classmethod
    def from_config(cls, config: UniSRecConfig) -> "TextHead":
        """Returns the head that `config` describes, with random weights."""
        return cls(
            config.text_pooling,
            config.text_layers,
            config.text_prompt,
            config.text_prompt_tokens,
            config.text_max_length,
        )

    def to_config(self, hidden_size: int) -> dict:
        """Returns the fields of [`UniSRecConfig`] that describe this head on an encoder of width `hidden_size`."""
        return {
            "text_pooling": self.pooling,
            "text_layers": self.settings or None,
            "text_prompt": self.prompt,
            "text_prompt_tokens": self.prompt_tokens,
            "text_max_length": self.max_length,
            "text_embedding_size": self.vector_size(hidden_size),
        }

    def vector_size(self, hidden_size: int) -> int:
        """Returns the width of the text vectors for an encoder of width `hidden_size`."""
        return text_vector_size(hidden_size, self.pooling, self.settings)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns text vectors `(num_texts, text_embedding_size)` from `hidden_states` `(num_texts, num_tokens,
        hidden_size)` and their `attention_mask` `(num_texts, num_tokens)`."""
        vectors = pool_tokens(hidden_states, attention_mask, self.pooling, self.prompt_tokens)
        for layer in self.layers:
            weight = next(layer.parameters(), None)  # of the type of the encoder, which may be half precision
            vectors = layer(vectors) if weight is None else layer(vectors.to(weight.dtype)).to(vectors.dtype)
        return vectors


def pad_right(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves the padding of tokens and mask to the right, where encoders count positions from the first real token."""
    length = attention_mask.shape[1]
    leading = (attention_mask.cumsum(1) == 0).sum(1, keepdim=True)
    places = torch.arange(length, device=input_ids.device) + leading
    places = torch.where(places < length, places, places - length)
    return input_ids.gather(1, places), attention_mask.gather(1, places)


class TextWhitening(nn.Module):
    r"""
    A fixed linear map of text vectors that makes the components of a catalogue uncorrelated and of like variance: its
    weights are a part of the checkpoint and are not trained. Starts as the identity, see `fit_whitening`.

    Args:
        text_size (`int`): Width of a text vector.
        size (`int`): Width of a whitened one.
    """

    def __init__(self, text_size: int, size: int):
        super().__init__()
        self.register_buffer("weight", torch.eye(size, text_size))
        self.register_buffer("bias", torch.zeros(size))

    @torch.no_grad()
    def reset(self) -> None:
        """Sets the map to that of a new model."""
        self.weight.copy_(torch.eye(*self.weight.shape))
        self.bias.zero_()

    def forward(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """`(num_items, text_embedding_size)` in, `(num_items, text_whitening_size)` out."""
        return F.linear(text_embeds, self.weight, self.bias)


__all__ = ["Dense", "Normalize", "TextHead", "TextWhitening", "Truncate", "pad_right", "pool_tokens"]
