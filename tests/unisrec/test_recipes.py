"""A training whose time is over goes on when it gets more, at a rate that falls."""

import time
from types import SimpleNamespace

import pytest
from transformers.trainer_utils import get_last_checkpoint

from unisrec.recipes import CHOICE, Budget
from unisrec.trainer import UniSRecFinetuneArguments, UniSRecPretrainArguments, build_finetune_trainer, pretrain


def test_a_training_that_ran_out_of_time_goes_on(make_domain, text_encoder_dir, training_options, tmp_path):
    make_domain("toys").save_to_disk(tmp_path / "toys")
    args = UniSRecPretrainArguments(str(tmp_path / "pretrained"), num_train_epochs=1, **training_options)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 2}
    pretrain(str(text_encoder_dir), [tmp_path / "toys"], args, model_config=sizes)
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": CHOICE, "interpolate": "1"}
    options = training_options | options | {"num_train_epochs": 4}
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), **options)
    trainer = build_finetune_trainer(tmp_path / "pretrained", tmp_path / "toys", "inductive", args)
    now, said = time.monotonic(), []
    trainer.add_callback(budget := Budget("text only", now - 1, now + 600, said.append))
    trainer.train()
    assert trainer.state.global_step == 1
    assert said[-1] == "text only: stopped, its time is over"
    budget.go_on()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir))
    assert trainer.state.epoch == 4
    assert said[-1] == "text only: stopped, all 4 epochs are done"


def test_the_rate_falls_by_the_clock_once_a_training_goes_on(monkeypatch):
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.4}, {"lr": 0.2}])
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = Budget("text only", now + 10, now + 50, print)
    budget.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
    assert optimizer.param_groups == [{"lr": 0.4}, {"lr": 0.2}]
    now = 110.0
    budget.go_on()
    now = 140.0
    budget.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05])
    now = 151.0
    budget.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]
