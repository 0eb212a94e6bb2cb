"""Checks of training arguments: refuses wrong types, numbers out of range, and settings without effect."""

import inspect
import json
import math
import multiprocessing
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from functools import cache
from importlib.util import find_spec
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from accelerate.utils import TorchDynamoPlugin
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import trainer_log_levels

from ..evaluation.metrics import ranking_metrics


METRICS = tuple(ranking_metrics(np.zeros((1, 2))))
# Arguments of `transformers.TrainingArguments` that must keep their default, each with the reason.
UNSUPPORTED = {
    "accelerator_config": "the trainer builds the batches and distributes them to the processes itself",
    "average_tokens_across_devices": "the loss is always the exact mean over the targets of all processes",
    "batch_eval_metrics": "metrics are computed over all users at once; the ranks of a user are two numbers",
    "bf16_full_eval": "evaluation runs in float32, because rounding creates ties",
    "dataloader_drop_last": "no training batch is incomplete, and evaluation ranks every user",
    "dataloader_in_order": "the order of the batches is part of the seed, and resuming relies on it",
    "dataloader_persistent_workers": "workers ignore SIGTERM so that a checkpoint can be saved, and would outlive the run",
    "ddp_static_graph": "the graph changes with the lengths of the histories",
    "deepspeed": "launch with `accelerate launch --config_file deepspeed_zero2.yaml` instead",
    "do_eval": "--eval_strategy decides when to evaluate",
    "do_predict": "the verb decides what runs",
    "do_train": "the verb decides what runs",
    "enable_jit_checkpoint": "its SIGTERM handler would replace ours, which always saves a checkpoint",
    "eval_accumulation_steps": "ranks are moved to the CPU after each batch",
    "eval_do_concat_batches": "metrics are computed over all users at once",
    "eval_use_gather_object": "ranks are gathered as tensors",
    "fp16_full_eval": "evaluation runs in float32, because rounding creates ties",
    "fsdp": "launch with `accelerate launch --config_file fsdp2.yaml` instead",
    "fsdp_config": "launch with `accelerate launch --config_file fsdp2.yaml` instead",
    "include_for_metrics": "the metrics need only ranks",
    "include_num_input_tokens_seen": "a batch holds items, not tokens; the log gives targets per second",
    "label_names": "a batch has one kind of labels",
    "label_smoothing_factor": "the losses are not defined for smoothed labels",
    "length_column_name": "batches always consist of windows of similar length",
    "liger_kernel_config": "Liger has no kernels for this model",
    "neftune_noise_alpha": "the inputs are item vectors, not word embeddings",
    "optim_target_modules": "no supported optimizer takes it",
    "parallelism_config": "the model is too small for tensor or sequence parallelism",
    "prediction_loss_only": "evaluation computes ranks, not a loss",
    "remove_unused_columns": "the collators need all columns",
    "save_on_each_node": "all machines share the output folder",
    "train_sampling_strategy": "batches always consist of windows of similar length, in random order",
    "use_cache": "a history is encoded in one pass, so there is nothing to cache",
    "use_liger_kernel": "Liger has no kernels for this model",
}

CHOICES: dict[str, Iterable[str]] = {
    "eval_strategy": [choice.value for choice in IntervalStrategy],
    "logging_strategy": [choice.value for choice in IntervalStrategy],
    "save_strategy": [choice.value for choice in SaveStrategy],
    "hub_strategy": [choice.value for choice in HubStrategy],
    "lr_scheduler_type": [choice.value for choice in SchedulerType],
    "log_level": trainer_log_levels,
    "log_level_replica": trainer_log_levels,
    # Those of torch and transformers. In Python, any optimizer can be given to the trainer as `optimizers`.
    "optim": ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"],
    "debug": ["", "underflow_overflow"],
    "dataloader_multiprocessing_context": multiprocessing.get_all_start_methods(),
}

