"""Checkpoints that are adapters (LoRA, arXiv 2106.09685) on another checkpoint, saved and loaded through peft."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import cached_file, logging

from ..configuration import UniSRecConfig
from .hub import pin_revision
from .modeling_unisrec import UniSRecModel
from .weight_files import check_weights, not_finite


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel


logger = logging.get_logger(__name__)

TRAINING_DATA_FILE = "training_data.json"  # a folder of adapters has no config.json


def with_adapters(model: UniSRecModel, config: "PeftConfig") -> "PeftModel":
    """Returns a model with new adapters, of which only the adapters and `modules_to_save` are trainable."""
    from peft import get_peft_model

    with warnings.catch_warnings():  # peft calls transformers by a deprecated name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(model, config)


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


def load_adapted(name: str, revision: str, base: tuple[str, dict[str, Any]]) -> UniSRecModel:
    r"""
    Loads the base of adapters and merges the adapters into it.

    Args:
        name (`str`): Folder or Hub id that holds `adapter_config.json`.
        revision (`str`): Revision of the Hub repository.
        base (`tuple[str, dict[str, Any]]`): Result of [`find_base`].

    Raises:
        ValueError: If the adapters do not fit the base, or a weight is not finite.
        OSError: If the base or the adapters do not exist.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    base_name, options = base
    try:
        model = UniSRecModel.from_pretrained(base_name, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise OSError(f"their base {base_name} cannot be loaded: {' '.join(str(error).split())}") from error
    # The base may have another setting or catalogue; an ID embedding is stored with the adapters.
    weights = load_peft_weights(name, device="cpu", revision=revision)
    rows = [len(weight) for key, weight in weights.items() if key.endswith(".item_embedding.weight")]
    model.reset_item_embedding(rows[0] - 1 if rows else None)
    config = PeftConfig.from_pretrained(name, revision=revision)
    config.base_model_name_or_path = model.name_or_path  # no longer needed
    adapted = with_adapters(model, config)
    check_weights("adapter_model.safetensors", get_peft_model_state_dict(adapted), weights)
    set_peft_model_state_dict(adapted, weights)
    model = adapted.merge_and_unload()
    if bad := not_finite(model.state_dict()):  # by the factor in adapter_config.json
        raise ValueError(f"{len(bad)} weights of base and adapters together are NaN or infinite, such as {bad[0]}")
    if (training_data := load_training_data(name, revision)) is not None:
        model.config.training_data = training_data
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
    "find_base",
    "load_adapted",
    "load_training_data",
    "save_training_data",
    "with_adapters",
]
