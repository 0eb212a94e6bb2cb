"""`pretrain` validated on a domain that is not trained on, and the packaged recipes."""

import inspect
import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from unisrec.cli import main
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import (
    UniSRecPretrainArguments,
    UniSRecPretrainTrainer,
    build_finetune_trainer,
    build_pretrain_trainer,
    finetune,
    pretrain,
)


MODEL = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 3, "max_position_embeddings": 10}
RECIPE = {"batch_domains": "one", "num_negatives": 8, "sequence_loss_weight": 0.0, "per_device_train_batch_size": 60}


@pytest.fixture(scope="module")
def root(make_domain, tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    make_domain("toys", num_users=30, num_items=25).save_to_disk(root / "toys")
    make_domain("tools", num_users=20, num_items=35, seed=1).save_to_disk(root / "tools")
    make_domain("shop", num_users=40, num_items=30, seed=2).save_to_disk(root / "shop")
    return root


@pytest.fixture
def arguments(root, training_options, tmp_path):
    """Makes arguments of a run that validates on the shop."""

    def make(**changes) -> UniSRecPretrainArguments:
        evaluation = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 6, "learning_rate": 1e-2}
        settings = training_options | evaluation | RECIPE | {"zero_shot_domain": str(root / "shop")} | changes
        return UniSRecPretrainArguments(str(tmp_path / "run"), **settings)

    return make


def pretrain_on(root, arguments, encoder, *names):
    domains = [root / name for name in names or ("toys", "tools")]
    return pretrain(str(encoder), domains, arguments, text_pooling="mean", model_config=MODEL)


def test_the_checkpoint_is_the_best_on_the_unseen_domain(
    root, arguments, text_encoder_dir, training_options, tmp_path
):
    settings = arguments()
    given = settings.to_dict()
    result = pretrain_on(root, settings, text_encoder_dir)
    trainer = result.trainer
    assert settings.to_dict() == given
    values = [line["eval_ndcg@10"] for line in trainer.state.log_history if "eval_ndcg@10" in line]
    assert len(values) == 6
    best = int(np.argmax(values))
    assert values[best] > values[-1]  # or the last one would do as well
    assert trainer.state.best_metric == values[best]
    of_best = UniSRecModel.from_pretrained(trainer.state.best_model_checkpoint)
    saved = UniSRecModel.from_pretrained(tmp_path / "run")
    for name, weight in of_best.named_parameters():
        assert torch.equal(saved.get_parameter(name), weight), name
    metrics = evaluate(tmp_path / "run", root / "shop", "valid", text_neighbours=0, use_cpu=True)
    assert saved.config.text_neighbours == 0.5  # by which the checkpoint ranks, but not its training
    assert metrics != evaluate(tmp_path / "run", root / "shop", "valid", use_cpu=True)
    assert result.model is trainer.model
    assert result.metrics["ndcg@10"] == values[best]
    assert result.metrics == pytest.approx({name: metrics[name] for name in result.metrics}, abs=1e-6)
    with pytest.raises(FrozenInstanceError):
        result.metrics = {}


def test_it_stops_the_run(root, arguments, text_encoder_dir):
    settings = arguments(learning_rate=0.0, early_stopping_patience=2, num_train_epochs=20)
    trainer = pretrain_on(root, settings, text_encoder_dir).trainer
    assert trainer.state.epoch == 3


def test_metrics_are_those_of_the_saved_weights(root, arguments, text_encoder_dir, training_options, tmp_path):
    settings = arguments(zero_shot_domain=None, num_train_epochs=2)
    metrics = pretrain_on(root, settings, text_encoder_dir).metrics
    for name in ("toys", "tools"):
        again = evaluate(tmp_path / "run", root / name, "valid", text_neighbours=0, use_cpu=True)
        logged = {key.removeprefix(f"{name}_"): value for key, value in metrics.items() if key.startswith(f"{name}_")}
        assert len(logged) == 8
        assert logged == pytest.approx({metric: again[metric] for metric in logged}, abs=1e-6)
    settings = arguments(zero_shot_domain=None, max_steps=1, eval_strategy="no", save_strategy="no")
    settings.output_dir = str(tmp_path / "short")
    assert pretrain_on(root, settings, text_encoder_dir).metrics == {}


