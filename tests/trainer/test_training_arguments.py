"""Every argument of `transformers.TrainingArguments`: it works as its help says, shown by a test, or it is refused."""

import copy
import logging
import re
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from unisrec.data import leave_one_out
from unisrec.evaluation import RankingDataset
from unisrec.trainer import (
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecPretrainArguments,
    UniSRecTrainingArguments,
    WindowDataset,
)
from unisrec.trainer.argument_rules import RANGES, UNSUPPORTED


# What is refused: a value, and what the one line says. Others of the same argument may work.
REFUSED = {
    "accelerator_config": ({"split_batches": True}, "builds the batches"),
    "average_tokens_across_devices": (False, "always the exact mean"),
    "batch_eval_metrics": (True, "are two numbers"),
    "bf16_full_eval": (True, "evaluation runs in float32"),
    "dataloader_drop_last": (True, "evaluation ranks every user"),
    "dataloader_in_order": (False, "part of the seed"),
    "dataloader_persistent_workers": (True, "would outlive the run"),
    "ddp_static_graph": (True, "the graph changes"),
    "deepspeed": ("zero.json", "deepspeed_zero2.yaml"),
    "do_eval": (True, "--eval_strategy decides when"),
    "do_predict": (True, "the verb decides"),
    "do_train": (True, "the verb decides"),
    "enable_jit_checkpoint": (True, "SIGTERM handler would replace ours"),
    "eval_accumulation_steps": (1, "moved to the CPU after each batch"),
    "eval_do_concat_batches": (False, "over all users at once"),
    "eval_use_gather_object": (True, "gathered as tensors"),
    "fp16_full_eval": (True, "evaluation runs in float32"),
    "fsdp": (True, "fsdp2.yaml"),
    "fsdp_config": ({"version": 2}, "fsdp2.yaml"),
    "include_for_metrics": (["inputs"], "need only ranks"),
    "include_num_input_tokens_seen": ("all", "items, not tokens"),
    "label_names": (["labels"], "one kind of labels"),
    "label_smoothing_factor": (0.1, "not defined for smoothed labels"),
    "length_column_name": ("size", "windows of similar length"),
    "liger_kernel_config": ({"rope": True}, "no kernels"),
    "local_rank": (3, "set by launchers"),
    "neftune_noise_alpha": (5.0, "not word embeddings"),
    "optim_target_modules": (["q_proj"], "no supported optimizer takes it"),
    "prediction_loss_only": (True, "ranks, not a loss"),
    "project": ("shop", "for --report_to trackio"),
    "remove_unused_columns": (True, "need all columns"),
    "save_on_each_node": (True, "share the output folder"),
    "train_sampling_strategy": ("group_by_length", "windows of similar length"),
    "trackio_bucket_id": ("bucket", "for --report_to trackio"),
    "trackio_space_id": ("space", "for --report_to trackio"),
    "trackio_static_space_id": ("space", "for --report_to trackio"),
    "use_cache": (True, "nothing to cache"),
    "use_liger_kernel": (True, "no kernels"),
}
# What is refused of arguments that otherwise work.
REFUSED_VALUES = [
    ({"text_dtype": "bfloat16", "train_text_encoder": True}, "--text_dtype applies to a frozen text encoder"),
    ({"text_dtype": "float32", "lora": "text"}, "--text_dtype applies to a frozen text encoder"),
    ({"warmup_steps": 10}, "no effect on --lr_scheduler_type constant"),
    ({"warmup_steps": 1.5, "lr_scheduler_type": "linear"}, "whole number of steps"),
    ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "have no effect on --lr_scheduler_type constant"),
    ({"lr_scheduler_kwargs": {"num_cycle": 2}, "lr_scheduler_type": "cosine"}, "num_cycle.*--lr_scheduler_kwargs"),
    ({"lr_scheduler_kwargs": '{"num_cycles', "lr_scheduler_type": "cosine"}, "a mapping as JSON"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
    ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
    ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "direction of the metric"),
    ({"lr_scheduler_type": "slow"}, "'slow', expected one of linear, "),
    ({"optim": "lion_32bit"}, "expected one of adamw_torch, "),
    ({"optim_args": "momentum=0.9"}, "no effect on --optim adamw_torch_fused"),
    ({"optim": "sgd", "optim_args": "momentun=0.9"}, "no effect on --optim sgd"),
    ({"optim": "sgd", "optim_args": "weight_decay=0.9"}, "no effect on --optim sgd"),
    ({"optim": "sgd", "optim_args": "momentum"}, "see --optim_args"),
    ({"report_to": "wandb"}, "pip install wandb"),
    ({"report_to": "paper"}, "expected one of none, all, "),
    ({"fp16": True}, "needs an accelerator"),
    ({"torch_compile_backend": "gcc"}, "gcc is not known"),
    ({"torch_compile_mode": "quick"}, "'quick', expected one of default, "),
    ({"ddp_backend": "carrier-pigeon"}, "not part of this PyTorch"),
    ({"ddp_timeout": 60}, "no effect on CPUs"),
    ({"debug": "tpu_metrics_debug"}, "expected one of underflow_overflow"),
    ({"log_level": "loud"}, "expected one of "),
    ({"eval_strategy": "no"}, "--load_best_model_at_end needs evaluations"),
    ({"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "best"}, "best needs evaluations"),
    ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 4}, "between two saves"),
    ({"eval_strategy": "steps"}, "a checkpoint for each evaluation"),
    ({"metric_for_best_model": "loss"}, "'loss', expected one of recall@10, "),
    ({"hold_out": False, "max_steps": 5, "eval_on_start": True}, "nothing to evaluate on"),
    ({"max_steps": 0}, "is 0, expected 1 or more"),
    ({"dataloader_prefetch_factor": 2}, "needs workers"),
    ({"dataloader_multiprocessing_context": "fork"}, "needs workers"),
    ({"activation_checkpointing_kwargs": {"every_n_layers": 2}}, "need --activation_checkpointing"),
    ({"learning_rate": "0.1"}, "is '0.1', expected a number"),
    ({"use_cpu": "false"}, "is 'false', expected true or false"),
    ({"hold_out": "false"}, "is 'false', expected true or false"),
    ({"teachers": "runs/one"}, "is 'runs/one', expected a list of texts"),
    ({"seed": 1.5}, "is 1.5, expected a whole number"),
    ({"max_steps": True}, "is True, expected a whole number"),
    ({"num_train_epochs": float("nan")}, "expected a number in"),
]
# What works, and the test that shows it, here or in another file.
TESTED = {
    "output_dir": "test_checkpoints_are_models_without_pickles",
    "per_device_train_batch_size": "test_batch_size_is_halved_until_memory_holds_it",
    "num_train_epochs": "test_patience_of_zero_never_stops",
    "max_steps": "test_accumulated_steps",
    "learning_rate": "test_optimizer_gets_its_numbers",
    "lr_scheduler_type": "test_course_of_the_learning_rate",
    "lr_scheduler_kwargs": "test_course_of_the_learning_rate",
    "warmup_steps": "test_course_of_the_learning_rate",
    "optim": "test_optimizers",
    "optim_args": "test_optimizers",
    "weight_decay": "test_optimizer_gets_its_numbers",
    "adam_beta1": "test_optimizer_gets_its_numbers",
    "adam_beta2": "test_optimizer_gets_its_numbers",
    "adam_epsilon": "test_optimizer_gets_its_numbers",
    "gradient_accumulation_steps": "test_accumulated_steps",
    "max_grad_norm": "test_gradients_are_clipped",
    "bf16": "test_bfloat16_is_for_the_products_of_the_softmax_too",
    "activation_checkpointing": "test_settings_of_memory_and_loading_change_no_loss",
    "activation_checkpointing_kwargs": "test_settings_of_memory_and_loading_change_no_loss",
    "gradient_checkpointing": "test_settings_of_memory_and_loading_change_no_loss",
    "gradient_checkpointing_kwargs": "test_settings_of_memory_and_loading_change_no_loss",
    "torch_compile": "test_compiled_training",
    "torch_compile_backend": "test_compiled_training",
    "torch_compile_mode": "test_compiled_training",
    "torch_empty_cache_steps": "test_cache_is_emptied",
    "auto_find_batch_size": "test_batch_size_is_halved_until_memory_holds_it",
    "logging_strategy": "test_logging",
    "logging_steps": "test_logging",
    "logging_first_step": "test_logging",
    "logging_nan_inf_filter": "test_losses_that_are_not_finite_can_be_hidden",
    "log_level": "test_log_level",
    "disable_tqdm": "test_log_level",
    "report_to": "test_what_would_have_no_effect_is_refused",
    "eval_strategy": "test_evaluations_come_when_told",
    "eval_steps": "test_evaluations_come_when_told",
    "eval_delay": "test_evaluations_come_when_told",
    "eval_on_start": "test_evaluations_come_when_told",
    "per_device_eval_batch_size": "test_metrics_do_not_depend_on_how_they_are_computed",
    "save_only_model": "test_saving",
    "save_strategy": "test_saving",
    "save_steps": "test_saving",
    "save_total_limit": "test_saving",
    "push_to_hub": "test_checkpoint_trainer.py",
    "hub_token": "test_checkpoint_trainer.py",
    "hub_private_repo": "test_checkpoint_trainer.py",
    "hub_model_id": "test_checkpoint_trainer.py",
    "hub_strategy": "test_checkpoint_trainer.py",
    "hub_always_push": "test_checkpoint_trainer.py",
    "hub_revision": "test_checkpoint_trainer.py",
    "load_best_model_at_end": "test_best_model_is_there_at_the_end",
    "metric_for_best_model": "test_best_model_is_there_at_the_end",
    "greater_is_better": "test_best_may_be_the_lowest",
    "ignore_data_skip": "test_resumed_run_may_start_its_epoch_anew",
    "restore_callback_states_from_checkpoint": "test_resumed_run_stops_when_the_straight_one_does",
    "full_determinism": "test_full_determinism",
    "seed": "test_order_of_the_data_has_a_seed_of_its_own",
    "data_seed": "test_order_of_the_data_has_a_seed_of_its_own",
    "use_cpu": "test_optimizer_gets_its_numbers",
    "dataloader_num_workers": "test_settings_of_memory_and_loading_change_no_loss",
    "dataloader_prefetch_factor": "test_settings_of_memory_and_loading_change_no_loss",
    "dataloader_multiprocessing_context": "test_settings_of_memory_and_loading_change_no_loss",
    "dataloader_pin_memory": "test_settings_of_memory_and_loading_change_no_loss",
    "ddp_find_unused_parameters": "test_options_of_ddp_reach_it",
    "ddp_bucket_cap_mb": "test_options_of_ddp_reach_it",
    "ddp_broadcast_buffers": "test_options_of_ddp_reach_it",
    "ddp_backend": "test_what_would_have_no_effect_is_refused",
    "debug": "test_overflow_is_found",
    "skip_memory_metrics": "test_memory_is_measured",
    "resume_from_checkpoint": "test_interrupted_run_goes_on",
}
# What is handed on as it is, and cannot be seen on one machine without an accelerator.
HANDED_ON = {
    "fp16": "a GPU: accelerate scales the loss; refused on CPUs",
    "tf32": "a GPU of NVIDIA; transformers refuses it elsewhere",
    "log_on_each_node": "several machines: which processes log",
    "log_level_replica": "several processes: what the others log",
    "run_name": "loggers that are installed",
    "ddp_timeout": "several GPUs: how long processes wait for each other; refused on CPUs",
    "parallelism_config": "takes an object of accelerate; any is refused, as `UNSUPPORTED` says",
}


