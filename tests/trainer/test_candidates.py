"""Sampled softmax in transfer: the draws, how probable a candidate is, and the loss beside that of the catalogue."""

import numpy as np
import pytest
import torch

from unisrec.evaluation import RankingDataset
from unisrec.trainer import (
    FinetuneCollator,
    NegativeSampler,
    SampledFinetuneCollator,
    TargetBatchSampler,
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    WindowDataset,
)


NUM_ITEMS = 150
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(make_split):
    """200 histories of items of very different popularity; the last thirty items occur in none."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, NUM_ITEMS - 29) ** 0.8
    popularity /= popularity.sum()
    return make_split([rng.choice(len(popularity), size=rng.integers(2, 9), p=popularity) for _ in range(200)])


@pytest.fixture(scope="module")
def windows(split):
    return WindowDataset([split], [NUM_ITEMS], 10)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(1).normal(size=(NUM_ITEMS, 16)).astype(np.float32)


@pytest.fixture
def make_trainer(make_model, windows, table, training_options, tmp_path):
    """Makes trainers with sampled softmax; `num_negatives=None` is the loss over the catalogue."""

    def make(
        name: str = "run", num_negatives: int | None = 20, model_seed: int = 0, temperature: float = 0.07, **arguments
    ):
        defaults = {"per_device_train_batch_size": 100, "learning_rate": 1e-2, "num_train_epochs": 2}
        no_evaluation = {"load_best_model_at_end": False, "early_stopping_patience": 0}
        return UniSRecFinetuneTrainer(
            make_model(seed=model_seed, num_items=NUM_ITEMS, temperature=temperature),
            UniSRecFinetuneArguments(
                output_dir=str(tmp_path / name),
                num_negatives=num_negatives,
                **(training_options | no_evaluation | defaults | arguments),
            ),
            train_dataset=windows,
            text_embeds=table,
        )

    return make


def logged(trainer, name="loss"):
    return [line[name] for line in trainer.state.log_history if name in line]


def gradient(loss, model):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


# The draws


def test_draws_are_distinct_items_by_seed_and_window_alone(windows):
    sampler, other = (NegativeSampler(windows, NUM_ITEMS, 20, seed, CPU) for seed in (1, 2))
    drawn = sampler.draw(7)
    assert len(drawn.unique()) == 20
    assert drawn.min() >= 0
    assert drawn.max() < NUM_ITEMS
    assert torch.equal(drawn, sampler.draw(7))
    assert not torch.equal(drawn, sampler.draw(7 + len(windows)))  # the same window in the next epoch
    assert not torch.equal(drawn, other.draw(7))
    everything = NegativeSampler(windows, NUM_ITEMS, 10 * NUM_ITEMS, 0, CPU).draw(7)
    assert sorted(everything.tolist()) == list(range(NUM_ITEMS))


def test_finetune_collator():
    windows = [
        {"items": np.array(items), "first_target": 1, "sequence": 0, "index": 0}
        for items in ([4, 0, 2], [1, 1], [3, 2, 1, 0])
    ]
    batch = FinetuneCollator()(windows)
    assert batch["item_index"].tolist() == [[5, 1, 0], [2, 0, 0], [4, 3, 2]]
    assert batch["query_index"].tolist() == [0, 1, 3, 6, 7, 8]
    assert batch["labels"].tolist() == [0, 2, 1, 2, 1, 0]


def test_collator_names_distinct_items_and_whole_windows(windows):
    features = [windows[index] for index in (5, 2, 9)]
    batch, expected = SampledFinetuneCollator()(features), FinetuneCollator()(features)
    items = torch.cat([batch["items"], torch.tensor([-1])])  # padding is row -1 of what follows
    assert batch["items"].tolist() == sorted({int(item) for feature in features for item in feature["items"]})
    assert torch.equal(items[batch["item_index"] - 1] + 1, expected["item_index"])
    assert torch.equal(items[batch["labels"]], expected["labels"])
    assert torch.equal(batch["query_index"], expected["query_index"])
    for rows, feature in zip(batch["windows"], features, strict=True):
        assert set(items[rows].tolist()) == set(feature["items"].tolist())
    assert batch["first_window"] == 2


def test_inclusion_is_the_share_of_steps_with_the_item(windows):
    sampler = NegativeSampler(windows, NUM_ITEMS, 20, 0, CPU)
    batches = TargetBatchSampler(windows, 30)
    collator = SampledFinetuneCollator()
    counts, expected, steps = torch.zeros(NUM_ITEMS), torch.zeros(NUM_ITEMS), 0
    for windows.epoch in range(40):
        for batch in batches:
            inputs = collator([windows[index] for index in batch])
            candidates = torch.cat([inputs["items"], sampler.draw(inputs["first_window"])]).unique()
            counts[candidates] += 1
            expected += sampler.log_inclusion(torch.arange(NUM_ITEMS), len(inputs["labels"])).exp()
            steps += 1
    windows.epoch = 0
    assert steps > 1000
    assert expected[0] / steps > 0.75  # by popularity
    assert expected[-1].item() / steps == pytest.approx(20 / NUM_ITEMS, rel=1e-4)  # by the draw alone
    torch.testing.assert_close(counts / steps, expected / steps, rtol=0, atol=0.06)


# The loss


def test_with_all_items_drawn_loss_and_gradient_are_those_of_the_catalogue(make_trainer, windows):
    features = [windows[index] for index in (0, 3, 17, 40)]
    results = []
    for num_negatives in (None, NUM_ITEMS):
        trainer = make_trainer(num_negatives=num_negatives, freeze_sequence_encoder=False)
        model = trainer.model.double().eval()
        trainer.candidates.text_embeds = trainer.candidates.text_embeds.double()
        loss = trainer.compute_loss(model, trainer.data_collator(features))
        results.append((loss, gradient(loss, model)))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-10)


def test_corrected_gradient_is_that_of_the_catalogue_on_average(make_trainer, windows):
    # A sum of few large terms, as of a random model at the paper's temperature, is hard to estimate from a sample.
    full, sampled = (make_trainer(num_negatives=number, temperature=0.3) for number in (None, 20))
    model = sampled.model.eval()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), full.model.eval().parameters(), strict=True))
    log_inclusion = sampled.candidates.sampler.log_inclusion
    expected, corrected, uncorrected = 0, 0, 0
    for windows.epoch in range(5):
        for batch in TargetBatchSampler(windows, 30):
            features = [windows[index] for index in batch]
            expected += gradient(full.compute_loss(full.model, full.data_collator(features)), full.model)
            inputs = sampled.data_collator(features)
            corrected += gradient(sampled.compute_loss(model, inputs), model)
            sampled.candidates.sampler.log_inclusion = lambda items, _: torch.zeros(len(items))
            uncorrected += gradient(sampled.compute_loss(model, inputs), model)
            sampled.candidates.sampler.log_inclusion = log_inclusion
    windows.epoch = 0
    near, far = (torch.cosine_similarity(estimate, expected, dim=0) for estimate in (corrected, uncorrected))
    assert near > 0.99
    assert far < 0.97
    assert corrected.norm() == pytest.approx(expected.norm().item(), rel=0.1)


def test_only_candidates_are_adapted(make_trainer, windows):
    trainer = make_trainer()
    inputs = trainer.data_collator([windows[index] for index in (0, 3, 17)])
    sizes = []
    trainer.model.adaptor.register_forward_hook(lambda _, texts, __: sizes.append(len(texts[0])))
    trainer.compute_loss(trainer.model, inputs)
    assert sizes == [len(inputs["items"]) + 20]
    assert sizes[0] < NUM_ITEMS


# Training


def test_training_lowers_the_loss_over_the_catalogue(make_trainer, windows):
    trainer, full = make_trainer(num_train_epochs=20), make_trainer(num_negatives=None)
    batch = FinetuneCollator()([windows[index] for index in range(len(windows))])
    before = full.compute_loss(trainer.model.eval(), batch).item()
    trainer.train()
    assert full.compute_loss(trainer.model.eval(), batch).item() < before - 0.5


def test_resumed_run_equals_the_straight_one_with_workers_and_accumulation(make_trainer, tmp_path):
    arguments = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 1}
    straight = make_trainer("straight", **arguments)
    straight.train()
    assert len(set(logged(straight))) == straight.state.global_step >= 8
    resumed = make_trainer("resumed", model_seed=5, dataloader_num_workers=1, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    assert logged(resumed) == logged(straight)
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(name), parameter), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_negatives": -1}, r"--num_negatives is -1, expected a number in \[0, "),
        ({"num_negatives": 5, "train_text_encoder": True}, "leave it out when the text encoder is trained"),
        ({"num_negatives": 5, "lora": "text"}, "leave it out when the text encoder is trained"),
    ],
)
def test_what_cannot_be_is_refused(training_options, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        UniSRecFinetuneArguments(str(tmp_path), load_best_model_at_end=False, **(training_options | arguments))


def test_evaluation_ranks_the_whole_catalogue(make_trainer, make_split, table, slow_ranking_metrics):
    users = make_split([[0, 1, 2], [3, 4]], targets=[5, 149])
    trainer = make_trainer()
    metrics = trainer.evaluate(RankingDataset(users, table))
    expected = slow_ranking_metrics(trainer.model.eval(), users, table)
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-6), name
