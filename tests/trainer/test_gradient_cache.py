"""Contrastive batches in chunks beside whole ones: loss, gradients, random draws, resuming, and what is held."""

import numpy as np
import pytest
import torch

from unisrec.data import leave_one_out
from unisrec.trainer import PretrainCollator, UniSRecPretrainArguments, UniSRecPretrainTrainer, WindowDataset
from unisrec.trainer.batches.datasets import DomainFeatures, DomainTexts
from unisrec.trainer.pretrain_trainer import RandomState, split_targets, take_run


NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}


@pytest.fixture(scope="module")
def domain(make_domain):
    return make_domain(num_users=40, num_items=60, longest=16)


@pytest.fixture
def make_trainer(make_model, domain, training_options, tmp_path):
    """Makes pre-training trainers in chunks of seven targets; `model` is a dict of fields of the configuration."""
    table = np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)

    def make(name: str = "run", model: dict | None = None, model_seed: int = 0, **arguments) -> UniSRecPretrainTrainer:
        defaults = {"per_device_train_batch_size": 60, "cache_chunk_size": 7, "sequence_loss_weight": 0.3}
        collator = PretrainCollator(
            DomainFeatures([table]), DomainFeatures([table + 0.1]), item_drop_probability=0.5, word_drop_item_ratio=0.5
        )
        return UniSRecPretrainTrainer(
            make_model(seed=model_seed, **(model or {})),
            UniSRecPretrainArguments(str(tmp_path / name), **(training_options | defaults | arguments)),
            data_collator=collator,
            train_dataset=WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10),
        )

    return make


def make_batch(trainer, dtype=torch.float64):
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(12)])
    return batch | {"text_embeds": batch["text_embeds"].to(dtype)}


def loss_and_gradients(trainer, loss):
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    return {"loss": loss.detach()} | gradients


def logged(trainer, name="loss"):
    return [line[name] for line in trainer.state.log_history if name in line]


# Chunks


@pytest.mark.parametrize("chunk_size", [1, 7, 20, 1000])
def test_runs_are_whole_windows_that_hold_all_targets_once(make_trainer, chunk_size):
    batch = make_batch(make_trainer())
    length = batch["item_index"].shape[1]
    window = target = 0
    for windows, targets in split_targets(batch, chunk_size):
        assert (windows.start, targets.start) == (window, target)
        of_targets = batch["query_index"][targets] // length
        assert set(of_targets.tolist()) == set(range(windows.start, windows.stop))
        assert len(of_targets) <= chunk_size or windows.stop - windows.start == 1
        window, target = windows.stop, targets.stop
    assert (window, target) == (12, len(batch["query_index"]))


def test_a_run_is_the_batch_of_its_windows(make_trainer):
    trainer = make_trainer(model=NO_DROPOUT)
    model, batch = trainer.model.double(), make_batch(trainer)
    whole = trainer._vectors(trainer._forward(model, batch), batch)
    runs = split_targets(batch, 7)
    assert len(runs) > 5
    for run in runs:
        taken = take_run(batch, *run)
        assert len(taken["text_embeds"]) < len(batch["text_embeds"])
        for vectors, expected in zip(trainer._vectors(trainer._forward(model, taken), taken), whole, strict=True):
            torch.testing.assert_close(vectors, expected[run[1]], rtol=0, atol=1e-12)


def test_random_numbers_are_drawn_again_and_go_on_afterwards():
    torch.manual_seed(0)
    state = RandomState(torch.zeros(1))
    first, second = torch.rand(3), torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), first)
    with state.replay():
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), second)


# Loss and gradients


@pytest.mark.parametrize("sequence_negatives", ["augmented", "original"])
@pytest.mark.parametrize("duplicate_mask", ["exclude", "official"])
def test_without_dropout_it_is_the_plain_step(make_trainer, sequence_negatives, duplicate_mask):
    results = []
    for chunk_size in (None, 7, 10_000):
        trainer = make_trainer(
            model=NO_DROPOUT,
            cache_chunk_size=chunk_size,
            sequence_negatives=sequence_negatives,
            duplicate_mask=duplicate_mask,
        )
        model = trainer.model.double().train()
        results.append(loss_and_gradients(trainer, trainer.compute_loss(model, make_batch(trainer))))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=1e-10)


