"""Checkpoints that are adapters (LoRA, arXiv 2106.09685) on another checkpoint, saved and loaded through peft."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.utils import cached_file, logging

from ..configuration import UniSRecConfig
from .hub import RELEASED, pin_revision, released_folder
from .modeling_unisrec import UniSRecModel
from .weight_files import check_weights, not_finite


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel


logger = logging.get_logger(__name__)
for name in RELEASED:  # peft asks the Hub for the vocabulary of a base
    warnings.filterwarnings("ignore", message=rf"(Unable to fetch remote|Could not find a config) file.* in {name}\b")

MODULES = {"text": "text_encoder", "sequence": "sequence_encoder"}  # module of each part that adapters are named for
TRAINING_DATA_FILE = "training_data.json"  # a folder of adapters has no config.json


def with_adapters(model: UniSRecModel, config: "PeftConfig") -> "PeftModel":
    """Returns a model with new adapters, of which only the adapters and `modules_to_save` are trainable."""
    from peft import get_peft_model

    with warnings.catch_warnings():  # peft calls transformers by a deprecated name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(model, config)


def parse_lora_parts(parts: str) -> list[str]:
    """Splits `"text,sequence"` into a list. Raises `ValueError` for an unknown part."""
    names = [part.strip() for part in parts.split(",")]
    for name in names:
        if name not in MODULES:
            raise ValueError(f"--lora takes {' and '.join(MODULES)}, separated by a comma; got {name!r}.")
    return names


def add_lora(model: UniSRecModel, parts: Sequence[str], rank: int, revision: str | None = None) -> "PeftModel":
    r"""
    Adds trainable low-rank adapters to a model and freezes its other weights.

    Each linear layer inside the transformer layers of a part gets an adapter. The text adaptor, the input normalisation of
    the sequence encoder and the ID embedding remain trainable and are saved with the adapters.

    Args:
        model ([`UniSRecModel`]): Loaded checkpoint, changed in place.
        parts (`Sequence[str]`): `"text"`, `"sequence"` or both.
        rank (`int`): Rank of the adapters; their output is scaled by 2.
        revision (`str`, *optional*): Revision of the Hub repository that the model was loaded from.

    Returns:
        `PeftModel`: Model that is saved as a standard PEFT adapter of `model.name_or_path`.

    Raises:
        ValueError: If peft is not installed, the text encoder is to be adapted but missing, or the model itself was
            loaded from an adapter.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("--lora needs peft: pip install 'unisrec[peft]'.") from error
    if not model.name_or_path:
        raise ValueError(
            "--lora needs a full checkpoint as its base: merge the adapters into the model and save it first."
        )
    if "text" in parts and model.text_encoder is None:
        raise ValueError("--lora text: the model has no text encoder; name it with `text_encoder`.")
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


def find_base(name: str, revision: str = "main") -> tuple[str, dict[str, Any]]:
    r"""
    Finds the checkpoint that adapters were trained on.

    `adapter_config.json` holds the absolute path of a folder. If that folder does not exist, a folder of the same name
    beside the adapters is used with a warning, because both may have been moved together.

    Args:
        name (`str`): Folder or Hub id that holds `adapter_config.json`.
        revision (`str`, *optional*, defaults to `"main"`): Revision of the Hub repository.

    Returns:
        `tuple[str, dict[str, Any]]`: Folder or Hub id and download options, as from `find_model`.

    Raises:
        ValueError: If peft is not installed.
        OSError: If `adapter_config.json` cannot be read, or the base does not exist.
    """
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise OSError(f"{name} holds adapters: pip install 'unisrec[peft]' to load them.") from error
    try:
        config = PeftConfig.from_pretrained(name, revision=revision)
        base = Path(config.base_model_name_or_path).expanduser()
    except Exception as error:  # the file may hold anything
        raise OSError(f"{name}: its adapter_config.json cannot be read ({' '.join(str(error).split())}).") from error
    is_of_hub = config.revision is not None
    if (folder := released_folder(config.base_model_name_or_path)) is not None:
        return str(folder), {}
    if base.is_dir() and not is_of_hub:
        return str(base), {}
    beside = Path(name).resolve().parent / base.name
    if Path(name).is_dir() and beside.is_dir() and not is_of_hub:
        logger.warning(f"{base}, the base of the adapters {name}, is not there; {beside} is taken.")
        return str(beside), {}
    try:
        if base.is_absolute() or config.base_model_name_or_path.startswith((".", "~")):
            raise FileNotFoundError("there is no such folder")
        if base.is_dir():  # transformers would load it
            raise IsADirectoryError("a folder of that name hides the repository: change to another working directory")
        return str(base), pin_revision(str(base), config.revision)
    except OSError as error:
        raise OSError(
            f"the base of the adapters {name} is missing: {config.base_model_name_or_path} ({error}). Put it there or "
            f"beside the adapters, or write where it is into base_model_name_or_path of {name}/adapter_config.json."
        ) from error


def load_adapted(name: str, revision: str, model: UniSRecModel) -> UniSRecModel:
    r"""
    Merges adapters into their base and returns the plain model.

    Args:
        name (`str`): Folder or Hub id that holds `adapter_config.json`.
        revision (`str`): Revision of the Hub repository.
        model ([`UniSRecModel`]): The base that [`find_base`] finds, with its text encoder; it is changed in place.

    Raises:
        ValueError: If the adapters do not fit the base, or a weight is not finite.
        OSError: If the adapters do not exist.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    # The base may have another setting or catalogue; an ID embedding is stored with the adapters.
    weights = load_peft_weights(name, device="cpu", revision=revision)
    rows = [len(weight) for key, weight in weights.items() if key.endswith(".item_embedding.weight")]
    model.reset_item_embedding(rows[0] - 1 if rows else None)
    config = PeftConfig.from_pretrained(name, revision=revision)
    config.base_model_name_or_path = model.name_or_path  # no longer needed
    trainable = {weight_name: weight.requires_grad for weight_name, weight in model.named_parameters()}
    adapted = with_adapters(model, config)
    check_weights("adapter_model.safetensors", get_peft_model_state_dict(adapted), weights)
    set_peft_model_state_dict(adapted, weights)
    model = adapted.merge_and_unload()
    for weight_name, weight in model.named_parameters():  # peft leaves the whole model frozen
        weight.requires_grad_(trainable[weight_name])
    if bad := not_finite(model.state_dict()):  # by the factor in adapter_config.json
        raise ValueError(f"{len(bad)} weights of base and adapters together are NaN or infinite, such as {bad[0]}")
    if (training_data := load_training_data(name, revision)) is not None:
        model.config.training_data = training_data
    model.config.text_neighbours = 0.0  # as after any fine-tuning; the configuration is that of the base
    model.name_or_path = ""  # the merged model is saved nowhere
    return model


def save_training_data(config: UniSRecConfig, folder: Path) -> None:
    """Writes the training data records of a model to a folder of adapters."""
    text = json.dumps(config.training_data or [], indent=2, ensure_ascii=False)
    (folder / TRAINING_DATA_FILE).write_text(text + "\n", encoding="utf-8")


def load_training_data(name: str, revision: str | None = None) -> list[dict[str, Any]] | None:
    """Returns the training data records stored with adapters, or `None` if there are none."""
    file = cached_file(name, TRAINING_DATA_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON file ({error}); fetch the adapters again.") from error


__all__ = [
    "TRAINING_DATA_FILE",
    "add_lora",
    "find_base",
    "load_adapted",
    "load_training_data",
    "parse_lora_parts",
    "save_training_data",
    "with_adapters",
]