def test_every_argument_has_exactly_one_line():
    lines = [*REFUSED, *TESTED, *HANDED_ON]
    assert {field.name for field in fields(TrainingArguments)} <= set(lines)
    assert len(lines) == len(set(lines))
    assert set(UNSUPPORTED) <= {*REFUSED, "parallelism_config"}
    here = Path(__file__).parents[1]
    tests = {
        name for file in here.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    tests |= {file.name for file in here.rglob("test_*.py")}
    assert set(TESTED.values()) <= tests


@pytest.mark.parametrize("kind", [UniSRecPretrainArguments, UniSRecFinetuneArguments, UniSRecTrainingArguments])
def test_what_is_not_supported_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, (value, words) in REFUSED.items():
        if name not in {field.name for field in fields(TrainingArguments)}:  # of a later version
            continue
        with pytest.raises(ValueError, match=words) as caught:
            kind(str(tmp_path / "run"), use_cpu=True, **{name: value})
        assert str(caught.value).startswith(f"--{name} ")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arguments", "words"), REFUSED_VALUES, ids=lambda value: str(value)[:60])
def test_what_would_have_no_effect_is_refused(tmp_path, arguments, words):
    if not set(arguments) <= {field.name for field in fields(UniSRecFinetuneArguments)}:
        pytest.skip("an argument of a later version of transformers")
    with pytest.raises(ValueError, match=words):
        UniSRecFinetuneArguments(str(tmp_path), **{"use_cpu": True, **arguments})


@pytest.mark.parametrize("name", RANGES)
def test_numbers_out_of_range_are_refused(tmp_path, name):
    kinds = (UniSRecFinetuneArguments, UniSRecPretrainArguments)
    kind = next(kind for kind in kinds if name in {field.name for field in fields(kind)})
    interval = RANGES[name]
    whole = isinstance(getattr(kind(str(tmp_path), use_cpu=True), name), int)
    for value in (float(interval[1:].split(",")[0]) - 1, float("inf"), float("nan")):
        if value == value and abs(value) < float("inf") and whole:
            value = int(value)
        with pytest.raises(ValueError, match=f"--{name} is "):
            kind(str(tmp_path), use_cpu=True, **{name: value})


def test_arguments_can_be_copied_with_changes(tmp_path):
    arguments = UniSRecFinetuneArguments(str(tmp_path), use_cpu=True, train_text_encoder=True)
    changed = replace(arguments, seed=5, eval_strategy="no", load_best_model_at_end=False, learning_rate=1.0)
    assert (changed.seed, arguments.seed) == (5, 42)
    assert changed.text_encoder_learning_rate is None  # a twentieth of the rate, whichever that is


# What works


@pytest.fixture(scope="module")
def domain(make_domain):
    return make_domain(num_users=50, num_items=60, longest=16)


@pytest.fixture(scope="module")
def table(domain):
    return np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)


