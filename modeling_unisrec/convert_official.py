"""Conversion of checkpoints of the official UniSRec code (github.com/RUCAIBox/UniSRec)."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..configuration.configuration_unisrec import UniSRecConfig
from .modeling_unisrec import UniSRecModel
from .official_pickle import DICT, DTYPES, TENSOR, Inert, TorchArchive, describe, parse_pickle


# Settings not determined by tensors: official name, our name, and the value of the paper.
SETTINGS = {
    "n_heads": ("num_attention_heads", 2),
    "hidden_act": ("hidden_act", "gelu"),
    "hidden_dropout_prob": ("hidden_dropout", 0.5),
    "attn_dropout_prob": ("attention_dropout", 0.5),
    "adaptor_dropout_prob": ("adaptor_dropout", 0.2),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
    "initializer_range": ("initializer_range", 0.02),
    "temperature": ("temperature", 0.07),
}
ACTIVATIONS = ("gelu", "relu", "swish", "tanh", "sigmoid")


@dataclass(frozen=True)
class OfficialConversion:
    r"""
    Result of converting an official checkpoint.

    Args:
        model ([`UniSRecModel`]): Model in evaluation mode, in the dtype of the file, without a text encoder.
        item_embeddings (`torch.FloatTensor` of shape `(num_items, text_embedding_size)` or `None`):
            Text vectors of the catalogue of a fine-tuned checkpoint, in the order of its ID embedding.
        used (`dict[str, tuple[tuple[int, ...], str]]`): Official name of a tensor -> shape, our name.
        ignored (`dict[str, str]`): Name of an unused entry of the file -> its description.
        settings (`dict[str, tuple[Any, bool]]`):
            Field of the configuration not determined by tensors -> value, and whether it was read from the file;
            otherwise it is the value of the paper.
    """

    model: UniSRecModel
    item_embeddings: torch.Tensor | None
    used: dict[str, tuple[tuple[int, ...], str]]
    ignored: dict[str, str]
    settings: dict[str, tuple[Any, bool]]

    @property
    def stage(self) -> str:
        """`"pre-trained"`, `"inductive"` or `"transductive"`."""
        if self.item_embeddings is None:
            return "pre-trained"
        return "inductive" if self.model.config.num_items is None else "transductive"


def official_layout(config: UniSRecConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    r"""
    Returns the names and shapes of the official weights.

    Args:
        config ([`UniSRecConfig`]): Configuration with the sizes.

    Returns:
        `dict[str, tuple[str, tuple[int, ...]]]`: Official name -> our name, official shape. The experts share one
        weight in our model.
    """
    text, hidden, inner = config.text_embedding_size, config.hidden_size, config.intermediate_size
    layout = {
        "moe_adaptor.w_gate": ("adaptor.router", (text, config.num_experts)),
        "moe_adaptor.w_noise": ("adaptor.router_noise", (text, config.num_experts)),
    }
    for expert in range(config.num_experts):
        layout[f"moe_adaptor.experts.{expert}.lin.weight"] = ("adaptor.weight", (hidden, text))
        layout[f"moe_adaptor.experts.{expert}.bias"] = ("adaptor.bias", (text,))
    positions = (config.max_position_embeddings, hidden)
    layout["position_embedding.weight"] = ("sequence_encoder.position_embedding.weight", positions)
    modules = {"LayerNorm": ("sequence_encoder.layer_norm", (hidden,))}
    for layer in range(config.num_hidden_layers):
        official, ours = f"trm_encoder.layer.{layer}", f"sequence_encoder.layers.{layer}"
        modules |= {
            f"{official}.multi_head_attention.query": (f"{ours}.self_attn.q_proj", (hidden, hidden)),
            f"{official}.multi_head_attention.key": (f"{ours}.self_attn.k_proj", (hidden, hidden)),
            f"{official}.multi_head_attention.value": (f"{ours}.self_attn.v_proj", (hidden, hidden)),
            f"{official}.multi_head_attention.dense": (f"{ours}.self_attn.o_proj", (hidden, hidden)),
            f"{official}.multi_head_attention.LayerNorm": (f"{ours}.self_attn_norm", (hidden,)),
            f"{official}.feed_forward.dense_1": (f"{ours}.mlp.fc1", (inner, hidden)),
            f"{official}.feed_forward.dense_2": (f"{ours}.mlp.fc2", (hidden, inner)),
            f"{official}.feed_forward.LayerNorm": (f"{ours}.mlp_norm", (hidden,)),
        }
    for official, (ours, shape) in modules.items():
        layout[f"{official}.weight"] = (f"{ours}.weight", shape)
        layout[f"{official}.bias"] = (f"{ours}.bias", shape[:1])
    if config.num_items is not None:
        layout["item_embedding.weight"] = ("item_embedding.weight", (config.num_items + 1, hidden))
    return layout


def to_our_weights(official: Mapping[str, torch.Tensor], config: UniSRecConfig) -> dict[str, torch.Tensor]:
    r"""
    Converts official weights, or their gradients, to our names and shapes.

    Args:
        official (`Mapping[str, torch.Tensor]`): Tensors by official name, see [`official_layout`].
        config ([`UniSRecConfig`]): Configuration with the sizes.

    Returns:
        `dict[str, torch.Tensor]`: A state dict of [`UniSRecModel`].
    """
    ours = {our_name: official[name] for name, (our_name, _) in official_layout(config).items()}
    experts = [f"moe_adaptor.experts.{expert}" for expert in range(config.num_experts)]
    ours["adaptor.weight"] = torch.stack([official[f"{expert}.lin.weight"].T for expert in experts], dim=1)
    ours["adaptor.bias"] = torch.stack([official[f"{expert}.bias"] for expert in experts])
    return ours


def convert_official_checkpoint(file: str | os.PathLike) -> OfficialConversion:
    r"""
    Reads a checkpoint of the official code: pre-trained, or fine-tuned in the inductive or transductive setting.

    RecBole is not required, and no object pickled in the file is imported or executed.

    Args:
        file (`str` or `os.PathLike`): The `.pth` file, such as `UniSRec-FHCKM-300.pth`.

    Returns:
        [`OfficialConversion`]: The model, and the names of the used and ignored entries.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a complete checkpoint of UniSRec.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a .pth file that the official code saved.")
    try:
        archive = TorchArchive(path)
        with archive.zip:
            return _convert(archive)
    except (ValueError, OverflowError, StrictDataclassError) as error:
        raise ValueError(f"{path}: this is no checkpoint of the official UniSRec code: {error}.") from error


