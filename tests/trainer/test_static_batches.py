"""Batches of fixed shapes beside those with a row for each window: same loss, gradients and training."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from unisrec.data import leave_one_out
from unisrec.trainer import (
    PretrainCollator,
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecPretrainArguments,
    UniSRecPretrainTrainer,
    WindowDataset,
)
from unisrec.trainer.batches.datasets import DomainFeatures
from unisrec.trainer.batches.window_batches import Layout, StaticShapes, WindowBatch, uniform
from unisrec.trainer.ensemble import Ensemble


NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}
LENGTH = 10


@pytest.fixture(scope="module")
def domains(make_domain):
    return [make_domain("toys", num_users=30, num_items=60, longest=16), make_domain("tools", 25, 70, seed=1)]


@pytest.fixture(scope="module")
def tables(domains):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(domain.num_items, 16)).astype(np.float32) for domain in domains]


@pytest.fixture
def make_pretrain_trainer(make_model, domains, tables, training_options, tmp_path):
    def make(static: bool | None, **arguments) -> UniSRecPretrainTrainer:
        arguments = {"per_device_train_batch_size": 60, "static_batches": static} | arguments
        static = static is not False
        views = arguments.get("sequence_loss_weight", 0.3) != 0
        histories = WindowDataset(
            [leave_one_out(domain, "train") for domain in domains],
            [domain.num_items for domain in domains],
            LENGTH,
            arguments.get("prefix_rows", False),
        )
        features = DomainFeatures(tables), DomainFeatures([table + 0.1 for table in tables])
        vectors = torch.cat([each.to_tensor() for each in features]) if static else None
        collator = PretrainCollator(
            *((None, len(vectors) // 2) if static else features),
            item_drop_probability=0.5,
            word_drop_item_ratio=0.5,
            views=views,
            shapes=StaticShapes(60, LENGTH) if static else None,
        )
        return UniSRecPretrainTrainer(
            make_model(**NO_DROPOUT),
            UniSRecPretrainArguments(
                str(tmp_path / f"{static}"), **({"sequence_loss_weight": 0.3} | training_options | arguments)
            ),
            data_collator=collator,
            train_dataset=histories,
            text_vectors=vectors,
        )

    return make


def loss_and_gradients(trainer, batch):
    """In float64, with the text vectors too."""
    model = trainer.model.double()
    if "text_embeds" in batch:
        batch = batch | {"text_embeds": batch["text_embeds"].double()}
    if getattr(trainer, "_text_vectors", None) is not None:
        trainer._text_vectors = trainer._text_vectors.double()
    loss = trainer.compute_loss(model, batch)
    loss.backward()  # of all chunks but the last, it was done with the loss
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad for name, weight in weights.items()}
    model.zero_grad()
    return {"loss": loss.detach()} | gradients


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"duplicate_mask": "official", "sequence_negatives": "original"},
        {"sequence_loss_weight": 0.0},
        {"prefix_rows": True},
        {"cache_chunk_size": 17, "duplicate_mask": "official"},
        {"cache_chunk_size": 17, "prefix_rows": True},
        {"batch_domains": "one", "num_negatives": 30, "duplicate_mask": "official"},
        {"batch_domains": "one", "num_negatives": 100},  # more than the catalogue
    ],
    ids=str,
)
def test_pretraining_loss_and_gradients_are_those_of_rows(make_pretrain_trainer, arguments):
    rows, static = (make_pretrain_trainer(each, **arguments) for each in (False, True))
    for batch in list(rows.get_train_dataloader().batch_sampler)[:2]:
        windows = rows.train_dataset.__getitems__(batch)
        padded, packed = rows.data_collator(windows), static.data_collator(windows)
        assert packed["item_index"].shape[1] == 128
        assert packed["num_targets"] == padded["num_targets"] == packed["is_target"].sum()
        assert_same(loss_and_gradients(static, packed), loss_and_gradients(rows, padded))


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"num_negatives": 20}, {"num_negatives": 20, "prefix_rows": True}], ids=str)
def test_finetuning_loss_and_gradients_are_those_of_rows(
    make_model, domains, tables, training_options, tmp_path, arguments, taught, setting
):
    teachers = None
    if taught:
        teacher = make_model(seed=3, **NO_DROPOUT).double()
        with torch.no_grad():
            teachers = Ensemble([teacher], [teacher.get_item_features(torch.from_numpy(tables[0]))])
    trainers = []
    for static in (False, True):
        options = {"per_device_train_batch_size": 60, "static_batches": static, "freeze_sequence_encoder": False}
        trainers.append(
            UniSRecFinetuneTrainer(
                make_model(num_items=domains[0].num_items if setting == "transductive" else None, **NO_DROPOUT),
                UniSRecFinetuneArguments(
                    str(tmp_path / f"{static}"),
                    **(training_options | {"load_best_model_at_end": False} | options | arguments),
                ),
                train_dataset=WindowDataset(
                    [leave_one_out(domains[0], "train")],
                    [domains[0].num_items],
                    LENGTH,
                    arguments.get("prefix_rows", False),
                ),
                text_embeds=tables[0],
                teachers=teachers,
            )
        )
    rows, static = trainers
    for trainer in trainers:
        trainer.candidates.text_embeds = trainer.candidates.text_embeds.double()
    for batch in list(rows.get_train_dataloader().batch_sampler)[:2]:
        windows = rows.train_dataset.__getitems__(batch)
        assert_same(
            loss_and_gradients(static, static.data_collator(windows)),
            loss_and_gradients(rows, rows.data_collator(windows)),
        )


def test_training_is_the_same_but_for_rounding(make_pretrain_trainer):
    arguments = {"max_steps": 6, "batch_domains": "one", "num_negatives": 30, "logging_steps": 1}
    losses = []
    for static in (False, True):
        trainer = make_pretrain_trainer(static, **arguments)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)


def test_batches_have_few_shapes_and_little_padding():
    rng = np.random.default_rng(0)
    shapes, seen, filled, places = StaticShapes(2048, 50), set(), 0, 0
    for _ in range(100):
        lengths = np.clip(rng.lognormal(1.8, 0.8, size=400), 2, 51).astype(int)
        lengths = lengths[: np.searchsorted(np.cumsum(lengths - 1), 2048)]
        total = lengths.sum()
        arrays = np.ones_like(lengths), np.arange(len(lengths)), np.arange(len(lengths))
        layout = Layout(WindowBatch(np.arange(total), lengths, *arrays), shapes)
        matrix = layout.matrix(layout.places, layout.entries + 1)
        assert np.count_nonzero(matrix) == len(layout.places) == total - len(lengths)  # no two at the same place
        for window in range(len(lengths)):  # each in a piece of one row
            places_of = layout.places[layout.windows == window]
            assert len(set(places_of // 512)) == 1
            assert (np.diff(places_of) == 1).all()
        seen.add((layout.shape, len(layout.pad(layout.queries))))
        filled, places = filled + len(layout.places), places + matrix.size
    assert len(seen) <= 3
    assert filled / places > 0.75


def test_draws_are_uniform_and_depend_on_nothing_but_their_place():
    indices, steps = np.arange(5000)[:, None], np.arange(20)
    drawn = uniform(3, indices, steps)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, 50, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 100  # chi-square with 49 degrees of freedom, p = 2e-5
    flat = drawn - 0.5
    for left, right in ((flat[1:], flat[:-1]), (flat[:, 1:], flat[:, :-1])):
        assert abs(np.mean(left * right) * 12) < 5 / left.size**0.5  # neighbours do not depend on each other
    assert np.array_equal(uniform(3, indices[7:9], steps[4:]), drawn[7:9, 4:])
    assert not np.isin(uniform(4, indices, steps), drawn).any()


def test_packing_is_refused_where_sizes_depend_on_content(tmp_path):
    for kind, arguments, name in (
        (UniSRecPretrainArguments, {"train_text_encoder": True}, "a text encoder"),
        (UniSRecFinetuneArguments, {"sparse_item_embedding": True}, "--sparse_item"),
    ):
        with pytest.raises(ValueError, match=f"--static_batches cannot be combined with {name}"):
            kind(str(tmp_path), static_batches=True, use_cpu=True, **arguments)


@pytest.mark.rare
def test_compilation_happens_at_most_once_for_each_shape(make_pretrain_trainer):
    trainer = make_pretrain_trainer(
        None, torch_compile=True, torch_compile_backend="eager", num_train_epochs=2, sequence_loss_weight=0.0
    )
    assert trainer.args.static_batches
    shapes = set()
    collate = trainer.data_collator

    def seen(windows):
        batch = collate(windows)
        shapes.add((batch["item_index"].shape, batch["items"].shape))
        return batch

    trainer.data_collator = seen
    torch._dynamo.reset()
    counters.clear()
    trainer.train()
    steps = trainer.state.global_step
    assert steps > 2 * len(shapes)
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= len(shapes) * (1 + sum(counters["graph_break"].values()))
