"""The method with a part left out, SASRec, the paper's recipe, and vectors that come with a domain: settings, no code."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError

from unisrec.cli import main
from unisrec.commands import _training
from unisrec.data import Domain
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.recommender import Recommender
from unisrec.trainer import (
    UniSRecFinetuneArguments,
    UniSRecPretrainArguments,
    finetune,
    pretrain,
)


MODEL = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 3, "max_position_embeddings": 10}


@pytest.fixture(scope="module")
def root(make_domain, text_encoder_dir, training_options, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_domain("toys", num_users=30, num_items=25).save_to_disk(root / "toys")
    arguments = UniSRecPretrainArguments(
        str(root / "pretrained"), num_train_epochs=1, item_drop_probability=1.0, **training_options
    )
    pretrain(str(text_encoder_dir), [root / "toys"], arguments, text_pooling="mean", model_config=MODEL)
    return root


@pytest.fixture
def arguments(training_options, tmp_path):
    options = training_options | {"num_train_epochs": 1, "load_best_model_at_end": False}
    return UniSRecFinetuneArguments(str(tmp_path / "run"), early_stopping_patience=0, **options)


def test_without_whitening_bias_an_expert_is_a_projection(make_model):
    model = make_model(whitening_bias=False, num_experts=1)
    assert not any("adaptor.bias" in name for name in model.state_dict())
    texts = torch.randn(4, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.get_item_features(texts), texts @ model.adaptor.weight[:, 0])


def test_items_without_text_are_their_id_embedding(make_model):
    model = make_model(item_text=False, num_items=6, similarity="dot")
    assert not any("adaptor" in name for name in model.state_dict())
    ids = torch.tensor([3, 1, 6])
    batch = {"item_index": torch.tensor([[1, 3], [2, 0]]), "id_rows": ids}
    with torch.no_grad():
        output = model(**batch)
        assert torch.equal(output.item_embeds, model.item_embedding.weight[ids])
        assert torch.equal(model(**batch, text_embeds=torch.randn(3, 16)).sequence_embeds, output.sequence_embeds)
        products = [[float(s @ v) for v in output.item_embeds] for s in output.sequence_embeds]
        torch.testing.assert_close(model.score(output.sequence_embeds, output.item_embeds), torch.tensor(products))
    with pytest.raises(ValueError, match="needs `id_rows`"):
        model(item_index=batch["item_index"])


def test_an_item_has_text_or_id(make_config):
    with pytest.raises(StrictDataclassError, match="an item has neither text nor ID"):
        make_config(item_text=False)


def test_sasrec_is_a_setting(root, arguments, training_options, tmp_path):
    changes = {"item_text": False, "similarity": "dot"}
    metrics = finetune(
        root / "pretrained", root / "toys", "transductive", arguments, from_scratch=True, model_config=changes
    ).metrics
    saved = UniSRecModel.from_pretrained(tmp_path / "run")
    assert saved.adaptor is None
    assert saved.text_encoder is None
    again = evaluate(tmp_path / "run", root / "toys", "test", use_cpu=True)
    assert {name: again[name] for name in metrics} == pytest.approx(metrics, abs=1e-6)
    (items,) = Recommender.from_pretrained(tmp_path / "run").recommend([["toys-3", "toys-4"]])
    assert len(items) == 10


def test_other_settings_are_for_training_from_scratch(root, arguments, tmp_path):
    with pytest.raises(ValueError, match="add `from_scratch`"):
        finetune(root / "pretrained", root / "toys", "inductive", arguments, model_config={"num_experts": 1})
    changes = {"item_text": False}
    with pytest.raises(ValueError, match="an item has neither text nor ID"):
        finetune(root / "pretrained", root / "toys", "inductive", arguments, from_scratch=True, model_config=changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("verb", "kind"), [("pretrain", UniSRecPretrainArguments), ("finetune", UniSRecFinetuneArguments)]
)
def test_the_papers_recipe_names_arguments_that_exist(verb, kind):
    settings = yaml.safe_load((_training.CONFIGS / f"paper-{verb}.yaml").read_text(encoding="utf-8"))
    assert settings.keys() <= {field.name for field in dataclasses.fields(kind)}
    assert settings["prefix_rows"] is True
    assert settings["learning_rate"] == 1e-3


def test_the_papers_recipe_runs_and_the_command_line_wins(root, tmp_path, text_encoder_dir):
    short = ["--num_train_epochs", 1, "--use_cpu", "--disable_tqdm", "true", "--config", "paper"]
    domain = root / "toys"
    words = ["pretrain", "--domains", domain, "--text-encoder", text_encoder_dir, "--output_dir", tmp_path / "pre"]
    words += ["--model-config", *(f"{name}={value}" for name, value in MODEL.items())]
    assert main([str(word) for word in [*words, *short]]) == 0
    words = ["finetune", "--model", tmp_path / "pre", "--domain", domain, "--setting", "inductive", "--from-scratch"]
    words += ["--model-config", "num_experts=2", "--output_dir", tmp_path / "run"]
    assert main([str(word) for word in [*words, *short]]) == 0
    assert UniSRecModel.from_pretrained(tmp_path / "run").config.num_experts == 2


def test_the_fast_recipe_trains_from_scratch_and_then_adds_ids(root, tmp_path):
    shared = ["finetune", "--domain", root / "toys", "--config", "fast", "--num_train_epochs", 2, "--use_cpu"]
    words = ["--model", root / "pretrained", "--setting", "inductive", "--output_dir", tmp_path / "texts"]
    words += ["--from-scratch", "--model-config", "hidden_size=32", "attention_dropout=0", "hidden_dropout=0.4"]
    assert main([str(word) for word in [*shared, *words]]) == 0
    words = ["--model", tmp_path / "texts", "--setting", "transductive", "--output_dir", tmp_path / "ids"]
    assert main([str(word) for word in [*shared, *words]]) == 0
    texts, ids = (UniSRecModel.from_pretrained(tmp_path / name) for name in ("texts", "ids"))
    assert (ids.config.attention_dropout, ids.config.hidden_dropout) == (0, 0.4)
    assert ids.config.num_items == Domain.load_from_disk(root / "toys").num_items
    moved = dict(ids.sequence_encoder.named_parameters())
    assert not any(torch.equal(moved[name], weight) for name, weight in texts.sequence_encoder.named_parameters())
    steps = [json.loads(line) for line in (tmp_path / "ids" / "log.jsonl").read_text().splitlines()]
    assert not any("eval_ndcg@10" in step for step in steps)


@pytest.fixture
def given_dir(root, tmp_path) -> Path:
    """The domain, with text vectors of its own."""
    domain = Domain.load_from_disk(root / "toys")
    vectors = np.random.default_rng(0).normal(size=(2, domain.num_items, 12)).astype(np.float32)
    names = ("item_embeddings", "word_drop_embeddings")
    domain = dataclasses.replace(domain, given_features=dict(zip(names, vectors, strict=True)))
    domain.save_to_disk(tmp_path / "given")
    return tmp_path / "given"


def test_vectors_that_came_with_a_domain_make_an_embeddings_only_model(
    given_dir, arguments, training_options, tmp_path
):
    pretraining = UniSRecPretrainArguments(str(tmp_path / "pre"), num_train_epochs=1, **training_options)
    model = pretrain(None, [given_dir], pretraining, model_config=MODEL).model
    assert model.config.text_embedding_size == 12
    metrics = finetune(tmp_path / "pre", given_dir, "inductive", arguments).metrics
    model = UniSRecModel.from_pretrained(tmp_path / "run")
    assert model.text_encoder is None
    again = evaluate(tmp_path / "run", given_dir, "test", use_cpu=True)
    assert {name: again[name] for name in metrics} == pytest.approx(metrics, abs=1e-6)


def test_no_encoder_and_no_vectors(root, training_options, tmp_path):
    with pytest.raises(ValueError, match="there is no text encoder, and the domain contains no text vectors"):
        pretrain(None, [root / "toys"], UniSRecPretrainArguments(str(tmp_path / "pre"), **training_options))