@pytest.fixture
def make_trainer(make_model, domain, table, training_options, tmp_path):
    """Makes trainers that fine-tune for a few steps of an epoch of eight."""

    def make(name: str = "run", **arguments) -> UniSRecFinetuneTrainer:
        defaults = {
            "per_device_train_batch_size": 60,
            "max_steps": 4,
            "early_stopping_patience": 0,
            "load_best_model_at_end": False,
            "freeze_sequence_encoder": False,
        }
        return UniSRecFinetuneTrainer(
            make_model(),
            UniSRecFinetuneArguments(str(tmp_path / name), **(training_options | defaults | arguments)),
            train_dataset=WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10),
            eval_dataset=RankingDataset(leave_one_out(domain, "valid"), table),
            text_embeds=table,
        )

    return make


def logged(trainer, name):
    return [line[name] for line in trainer.state.log_history if name in line]


def test_trainer_changes_nothing_in_its_arguments(make_trainer):
    trainer = make_trainer()
    given = copy.deepcopy(trainer.args.to_dict())
    again = UniSRecFinetuneTrainer(
        trainer.model, trainer.args, train_dataset=trainer.train_dataset, text_embeds=np.zeros((60, 16), np.float32)
    )
    again.args.seed = 7
    assert trainer.args.to_dict() == given
    assert not again.accelerator.non_blocking
    trainer.args.dataloader_pin_memory = True  # as on a GPU
    again = UniSRecFinetuneTrainer(
        trainer.model, trainer.args, train_dataset=trainer.train_dataset, text_embeds=np.zeros((60, 16), np.float32)
    )
    assert again.accelerator.non_blocking  # batches are copied without waiting
    trainer.args.label_smoothing_factor = 0.5
    with pytest.raises(ValueError, match="--label_smoothing_factor"):
        UniSRecFinetuneTrainer(trainer.model, trainer.args)


