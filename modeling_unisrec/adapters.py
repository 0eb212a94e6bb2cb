"""Checkpoints that are adapters (LoRA, arXiv 2106.09685) on another checkpoint, saved and loaded through peft."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

TRAINING_DATA_FILE = "training_data.json"  # beside adapters, whose folder has no config.json


def with_adapters(model: UniSRecModel, config: "PeftConfig") -> "PeftModel":
    """A model with new adapters in place, of which only these and `modules_to_save` are trainable."""
    from peft import get_peft_model

    with warnings.catch_warnings():  # peft asks transformers by a name that is deprecated
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(model, config)


def find_base(name: str, revision: str = "main") -> tuple[str, dict[str, Any]]:
    r"""
    The checkpoint that adapters were trained on.

    A folder stands in `adapter_config.json` by its whole path. Where it is not there, the folder of the same name beside
    the adapters is taken and said in a warning: the two may have been moved together.

    Args:
        name (`str`): Folder or Hub id that holds `adapter_config.json`.
        revision (`str`, *optional*, defaults to `"main"`): Of the Hub repository.

    Returns:
        `tuple[str, dict[str, Any]]`: As of `find_model`.

    Raises:
        ValueError: If peft is not installed.
        OSError: If `adapter_config.json` cannot be read, or the base is not there.
    """
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise OSError(f"{name} holds adapters: pip install 'unisrec[peft]' to load them.") from error
    try:
        config = PeftConfig.from_pretrained(name, revision=revision)
        base = Path(config.base_model_name_or_path).expanduser()
    except Exception as error:  # whatever somebody has written into the file
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
        if base.is_dir():  # transformers would take it
            raise IsADirectoryError("a folder of that name hides the repository: change to another working directory")
        return str(base), pin_revision(str(base), config.revision)
    except OSError as error:
        raise OSError(
            f"the base of the adapters {name} is missing: {config.base_model_name_or_path} ({error}). Put it there or "
            f"beside the adapters, or write where it is into base_model_name_or_path of {name}/adapter_config.json."
        ) from error


def load_adapted(name: str, revision: str, model: UniSRecModel) -> UniSRecModel:
    r"""
    A plain model out of a folder or repository of adapters: their base, with the adapters merged in.

    Args:
        name (`str`): Folder or Hub id that holds `adapter_config.json`.
        revision (`str`): Of the Hub repository.
        model ([`UniSRecModel`]): The base, as [`find_base`] finds it, with its text encoder; it is changed in place.

    Raises:
        ValueError: If the adapters are not those of the base, or a weight is not finite.
        OSError: If the adapters are not there.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    # The base may be of another setting or catalogue; an ID embedding comes with the adapters.
    weights = load_peft_weights(name, device="cpu", revision=revision)
    rows = [len(weight) for key, weight in weights.items() if key.endswith(".item_embedding.weight")]
    model.reset_item_embedding(rows[0] - 1 if rows else None)
    config = PeftConfig.from_pretrained(name, revision=revision)
    config.base_model_name_or_path = model.name_or_path  # which it need not be any more
    adapted = with_adapters(model, config)
    check_weights("adapter_model.safetensors", get_peft_model_state_dict(adapted), weights)
    set_peft_model_state_dict(adapted, weights)
    model = adapted.merge_and_unload()
    if bad := not_finite(model.state_dict()):  # by the factor in adapter_config.json
        raise ValueError(f"{len(bad)} weights of base and adapters together are NaN or infinite, such as {bad[0]}")
    if (training_data := load_training_data(name, revision)) is not None:
        model.config.training_data = training_data
    model.name_or_path = ""  # what it is now is nowhere saved
    return model


def save_training_data(config: UniSRecConfig, folder: Path) -> None:
    """Writes the records of a model into a folder of adapters."""
    text = json.dumps(config.training_data or [], indent=2, ensure_ascii=False)
    (folder / TRAINING_DATA_FILE).write_text(text + "\n", encoding="utf-8")


def load_training_data(name: str, revision: str | None = None) -> list[dict[str, Any]] | None:
    """The records beside adapters in a folder or repository, `None` where there are none."""
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
