"""UniSRec: universal item vectors from text, universal sequence vectors from items (arXiv 2206.05941, section 2)."""

import importlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_unisrec import IS_REMOTE_CODE, UniSRecConfig
from ..configuration.text_vectors import text_vector_size
from .own_code import copy_own_code, download_options, new_text_encoder, record_own_code, with_own_code

# Not used here: transformers copies what this file imports when it saves a model that was loaded with remote code.
from .pipeline_unisrec import SequentialRecommendationPipeline  # noqa: F401
from .text_neighbours import TextSpaceMap, near_rotation, unit_vectors
from .text_pooling import TextHead, TextWhitening, new_text_scale, pad_right


@dataclass
class UniSRecModelOutput(ModelOutput):
    r"""
    Output of [`UniSRecModel`]. Vectors are not normalised; [`UniSRecModel.score`] does that.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            State at each position; position t has seen items 0..t.
        sequence_embeds (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            State at the last item of each history.
        item_embeds (`torch.FloatTensor` of shape `(num_items, hidden_size)`):
            Universal item vectors (plus ID embedding in the transductive setting), in the order given.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            Input of the first layer and output of each, with `output_hidden_states=True`.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            Attention probabilities of each layer, with `output_attentions=True` and eager attention.
    """

    last_hidden_state: torch.FloatTensor | None = None
    sequence_embeds: torch.FloatTensor | None = None
    item_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UniSRecTextFeatures(BaseModelOutputWithPooling):
    r"""
    Output of [`UniSRecModel.get_text_features`], whose text vectors are `pooler_output`.

    An integer index returns the vector of one text: `features[0]` is that of the first text, not `last_hidden_state`.
    """

    def __getitem__(self, key: str | int | slice) -> Any:
        return self.pooler_output[key] if isinstance(key, int) else super().__getitem__(key)


def stop_constant_rows(hidden_states: torch.Tensor) -> torch.Tensor:
    """Stops the gradient of rows of equal numbers and keeps their values. Each following layer normalisation, which maps
    such rows to 0, would multiply the gradient by `layer_norm_eps ** -0.5`, up to infinity."""
    constant = (hidden_states == hidden_states[..., :1]).all(-1, keepdim=True)
    return torch.where(constant, hidden_states.detach(), hidden_states)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eager attention, which returns its probabilities: (B, heads, L, size) in, (B, L, heads, size) out."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