@pytest.mark.parametrize("fits", [100, 40, 0])
def test_batch_size_is_halved_until_memory_holds_it(make_trainer, monkeypatch, fits):
    tried = []
    step = UniSRecFinetuneTrainer.training_step

    def scarce(self, model, inputs, *args, **kwargs):
        tried.append(len(inputs["query_index"]))
        loss = step(self, model, inputs, *args, **kwargs)
        if tried[-1] > fits:  # after a step, so that it has left its traces
            self.optimizer.step()
            raise torch.OutOfMemoryError("CUDA out of memory. (imitated)")
        return loss

    straight = make_trainer("straight", per_device_train_batch_size={100: 64, 40: 32, 0: 1}[fits])
    monkeypatch.setattr(UniSRecFinetuneTrainer, "training_step", scarce)
    found = make_trainer("found", per_device_train_batch_size=256, auto_find_batch_size=True)
    if fits == 0:
        with pytest.raises(ValueError, match="not even one target per step"):
            found.train()
        return
    found.train()
    monkeypatch.setattr(UniSRecFinetuneTrainer, "training_step", step)
    straight.train()
    assert tried[0] > 128
    assert found.args.per_device_train_batch_size == {100: 64, 40: 32}[fits]
    # Nothing is left of what was tried before.
    assert logged(found, "loss") == logged(straight, "loss")