# Intervals of allowed values in mathematical notation: a square bracket includes its limit.
_COUNT, _MANY = "[1, 2147483647]", "[0, 2147483647]"
_NOT_NEGATIVE, _POSITIVE, _SHARE, _PART = "[0, inf)", "(0, inf)", "[0, 1]", "[0, 1)"
RANGES = {
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "num_train_epochs": "(0, 1000000]",
    "learning_rate": _NOT_NEGATIVE,
    "text_encoder_learning_rate": _NOT_NEGATIVE,
    "warmup_steps": "[0, 2147483647]",
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _PART,
    "adam_beta2": _PART,
    "adam_epsilon": _POSITIVE,
    "gradient_accumulation_steps": _COUNT,
    "max_grad_norm": _NOT_NEGATIVE,
    "torch_empty_cache_steps": _COUNT,
    "logging_steps": "(0, 2147483647]",
    "eval_steps": "(0, 2147483647]",
    "save_steps": "(0, 2147483647]",
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": _COUNT,
    "seed": "[0, 4294967295]",
    "data_seed": "[0, 4294967295]",
    "dataloader_num_workers": "[0, 1024]",
    "dataloader_prefetch_factor": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "temperature": _POSITIVE,
    "sequence_loss_weight": _NOT_NEGATIVE,
    "item_drop_probability": _SHARE,
    "item_drop_ratio": _SHARE,
    "word_drop_ratio": _SHARE,
    "word_drop_item_ratio": _SHARE,
    "cache_chunk_size": _COUNT,
    "num_negatives": _MANY,
    "distillation_weight": _SHARE,
    "dropout": _PART,
    "min_id_interactions": _MANY,
    "lora_rank": _COUNT,
    "early_stopping_patience": _MANY,
}

# Types allowed beside the annotated ones, which transformers leaves out or `__post_init__` creates.
_ALSO = {
    "accelerator_config": AcceleratorConfig,
    "fsdp": bool,
    "resume_from_checkpoint": bool,
    "include_num_input_tokens_seen": bool,
    "debug": (list, type(None)),
    "report_to": tuple,
    "optim_target_modules": bool,
}

Problem = tuple[str, str]  # an argument, and what is wrong with it

_SCHEDULES_BY_METRIC = ("reduce_lr_on_plateau", "greedy")


def _conflicts(args: TrainingArguments) -> Iterator[Problem]:
    """Arguments without effect, or that would end in an error later."""
    schedule, by_metric = _plain(args.lr_scheduler_type), args.lr_scheduler_type in _SCHEDULES_BY_METRIC
    if args.warmup_steps > 0 and schedule in ("constant", *_SCHEDULES_BY_METRIC):
        advice = "take constant_with_warmup, linear or cosine"
        yield "warmup_steps", f"has no effect on --lr_scheduler_type {schedule}: {advice}"
    if args.warmup_steps > 1 and args.warmup_steps != int(args.warmup_steps):
        yield "warmup_steps", f"is {args.warmup_steps}, expected a whole number of steps, or a share of them below 1"
    if args.lr_scheduler_kwargs and schedule in ("constant", "constant_with_warmup"):
        yield "lr_scheduler_kwargs", f"have no effect on --lr_scheduler_type {schedule}: leave them out"
    if args.max_steps != -1 and not 1 <= args.max_steps < 2**31:
        yield "max_steps", f"is {args.max_steps}, expected 1 or more"
    if args.load_best_model_at_end:
        both_by_steps = args.eval_strategy == args.save_strategy == "steps"
        if args.eval_strategy == "no":
            advice = "take --eval_strategy epoch, or --load_best_model_at_end false"
            yield "load_best_model_at_end", f"needs evaluations: {advice}"
        if both_by_steps and args.save_steps != (args.eval_steps or args.logging_steps):
            yield (
                "load_best_model_at_end",
                "would lose the best model between two saves: set --save_steps to --eval_steps",
            )
        if args.save_strategy not in ("best", args.eval_strategy):
            advice = "set --save_strategy to the --eval_strategy, or to best"
            yield "load_best_model_at_end", f"needs a checkpoint for each evaluation: {advice}"
    if args.save_strategy == "best" and args.eval_strategy == "no":
        yield "save_strategy", "best needs evaluations: take --eval_strategy epoch"
    if args.metric_for_best_model is None and (
        args.load_best_model_at_end or args.save_strategy == "best" or by_metric
    ):
        yield "metric_for_best_model", "is missing, such as ndcg@10, or DOMAIN_ndcg@10 in pre-training"
    if by_metric and args.eval_strategy == "no":
        yield "lr_scheduler_type", f"{schedule} needs evaluations: take --eval_strategy epoch"
    if args.eval_on_start and not getattr(args, "hold_out", True):
        yield "eval_on_start", "has nothing to evaluate on with --hold_out false: leave it out"
    for name in ("dataloader_prefetch_factor", "dataloader_multiprocessing_context"):
        if getattr(args, name) is not None and args.dataloader_num_workers == 0:
            yield name, "needs workers: set --dataloader_num_workers"
    # Named gradient_checkpointing in earlier versions of transformers.
    checkpointing = getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing
    if not checkpointing and (
        getattr(args, "activation_checkpointing_kwargs", None) or args.gradient_checkpointing_kwargs
    ):
        yield "activation_checkpointing_kwargs", "need --activation_checkpointing true"
    if not args.skip_memory_metrics and find_spec("psutil") is None:
        yield "skip_memory_metrics", "false needs psutil: pip install psutil"
    if args.local_rank not in (-1, int(os.environ.get("LOCAL_RANK", -1))):
        yield "local_rank", "is set by launchers, together with LOCAL_RANK: leave it out"
    if args.ddp_backend is not None and not torch.distributed.is_backend_available(args.ddp_backend):
        yield "ddp_backend", f"{args.ddp_backend} is not part of this PyTorch: take gloo on CPUs, nccl on NVIDIA GPUs"
    for name in ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"):
        if _is_changed(args, name) and "trackio" not in (args.report_to or ()):
            yield name, "is for --report_to trackio: leave it out"


