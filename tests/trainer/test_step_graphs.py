"""Recorded steps of a GPU beside steps as usual. These tests need a CUDA device and are skipped without one."""

import numpy as np
import pytest
import torch

from unisrec.data import leave_one_out
from unisrec.trainer import (
    PretrainCollator,
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecPretrainArguments,
    UniSRecPretrainTrainer,
    WindowDataset,
    base_trainer,
)
from unisrec.trainer.batches.datasets import DomainFeatures
from unisrec.trainer.batches.window_batches import StaticShapes


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="recorded steps need a CUDA device")
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}


@pytest.fixture
def make_trainer(make_model, make_domain, training_options, tmp_path):
    domain = make_domain(num_users=60, num_items=60, longest=16)
    table = np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)
    histories = WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10)
    vectors = torch.cat([DomainFeatures([each]).to_tensor() for each in (table, table + 0.1)]).cuda()

    def make(name: str, pretraining: bool, model: dict | None = None, **arguments):
        options = training_options | {"use_cpu": False, "logging_steps": 1, "per_device_train_batch_size": 60}
        options |= {"max_steps": 12} | arguments
        folder = str(tmp_path / name)
        if not pretraining:
            options |= {"load_best_model_at_end": False, "freeze_sequence_encoder": False}
            return UniSRecFinetuneTrainer(
                make_model(num_items=domain.num_items, **(model or {})),
                UniSRecFinetuneArguments(folder, **options),
                train_dataset=histories,
                text_embeds=table,
            )
        return UniSRecPretrainTrainer(
            make_model(**(model or {})),
            UniSRecPretrainArguments(folder, batch_domains="one", sequence_loss_weight=0.3, **options),
            data_collator=PretrainCollator(
                None, domain.num_items, item_drop_probability=0.5, shapes=StaticShapes(60, 10)
            ),
            train_dataset=histories,
            text_vectors=vectors,
        )

    return make


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("arguments", [{}, {"num_negatives": 20}, {"gradient_accumulation_steps": 2}], ids=str)
@pytest.mark.parametrize("pretraining", [True, False])
def test_replayed_steps_train_as_steps_as_usual(make_trainer, monkeypatch, pretraining, arguments):
    replayed = make_trainer("replayed", pretraining, NO_DROPOUT, **arguments)
    replayed.train()
    assert any(graph is not None for graph in replayed._graphs._graphs.values())
    usual = make_trainer("usual", pretraining, NO_DROPOUT, **arguments)
    monkeypatch.setattr(base_trainer, "can_replay", lambda args: False)
    usual.train()
    assert len(losses(usual)) == 12
    assert losses(replayed) == pytest.approx(losses(usual), abs=1e-3)
    for name, weight in usual.model.named_parameters():
        torch.testing.assert_close(replayed.model.get_parameter(name), weight, rtol=0, atol=2e-3)


@pytest.mark.parametrize("pretraining", [True, False])
def test_a_resumed_run_is_the_uninterrupted_one(make_trainer, pretraining, tmp_path):
    arguments = {"num_negatives": 20, "save_strategy": "steps", "save_steps": 7, "save_total_limit": None}
    whole = make_trainer("whole", pretraining, **arguments)
    whole.train()
    resumed = make_trainer("resumed", pretraining, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-7"))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-4)
    for name, weight in whole.model.named_parameters():
        torch.testing.assert_close(resumed.model.get_parameter(name), weight, rtol=0, atol=1e-5)


def test_random_draws_differ_between_replays(make_trainer):
    trainer = make_trainer("run", True, {"hidden_dropout": 0.5}, max_steps=1)
    trainer.train()
    windows = trainer.train_dataset.__getitems__(range(20))
    batch = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in trainer.data_collator(windows).items()
    }
    found = []
    for _ in range(5):
        found.append(float(trainer.training_step(trainer.model, batch)))
        trainer.model.zero_grad()
    assert len(set(found)) == 5