def _convert(archive: TorchArchive) -> OfficialConversion:
    checkpoint, imported = parse_pickle(archive.read("data.pkl"))
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"its state_dict is {describe(weights)}, expected a dictionary of tensors")

    tensors: dict[str, torch.Tensor] = {}

    def size(name: str) -> tuple[int, int]:
        """Returns rows and columns of a weight, read from its data because a stated size may be wrong."""
        if name not in weights:
            raise ValueError(f"its state_dict lacks {name!r}")
        tensors[name] = archive.tensor(name, weights[name])
        if tensors[name].dim() != 2:
            raise ValueError(f"{name!r} in it has {tensors[name].dim()} axes, expected 2")
        return tuple(tensors[name].shape)

    text_size, num_experts = size("moe_adaptor.w_gate")
    length, hidden_size = size("position_embedding.weight")
    num_rows = size("plm_embedding.weight")[0] if "plm_embedding.weight" in weights else None
    is_transductive = "item_embedding.weight" in weights
    settings = _settings(checkpoint.get("config"))
    config = UniSRecConfig(
        text_embedding_size=text_size,
        hidden_size=hidden_size,
        num_hidden_layers=len(
            {str(name).split(".")[2] for name in weights if str(name).startswith("trm_encoder.layer.")}
        ),
        intermediate_size=size("trm_encoder.layer.0.feed_forward.dense_1.weight")[0],
        max_position_embeddings=length,
        num_experts=num_experts,
        text_pooling="cls",
        router_noise=1e-2,
        num_items=size("item_embedding.weight")[0] - 1 if is_transductive else None,
        **{name: value for name, (value, _) in settings.items()},
    )
    layout = official_layout(config)
    if is_transductive or num_rows is not None:
        rows = num_rows if config.num_items is None else config.num_items + 1
        layout["plm_embedding.weight"] = ("item_embeddings", (rows, text_size))
    if missing := [name for name in layout if name not in weights]:
        raise ValueError(f"its state_dict lacks {len(missing)} weights, the first is {missing[0]!r}")
    for name, (_, shape) in layout.items():
        if name not in tensors:
            tensors[name] = archive.tensor(name, weights[name])
        if tensors[name].shape != shape:
            raise ValueError(f"{name!r} in it is of shape {tuple(tensors[name].shape)}, expected {shape}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name!r} in it holds NaN or infinity")

    state = to_our_weights(tensors, config)
    if is_transductive:
        # The official padding row is a candidate of the loss and has therefore been trained. Our row 0 stands for
        # items without an ID, and must add nothing.
        state["item_embedding.weight"][0] = 0
    model = UniSRecModel(config).to(reduce(torch.promote_types, [tensor.dtype for tensor in state.values()]))
    model.load_state_dict(state)

    ignored = {str(name): describe(value) for name, value in weights.items() if name not in layout}
    ignored |= {str(name): describe(value) for name, value in checkpoint.items() if name != "state_dict"}
    ignored |= dict.fromkeys(sorted(imported - {DICT, TENSOR, *DTYPES}), "what the pickle would import; not run")
    return OfficialConversion(
        model=model.eval(),
        item_embeddings=None if num_rows is None else tensors["plm_embedding.weight"][1:],
        used={name: (shape, ours) for name, (ours, shape) in layout.items()},
        ignored=ignored,
        settings=settings,
    )


def _settings(official_config: Any) -> dict[str, tuple[Any, bool]]:
    """Returns the fields not determined by tensors: value, and whether it is in the pickled `Config` of RecBole."""
    state = official_config.state if isinstance(official_config, Inert) else None
    values = state.get("final_config_dict") if isinstance(state, dict) else None
    settings = {}
    for official, (name, default) in SETTINGS.items():
        value, kind = values.get(official) if isinstance(values, dict) else None, type(default)
        if kind is float and type(value) is int:  # dropout: 0
            value = float(value)
        if value is not None and not (
            type(value) is kind and (value in ACTIVATIONS if kind is str else math.isfinite(value))
        ):
            raise ValueError(f"its setting {official!r} is {value if kind is str else describe(value)}")
        settings[name] = (default if value is None else value, value is not None)
    return settings


__all__ = ["OfficialConversion", "convert_official_checkpoint", "official_layout", "to_our_weights"]