def test_the_two_functions_and_their_builders_are_symmetric():
    for build, run in ((build_pretrain_trainer, pretrain), (build_finetune_trainer, finetune)):
        assert inspect.signature(build).parameters == inspect.signature(run).parameters
    kinds = [inspect.signature(run).parameters.values() for run in (pretrain, finetune)]
    given = [[each.name for each in kind if each.kind is each.POSITIONAL_OR_KEYWORD] for kind in kinds]
    assert given == [["text_encoder", "domains", "args"], ["model", "domain", "setting", "args"]]


def test_builder_returns_the_trainer_before_its_first_step(root, arguments, text_encoder_dir, tmp_path):
    settings, callback = arguments(), TrainerCallback()
    domains = [root / "toys", root / "tools"]
    trainer = build_pretrain_trainer(str(text_encoder_dir), domains, settings, callbacks=[callback])
    assert callback in trainer.callback_handler.callbacks
    assert isinstance(trainer, UniSRecPretrainTrainer)
    assert trainer.state.global_step == 0
    assert trainer.args is not settings
    assert [*(tmp_path / "run").iterdir()] == []
    changed = {"text_neighbours": 0}
    trainer = build_pretrain_trainer(str(text_encoder_dir), domains, settings, model_config=changed)
    assert (trainer.model.config.text_neighbours, changed) == (0, {"text_neighbours": 0})
    with pytest.raises(ValueError, match=r"domains is 'minilm', expected a list of domains\."):
        pretrain([root / "toys"], "minilm", settings)


def test_by_default_ten_evaluations_are_waited_for_and_without_such_a_domain_none(arguments):
    with_domain, without = arguments(), arguments(zero_shot_domain=None)
    assert (with_domain.early_stopping_patience, with_domain.load_best_model_at_end) == (10, True)
    assert with_domain.metric_for_best_model == "ndcg@10"
    assert (without.early_stopping_patience, without.load_best_model_at_end) == (0, False)
    assert arguments(load_best_model_at_end=False, early_stopping_patience=0).load_best_model_at_end is False


def test_a_domain_that_is_trained_on_or_holds_nothing_out_is_refused(root, arguments, text_encoder_dir, make_domain):
    with pytest.raises(ValueError, match="is trained on as shop: leave it out of --domains"):
        pretrain_on(root, arguments(), text_encoder_dir, "toys", "shop")
    shop = make_domain("shop", num_users=40, num_items=30, seed=2)
    replace(shop, name="copy").save_to_disk(root / "copy")
    with pytest.raises(ValueError, match="is trained on as copy"):
        pretrain_on(root, arguments(), text_encoder_dir, "toys", "copy")
    replace(shop, name="whole", held_out=False).save_to_disk(root / "whole")
    with pytest.raises(ValueError, match="whole holds nothing out to validate on"):
        pretrain_on(root, arguments(zero_shot_domain=str(root / "whole")), text_encoder_dir)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        pretrain_on(root, arguments(zero_shot_domain=str(root / "nowhere")), text_encoder_dir)


@pytest.mark.parametrize("name", ["paper", "transfer"])
def test_packaged_recipes(root, text_encoder_dir, tmp_path, name):
    words = [
        "pretrain",
        "--config",
        name,
        "--domains",
        root / "toys",
        root / "tools",
        "--text-encoder",
        text_encoder_dir,
    ]
    words += ["--output_dir", tmp_path / "run", "--max_steps", 2, "--use_cpu", "--disable_tqdm", "true"]
    words += ["--model-config", *(f"{field}={value}" for field, value in MODEL.items()), "hidden_dropout=0"]
    words += ["--logging_steps", 1, "--eval_strategy", "no", "--save_strategy", "no"]
    assert main([str(word) for word in words]) == 0
    lines = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == ([1e-3, 1e-3] if name == "paper" else pytest.approx([0, 5e-6]))  # warm-up
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["text_neighbours"] == (0 if name == "paper" else 0.85)
    card = (tmp_path / "run" / "README.md").read_text()
    assert ("num_negatives" in card) == (name == "transfer")
