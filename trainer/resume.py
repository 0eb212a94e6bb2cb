"""Checks of the state files of a checkpoint before a run is resumed from it."""

import json
import logging as std_logging
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import logging

from ..modeling_unisrec.weight_files import not_finite
from .checkpoint_folders import adopt_checkpoint


logger = logging.get_logger(__name__)

Number = int | float
# Fields of `TrainerState` that the rest of a run computes with.
STATE_FIELDS: dict[str, Any] = {
    "global_step": int,
    "max_steps": int,
    "epoch": Number,
    "total_flos": Number,
    "log_history": list,
    "stateful_callbacks": dict,
    "train_batch_size": int | None,
    "best_metric": Number | None,
    "best_global_step": int | None,
    "best_model_checkpoint": str | None,
}


def read_trainer_state(checkpoint: Path, callbacks: Iterable[object]) -> TrainerState:
    r"""
    Reads and checks the trainer state of a checkpoint.

    Args:
        checkpoint (`Path`): The checkpoint folder.
        callbacks (`Iterable[object]`): Callbacks of the resumed run, whose states must have the same form.

    Returns:
        `TrainerState`: The state.

    Raises:
        ValueError: If the file is missing or damaged, or has values that no run writes.
    """
    try:
        fields = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{TRAINER_STATE_NAME} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{TRAINER_STATE_NAME} is not a mapping")
    for name, kind in STATE_FIELDS.items():
        value = fields.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} in {TRAINER_STATE_NAME} is {_shown(value)}")
        if isinstance(value, Number) and (math.isnan(value) or (name != "best_metric" and not 0 <= value < math.inf)):
            raise ValueError(f"{name} in {TRAINER_STATE_NAME} is {value}")
    try:
        state = TrainerState(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{TRAINER_STATE_NAME} cannot be read: {error}") from error
    step = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    if state.global_step == 0 or (step is not None and int(step[1]) != state.global_step):
        raise ValueError(f"global_step in {TRAINER_STATE_NAME} is {state.global_step}")
    best = state.best_model_checkpoint
    if best is not None and (state.best_metric is None or not re.fullmatch(r"checkpoint-\d+", Path(best).name)):
        raise ValueError(f"best_model_checkpoint in {TRAINER_STATE_NAME} is {_shown(best)}")
    if state.best_global_step is not None and state.best_global_step > state.global_step:
        raise ValueError(f"best_global_step in {TRAINER_STATE_NAME} is {state.best_global_step}")
    for entry in state.log_history:
        if (
            not isinstance(entry, dict)
            or not all(_is_number(value) for value in entry.values())
            or "step" not in entry
        ):
            raise ValueError(f"an entry of log_history in {TRAINER_STATE_NAME} is {_shown(entry)}")
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, ExportableState) and name in state.stateful_callbacks:
            saved = state.stateful_callbacks[name]
            for each in saved if isinstance(saved, list) else [saved]:
                _check_form(each, callback.state(), f"{name} in {TRAINER_STATE_NAME}")
    return state


def had_stopped(state: TrainerState) -> bool:
    """Returns whether early stopping ended the run that saved a checkpoint; it must not train for another epoch."""
    control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
    return control.get("should_training_stop", False) and state.global_step < state.max_steps


def find_best_checkpoint(checkpoint: Path, state: TrainerState, folder: Path, adopt: bool) -> Path | None:
    r"""
    Finds the best checkpoint of a resumed run, which may have been moved together with the other checkpoints.

    Args:
        checkpoint (`Path`): Checkpoint that the run is resumed from. The best one is expected beside it, by its name.
        state (`TrainerState`): State in the checkpoint.
        folder (`Path`): Output folder of the run.
        adopt (`bool`): Whether to copy a best checkpoint of another output folder into this one.

    Returns:
        `Path` or `None`: Its place in the output folder, where it is missing if it cannot be found; `None` if there is no
        best checkpoint yet.
    """
    if state.best_model_checkpoint is None:
        return None
    best = checkpoint.parent / Path(state.best_model_checkpoint).name
    place = folder.absolute() / best.name
    if adopt and best.is_dir() and not place.exists():
        adopt_checkpoint(best, folder.absolute())
    return place


@contextmanager
def without_warnings_about_paths() -> Iterator[None]:
    """Silences the warning of `Trainer` that the best checkpoint has moved; [`find_best_checkpoint`] finds it by name."""

    def is_other(record: std_logging.LogRecord) -> bool:
        return not record.getMessage().startswith("The best checkpoint ")

    parent = std_logging.getLogger("transformers.trainer")
    parent.addFilter(is_other)
    try:
        yield
    finally:
        parent.removeFilter(is_other)


def check_random_state(checkpoint: Path, process: int, processes: int) -> None:
    """Raises `ValueError` if the states of the random generators are missing or invalid. If the number of processes has
    changed, a missing state is a warning: that process draws other numbers than an uninterrupted run."""
    file = checkpoint / ("rng_state.pth" if processes == 1 else f"rng_state_{process}.pth")
    if not file.is_file():
        if not any(checkpoint.glob("rng_state*.pth")):
            raise ValueError("there is no rng_state.pth")
        logger.warning(
            f"{checkpoint} has no {file.name}, since another number of processes saved it: random numbers from here on differ "
            "from those of an uninterrupted run."
        )
        return
    try:
        with safe_globals():
            states = torch.load(file, map_location="cpu", weights_only=True)
        random.Random().setstate(states["python"])
        np.random.RandomState().set_state(states["numpy"])
        torch.Generator().set_state(states["cpu"])
        if torch.cuda.is_available():
            _check_form(
                states["cuda"], torch.cuda.get_rng_state_all() if processes > 1 else torch.cuda.get_rng_state(), ""
            )
    except Exception as error:  # an edited file makes pickle, numpy and torch fail in any way
        raise ValueError(f"{file.name} cannot be read: {_one_line(error)}") from error


