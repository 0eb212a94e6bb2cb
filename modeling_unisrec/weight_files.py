"""Checks of weight files against a model: names, shapes and numbers are compared before anything is loaded."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


def check_weights(name: str, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    r"""
    Compares weights of a file with those of a model.

    Args:
        name (`str`): Name of the file in error messages.
        expected (`Mapping[str, torch.Tensor]`): State dict of the model; of weights that share memory, the file may hold
            one alone.
        found (`Mapping[str, torch.Tensor]`): Tensors of the file.

    Raises:
        ValueError: If weights are missing, unexpected, of another shape, or not finite.
    """
    places = {weight.data_ptr() for key, weight in expected.items() if key in found}
    missing = [key for key, weight in expected.items() if key not in found and weight.data_ptr() not in places]
    shapes = [
        f"{key} {tuple(weight.shape)} instead of {tuple(expected[key].shape)}"
        for key, weight in found.items()
        if key in expected and weight.shape != expected[key].shape
    ]
    for keys, what in (
        (missing, "missing"),
        (sorted(found.keys() - expected.keys()), "unexpected"),
        (shapes, "of another shape"),
        (not_finite(found), "NaN or infinite"),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(f"{name}: {len(keys)} weights are {what}: {', '.join(keys[:3])}{more}")


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Returns the names of the tensors that hold NaN or infinity."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.numel() and tensor.is_floating_point() and not all(map(math.isfinite, tensor.aminmax()))
    ]


def check_weights_of_folder(folder: Path, model: nn.Module) -> None:
    """Compares the safetensors files of a checkpoint folder, whole, in shards or of adapters, with a model. Raises
    `ValueError` as [`check_weights`] does, and if there are no such files or they cannot be read."""
    expected = model.state_dict()
    files = [folder / SAFE_WEIGHTS_NAME]
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        expected, files = get_peft_model_state_dict(model), [folder / ADAPTER_SAFE_WEIGHTS_NAME]
    elif (folder / SAFE_WEIGHTS_INDEX_NAME).is_file() and not files[0].is_file():
        try:
            index = json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))
            files = sorted({folder / name for name in index["weight_map"].values()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{SAFE_WEIGHTS_INDEX_NAME} cannot be read ({error})") from error
    found: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                found |= {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file.name} cannot be read ({error})") from error
    check_weights(" ".join(file.name for file in files[:1]), expected, found)


__all__ = ["check_weights", "check_weights_of_folder", "not_finite"]