SAME = {
    "activation_checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "workers": {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 1, "dataloader_pin_memory": False},
    "spawned": {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"},
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.rare) if name == "spawned" else name for name in SAME]
)
def test_settings_of_memory_and_loading_change_no_loss(make_trainer, name, domain, table):
    usual, other = make_trainer("usual", max_steps=10), make_trainer("other", max_steps=10, **SAME[name])
    for trainer in (usual, other):
        trainer.train()
    assert logged(other, "loss") == pytest.approx(logged(usual, "loss"), abs=1e-6)
    for split in ("valid", "test"):
        users = RankingDataset(leave_one_out(domain, split), table)
        assert other.predict(users).label_ids.tolist() == usual.predict(users).label_ids.tolist()
    if name == "activation_checkpointing":
        assert all(layer.gradient_checkpointing for layer in other.model.sequence_encoder.layers)


def test_metrics_do_not_depend_on_how_they_are_computed(make_trainer):
    usual, other = make_trainer("usual").evaluate(), make_trainer("other", per_device_eval_batch_size=7).evaluate()
    for name, value in usual.items():
        if "@" in name:
            assert other[name] == pytest.approx(value, abs=1e-12), name


def test_every_user_is_ranked_whatever_the_arguments(make_trainer):
    trainer = make_trainer(per_device_eval_batch_size=40)
    trainer.args.dataloader_drop_last = True
    assert len(trainer.predict(trainer.eval_dataset).predictions) == 50


@pytest.mark.parametrize(
    ("optim", "optim_args", "name"),
    [
        ("adamw_torch", None, "AdamW"),
        ("adamw_torch_fused", None, "AdamW"),
        ("adafactor", None, "Adafactor"),
        ("sgd", "momentum=0.9, nesterov=true", "SGD"),
        ("adagrad", "lr_decay=0.1", "Adagrad"),
        ("rmsprop", "alpha=0.9", "RMSprop"),
    ],
)
def test_optimizers(make_trainer, optim, optim_args, name):
    trainer = make_trainer(optim=optim, optim_args=optim_args)
    before = trainer.model.adaptor.weight.detach().clone()
    trainer.train()
    assert type(trainer.optimizer.optimizer).__name__ == name
    assert not torch.equal(trainer.model.adaptor.weight, before)
    for pair in (optim_args or "").replace(" ", "").split(",") if optim_args else []:
        option, value = pair.split("=")
        assert trainer.optimizer.param_groups[0][option] == (value == "true" or float(value))


def test_optimizer_gets_its_numbers(make_trainer):
    trainer = make_trainer(learning_rate=0.02, weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-5)
    decayed, others = trainer.create_optimizer().param_groups
    assert (decayed["lr"], decayed["betas"], decayed["eps"]) == (0.02, (0.8, 0.9), 1e-5)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert any(weight is trainer.model.adaptor.weight for weight in decayed["params"])
    assert any(weight is trainer.model.adaptor.bias for weight in others["params"])
    assert trainer.args.device.type == "cpu"


KWARGS = {
    "cosine_with_min_lr": {"min_lr": 1e-5},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
    "warmup_stable_decay": {"num_decay_steps": 2},
    "reduce_lr_on_plateau": {"mode": "max", "patience": 0},
    "greedy": {"mode": "max"},
}


