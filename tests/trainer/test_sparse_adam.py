"""Adam for the rows that a step has seen, beside torch's own; and transfer whose ID embedding it moves."""

import numpy as np
import pytest
import torch
from torch import nn

from unisrec.trainer import UniSRecFinetuneArguments, UniSRecFinetuneTrainer, WindowDataset
from unisrec.trainer.sparse_adam import SparseRowsAdamW


NUM_ITEMS = 150


@pytest.fixture
def make_trainer(make_model, make_split, training_options, tmp_path):
    """Makes trainers of a text + ID model with sampled softmax over items of very different popularity."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, NUM_ITEMS + 1)
    histories = [rng.choice(NUM_ITEMS, size=rng.integers(2, 9), p=popularity / popularity.sum()) for _ in range(100)]
    table = rng.normal(size=(NUM_ITEMS, 16)).astype(np.float32)

    def make(name: str = "run", sparse: bool = True, num_items: int | None = NUM_ITEMS, **arguments):
        defaults = {"per_device_train_batch_size": 60, "learning_rate": 1e-2, "num_negatives": 10}
        no_evaluation = {"load_best_model_at_end": False, "early_stopping_patience": 0}
        return UniSRecFinetuneTrainer(
            make_model(num_items=num_items),
            UniSRecFinetuneArguments(
                output_dir=str(tmp_path / name),
                sparse_item_embedding=sparse,
                **(training_options | no_evaluation | defaults | arguments),
            ),
            train_dataset=WindowDataset([make_split(histories)], [NUM_ITEMS], 10),
            text_embeds=table,
        )

    return make


def logged(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_rows_move_as_by_torchs_sparse_adam_and_the_rest_as_by_adamw():
    torch.manual_seed(0)
    tables = [nn.Embedding(30, 4, padding_idx=0, sparse=True) for _ in range(2)]
    layers = [nn.Linear(4, 3) for _ in range(2)]
    for first, second in (tables, layers):
        second.load_state_dict(first.state_dict())
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}
    ours = SparseRowsAdamW([*tables[0].parameters(), *layers[0].parameters()], **options, weight_decay=0.1)
    theirs = [
        torch.optim.SparseAdam(tables[1].parameters(), **options),
        torch.optim.AdamW(layers[1].parameters(), **options, weight_decay=0.1),
    ]
    for _ in range(20):
        rows = torch.randint(30, (8,))  # also the same twice, and the padding
        for table, layer, optimizers in zip(tables, layers, ([ours], theirs), strict=True):
            layer(table(rows)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    torch.testing.assert_close(tables[0].weight, tables[1].weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(layers[0].weight, layers[1].weight, rtol=0, atol=1e-6)


def test_a_step_touches_its_candidates_alone(make_trainer):
    trainer = make_trainer(max_steps=1)
    before = trainer.model.item_embedding.weight.detach().clone()
    candidates = set()
    compute_loss = trainer.compute_loss

    def watch(model, inputs, *args, **kwargs):
        candidates.update(inputs["items"].tolist(), trainer.candidates.sampler.draw(inputs["first_window"]).tolist())
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = watch
    trainer.train()
    moved = (trainer.model.item_embedding.weight != before).any(1).nonzero().squeeze(1).tolist()
    assert moved == [item + 1 for item in sorted(candidates)]
    assert 10 < len(moved) < NUM_ITEMS - 10


def test_training_learns_as_much_as_by_adam(make_trainer):
    losses = []
    for sparse in (True, False):
        trainer = make_trainer(str(sparse), sparse, num_train_epochs=15, freeze_sequence_encoder=False)
        trainer.train()
        losses.append(logged(trainer))
    (sparse, dense) = losses
    assert sparse[0] == pytest.approx(dense[0], abs=1e-6)  # before anything has moved
    assert np.mean(sparse[-5:]) < sparse[0] - 1
    assert np.mean(sparse[-5:]) == pytest.approx(np.mean(dense[-5:]), abs=0.3)


def test_accumulated_batches_are_one_step(make_trainer):
    trainer = make_trainer(gradient_accumulation_steps=2, max_steps=3)
    trainer.train()
    assert trainer.optimizer.state[trainer.model.item_embedding.weight]["step"] == 3


def test_a_resumed_run_is_bit_for_bit_the_whole_run(make_trainer, tmp_path):
    settings = {"save_strategy": "epoch", "num_train_epochs": 2, "lr_scheduler_type": "linear"}
    whole, resumed = make_trainer("whole", **settings), make_trainer("resumed", **settings)
    whole.train()
    (first, _) = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda folder: int(folder.name[11:]))
    resumed.train(resume_from_checkpoint=str(first))
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, resumed.model.get_parameter(name)), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_negatives": None}, "needs --num_negatives: the full softmax updates all rows"),
        ({"optim": "sgd"}, "cannot be combined with --optim sgd"),
        ({"weight_decay": 0.1}, "leave --weight_decay out"),
        ({"max_grad_norm": 1.0}, "leave --max_grad_norm out"),
        ({"lora": "sequence"}, "cannot be combined with --lora"),
        ({"num_items": None}, "is for the transductive setting: the model has no ID embedding"),
    ],
)
def test_what_it_does_not_go_with(make_trainer, arguments, message):
    with pytest.raises(ValueError, match=f"--sparse_item_embedding .*{message}"):
        make_trainer(**arguments)
