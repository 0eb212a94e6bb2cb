"""Checkpoint folders of the main job: where a run may write, what it loads."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import cached_file, logging
from transformers.utils.peft_utils import find_adapter_config_file

from ..configuration import UniSRecConfig
from ..data import Domain
from ..data.given_features import given_text_features
from ..data.text_features import load_text_features, text_max_length
from ..modeling_unisrec import UniSRecModel, UniSRecProcessor, check_id_rows
from ..modeling_unisrec.hub import find_model
from ..modeling_unisrec.text_encoders import check_tokenizer, load_text_encoder
from .checkpoint_folders import DRAFTS, clear_drafts, find_damage, is_under_way
from .lora import find_base, load_adapted
from .run_lock import lock_run
from .training_args import UniSRecTrainingArguments


logger = logging.get_logger(__name__)


def check_output_dir(args: UniSRecTrainingArguments) -> None:
    """
    Raises `OSError` if a run cannot write to its output folder, another process is writing to it, or it would mix with what
    is there. Puts the checkpoint to go
    on from in place of `auto` (the last one, if there is one) and `true` (the last one), after clearing up.
    """
    folder = Path(args.output_dir)
    if args.should_save:
        _check_writable(folder)
    resume = None if args.resume_from_checkpoint is None else str(args.resume_from_checkpoint)
    if resume is None:
        if args.should_save and folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(
                f"{folder}: the output folder is not empty; name a new one with --output_dir, or go on with the run "
                "in it by --resume_from_checkpoint auto."
            )
        return
    if args.process_index == 0 and is_under_way(folder):  # also by a run that goes on right now
        lock_run(folder / DRAFTS)
    if resume.lower() in ("auto", "true"):
        with args.main_process_first(local=False, desc="clearing up"):
            if args.should_save and is_under_way(folder):
                clear_drafts(folder)
        args.resume_from_checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
        if args.resume_from_checkpoint is None:
            if resume.lower() == "true":
                raise FileNotFoundError(f"{folder}: no checkpoint to resume from; use --resume_from_checkpoint auto.")
            if folder.is_dir() and any(folder.iterdir()) and not is_under_way(folder):
                raise FileExistsError(f"{folder}: neither empty nor the folder of a run; name a new --output_dir.")
            return
    else:
        args.resume_from_checkpoint = os.path.expanduser(resume)
        checkpoint = Path(args.resume_from_checkpoint)
        if not checkpoint.is_dir():
            raise FileNotFoundError(f"{resume}: no such checkpoint folder to resume from.")
        is_own = folder.is_dir() and checkpoint.resolve().parent == folder.resolve()
        if args.should_save and folder.is_dir() and any(folder.iterdir()) and not is_own:
            raise FileExistsError(
                f"{folder}: the output folder is not empty, and {resume} is not a checkpoint of it; name a new one with "
                "--output_dir."
            )
    if (damage := find_damage(Path(args.resume_from_checkpoint), contents=True)) is not None:
        raise OSError(f"{args.resume_from_checkpoint}: this checkpoint is incomplete ({damage}); resume from another.")


def _check_writable(folder: Path) -> None:
    """Raises `PermissionError` now, not after hours of training."""
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: {existing} cannot be written to; name another --output_dir.")


def load_checkpoint(
    name_or_path: str | os.PathLike, text_encoder: str | None = None
) -> tuple[UniSRecModel, UniSRecProcessor]:
    r"""
    Model and processor of a checkpoint: with its text encoder, embeddings-only, or as adapters, which are merged. Weights
    are float32, in whatever type they were saved: that is what training and ranking are exact in.

    Args:
        name_or_path (`str` or `os.PathLike`): Folder, or Hub id, also as `owner/name@revision`.
        text_encoder (`str`, *optional*): A text encoder to add where the checkpoint has none.

    Raises:
        OSError: If there is no checkpoint of ours, its weights are not those of its configuration or not finite, the base
            of its adapters is not there, or its processor cannot be read.
        ValueError: If the text encoder has another width than the checkpoint.
    """
    advice = "expected a folder that `unisrec pretrain` or `unisrec finetune` wrote, or a Hub id of such a model."
    try:
        name, options = find_model(os.path.expanduser(name_or_path))
        adapters = find_adapter_config_file(name, **options) is not None
    except (OSError, ValueError) as error:
        raise OSError(f"model {str(name_or_path)!r} cannot be loaded ({_short(error)}); {advice}") from error
    base = find_base(name, options.get("revision", "main")) if adapters else None
    try:
        if base is not None:
            model = load_adapted(name, options.get("revision", "main"), base)
        else:
            settings, _ = UniSRecConfig.get_config_dict(name, **options)
            if not settings:
                raise ValueError("no config.json is there")
            if settings.get("model_type") != UniSRecConfig.model_type:
                raise ValueError(f"its config.json is of type {settings.get('model_type')!r}, not 'unisrec'")
            model = UniSRecModel.from_pretrained(name, dtype=torch.float32, **options)
    except Exception as error:  # a file from elsewhere can make transformers, torch and safetensors fail in any way
        raise OSError(f"model {str(name_or_path)!r} cannot be loaded ({_short(error)}); {advice}") from error
    try:
        processor = _load_processor(name, options, model.config)
    except Exception as error:
        raise OSError(
            f"the processor of {str(name_or_path)!r} cannot be read ({_short(error)}); copy processor_config.json, the "
            "files of the tokenizer and catalogue/ again from where the checkpoint was saved."
        ) from error
    if text_encoder is not None:
        encoder, processor.tokenizer = load_text_encoder(text_encoder)
        stated = encoder.text_head.to_config(encoder.config.hidden_size)
        model.attach_text_encoder(encoder)
        if other := [name for name, value in stated.items() if getattr(model.config, name) != value]:
            logger.warning(
                "%s: %s as the checkpoint was trained with, not as the files of the text encoder say",
                text_encoder,
                ", ".join(f"{name}={getattr(model.config, name)!r}" for name in other),
            )
        processor.max_text_length = text_max_length(encoder, processor.tokenizer)
        processor.text_prompt = model.config.text_prompt
    return model, processor


def _load_processor(name: str, options: Mapping[str, Any], config: UniSRecConfig) -> UniSRecProcessor:
    """The processor beside a model; an empty one where there is none, as in an intermediate checkpoint of a trainer."""
    file = cached_file(name, "processor_config.json", _raise_exceptions_for_missing_entries=False, **options)
    if file is None:
        return UniSRecProcessor(max_history_length=config.max_position_embeddings)
    processor = UniSRecProcessor.from_pretrained(name, **options)
    if processor.tokenizer is not None and config.text_config is not None:
        check_tokenizer(processor.tokenizer, config.text_config)
    if config.num_items is not None and processor.catalogue is not None:
        check_id_rows(config, processor.catalogue)
        if (
            config.item_ids_hash is None
        ):  # adapters, and checkpoints from before there was one: the items are their own
            config.item_ids_hash = processor.catalogue.item_ids_hash
    return processor


def _short(error: Exception) -> str:
    """An error of another library in one line, with its kind where the message alone says little."""
    text = " ".join(str(error).splitlines()[:2]).strip()
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}"


def new_config(settings: Mapping[str, Any]) -> UniSRecConfig:
    """A configuration; raises `ValueError` where fields do not fit."""
    try:
        return UniSRecConfig(**settings)
    except StrictDataclassError as error:  # not a ValueError
        raise ValueError(f"the model cannot be of that form: {error}") from error


def untrained_model(model: UniSRecModel, num_items: int | None, changes: Mapping[str, Any]) -> UniSRecModel:
    """A new model with the settings of another, but for `changes`, around the same text encoder. Raises `ValueError` for a
    change of how texts become vectors, which are those of the other model."""
    settings = model.config.to_dict()
    for name in changes:
        if name.startswith("text_") and name != "text_scale" and changes[name] != settings[name]:
            raise ValueError(
                f"{name} is that of the text vectors the model was made with: set it in `unisrec pretrain`."
            )
    fresh = UniSRecModel(new_config(settings | {"num_items": num_items} | dict(changes)))
    fresh.text_encoder = model.text_encoder
    if fresh.adaptor is not None and fresh.adaptor.whitening is not None:  # not trained
        fresh.adaptor.whitening.load_state_dict(model.adaptor.whitening.state_dict())
    return fresh


def domain_features(
    domain_dir: str | os.PathLike,
    domain: Domain,
    text_encoder: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    config: UniSRecConfig,
    args: UniSRecTrainingArguments,
    word_drop_ratio: float | None = None,
) -> np.ndarray:
    """Text vectors of a domain's catalogue, `(num_items, text_embedding_size)`, encoded by the main process first, or
    those that came with the domain where there is no text encoder; with a `word_drop_ratio` those of texts with words
    left out."""
    if not config.item_text:
        return np.empty((domain.num_items, 0), dtype=np.float32)
    if text_encoder is None:
        given = given_text_features(domain, config.text_embedding_size, word_drop=word_drop_ratio is not None)
        if given is not None:
            return given
        if word_drop_ratio is not None and domain.given_features:
            raise ValueError(
                f"{domain_dir}: no text vectors with words left out came with the domain; name a text encoder by "
                "--text-encoder, or make all views by item drop with --item_drop_probability 1."
            )
        raise ValueError("there is no text encoder; name the one of the checkpoint by --text-encoder.")
    # First of all machines, since they share the folder of the domain.
    with args.main_process_first(local=False, desc="encoding texts"):
        return load_text_features(
            domain_dir,
            domain.items["text"].to_list(),
            text_encoder,
            tokenizer,
            word_drop_ratio=word_drop_ratio,
            seed=args.seed,
            desc=f"Texts of {domain.name}" + ("" if word_drop_ratio is None else ", words dropped"),
            device=args.device,
            dtype=torch.bfloat16 if args.bf16 else None,
            progress=not args.disable_tqdm,
        )


__all__ = ["check_output_dir", "domain_features", "load_checkpoint", "new_config", "untrained_model"]