@pytest.mark.parametrize("course", [each.value for each in SchedulerType])
def test_course_of_the_learning_rate(make_trainer, course):
    by_metric = course in ("reduce_lr_on_plateau", "greedy")
    trainer = make_trainer(
        lr_scheduler_type=course,
        lr_scheduler_kwargs=KWARGS.get(course),
        warmup_steps=0 if by_metric or course == "constant" else 2,
        eval_strategy="steps" if by_metric else "no",
        eval_steps=1,
        max_steps=6,
    )
    trainer.train()
    rates = logged(trainer, "learning_rate")
    if course == "constant":
        assert set(rates) == {1e-3}
    elif course == "reduce_lr_on_plateau":
        assert rates == sorted(rates, reverse=True)
    elif course != "greedy":
        assert rates[0] < max(rates) == max(rates[1:3])  # two steps of warmup
        assert (rates[-1] < max(rates)) == (course != "constant_with_warmup")


def test_a_rate_that_falls_on_a_plateau_is_resumed(make_trainer):
    options = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": KWARGS["reduce_lr_on_plateau"],
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    trainer = make_trainer(max_steps=4, **options)
    trainer.train()
    resumed = make_trainer(max_steps=4, **options)
    resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    assert resumed.lr_scheduler.state_dict() == trainer.lr_scheduler.state_dict()
    assert torch.equal(resumed.model.adaptor.weight, trainer.model.adaptor.weight)


def test_accumulated_steps(make_trainer):
    trainer = make_trainer(gradient_accumulation_steps=3, max_steps=-1, num_train_epochs=1)
    batches = len(trainer.get_train_dataloader())
    trainer.train()
    assert trainer.state.global_step == -(-batches // 3)
    few = make_trainer("few", max_steps=2)
    few.train()
    assert few.state.global_step == 2


def test_gradients_are_clipped(make_trainer):
    trainer = make_trainer(max_grad_norm=1e-3, optim="sgd", learning_rate=1.0, max_steps=1)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.train()
    moved = torch.nn.utils.get_total_norm(
        [new.detach() - old for new, old in zip(trainer.model.parameters(), before, strict=True)]
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)
    assert logged(trainer, "grad_norm")[0] > 1e-2


def test_cache_is_emptied(make_trainer, monkeypatch):
    emptied = []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda *_, **__: emptied.append(1))
    make_trainer(torch_empty_cache_steps=2).train()
    assert len(emptied) == 2


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"logging_strategy": "no"}, []),
        ({"logging_strategy": "epoch"}, [4]),
        ({"logging_steps": 2}, [2, 4]),
        ({"logging_steps": 0.5}, [2, 4]),
        ({"logging_steps": 3, "logging_first_step": True}, [1, 3]),
    ],
)
def test_logging(make_trainer, arguments, steps):
    trainer = make_trainer(**arguments)
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if "loss" in line] == steps


def test_losses_that_are_not_finite_can_be_hidden(make_trainer, monkeypatch):
    loss = UniSRecFinetuneTrainer.compute_loss
    monkeypatch.setattr(UniSRecFinetuneTrainer, "compute_loss", lambda *args, **kwargs: loss(*args, **kwargs) * np.nan)
    with pytest.raises(ValueError, match="the loss is nan at step 1"):
        make_trainer().train()
    hidden = make_trainer("hidden", logging_nan_inf_filter=True)
    hidden.train()
    assert logged(hidden, "loss") == [0.0] * 4  # the mean of those before, which are none


def test_log_level(make_trainer, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # elsewhere there are no bars
    logger = logging.getLogger("transformers")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)
        assert UniSRecFinetuneArguments("run", use_cpu=True).disable_tqdm is False  # quiet logs do not hide the bars
        logger.setLevel(before)
        trainer = make_trainer(log_level="error", disable_tqdm=False)
        assert logger.level == logging.ERROR
        trainer.train()
    finally:
        logger.setLevel(before)
    printed = capsys.readouterr()
    assert "'loss'" not in printed.out
    assert "4/4" in printed.err


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2}, [2, 4]),
        ({"eval_strategy": "steps", "eval_steps": 0.5}, [2, 4]),
        ({"eval_strategy": "epoch"}, [4]),
        ({"eval_strategy": "steps", "eval_steps": 1, "eval_delay": 3}, [3, 4]),
        ({"eval_strategy": "no", "eval_on_start": True}, [0]),
    ],
)
def test_evaluations_come_when_told(make_trainer, arguments, steps):
    trainer = make_trainer(**arguments)
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if "eval_ndcg@10" in line] == steps