def test_batches_without_views(make_trainer):
    results = []
    for chunk_size in (None, 7):
        trainer = make_trainer(model=NO_DROPOUT, cache_chunk_size=chunk_size, sequence_loss_weight=0.0)
        trainer.data_collator.views = False
        model, batch = trainer.model.double().train(), make_batch(trainer)
        assert "view_index" not in batch
        results.append(loss_and_gradients(trainer, trainer.compute_loss(model, batch)))
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_with_dropout_it_is_the_loss_over_the_same_draws(make_trainer, dtype, atol):
    cached, plain = make_trainer(), make_trainer()
    batch = make_batch(cached, dtype)
    torch.manual_seed(3)
    model = cached.model.to(dtype).train()
    results = [loss_and_gradients(cached, cached.compute_loss(model, batch))]
    following = torch.rand(4)

    # All chunks in one graph, each by the draws of the first pass.
    torch.manual_seed(3)
    model = plain.model.to(dtype).train()
    chunks = [take_run(batch, *run) for run in split_targets(batch, 7)]
    parts = [plain._vectors(plain._forward(model, chunk), chunk) for chunk in chunks]
    vectors = [torch.cat(part) for part in zip(*parts, strict=True)]
    results.append(loss_and_gradients(plain, plain._loss(model, batch, *vectors)))
    torch.testing.assert_close(*results, rtol=0, atol=atol)
    assert torch.equal(torch.rand(4), following)


def test_texts_that_are_encoded_in_the_step(make_model, text_encoder, tokenizer, domain, training_options, tmp_path):
    results = []
    for chunk_size in (None, 7):
        model = make_model(**NO_DROPOUT)
        model.attach_text_encoder(text_encoder)
        model.double().eval()
        text_encoder.zero_grad()
        texts = DomainTexts([domain.items["text"].to_list()])
        collator = PretrainCollator(
            texts,
            texts,
            item_drop_probability=0.5,
            tokenize=lambda texts: dict(tokenizer(texts, padding=True, return_tensors="pt")),
        )
        trainer = UniSRecPretrainTrainer(
            model,
            UniSRecPretrainArguments(str(tmp_path), cache_chunk_size=chunk_size, **training_options),
            data_collator=collator,
            train_dataset=WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10),
        )
        text_encoder.requires_grad_(True)
        loss = trainer.compute_loss(model, collator([trainer.train_dataset[index] for index in range(8)]))
        loss.backward()
        names = ["adaptor.weight", "text_encoder.embeddings.word_embeddings.weight"]
        results.append([loss.detach(), *(model.get_parameter(name).grad.clone() for name in names)])
        text_encoder.requires_grad_(False).float()
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


# Training


def test_training_with_accumulation_equals_the_plain_run(make_trainer):
    options = {"gradient_accumulation_steps": 2, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.1}
    runs = []
    for chunk_size in (None, 7):
        trainer = make_trainer(f"chunks-{chunk_size}", NO_DROPOUT, cache_chunk_size=chunk_size, **options)
        trainer.train()
        runs.append(trainer)
    for name in ("loss", "sequence_item_loss", "sequence_sequence_loss"):
        assert logged(runs[1], name) == pytest.approx(logged(runs[0], name), abs=1e-5)
    for name, parameter in runs[0].model.named_parameters():
        torch.testing.assert_close(runs[1].model.get_parameter(name), parameter, rtol=0, atol=1e-5)


def test_resumed_run_equals_the_straight_one(make_trainer, tmp_path):
    straight = make_trainer("straight", num_train_epochs=2, save_strategy="steps", save_steps=1)
    straight.train()
    resumed = make_trainer("resumed", model_seed=5, num_train_epochs=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert logged(resumed) == logged(straight)
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(name), parameter), name


def test_activations_of_one_chunk_are_held_at_a_time(make_trainer):
    held = {}
    for chunk_size in (None, 7):
        trainer = make_trainer(cache_chunk_size=chunk_size)
        batch = make_batch(trainer, torch.float32)
        saved = []
        weights = {parameter.data_ptr() for parameter in trainer.model.parameters()}

        def pack(tensor, saved=saved, weights=weights):
            if tensor.data_ptr() not in weights:
                saved.append(tensor.numel())
            return tensor

        peak = []
        backward = trainer.accelerator.backward

        def measure(loss, backward=backward, saved=saved, peak=peak):
            peak.append(sum(saved))
            saved.clear()
            backward(loss)

        trainer.accelerator.backward = measure
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            measure(trainer.compute_loss(trainer.model.train(), batch))
        held[chunk_size] = max(peak)
    assert held[7] < held[None] / 3


def test_a_chunk_without_targets_is_refused(training_options, tmp_path):
    with pytest.raises(ValueError, match=r"--cache_chunk_size is 0, expected a number in \[1, "):
        UniSRecPretrainArguments(str(tmp_path), cache_chunk_size=0, **training_options)
