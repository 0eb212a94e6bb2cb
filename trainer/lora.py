"""Parameter-efficient transfer: low-rank adapters (LoRA, arXiv 2106.09685) through peft."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..modeling_unisrec import UniSRecModel
from ..modeling_unisrec.adapters import with_adapters


if TYPE_CHECKING:
    from peft import PeftModel


MODULES = {"text": "text_encoder", "sequence": "sequence_encoder"}


def parse_lora_parts(parts: str) -> list[str]:
    """`"text,sequence"` as a list. Raises `ValueError` for another part."""
    names = [part.strip() for part in parts.split(",")]
    for name in names:
        if name not in MODULES:
            raise ValueError(f"--lora takes {' and '.join(MODULES)}, separated by a comma; got {name!r}.")
    return names


def add_lora(model: UniSRecModel, parts: Sequence[str], rank: int, revision: str | None = None) -> "PeftModel":
    r"""
    A model of which only low-rank adapters, the text adaptor and what else transfer trains are trainable.

    Every linear layer inside the layers of a part gets an adapter. The text adaptor, the input normalisation of the
    sequence encoder and the ID embedding are trained in full and saved with the adapters.

    Args:
        model ([`UniSRecModel`]): A loaded checkpoint; its weights are frozen, and it is changed in place.
        parts (`Sequence[str]`): `"text"`, `"sequence"` or both.
        rank (`int`): Rank of the adapters; they are scaled by 2.
        revision (`str`, *optional*): Of the Hub repository that the model was loaded from.

    Returns:
        `PeftModel`: Saved and loaded as adapters on `model.name_or_path`.

    Raises:
        ValueError: If peft is not installed, the text encoder is to be adapted and the model has none, or the model is
            itself one of adapters.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("--lora needs peft: pip install 'unisrec[peft]'.") from error
    if not model.name_or_path:
        raise ValueError(
            "--lora takes a whole checkpoint for its base: save the model with its adapters merged in first."
        )
    if "text" in parts and model.text_encoder is None:
        raise ValueError("--lora text: the model has no text encoder; name it with --text-encoder.")
    trained_in_full = ["adaptor", "sequence_encoder.layer_norm"]
    if model.item_embedding is not None:
        trained_in_full.append("item_embedding")
    modules = tuple(f"{MODULES[part]}." for part in parts)
    if Path(model.name_or_path).is_dir():  # adapters are loaded from other working directories too
        model.name_or_path = str(Path(model.name_or_path).resolve())
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        # A layer lies in a list of layers; a linear module outside of one is a pooler, which nothing passes through.
        target_modules=[
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(modules) and re.search(r"\.\d+\.", name)
        ],
        modules_to_save=trained_in_full,
        revision=revision,
    )
    return with_adapters(model, config)


__all__ = ["add_lora", "parse_lora_parts"]