def _setup_conflicts(args: TrainingArguments) -> Iterator[Problem]:
    """Conflicts with the device or the number of processes, which are known after the `__post_init__` of transformers."""
    if args.fp16 and args.device.type == "cpu":
        yield "fp16", "needs an accelerator: take --bf16 true on a CPU"
    if args.ddp_timeout != 1800 and args.device.type == "cpu":
        yield "ddp_timeout", "has no effect on CPUs: leave it out"
    direction = "max" if args.greater_is_better else "min"
    by_metric = args.lr_scheduler_type in _SCHEDULES_BY_METRIC
    if by_metric and (args.lr_scheduler_kwargs or {}).get("mode", "min") != direction:
        advice = f"""need the direction of the metric for {_plain(args.lr_scheduler_type)}, here '{{"mode": "{direction}"}}'"""
        yield "lr_scheduler_kwargs", advice
    if args.auto_find_batch_size and args.world_size > 1:
        advice = "find the size there, and set --per_device_train_batch_size"
        yield "auto_find_batch_size", f"works in one process: {advice}"


def check_arguments(args: TrainingArguments) -> None:
    r"""
    Checks types, choices, ranges and combinations of training arguments.

    Args:
        args ([`UniSRecTrainingArguments`]): The arguments, before or after their `__post_init__`.

    Raises:
        ValueError: If a value has the wrong type or is out of range, or a setting would have no effect.
    """
    hints = _type_hints(type(args))
    for field in fields(args):
        name, value = field.name, getattr(args, field.name)
        if not (_fits(value, hints[name]) or isinstance(value, _ALSO.get(name, ()))):
            raise ValueError(f"--{name} is {value!r}, expected {_words(hints[name])}.")
        if name in UNSUPPORTED and _is_changed(args, name):
            raise ValueError(f"--{name} is not supported: {UNSUPPORTED[name]}; leave it out.")
        if isinstance(value, str) and name.endswith("_kwargs"):
            _check_json(name, value)
        if name in CHOICES and not (value is None or _plain(value) in CHOICES[name]):
            raise ValueError(
                f"--{name} is {_plain(value)!r}, expected one of {', '.join(filter(None, CHOICES[name]))}."
            )
        if name in RANGES and not (value is None or _is_within(value, RANGES[name])):
            raise ValueError(f"--{name} is {value}, expected a number in {RANGES[name]}.")
    _refuse(_conflicts(args))