def check_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Raises `ValueError` if the optimizer state of a checkpoint is missing or does not fit the optimizer. torch accepts
    moments of any shape and then reads and writes beyond their memory."""
    saved = _load(checkpoint / OPTIMIZER_NAME)
    current = optimizer.state_dict()["param_groups"]
    groups, states = (saved.get(key) for key in ("param_groups", "state"))
    if not isinstance(groups, list) or not isinstance(states, dict) or len(groups) != len(current):
        raise ValueError(f"{OPTIMIZER_NAME} does not belong to this optimizer")
    weights: dict[int, torch.Tensor] = {}
    for group, expected, own in zip(groups, current, optimizer.param_groups, strict=True):
        _check_form(group, expected, f"a group of weights in {OPTIMIZER_NAME}")
        weights |= dict(zip(group["params"], own["params"], strict=True))
    is_adam = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
    if is_adam and not states:
        raise ValueError(f"{OPTIMIZER_NAME} holds no moments")
    for key, state in states.items():
        if key not in weights or not isinstance(state, dict):
            raise ValueError(f"{OPTIMIZER_NAME} does not belong to this optimizer")
        if is_adam and not {"step", "exp_avg", "exp_avg_sq"} <= state.keys():
            raise ValueError(f"{OPTIMIZER_NAME} has {', '.join(map(str, state))} of weight {key}")
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        for name in state.keys() - tensors.keys():
            if not isinstance(state[name], Number | None) or (is_adam and name.startswith("exp_avg")):
                raise ValueError(f"{OPTIMIZER_NAME} has {_shown(state[name])} for {name} of weight {key}")
        shape = tuple(weights[key].shape)
        for name, tensor in tensors.items():
            full = tensor.dim() == len(shape) or (is_adam and name != "step")
            if tuple(tensor.shape) != shape if full else tensor.dim() > len(shape):
                raise ValueError(f"{OPTIMIZER_NAME} has {name} {tuple(tensor.shape)} for weight {key} {shape}")
        if "exp_avg_sq" in tensors and (tensors["exp_avg_sq"] < 0).any():
            raise ValueError(f"{OPTIMIZER_NAME} has negative squares of weight {key}")
        steps = state.get("step", 1)
        if not _is_number(steps.item() if isinstance(steps, torch.Tensor) and steps.numel() == 1 else steps):
            raise ValueError(f"{OPTIMIZER_NAME} has {_shown(steps)} steps of weight {key}")
        if not_finite(tensors) or not 1 <= float(steps) < math.inf:
            raise ValueError(f"{OPTIMIZER_NAME} has no finite moments of weight {key}")


def check_scheduler(checkpoint: Path, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
    """Raises `ValueError` if the scheduler state of a checkpoint is missing or does not fit the scheduler."""
    saved = _load(checkpoint / SCHEDULER_NAME)
    _check_form(saved, scheduler.state_dict(), SCHEDULER_NAME)
    if any(saved.get(name, 0) < 0 for name in ("last_epoch", "_step_count")):
        raise ValueError(f"{SCHEDULER_NAME} counts {saved['last_epoch']} steps")


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"there is no {file.name}")
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an edited file makes pickle fail in any way
        raise ValueError(f"{file.name} cannot be read: {_one_line(error)}") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{file.name} holds {_shown(saved)}")
    return saved


def _check_form(saved: Any, current: Any, name: str) -> None:
    """Raises `ValueError` unless a saved value has the form of the current one: finite numbers, containers of the same size,
    tensors of the same shape. Instead of a boolean or `None`, which torch fills in itself, it may also be missing."""
    if isinstance(current, Mapping):
        fits = isinstance(saved, Mapping)
        for key, value in current.items() if fits else ():
            if key in saved or not isinstance(value, bool | None):
                _check_form(saved.get(key), value, f"{key} of {name}" if isinstance(key, str) else name)
    elif isinstance(current, list | tuple):
        fits = isinstance(saved, list | tuple) and len(saved) == len(current)
        for each, value in zip(saved, current, strict=True) if fits else ():
            _check_form(each, value, name)
    elif isinstance(current, torch.Tensor):
        if fits := isinstance(saved, torch.Tensor) and saved.shape == current.shape:
            fits = not not_finite({name: saved})
    elif isinstance(current, bool | None):
        fits = isinstance(saved, bool | None)
    elif isinstance(current, Number):
        # Before its first step, `reduce_lr_on_plateau` has an infinite best value, and always a worst one.
        fits = _is_number(saved) and (math.isfinite(saved) or (math.isinf(saved) and math.isinf(current)))
    else:
        fits = isinstance(saved, type(current))
    if not fits:
        raise ValueError(f"{name} is {_shown(saved)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:150]}".strip()


__all__ = [
    "check_optimizer",
    "check_random_state",
    "check_scheduler",
    "find_best_checkpoint",
    "had_stopped",
    "read_trainer_state",
    "without_warnings_about_paths",
]
