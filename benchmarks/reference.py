"""UniSRec computed as the official code does it, written from the formulas: what the benchmarks compare with.

Every prefix is a row of its own, padded on the right to the full length; every position of it goes through experts that run
one after the other; attention is written out, with a mask that is added; the catalogue goes through the experts again in
each step; losses are plain softmaxes. With dropout and router noise at 0 the numbers are ours.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from unisrec import UniSRecConfig, UniSRecModel


class Expert(nn.Module):
    """Whitening of text vectors by one expert."""

    def __init__(self, config: UniSRecConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.adaptor_dropout)
        self.bias = nn.Parameter(torch.zeros(config.text_embedding_size))
        self.linear = nn.Linear(config.text_embedding_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(x) - self.bias)


class Layer(nn.Module):
    """Post-norm Transformer layer with its attention written out."""

    def __init__(self, config: UniSRecConfig):
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query, self.key, self.value, self.dense = (nn.Linear(size, size) for _ in range(4))
        self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.inner, self.outer = nn.Linear(size, config.intermediate_size), nn.Linear(config.intermediate_size, size)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask
        context = self.attention_dropout(scores.softmax(-1)) @ value
        x = self.attention_norm(self.dropout(self.dense(context.transpose(1, 2).flatten(2))) + x)
        inner = self.inner(x)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        return self.norm(self.dropout(self.outer(inner)) + x)


class OfficialUniSRec(nn.Module):
    r"""
    The model, with the weights of one of ours.

    Args:
        model ([`UniSRecModel`]): Weights and configuration; what is frozen there is frozen here.
        text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`): The catalogue. Item k has number k + 1.
    """

    def __init__(self, model: UniSRecModel, text_embeds: torch.Tensor):
        super().__init__()
        config = self.config = model.config
        self.text = nn.Embedding.from_pretrained(F.pad(text_embeds, (0, 0, 1, 0)), freeze=True, padding_idx=0)
        self.gate = nn.Parameter(model.adaptor.router.detach().clone())
        if config.router_noise is not None:
            self.noise = nn.Parameter(model.adaptor.router_noise.detach().clone())
        self.experts = nn.ModuleList([Expert(config) for _ in range(config.num_experts)])
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.item_ids = None
        if model.item_embedding is not None:
            self.item_ids = nn.Embedding.from_pretrained(
                model.item_embedding.weight.detach().clone(), freeze=False, padding_idx=0
            )
        self._copy_weights(model)

    @torch.no_grad()
    def _copy_weights(self, model: UniSRecModel) -> None:
        for place, expert in enumerate(self.experts):
            expert.linear.weight.copy_(model.adaptor.weight[:, place].T)
            expert.bias.copy_(model.adaptor.bias[place])
        encoder = model.sequence_encoder
        pairs = [(self.positions, encoder.position_embedding), (self.norm, encoder.layer_norm)]
        for layer, source in zip(self.layers, encoder.layers, strict=True):
            attention = source.self_attn
            pairs += [(layer.query, attention.q_proj), (layer.key, attention.k_proj), (layer.value, attention.v_proj)]
            pairs += [(layer.dense, attention.o_proj), (layer.attention_norm, source.self_attn_norm)]
            pairs += [(layer.inner, source.mlp.fc1), (layer.outer, source.mlp.fc2), (layer.norm, source.mlp_norm)]
        for ours, source in pairs:
            ours.load_state_dict(source.state_dict())
            ours.requires_grad_(next(source.parameters()).requires_grad)

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        """Text vectors (..., D) -> item vectors (..., H)."""
        logits = x @ self.gate
        if self.training and self.config.router_noise is not None:
            logits = logits + torch.randn_like(logits) * (F.softplus(x @ self.noise) + self.config.router_noise)
        experts = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return (logits.softmax(-1).unsqueeze(-1) * experts).sum(-2)

    def items(self, numbers: torch.Tensor) -> torch.Tensor:
        """Item numbers (...), 0 is padding -> item vectors (..., H)."""
        adapted = self.adapt(self.text(numbers))
        return adapted if self.item_ids is None else adapted + self.item_ids(numbers)

    def encode(self, vectors: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Item vectors (N, L, H) of padded histories -> state at the last item of each, (N, H)."""
        places = torch.arange(vectors.shape[1])
        seen = (places < lengths[:, None, None]) & (places <= places[:, None])  # (N, L, L)
        mask = torch.where(seen, 0.0, -10000.0).unsqueeze(1)
        hidden = self.dropout(self.norm(vectors + self.positions(places)))
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden[torch.arange(len(hidden)), lengths - 1]

    def transfer_loss(self, rows: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy over the catalogue: histories (N, L) as item numbers, their lengths (N,), the next items (N,)."""
        states = F.normalize(self.encode(self.items(rows), lengths), dim=-1)
        catalogue = F.normalize(self.items(torch.arange(1, self.text.num_embeddings)), dim=-1)
        return F.cross_entropy(states @ catalogue.T / self.config.temperature, targets - 1)

    def pretraining_loss(
        self,
        rows: torch.Tensor,
        lengths: torch.Tensor,
        views: torch.Tensor,
        view_lengths: torch.Tensor,
        targets: torch.Tensor,
        sequences: torch.Tensor,
        sequence_loss_weight: float,
    ) -> torch.Tensor:
        """Both contrastive losses over histories (N, L) and their views (N, L); a pair that shares a target (or, in the second
        loss, a history: `sequences` (N,)) is no pair of negatives."""
        states = F.normalize(self.encode(self.items(rows), lengths), dim=-1)
        view_states = F.normalize(self.encode(self.items(views), view_lengths), dim=-1)
        positives = F.normalize(self.items(targets), dim=-1)
        own = torch.eye(len(targets), dtype=torch.bool)
        same_item = (targets[:, None] == targets) & ~own
        same_sequence = (sequences[:, None] == sequences) & ~own
        parts = [
            F.cross_entropy(
                (states @ candidates.T / self.config.temperature).masked_fill(excluded, -math.inf),
                torch.arange(len(own)),
            )
            for candidates, excluded in ((positives, same_item), (view_states, same_item | same_sequence))
        ]
        return parts[0] + sequence_loss_weight * parts[1]


def pad_rows(rows: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of item numbers, the latest `length` of each -> matrix (N, length) padded with 0, lengths (N,)."""
    rows = [row[-length:] for row in rows]
    matrix = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return matrix, torch.tensor([len(row) for row in rows])
