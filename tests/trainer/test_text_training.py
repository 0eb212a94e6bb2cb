"""Training the text encoder end to end: batches of texts, the loss among the items of a batch, what is left."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor

from unisrec.configuration import UniSRecConfig
from unisrec.data import leave_one_out
from unisrec.data.text_encoding import encode_texts
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import UniSRecModel, UniSRecProcessor
from unisrec.trainer import (
    PretrainCollator,
    TextFinetuneCollator,
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecPretrainArguments,
    WindowDataset,
    finetune,
    pretrain,
)
from unisrec.trainer.batches.datasets import DomainTexts


MODEL = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 3, "max_position_embeddings": 10}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}


@pytest.fixture(scope="module")
def domain(make_domain):
    return make_domain(num_users=30, num_items=25)


@pytest.fixture
def domain_dir(domain, tmp_path):
    domain.save_to_disk(tmp_path / "toys")
    return tmp_path / "toys"


@pytest.fixture
def processor(tokenizer):
    return UniSRecProcessor(tokenizer, max_history_length=10, max_text_length=32)


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_a_batch_holds_the_tokens_of_its_items_once(processor, domain):
    texts = domain.items["text"].to_list()
    windows = WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10)
    features = [windows[index] for index in range(6)]
    batch = TextFinetuneCollator(texts, processor.tokenize)(features)

    items = sorted({int(item) for feature in features for item in feature["items"]})
    assert batch["items"].tolist() == items
    expected = processor.tokenize([texts[item] for item in items])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    labels = [int(item) for feature in features for item in feature["items"][1:]]
    assert [items[label] for label in batch["labels"]] == labels
    inputs = [int(item) for feature in features for item in feature["items"][:-1]]
    assert [items[row - 1] for row in batch["item_index"].flatten()[batch["query_index"]]] == inputs


def test_pretraining_batches_hold_tokens_where_they_held_vectors(processor):
    tables = [["red pen", "blue pen"], ["steel kettle", "garden lamp", "kids chair"]]
    dropped = [["pen", "pen"], ["kettle", "lamp", "chair"]]
    vectors = np.arange(5, dtype=np.float32)[:, None]
    options = {"item_drop_probability": 0.3, "word_drop_item_ratio": 0.6, "seed": 1}
    of_texts = PretrainCollator(DomainTexts(tables), DomainTexts(dropped), tokenize=processor.tokenize, **options)
    of_vectors = PretrainCollator(lambda items: vectors[items], lambda items: vectors[items] + 10, **options)
    features = [
        {"items": np.array(items), "first_target": 1, "sequence": place, "index": place}
        for place, items in enumerate([[0, 3, 1], [4, 2, 0, 1], [2, 3]])
    ]
    batch, expected = of_texts(features), of_vectors(features)

    texts = dict(enumerate(sum(tables, []))) | {10 + i: t for i, t in enumerate(sum(dropped, []))}
    rows = [int(row) for row in expected.pop("text_embeds")[:, 0]]
    assert any(row >= 10 for row in rows)
    tokens = processor.tokenize([texts[row] for row in rows])
    assert torch.equal(batch.pop("input_ids"), tokens["input_ids"])
    assert torch.equal(batch.pop("attention_mask"), tokens["attention_mask"])
    assert batch.keys() == expected.keys()
    assert all(torch.equal(torch.as_tensor(batch[name]), torch.as_tensor(expected[name])) for name in batch)


def test_texts_of_like_length_are_encoded_together_with_the_same_result(make_model, text_encoder):
    model = make_model(**NO_DROPOUT)
    model.attach_text_encoder(text_encoder)
    lengths = torch.randint(1, 20, (300,))
    attention_mask = (torch.arange(20) < lengths[:, None]).long()
    input_ids = torch.randint(5, 40, (300, 20)) * attention_mask
    padded = model.get_text_features(input_ids, attention_mask).pooler_output
    shapes = []
    text_encoder.embeddings.register_forward_hook(lambda *call: shapes.append(tuple(call[-1].shape)))
    model.train()
    text_encoder.eval()
    torch.testing.assert_close(model._text_vectors(input_ids, attention_mask), padded, rtol=0, atol=1e-5)
    assert [texts for texts, *_ in shapes] == [128, 128, 44]
    assert shapes[0][1] < shapes[1][1] < shapes[2][1]


def test_the_loss_is_that_among_the_items_of_the_batch(
    make_model, text_encoder, processor, domain, training_options, tmp_path
):
    model = make_model(num_items=domain.num_items, **NO_DROPOUT)
    model.attach_text_encoder(text_encoder)
    texts = domain.items["text"].to_list()
    windows = WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10)
    arguments = UniSRecFinetuneArguments(
        str(tmp_path), load_best_model_at_end=False, early_stopping_patience=0, **training_options
    )
    collator = TextFinetuneCollator(texts, processor.tokenize)
    trainer = UniSRecFinetuneTrainer(model, arguments, data_collator=collator, train_dataset=windows)
    features = [windows[index] for index in range(5)]
    loss = trainer.compute_loss(model, collator(features)).item()

    losses = []
    with torch.no_grad():
        candidates = sorted({int(item) for feature in features for item in feature["items"]})
        ids = torch.tensor(candidates) + 1
        vectors = model.get_item_features(**processor.tokenize([texts[item] for item in candidates]), id_rows=ids)
        for feature in features:
            items = feature["items"].tolist()
            for end in range(1, len(items)):
                history = torch.tensor([[candidates.index(item) + 1 for item in items[:end]]])
                scores = model.score(model.get_sequence_features(history, vectors), vectors)
                losses.append(F.cross_entropy(scores, torch.tensor([candidates.index(items[end])])).item())
    assert loss == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.fixture(scope="module")
def pretrained(text_encoder_dir, domain, training_options, tmp_path_factory):
    """A pre-trained checkpoint whose text encoder has been trained too, and the weights it started from."""
    root = tmp_path_factory.mktemp("runs")
    domain.save_to_disk(root / "toys")
    arguments = UniSRecPretrainArguments(
        str(root / "pretrained"),
        num_train_epochs=2,
        item_drop_probability=0.5,
        train_text_encoder=True,
        **(training_options | {"eval_strategy": "epoch"}),
    )
    options = {"text_pooling": "mean", "model_config": MODEL}
    trainer = pretrain(str(text_encoder_dir), [root / "toys"], arguments, **options).trainer
    return root, trainer, AutoModel.from_pretrained(text_encoder_dir)


def test_pretraining_trains_the_encoder_and_saves_it(pretrained):
    root, trainer, start = pretrained
    saved = AutoModel.from_pretrained(root / "pretrained")
    before, after = start.state_dict(), saved.text_encoder.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if "pooler" not in name} - changed == set()
    of_trainer = trainer.model.text_encoder.state_dict()
    assert all(torch.equal(of_trainer[name], after[name]) for name in after)
    assert any("eval_toys_ndcg@10" in line for line in trainer.state.log_history)


def test_transfer_trains_the_encoder_and_leaves_what_it_measured(pretrained, domain, training_options, tmp_path):
    root, _, _ = pretrained
    arguments = UniSRecFinetuneArguments(
        str(tmp_path / "run"),
        num_train_epochs=2,
        learning_rate=1e-2,
        train_text_encoder=True,
        freeze_sequence_encoder=True,
        **(training_options | {"eval_strategy": "epoch", "save_strategy": "epoch"}),
    )
    result = finetune(root / "pretrained", root / "toys", "inductive", arguments)
    trainer, metrics = result.trainer, result.metrics

    start, saved = AutoModel.from_pretrained(root / "pretrained"), AutoModel.from_pretrained(tmp_path / "run")
    before, after = _weights(start), _weights(saved)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in before if "sequence_encoder.position" in name or "sequence_encoder.layers" in name}
    assert changed.isdisjoint(frozen)
    assert changed >= {name for name in before if "text_encoder.encoder" in name} | {"adaptor.weight"}

    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    texts = domain.items["text"].to_list()
    vectors = encode_texts(texts, saved.text_encoder, processor.tokenizer, pooling="mean", progress=False)
    torch.testing.assert_close(processor.catalogue.item_embeddings, torch.from_numpy(vectors))
    again = evaluate(tmp_path / "run", root / "toys", "test", use_cpu=True)
    assert {name: again[name] for name in metrics} == pytest.approx(metrics, abs=1e-6)
    trained, total = trainer.count_parameters()
    assert total == sum(parameter.numel() for parameter in saved.parameters())
    assert trained == total - sum(parameter.numel() for name, parameter in saved.named_parameters() if name in frozen)


def test_the_encoder_has_a_learning_rate_of_its_own(make_model, text_encoder, training_options, tmp_path, domain):
    model = make_model()
    model.attach_text_encoder(text_encoder)
    text_encoder.requires_grad_(True)
    arguments = UniSRecFinetuneArguments(
        str(tmp_path), learning_rate=0.01, train_text_encoder=True, load_best_model_at_end=False, **training_options
    )
    windows = WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10)
    collator = TextFinetuneCollator(domain.items["text"].to_list(), tokenize=dict)
    trainer = UniSRecFinetuneTrainer(model, arguments, data_collator=collator, train_dataset=windows)
    optimizer = trainer.create_optimizer()
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(0.0005 if name.startswith("text_encoder.") else 0.01), name


def test_a_checkpoint_without_encoder_cannot_train_one(make_config, domain_dir, training_options, tmp_path):
    UniSRecModel(UniSRecConfig(text_embedding_size=16, **MODEL)).save_pretrained(tmp_path / "bare")
    arguments = UniSRecFinetuneArguments(
        str(tmp_path / "run"), train_text_encoder=True, load_best_model_at_end=False, **training_options
    )
    with pytest.raises(ValueError, match="has no text encoder to train: name the one it was trained with"):
        finetune(tmp_path / "bare", domain_dir, "inductive", arguments)
    assert not (tmp_path / "run").exists()
