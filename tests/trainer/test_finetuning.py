"""Transfer in one call: what is held out, and training on all interactions for a model to serve, which measures nothing."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from unisrec.cli import main
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.trainer import (
    UniSRecFinetuneArguments,
    UniSRecPretrainArguments,
    build_finetune_trainer,
    finetune,
    pretrain,
)
from unisrec.trainer.finetuning import SayAtStart


MODEL = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 2, "hidden_dropout": 0.2, "attention_dropout": 0.2}


@pytest.fixture(scope="module")
def domain(make_domain):
    return make_domain("toys")


@pytest.fixture(scope="module")
def root(tmp_path_factory, domain, text_encoder_dir, training_options):
    """The domain, the same with nothing held out, and a checkpoint."""
    root = tmp_path_factory.mktemp("hold-out")
    domain.save_to_disk(root / "toys")
    replace(domain, name="sold", held_out=False).save_to_disk(root / "sold")
    args = UniSRecPretrainArguments(str(root / "pretrained"), num_train_epochs=1, **training_options)
    pretrain(str(text_encoder_dir), [root / "toys"], args, model_config=MODEL)
    return root


@pytest.mark.parametrize("name", ["toys", "sold"])
def test_every_interaction_is_trained_on_and_none_is_measured(root, domain, training_options, tmp_path, name):
    options = training_options | {"eval_strategy": "epoch", "num_train_epochs": 2}
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), hold_out=False, **options)
    result = finetune(root / "pretrained", root / name, "transductive", args)
    trainer, metrics = result.trainer, result.metrics
    assert trainer.train_dataset.num_targets.sum() == domain.num_interactions - domain.num_users
    assert metrics == {}
    assert not any(key.startswith(("eval_", "test_")) for line in trainer.state.log_history for key in line)
    assert not (tmp_path / "run" / "test_results.json").exists()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "held out" not in card
    assert "All interactions were trained on" in card
    assert "## Results" not in card
    model, processor = load_checkpoint(tmp_path / "run")
    assert processor.catalogue.item_ids == domain.items["item_id"].to_list()
    assert torch.equal(model.item_embedding.weight, trainer.model.item_embedding.weight)


class Seen(TrainerCallback):
    steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


def test_by_default_the_last_two_interactions_are_held_out(root, domain, training_options, tmp_path):
    args = UniSRecFinetuneArguments(
        str(tmp_path / "run"),
        num_train_epochs=1,
        load_best_model_at_end=False,
        early_stopping_patience=0,
        **training_options,
    )
    seen = Seen()
    result = finetune(root / "pretrained", root / "toys", "inductive", args, callbacks=[seen])
    assert seen.steps == result.trainer.state.global_step > 0
    assert result.trainer.train_dataset.num_targets.sum() == domain.num_interactions - 3 * domain.num_users
    assert "ndcg@10" in result.metrics


@pytest.mark.parametrize(
    ("given", "expected", "said"),
    [
        ({}, 0.5, True),
        ({"dropout": 0.3}, 0.3, False),
        ({"freeze_sequence_encoder": True}, None, False),
        ({"freeze_sequence_encoder": True, "dropout": 0.3}, 0.3, False),
    ],
)
def test_dropout_of_layers_that_are_trained_on(root, training_options, tmp_path, capsys, given, expected, said):
    options = training_options | {"load_best_model_at_end": False, "max_steps": 1} | given
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), **options)
    trainer = build_finetune_trainer(root / "pretrained", root / "toys", "transductive", args)
    frozen = given.get("freeze_sequence_encoder", False)
    assert {weight.requires_grad for weight in trainer.model.sequence_encoder.layers.parameters()} == {not frozen}
    before = load_checkpoint(root / "pretrained")[0].config
    expected = before.hidden_dropout if expected is None else expected
    dropouts = {module.p for module in trainer.model.sequence_encoder.modules() if isinstance(module, nn.Dropout)}
    assert dropouts == {expected} == {trainer.model.config.hidden_dropout, trainer.model.config.attention_dropout}
    assert "dropout" not in capsys.readouterr().out  # said when nothing can be refused any more
    trainer.train()
    told = capsys.readouterr()
    assert told.out.count("with a dropout of 0.5 instead of 0.2 (`dropout`)") == said
    assert "dropout" not in told.err
    assert args.dropout is given.get("dropout")  # the caller's stay as they are


@pytest.mark.parametrize(
    ("setting", "least", "given", "share"),
    [
        ("inductive", 1000, {"text_neighbours": 0.3}, "0.8"),
        ("inductive", 1000, {"interpolate": "1"}, "1"),
        ("inductive", 1000, {"freeze_sequence_encoder": True}, None),
        ("inductive", 1, {}, None),
        ("transductive", 1000, {}, "0.8"),
    ],
)
def test_weights_are_interpolated_on_small_domains(
    root, training_options, tmp_path, monkeypatch, setting, least, given, share
):
    monkeypatch.setattr("unisrec.trainer.ensemble.SMALL_DOMAIN", least)
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), load_best_model_at_end=False, **training_options, **given)
    trainer = build_finetune_trainer(root / "pretrained", root / "toys", setting, args)
    assert trainer.args.interpolate == share
    assert load_checkpoint(root / "pretrained")[0].config.text_neighbours == 0.5
    assert trainer.model.config.text_neighbours == given.get("text_neighbours", 0)  # a shop with data ranks without


def test_dropout_is_given_once(root, training_options, tmp_path):
    args = UniSRecFinetuneArguments(
        str(tmp_path / "run"), dropout=0.3, load_best_model_at_end=False, **training_options
    )
    with pytest.raises(ValueError, match="leave it out, or these"):
        build_finetune_trainer(
            root / "pretrained",
            root / "toys",
            "inductive",
            args,
            from_scratch=True,
            model_config={"hidden_dropout": 0.2},
        )


def test_a_baseline_trains_its_layers_without_a_word(root, training_options, tmp_path):
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), load_best_model_at_end=False, **training_options)
    trainer = build_finetune_trainer(root / "pretrained", root / "toys", "inductive", args, from_scratch=True)
    assert all(parameter.requires_grad for parameter in trainer.model.sequence_encoder.layers.parameters())
    assert not any(isinstance(callback, SayAtStart) for callback in trainer.callback_handler.callbacks)


def test_it_needs_a_number_of_epochs(tmp_path):
    with pytest.raises(ValueError, match="leaves no validation users for early stopping: set --num_train_epochs"):
        UniSRecFinetuneArguments(str(tmp_path), hold_out=False)
    UniSRecFinetuneArguments(str(tmp_path), hold_out=False, max_steps=5)


def test_a_domain_that_holds_nothing_out_must_be_asked_for(root, training_options, tmp_path):
    args = UniSRecFinetuneArguments(
        str(tmp_path / "run"), load_best_model_at_end=False, early_stopping_patience=0, **training_options
    )
    with pytest.raises(ValueError, match="sold holds nothing out to validate and test on: add --hold_out false"):
        finetune(root / "pretrained", root / "sold", "inductive", args)
    assert not (tmp_path / "run").exists()


def test_on_the_command_line(root, tmp_path, capsys):
    words = ["finetune", "--model", root / "pretrained", "--domain", root / "toys", "--setting", "inductive"]
    words += ["--output_dir", tmp_path / "run", "--hold_out", "false", "--use_cpu", "true"]
    assert main([*map(str, words)]) == 2
    assert "set --num_train_epochs" in capsys.readouterr().err
    assert main([*map(str, words), "--num_train_epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "NDCG" not in said.upper()
    assert f"checkpoint: {tmp_path / 'run'}" in said
    assert np.isfinite(UniSRecModel.from_pretrained(tmp_path / "run").adaptor.weight.detach().numpy()).all()


def test_a_domain_in_memory_trains_and_ranks_as_its_folder_does(root, domain, training_options, tmp_path):
    options = training_options | {"num_train_epochs": 1, "load_best_model_at_end": False, "early_stopping_patience": 0}
    found = []
    for name, source in (("folder", root / "toys"), ("memory", domain)):
        args = UniSRecFinetuneArguments(str(tmp_path / name), **options)
        metrics = finetune(root / "pretrained", source, "inductive", args).metrics
        again = evaluate(tmp_path / name, source, use_cpu=True)
        assert {metric: again[metric] for metric in metrics} == pytest.approx(metrics)
        found.append(metrics)
    assert found[0] == found[1]
    assert len(domain.encoded) == 1


def test_arguments_of_the_wrong_kind_are_refused(tmp_path):
    expected = r"args is a dict, expected UniSRecFinetuneArguments\(output_dir"
    with pytest.raises(TypeError, match=expected):
        finetune("nowhere", "nowhere", "inductive", {"output_dir": str(tmp_path / "run")})
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    for callbacks in (Seen(), [Seen], ["wandb"]):
        with pytest.raises(TypeError, match="callbacks: got .*, expected a list"):
            finetune("nowhere", "nowhere", "inductive", args, callbacks=callbacks)
    with pytest.raises(TypeError, match="the domain is a DataFrame, expected a Domain or .* `build_domain` makes one"):
        finetune("nowhere", pl.DataFrame({"user_id": ["u"]}), "inductive", args)
