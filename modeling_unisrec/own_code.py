"""Text encoders whose code is not part of transformers: it runs only if it is trusted, and checkpoints carry it along."""

import copy
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers import AutoModel, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..configuration.configuration_unisrec import CODE_FILES, UniSRecConfig
from ..configuration.own_code_config import lacks_code


_trusted: ContextVar[bool | None] = ContextVar("trust_remote_code", default=None)


class UntrustedCode(ValueError):
    """Raised for a text encoder that runs code of its own, unless that code is trusted."""


@contextmanager
def trusting_remote_code(trusted: bool | None = True) -> Iterator[None]:
    r"""
    Context manager in which text encoders may run code of their own, as with `trust_remote_code=True` of each function
    that loads one.

    Args:
        trusted (`bool`, *optional*, defaults to `True`):
            `True` runs the code. `False` ignores it if transformers knows encoders of this type, and `None` refuses it.
    """
    token = _trusted.set(trusted)
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted(trust_remote_code: bool | None) -> bool | None:
    """Returns the argument of a function, and that of [`trusting_remote_code`] if it is `None`."""
    return _trusted.get() if trust_remote_code is None else trust_remote_code


def file_of(reference: str) -> str:
    """Returns the file of an entry of `auto_map`: `owner/name/modeling_x.py` of `owner/name--modeling_x.X`."""
    repository, _, place = reference.rpartition("--")
    return "/".join([*([repository] if repository else []), f"{place.rpartition('.')[0]}.py"])


def own_class(reference: str, name: str, options: Mapping[str, Any]) -> type:
    """Runs the code of an entry of `auto_map` in the folder or Hub repository `name`, and returns the class."""
    unused = ("subfolder", "trust_remote_code")
    return get_class_from_dynamic_module(
        reference, name, **{key: value for key, value in options.items() if key not in unused}
    )


def own_code_files(*kinds: type) -> list[Path]:
    r"""
    Returns the files that define classes of a text encoder, with those that they import from beside them.

    Args:
        kinds (`type`): Classes; those of installed packages have no such files.

    Raises:
        ValueError: If a file has the name of one that every checkpoint has.
    """
    files: dict[str, Path] = {}
    for kind in kinds:
        if kind.__module__.startswith("transformers_modules."):
            file = Path(sys.modules[kind.__module__].__file__)
            files |= {each.name: each for each in (file, *map(Path, get_relative_import_files(file)))}
    if taken := sorted(files.keys() & {*CODE_FILES, "handler.py"}):
        raise ValueError(
            f"the text encoder has a file {taken[0]}, as every UniSRec checkpoint has, which could not hold both; rename the "
            "module in a copy of the encoder."
        )
    return [files[name] for name in sorted(files)]


def record_own_code(config: UniSRecConfig, encoder: PreTrainedModel) -> None:
    """Records in a configuration, and in that of its text encoder, which class the encoder has if its code is its own."""
    kinds = {"AutoConfig": type(encoder.config), "AutoModel": type(encoder)}
    own = {name: kind for name, kind in kinds.items() if own_code_files(kind)}
    config.text_encoder_class = own.get("AutoModel")
    if own:
        encoder.config.auto_map = {
            name: f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}" for name, kind in own.items()
        }


def new_text_encoder(config: UniSRecConfig) -> PreTrainedModel:
    """Returns the text encoder that `config` describes, with random weights. Raises `ValueError` if its code has not been
    loaded."""
    if lacks_code(config.text_config):
        raise ValueError("The text encoder runs code of its own, which only `from_pretrained` can load.")
    own = config.text_encoder_class
    return (AutoModel.from_config if own is None else own._from_config)(config.text_config)


def copy_own_code(config: UniSRecConfig, folder: str | os.PathLike) -> None:
    """Copies the code of a text encoder into a checkpoint folder; does nothing if transformers has it."""
    if config.text_config is not None and config.text_encoder_class is not None:
        for file in own_code_files(config.text_encoder_class, type(config.text_config)):
            shutil.copyfile(file, Path(folder) / file.name)


def carried_code(folder: Path) -> list[str]:
    """Returns the names of the files in a checkpoint folder with the code of its text encoder."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        places = settings["text_config"]["auto_map"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no configuration, or no such code
        return []
    files = [folder / file_of(place) for place in places]
    files = [each for file in files if file.is_file() for each in (file, *map(Path, get_relative_import_files(file)))]
    return sorted({file.name for file in files})


def download_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those options of `from_pretrained` that locate a file."""
    names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
    return {name: options[name] for name in names if name in options}


def with_own_code(
    config_class: type[UniSRecConfig], name: str | os.PathLike | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    r"""
    Loads the code of the text encoder that a checkpoint carries.

    Args:
        config_class (`type`): Class of the configuration of the checkpoint.
        name (`str` or `os.PathLike`, *optional*): Folder or Hub id of the checkpoint.
        options (`Mapping`): Options of `from_pretrained`, with `trust_remote_code`.

    Returns:
        `dict`: The options; if there is such code, with a `config` that has the configuration and the class of the encoder.

    Raises:
        UntrustedCode: If the code is not trusted.
    """
    options, config = dict(options), options.get("config")
    places = download_options(options)
    if config is None and name is not None and options.get("text_config", ...) is not None:
        settings, _ = config_class.get_config_dict(name, **places)
        if "auto_map" in (settings.get("text_config") or ()):
            fields = {key: options.pop(key) for key in [*options] if key in config_class.__annotations__}
            config = config_class.from_pretrained(name, **places, **fields)
    if not lacks_code(getattr(config, "text_config", None)):
        return options
    settings = dict(config.text_config.settings)
    classes = settings["auto_map"]
    if not is_trusted(options.get("trust_remote_code")):
        raise UntrustedCode(
            f"{name}: its text encoder runs code of its own ({classes['AutoModel']} in {file_of(classes['AutoModel'])}); "
            "read that file, and add `trust_remote_code=True` if you trust it."
        )
    kinds = {key: own_class(reference, str(name), places) for key, reference in classes.items()}
    kind = kinds.get("AutoConfig") or CONFIG_MAPPING[settings["model_type"]]
    config = copy.copy(config)
    config.text_config, config.text_encoder_class = kind.from_dict(settings), kinds["AutoModel"]
    return options | {"config": config}


__all__ = [
    "UntrustedCode",
    "carried_code",
    "copy_own_code",
    "download_options",
    "file_of",
    "is_trusted",
    "new_text_encoder",
    "own_class",
    "own_code_files",
    "record_own_code",
    "trusting_remote_code",
    "with_own_code",
]