class UniSRecAdaptor(nn.Module):
    r"""
    Parametric whitening by `num_experts` experts, mixed by a gate (paper, section 2.1.2).

    With x the text vector times `text_scale`, `v = sum_k g_k (dropout(x) - b_k) W_k` and `g = softmax(x W_2 + delta)`,
    where in training `delta = normal * (softplus(x W_3) + router_noise)`. The official code runs the experts one after
    the other; here they are one product, and `b_k W_k` is folded into one `(num_experts, hidden_size)` table a call.
    """

    def __init__(self, config: UniSRecConfig):
        super().__init__()
        text_size, num_experts = config.text_embedding_size, config.num_experts
        self.scale, self.whitening = config.text_scale, None
        self.space = None if config.text_space is None else TextSpaceMap(text_size)
        if config.text_whitening_size is not None:
            self.whitening = TextWhitening(text_size, config.text_whitening_size)
            text_size = config.text_whitening_size
        self.noise_floor = config.router_noise
        self.weight = nn.Parameter(torch.empty(text_size, num_experts, config.hidden_size))  # W_k
        self.bias = nn.Parameter(torch.empty(num_experts, text_size)) if config.whitening_bias else None  # b_k
        self.router = nn.Parameter(torch.empty(text_size, num_experts))  # W_2
        if self.noise_floor is not None:
            self.router_noise = nn.Parameter(torch.empty(text_size, num_experts))  # W_3
        self.dropout = nn.Dropout(config.adaptor_dropout)

    def gate(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """Returns the weights of the experts for each text vector: (U, D) in, (U, G) out; rows sum to 1."""
        return self._gate(self._inputs(text_embeds))

    def _inputs(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """Maps, scales and whitens text vectors, the input of experts and router."""
        if self.space is not None:
            text_embeds = self.space(text_embeds)
        if self.scale != 1:
            text_embeds = text_embeds * self.scale
        return text_embeds if self.whitening is None else self.whitening(text_embeds)

    def _gate(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = inputs @ self.router
        if self.training and self.noise_floor is not None:
            scale = F.softplus(inputs @ self.router_noise) + self.noise_floor
            logits = logits + torch.randn_like(logits) * scale
        return logits.softmax(dim=-1)

    def forward(self, text_embeds: torch.Tensor) -> torch.Tensor:
        inputs = self._inputs(text_embeds)
        gate = self._gate(inputs)  # (U, G)
        # One mask of dropout for all experts (the official code draws one for each), so that one product serves all.
        experts = (self.dropout(inputs) @ self.weight.flatten(1)).unflatten(-1, self.weight.shape[1:])  # (U, G, H)
        item_embeds = torch.bmm(gate.unsqueeze(1), experts).squeeze(1)
        if self.bias is None:
            return item_embeds
        return item_embeds - gate @ torch.einsum("gd,dgh->gh", self.bias, self.weight)


class UniSRecAttention(nn.Module):
    """Causal multi-head self-attention."""

    is_causal = True

    def __init__(self, config: UniSRecConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        head_shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(head_shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(head_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(head_shape).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, probabilities = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*input_shape, -1).contiguous()), probabilities


class UniSRecMLP(nn.Module):
    """Feed-forward block."""

    def __init__(self, config: UniSRecConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class UniSRecLayer(GradientCheckpointingLayer):
    """One post-norm Transformer layer."""

    def __init__(self, config: UniSRecConfig, layer_idx: int):
        super().__init__()
        self.self_attn = UniSRecAttention(config, layer_idx)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = UniSRecMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attention_output, _ = self.self_attn(hidden_states, attention_mask, **kwargs)
        hidden_states = self._add_and_norm(self.self_attn_norm, hidden_states, attention_output)
        return self._add_and_norm(self.mlp_norm, hidden_states, self.mlp(hidden_states))

    def _add_and_norm(self, norm: nn.LayerNorm, hidden_states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.dropout(output)
        # In a narrow model, dropout may zero a whole state and the residual added to it.
        can_vanish = self.training and self.dropout.p ** hidden_states.shape[-1] > 1e-12
        return norm(stop_constant_rows(hidden_states) if can_vanish else hidden_states)


class UniSRecSequenceEncoder(nn.Module):
    """Learned positions and a causal Transformer over item vectors."""

    def __init__(self, config: UniSRecConfig):
        super().__init__()
        self.config = config
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([UniSRecLayer(config, index) for index in range(config.num_hidden_layers)])

    def forward(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        length = inputs_embeds.shape[1]
        if position_ids is None and length > self.config.max_position_embeddings:
            raise ValueError(
                f"A history of {length} items is longer than `max_position_embeddings` "
                f"({self.config.max_position_embeddings}); keep its latest items."
            )
        places = torch.arange(length, device=inputs_embeds.device) if position_ids is None else position_ids
        hidden_states = self.dropout(self.layer_norm(inputs_embeds + self.position_embedding(places)))
        # Padding is on the right, outside the view of real positions, so the causal mask suffices, and sdpa creates it
        # itself. Padding mask and cache are passed by position, because transformers 5.24 renamed the cache argument.
        attention_mask = create_causal_mask(self.config, hidden_states, None, None, position_ids=position_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return hidden_states


_ITEM_EMBEDDING = "item_embedding.weight"


def _is_no_load_report(record: logging.LogRecord) -> bool:
    """Filters out the table that transformers logs about missing weights; a one-line error is raised instead."""
    return "LOAD REPORT" not in record.getMessage()


def _name_first(names: Iterable[str], number: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:number]) + (f" and {len(names) - number} more" if len(names) > number else "")


class UniSRecPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading, shared by all UniSRec models."""

    config: UniSRecConfig
    base_model_prefix = "unisrec"
    main_input_name = "item_index"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["UniSRecLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": UniSRecLayer, "attentions": UniSRecAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, TextWhitening | TextSpaceMap):
            module.reset()
        if isinstance(module, UniSRecAdaptor):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if module.space is not None:
                init.copy_(module.weight, near_rotation(module.weight))
            if module.bias is not None:
                init.zeros_(module.bias)
            init.zeros_(module.router)
            if module.noise_floor is not None:
                init.zeros_(module.router_noise)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> "UniSRecPreTrainedModel":
        r"""
        Loads a model as the parent method does, but requires complete weights and initialises none at random.

        `text_config=None` drops the text encoder, and `num_items` creates the ID embedding of a model without one, or `None`
        drops it. Any other mismatch is an error, also with `AutoModel`.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id.
            ignore_mismatched_sizes (`bool`, *optional*, defaults to `False`):
                Whether to initialise weights of another shape at random instead of raising an error.
            output_loading_info (`bool`, *optional*, defaults to `False`):
                Whether to also return the report of missing and unexpected weights. Nothing is refused then.
            kwargs: Options of the parent method; `trust_remote_code` for the text encoder's own code.

        Raises:
            ValueError: If weights do not fit `config.json` or are not finite, or the text encoder's own code is not trusted.
        """
        name = pretrained_model_name_or_path
        kwargs = with_own_code(cls.config_class, name, kwargs)
        on_adapters = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")  # the caller reads the report
        if output_loading_info or on_adapters:
            loaded = super().from_pretrained(
                name,
                *model_args,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                output_loading_info=output_loading_info,
                **kwargs,
            )
            if on_adapters:  # which have no configuration; as after any fine-tuning
                (loaded[0] if output_loading_info else loaded).config.text_neighbours = 0.0
            if output_loading_info and loaded[0].text_encoder is None:  # it was not asked for
                keys = loaded[1]["unexpected_keys"]
                loaded[1]["unexpected_keys"] = {key for key in keys if not key.startswith("text_encoder.")}
            (loaded[0] if output_loading_info else loaded).adapters = on_adapters
            return loaded
        logger = logging.getLogger("transformers.modeling_utils")
        logger.addFilter(_is_no_load_report)
        try:
            model, report = super().from_pretrained(
                name, *model_args, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
            )
        finally:
            logger.removeFilter(_is_no_load_report)
        missing, unexpected = set(report["missing_keys"]), set(report["unexpected_keys"])
        if model.text_encoder is None:
            unexpected = {key for key in unexpected if not key.startswith("text_encoder.")}
        if _ITEM_EMBEDDING in missing | unexpected and name is not None:
            saved, _ = cls.config_class.get_config_dict(name, **download_options(kwargs))
            if saved.get("num_items") != model.config.num_items:  # so the caller has asked for it
                missing.discard(_ITEM_EMBEDDING)
                unexpected.discard(_ITEM_EMBEDDING)
                model.config.item_ids_hash = None
        mismatched = [] if ignore_mismatched_sizes else report["mismatched_keys"]
        shapes = [f"{key} {tuple(found)} instead of {tuple(expected)}" for key, found, expected in mismatched]
        not_finite = [key for key, weight in model.state_dict().items() if not _is_finite(weight)]
        for keys, what in (
            (missing, "weights are missing"),
            (unexpected, "weights are unexpected"),
            (shapes, "weights are of another shape"),
            (not_finite, "weights hold NaN or infinity"),
        ):
            if keys:
                raise ValueError(
                    f"{name}: {len(keys)} {what}: {_name_first(keys)}; take a config.json and *.safetensors that were "
                    "saved together"
                )
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves as the parent method does, with the text encoder's own code; gives all files the same permissions."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            copy_own_code(self.config, save_directory)
            whole, shards = (Path(save_directory) / name for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
            if whole.is_file() and shards.is_file():  # one is of an earlier save, and `whole` would be loaded
                min(whole, shards, key=lambda file: file.stat().st_mtime_ns).unlink()
            for file in Path(save_directory).glob("*.safetensors"):
                shutil.copymode(Path(save_directory) / "config.json", file)


def _is_finite(weight: torch.Tensor) -> bool:
    """Returns whether a weight has neither NaN nor infinity, in one pass; weights offloaded to disk are not read."""
    if weight.is_meta or not weight.is_floating_point() or weight.numel() == 0:
        return True
    return bool(torch.stack(weight.detach().aminmax()).isfinite().all())


class UniSRecModel(UniSRecPreTrainedModel):
    r"""
    Text encoder, adaptor and sequence encoder in one model.

    A batch is *distinct items + index matrix*, so no text and no adaptor row is computed twice: `item_index` points at
    rows of the item tensors (row + 1; 0 is padding, on the right). With `config.text_config=None` there is no text
    encoder and items come as `text_embeds`.

    Args:
        config ([`UniSRecConfig`]): Sizes and settings; weights start at random.
    """

    def __init__(self, config: UniSRecConfig):
        super().__init__(config)
        self.text_encoder = None
        if config.text_config is not None:
            self.text_encoder = new_text_encoder(config)
            self.text_encoder.text_head = TextHead.from_config(config)
        self.adaptor = UniSRecAdaptor(config) if config.item_text else None
        self.item_embedding = None
        if config.num_items is not None:
            self.item_embedding = nn.Embedding(config.num_items + 1, config.hidden_size, padding_idx=0)
        self.sequence_encoder = UniSRecSequenceEncoder(config)
        self.post_init()

    @classmethod
    def from_text_encoder(cls, name_or_path: str, trust_remote_code: bool | None = None, **config) -> "UniSRecModel":
        r"""
        Creates a model around a trained text encoder; all other weights are initialised at random.

        Args:
            name_or_path (`str`):
                Folder or Hub id of a text encoder, or `"minilm"`. Pooling, further layers and prompt are read from its
                files, see [`load_text_encoder`].
            trust_remote_code (`bool`, *optional*): As for [`load_text_encoder`].
            **config: Fields of [`UniSRecConfig`], such as `text_pooling="mean"`.

        Returns:
            [`UniSRecModel`]: Model in float32 with a frozen text encoder.

        Raises:
            OSError: If there is no such encoder.
            ValueError: If its files have an unsupported setting, or a field is invalid.
        """
        if IS_REMOTE_CODE:
            raise ImportError("new models are made by the package itself: pip install unisrec.")
        # Not an import statement, because transformers would look for that file in every checkpoint folder.
        text_encoders = importlib.import_module(".text_encoders", __package__)
        given = {name: config.get(f"text_{name}") for name in ("pooling", "prompt")}
        text_encoder, _ = text_encoders.load_text_encoder(name_or_path, trust_remote_code=trust_remote_code, **given)
        settings = text_encoder.text_head.to_config(text_encoder.config.hidden_size) | config
        settings.setdefault("text_scale", new_text_scale(settings["text_layers"], settings["text_embedding_size"]))
        model = cls(UniSRecConfig(**settings))
        model.attach_text_encoder(text_encoder)
        return model

    def attach_text_encoder(self, text_encoder: PreTrainedModel) -> None:
        r"""
        Adds a text encoder (frozen, in the dtype of the model) to the model and its checkpoints.

        Args:
            text_encoder (`PreTrainedModel`):
                The encoder. Its token states are pooled according to `config`; layers with weights after the pooling
                are taken from its `text_head`, see [`load_text_encoder`].

        Raises:
            ValueError: If the width of its vectors is not `config.text_embedding_size`, or such layers are missing.
        """
        config, hidden_size = self.config, text_encoder.config.hidden_size
        size = text_vector_size(hidden_size, config.text_pooling, config.text_layers)
        if size != config.text_embedding_size:
            raise ValueError(
                f"The text encoder gives vectors of {size} numbers, the model takes "
                f"{config.text_embedding_size}: use the encoder that the checkpoint was trained with."
            )
        with torch.device("meta"):  # the weights are those of the encoder
            head = TextHead.from_config(config)
        own, weights = getattr(text_encoder, "text_head", None), head.state_dict()
        if weights:
            if own is None or own.settings != head.settings:
                raise ValueError(
                    f"The model has the layers {head.settings} behind the pooling, the text encoder has "
                    f"{None if own is None else own.settings}: use the encoder that the checkpoint was trained with."
                )
            weights = own.state_dict()
        head.load_state_dict(weights, assign=True)
        text_encoder.text_head = head
        self.text_encoder = text_encoder.to(self.dtype).requires_grad_(False)
        config.text_config = text_encoder.config
        record_own_code(config, text_encoder)
        config.text_config._name_or_path = ""  # a local path does not belong in a checkpoint

    def detach_text_encoder(self) -> PreTrainedModel | None:
        """Removes the text encoder, so that training on precomputed text vectors neither moves nor saves it. Returns
        it."""
        text_encoder, self.text_encoder, self.config.text_config = self.text_encoder, None, None
        return text_encoder

    def get_input_embeddings(self) -> nn.Module | None:
        """Returns the word embedding of the text encoder; `None` for an embeddings-only model."""
        return None if self.text_encoder is None else self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the word embedding of the text encoder. Raises `ValueError` for an embeddings-only model."""
        self._check_text_encoder()
        self.text_encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """Resizes the word embedding of the text encoder. Raises `ValueError` for an embeddings-only model."""
        self._check_text_encoder()
        return super().resize_token_embeddings(*args, **kwargs)

    def _check_text_encoder(self) -> None:
        if self.text_encoder is None:
            raise ValueError("The model has no text encoder, and so no embeddings of words.")

    def reset_item_embedding(self, num_items: int | None) -> None:
        r"""
        Switches the model to another setting or catalogue in place; text adaptor and sequence encoder are kept.

        Args:
            num_items (`int` or `None`):
                `None` makes it inductive (text only); a number transductive, with a new ID embedding of that size.
                Afterwards set `config.item_ids_hash` to that of the catalogue.
        """
        if num_items is not None and num_items < 1:
            raise ValueError(f"`num_items` ({num_items}) must be at least 1, or None for a text-only model.")
        self.config.num_items = num_items
        self.config.item_ids_hash = None
        self.item_embedding = None
        if num_items is not None:
            weight = torch.empty(num_items + 1, self.config.hidden_size, device=self.device, dtype=self.dtype)
            weight.normal_(std=self.config.initializer_range)[0] = 0
            self.item_embedding = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=0)

    def freeze_sequence_encoder(self) -> None:
        """Freezes positions and layers, as in the transfer of the paper; the input normalisation stays trainable."""
        self.sequence_encoder.position_embedding.requires_grad_(False)
        self.sequence_encoder.layers.requires_grad_(False)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UniSRecTextFeatures:
        r"""
        Encodes item texts into the text vectors x, the input of the adaptor (paper, section 2.1.1).

        Args:
            input_ids (`torch.LongTensor` of shape `(num_items, num_tokens)`): Tokens of the item texts.
            attention_mask (`torch.LongTensor` of shape `(num_items, num_tokens)`, *optional*):
                Mask with 1 for real tokens. Defaults to all ones.
            kwargs: Options of the text encoder, such as `output_hidden_states`.

        Returns:
            [`UniSRecTextFeatures`]: The text vectors `(num_items, text_embedding_size)` as `pooler_output`, and the
            output of the text encoder.

        Raises:
            ValueError: If the model has no text encoder.
        """
        if self.text_encoder is None:
            raise ValueError(
                "This model has no text encoder (`text_config` is None): give items as `text_embeds`, or add the "
                "encoder it was trained with by `attach_text_encoder`."
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        input_ids, attention_mask = pad_right(input_ids, attention_mask)
        outputs = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        return UniSRecTextFeatures(
            last_hidden_state=outputs[0],
            pooler_output=self.text_encoder.text_head(outputs[0], attention_mask),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _text_vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Returns text vectors `(num_items, text_embedding_size)`; in training, with as little padding as possible."""
        if not self.training:
            return self.get_text_features(input_ids, attention_mask).pooler_output
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        input_ids, attention_mask = pad_right(input_ids, attention_mask)
        # Encode texts of similar length together; otherwise half of the work of a training step would be padding.
        order = attention_mask.sum(-1).argsort()
        parts = []
        for rows in order.split(128):
            length = attention_mask[rows[-1]].sum()
            parts.append(self.get_text_features(input_ids[rows, :length], attention_mask[rows, :length]).pooler_output)
        return torch.cat(parts)[order.argsort()]

    def get_item_features(
        self,
        text_embeds: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        id_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        r"""
        Universal item vectors.

        Args:
            text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`, *optional*): Text vectors.
            input_ids (`torch.LongTensor` of shape `(num_items, num_tokens)`, *optional*):
                Tokens of item texts. Where both are given, the rows of `text_embeds` come first.
            attention_mask (`torch.LongTensor` of shape `(num_items, num_tokens)`, *optional*): Belongs to `input_ids`.
            id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*):
                Rows of the ID embedding (catalogue item k is row k + 1; 0 is an item without one). Transductive only.

        Returns:
            `torch.FloatTensor` of shape `(num_items, hidden_size)`: Item vectors, not normalised.
        """
        if self.item_embedding is not None and id_rows is None:
            raise ValueError("A transductive model (`num_items` is set) needs `id_rows`, 0 for unknown items.")
        if self.adaptor is None:
            return self.item_embedding(id_rows)
        # The catalogue stores its vectors in float32, independent of the dtype of the model.
        parts = [] if text_embeds is None else [text_embeds.to(self.adaptor.weight.dtype)]
        if input_ids is not None:
            parts.append(self._text_vectors(input_ids, attention_mask).to(self.adaptor.weight.dtype))
        if not parts:
            raise ValueError("Items are missing: give `text_embeds`, or `input_ids` with `attention_mask`.")
        item_embeds = self.adaptor(parts[0] if len(parts) == 1 else torch.cat(parts))
        return item_embeds if self.item_embedding is None else item_embeds + self.item_embedding(id_rows)

    def get_sequence_features(self, item_index: torch.Tensor, item_embeds: torch.Tensor) -> torch.Tensor:
        r"""
        Encodes histories into universal sequence vectors.

        Args:
            item_index (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Histories, oldest item first: row of `item_embeds` + 1, 0 is padding on the right.
            item_embeds (`torch.FloatTensor` of shape `(num_items, hidden_size)`): Universal item vectors.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, hidden_size)`: Sequence vectors, not normalised.
        """
        return self._last_item_state(self._encode_histories(item_index, item_embeds), item_index)

    def project_sequences(self, sequence_embeds: torch.Tensor) -> torch.Tensor:
        """Returns `sequence_embeds` `(..., hidden_size)` as they are compared: of unit length for the cosine."""
        return sequence_embeds if self.config.similarity == "dot" else unit_vectors(sequence_embeds)

    def project_items(self, item_embeds: torch.Tensor) -> torch.Tensor:
        """Returns `item_embeds` `(..., hidden_size)` as they are compared: of unit length for the cosine."""
        return item_embeds if self.config.similarity == "dot" else unit_vectors(item_embeds)

    def similarity(self, sequence_embeds: torch.Tensor, item_embeds: torch.Tensor) -> torch.Tensor:
        """Returns the similarities (B, U) of `sequence_embeds` (B, H) and `item_embeds` (U, H): cosine or dot product."""
        return self.project_sequences(sequence_embeds) @ self.project_items(item_embeds).T

    def score(self, sequence_embeds: torch.Tensor, item_embeds: torch.Tensor) -> torch.Tensor:
        """Returns logits (B, U): cosines of `sequence_embeds` and `item_embeds` over temperature, or dot products."""
        return self.similarity(sequence_embeds, item_embeds) / self.config.score_temperature

    @merge_with_config_defaults
    @can_return_tuple
    @capture_outputs
    def forward(
        self,
        item_index: torch.LongTensor,
        text_embeds: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        id_rows: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UniSRecModelOutput:
        r"""
        Computes the vectors of the distinct items and the states of the histories over them.

        Args:
            item_index (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Histories, oldest item first: row of the item tensors + 1, 0 is padding on the right.
            text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`, *optional*):
                Text vectors of the distinct items.
            input_ids (`torch.LongTensor` of shape `(num_items, num_tokens)`, *optional*):
                Or their tokens. Where both are given, the rows of `text_embeds` come first.
            attention_mask (`torch.LongTensor` of shape `(num_items, num_tokens)`, *optional*): Belongs to `input_ids`.
            id_rows (`torch.LongTensor` of shape `(num_items,)`, *optional*):
                Rows of the ID embedding. Transductive only.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                For several histories in a row: place of each item in its own one. `sequence_embeds` is then no result.

        Returns:
            [`UniSRecModelOutput`]

        Example:

        ```python
        >>> import torch
        >>> from unisrec import UniSRecConfig, UniSRecModel

        >>> model = UniSRecModel(UniSRecConfig(text_embedding_size=8, hidden_size=4)).eval()
        >>> histories = torch.tensor([[1, 2, 0], [3, 1, 2]])  # the first has two items, the second three
        >>> output = model(item_index=histories, text_embeds=torch.randn(3, 8))
        >>> model.score(output.sequence_embeds, output.item_embeds).shape
        torch.Size([2, 3])

        ```
        """
        item_embeds = self.get_item_features(text_embeds, input_ids, attention_mask, id_rows)
        last_hidden_state = self._encode_histories(item_index, item_embeds, position_ids=position_ids, **kwargs)
        return UniSRecModelOutput(
            last_hidden_state=last_hidden_state,
            sequence_embeds=self._last_item_state(last_hidden_state, item_index),
            item_embeds=item_embeds,
        )

    def _encode_histories(self, item_index: torch.Tensor, item_embeds: torch.Tensor, **kwargs) -> torch.Tensor:
        """Returns the states at all positions: (B, L) and (U, H) in, (B, L, H) out."""
        # The content of padded positions does not matter: no real position attends to them.
        return self.sequence_encoder(F.embedding((item_index - 1).clamp(min=0), item_embeds), **kwargs)

    @staticmethod
    def _last_item_state(last_hidden_state: torch.Tensor, item_index: torch.Tensor) -> torch.Tensor:
        last = ((item_index > 0).sum(-1) - 1).clamp(min=0)
        return last_hidden_state[torch.arange(last.shape[0], device=last.device), last]


__all__ = ["UniSRecModel", "UniSRecModelOutput", "UniSRecPreTrainedModel"]