def check_setup(args: TrainingArguments) -> None:
    r"""
    Checks optimizer, learning rate schedule, loggers and compiler by constructing them.

    Args:
        args ([`UniSRecTrainingArguments`]): The arguments, after the `__post_init__` of transformers.

    Raises:
        ValueError: If one of them cannot be constructed, for example because a package is missing, or does not suit the
            device.
    """
    _refuse(_setup_conflicts(args))
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"--report_to is {name!r}, expected one of none, all, {', '.join(INTEGRATION_TO_CALLBACK)}."
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"--report_to {name}: {error}") from error
    if args.torch_compile:
        _check_compiler(args)
    weight = torch.nn.Parameter(torch.zeros(1))
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, torch.nn.Linear(1, 1))
        optimizer = kind([{"params": [weight], "weight_decay": args.weight_decay}], **options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--optim {args.optim.value} cannot be constructed ({error}); see --optim_args.") from error
    group = optimizer.param_groups[0]
    for pair in filter(None, (args.optim_args or "").replace(" ", "").split(",")):
        name, _, value = pair.partition("=")
        if name not in group or (str(group[name]).lower() != value.lower() and not _is_number(value, group[name])):
            raise ValueError(f"--optim_args {pair} has no effect on --optim {args.optim.value}: leave it out.")
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(100), 100, args.lr_scheduler_kwargs)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"--lr_scheduler_type {args.lr_scheduler_type.value} cannot be constructed ({error}); see --lr_scheduler_kwargs."
        ) from error


def check_metric(args: TrainingArguments, domains: Iterable[str] | None = None) -> None:
    r"""
    Checks that evaluations compute the metric that selects the best model.

    Args:
        args ([`UniSRecTrainingArguments`]): The arguments.
        domains (`Iterable[str]`, *optional*): Names of the domains of pre-training that are ranked.

    Raises:
        ValueError: If the metric will not be computed.
    """
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    prefixes = [""] if domains is None else [f"{name}_" for name in domains]
    known = [prefix + metric for prefix in prefixes for metric in METRICS]
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(
            f"--metric_for_best_model is {args.metric_for_best_model!r}, expected one of {', '.join(known)}."
        )


def _check_json(name: str, text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"--{name} is {text!r}, expected a mapping as JSON, such as '{{\"num_cycles\": 2}}'.")


def _check_compiler(args: TrainingArguments) -> None:
    try:
        TorchDynamoPlugin(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"--torch_compile_backend {args.torch_compile_backend} is not known: take inductor."
        ) from error
    modes = list(torch._inductor.list_mode_options()) if args.torch_compile_mode is not None else []
    if args.torch_compile_mode is not None and args.torch_compile_mode not in modes:
        raise ValueError(f"--torch_compile_mode is {args.torch_compile_mode!r}, expected one of {', '.join(modes)}.")


def _refuse(problems: Iterator[Problem]) -> None:
    for name, advice in problems:
        raise ValueError(f"--{name} {advice}.")


def _is_changed(args: TrainingArguments, name: str) -> bool:
    """Returns whether an argument differs from its default, also after `__post_init__` has converted the default."""
    value = getattr(args, name)
    (field,) = (field for field in fields(args) if field.name == name)
    default = field.default if field.default is not MISSING else field.default_factory()
    if isinstance(value, AcceleratorConfig):
        own, usual = value.to_dict(), AcceleratorConfig().to_dict()
        return any(own[key] != usual[key] for key in usual if key != "use_configured_state")
    return value != default and not (_is_empty(value) and _is_empty(default))


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value == "no" or (isinstance(value, str | list | dict) and not value)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(str(_plain(each)) for each in value)
    return value.value if isinstance(value, Enum) else value


def _is_within(value: float, interval: str) -> bool:
    low, high = (float(limit) for limit in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return math.isfinite(value) and above and below


def _is_number(text: str, value: Any) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


@cache
def _type_hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has the annotated type of a field; a bool is not a number, and a string is not a list."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(each, parts[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint in (int, float):
        return isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str | os.PathLike)
    return inspect.isclass(hint) and isinstance(value, hint)


def _words(hint: Any) -> str:
    """Describes a type in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is list:
        return "a list of texts"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}
    return names.get(origin or hint, "nothing" if hint is type(None) else getattr(hint, "__name__", str(hint)))


__all__ = ["CHOICES", "RANGES", "UNSUPPORTED", "check_arguments", "check_metric", "check_setup"]