@pytest.mark.parametrize(
    "arguments",
    [
        {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5},
        {"eval_strategy": "epoch", "save_strategy": "epoch", "eval_delay": 9},
    ],
)
def test_best_model_of_no_evaluation_is_refused_before_the_first_step(make_trainer, arguments):
    trainer = make_trainer(load_best_model_at_end=True, **arguments)
    with pytest.raises(ValueError, match="--load_best_model_at_end needs an evaluation"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}, {3, 4}),
        ({"save_strategy": "epoch"}, {4}),
        ({"save_strategy": "steps", "save_steps": 2, "save_only_model": True}, {2, 4}),
        ({"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0}, {1}),
    ],
)
def test_saving(make_trainer, tmp_path, arguments, steps):
    make_trainer(**arguments).train()
    folders = list((tmp_path / "run").glob("checkpoint-*"))
    assert {int(folder.name.split("-")[1]) for folder in folders} == steps
    for folder in folders:
        assert (folder / "model.safetensors").exists()
        assert (folder / "optimizer.pt").exists() != bool(arguments.get("save_only_model"))


def test_best_may_be_the_lowest(make_trainer):
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(load_best_model_at_end=True, greater_is_better=False, learning_rate=0.3, **often)
    trainer.train()
    assert trainer.state.best_metric == min(logged(trainer, "eval_ndcg@10"))


def test_resumed_run_may_start_its_epoch_anew(make_trainer, tmp_path):
    make_trainer(save_strategy="steps", save_steps=2).train()
    resumed = make_trainer("resumed", ignore_data_skip=True, max_steps=5)
    seen = []
    step = resumed.training_step
    resumed.training_step = lambda model, inputs, *rest: (seen.append(inputs["labels"]), step(model, inputs, *rest))[1]
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    first = next(iter(resumed.get_train_dataloader()))
    assert (len(seen), resumed.state.global_step) == (3, 5)
    assert torch.equal(seen[0], first["labels"])


def test_order_of_the_data_has_a_seed_of_its_own(make_trainer):
    def order(**seeds):
        return [batch["labels"].tolist() for batch in make_trainer(**seeds).get_train_dataloader()]

    assert order(seed=1, data_seed=5) == order(seed=2, data_seed=5) == order(seed=5)
    assert order(seed=1) != order(seed=2)


def test_full_determinism(make_trainer):
    try:
        runs = [make_trainer(name, full_determinism=True) for name in ("one", "two")]
        assert torch.are_deterministic_algorithms_enabled()
        for run in runs:
            run.train()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert logged(runs[0], "loss") == logged(runs[1], "loss")


def test_options_of_ddp_reach_it(make_trainer):
    options = {"ddp_find_unused_parameters": False, "ddp_bucket_cap_mb": 5, "ddp_broadcast_buffers": False}
    handler = make_trainer(**options).accelerator.ddp_handler
    assert {name: getattr(handler, name.removeprefix("ddp_")) for name in options} == options


def test_overflow_is_found(make_trainer):
    make_trainer(debug="underflow_overflow").train()
    broken = make_trainer("broken", debug="underflow_overflow")
    with torch.no_grad():
        broken.model.adaptor.weight[0] = float("nan")
    with pytest.raises(ValueError, match="inf/nan"):
        broken.train()


def test_memory_is_measured(make_trainer):
    pytest.importorskip("psutil")
    trainer = make_trainer(skip_memory_metrics=False)
    assert "train_mem_cpu_alloc_delta" in trainer.train().metrics
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()


@pytest.mark.slow
def test_compiled_training(make_trainer):
    usual = make_trainer("usual", static_batches=True)  # as with compilation, so that dropout draws the same numbers
    compiled = make_trainer("compiled", torch_compile=True, torch_compile_backend="eager")
    for each in (usual, compiled):
        each.train()
    assert logged(compiled, "loss") == pytest.approx(logged(usual, "loss"), abs=1e-5)
