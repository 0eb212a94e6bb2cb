import numpy as np
import pytest
import torch

from unisrec.data import leave_one_out
from unisrec.evaluation import RankingDataset
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import (
    PretrainCollator,
    UniSRecPretrainArguments,
    UniSRecPretrainTrainer,
    WindowDataset,
    contrastive_loss,
    pretrain_trainer,
)
from unisrec.trainer.batches.datasets import DomainFeatures


@pytest.fixture(scope="module")
def domains(make_domain):
    """Two domains, with histories longer than the model's ten positions."""
    return [make_domain("toys", num_users=30, num_items=60, longest=16), make_domain("tools", 25, 70, seed=1)]


@pytest.fixture(scope="module")
def tables(domains):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(domain.num_items, 16)).astype(np.float32) for domain in domains]


@pytest.fixture
def make_trainer(make_model, domains, tables, training_options, tmp_path):
    """Makes trainers on both domains, by item drop and word drop; `model` is a dict of fields of the configuration."""

    def make(name: str = "run", model: dict | None = None, model_seed: int = 0, **arguments) -> UniSRecPretrainTrainer:
        arguments = {"per_device_train_batch_size": 60, "learning_rate": 3e-3} | arguments
        collator = PretrainCollator(
            DomainFeatures(tables),
            DomainFeatures([table + 0.1 for table in tables]),
            item_drop_probability=0.5,
        )
        return UniSRecPretrainTrainer(
            make_model(seed=model_seed, **(model or {})),
            UniSRecPretrainArguments(output_dir=str(tmp_path / name), **(training_options | arguments)),
            data_collator=collator,
            train_dataset=WindowDataset(
                [leave_one_out(domain, "train") for domain in domains], [domain.num_items for domain in domains], 10
            ),
            eval_dataset={
                domain.name: RankingDataset(leave_one_out(domain, "valid"), table)
                for domain, table in zip(domains, tables, strict=True)
            },
        )

    return make


def test_a_model_that_compares_by_the_dot_product_is_refused(make_trainer):
    with pytest.raises(ValueError, match="similarity is 'dot': pre-training compares by the cosine"):
        make_trainer(model={"similarity": "dot"})


NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}


def logged(trainer, name):
    return [line[name] for line in trainer.state.log_history if name in line]


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal_weights(left, right):
    for name, parameter in right.named_parameters():
        assert torch.equal(left.get_parameter(name), parameter), name


# The loss


def slow_losses(model, batch, sequence_negatives, duplicate_mask, drawn=(), drawn_embeds=None):
    """Both parts of the loss, pair by pair; every prefix is a history of its own. `drawn` are numbers of further items."""
    items = model.get_item_features(batch["text_embeds"])
    originals, augmented = batch["item_index"].chunk(2)
    length = originals.shape[1]

    def state(rows, place):
        prefix = rows[place // length, : place % length + 1]
        return torch.nn.functional.normalize(model.get_sequence_features(prefix[None], items)[0], dim=0)

    queries = [state(originals, place) for place in batch["query_index"].tolist()]
    views = [state(augmented, place) for place in batch["view_index"].tolist()]
    next_items = [torch.nn.functional.normalize(items[row], dim=0) for row in batch["target_rows"].tolist()]
    same_item = [*batch["target_items"].tolist(), *drawn]
    candidates = list(next_items)
    if len(drawn):
        candidates += torch.nn.functional.normalize(model.get_item_features(drawn_embeds), dim=1)
    same_sequence = batch["target_sequences"].tolist()

    def mean_loss(positives, candidates, apart):
        losses = []
        for i, query in enumerate(queries):
            denominator = 0.0
            for j, candidate in enumerate(candidates):
                if i == j or not apart(i, j):
                    denominator = denominator + torch.exp(query @ candidate / 0.07)
                elif duplicate_mask == "official":
                    denominator = denominator + 1.0
            losses.append(-torch.log(torch.exp(query @ positives[i] / 0.07) / denominator))
        return sum(losses) / len(losses)

    sequence_item = mean_loss(next_items, candidates, lambda i, j: same_item[i] == same_item[j])
    sequence_sequence = mean_loss(
        views,
        queries if sequence_negatives == "original" else views,
        lambda i, j: same_item[i] == same_item[j] or same_sequence[i] == same_sequence[j],
    )
    return sequence_item, sequence_sequence


@pytest.mark.parametrize("duplicate_mask", ["exclude", "official"])
@pytest.mark.parametrize("sequence_negatives", ["augmented", "original"])
def test_loss_and_gradient_equal_a_loop_over_prefixes(make_trainer, sequence_negatives, duplicate_mask):
    trainer = make_trainer(
        sequence_negatives=sequence_negatives, duplicate_mask=duplicate_mask, sequence_loss_weight=0.3
    )
    trainer.model.double().eval()
    # Windows of both domains, two of one long history among them.
    longest = int(np.argmax(np.bincount(trainer.train_dataset.sequences)))
    chosen = [3, 4, *np.flatnonzero(trainer.train_dataset.sequences == longest), 40, 50]
    batch = trainer.data_collator([trainer.train_dataset[index] for index in chosen])
    batch["text_embeds"] = batch["text_embeds"].double()
    assert len(batch["target_items"].unique()) < len(batch["target_items"])

    parameters = dict(trainer.model.named_parameters())
    parameters.pop("adaptor.router_noise")  # no part in evaluation mode
    sequence_item, sequence_sequence = slow_losses(trainer.model, batch, sequence_negatives, duplicate_mask)
    expected = sequence_item + 0.3 * sequence_sequence
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert len(outputs.last_hidden_state) == 2 * len(chosen)  # originals and views
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(loss, parameters.values())
    slow = torch.autograd.grad(expected, parameters.values())
    for name, gradient, slow_gradient in zip(parameters, gradients, slow, strict=True):
        torch.testing.assert_close(
            gradient, slow_gradient, rtol=0, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("sequence_loss_weight", [0.3, 0.0])
@pytest.mark.parametrize("duplicate_mask", ["exclude", "official"])
def test_loss_with_drawn_negatives_equals_a_loop(make_trainer, tables, duplicate_mask, sequence_loss_weight):
    trainer = make_trainer(
        batch_domains="one",
        num_negatives=30,
        duplicate_mask=duplicate_mask,
        sequence_loss_weight=sequence_loss_weight,
    )
    trainer.data_collator.features.tables[:] = [table.astype(np.float64) for table in tables]
    trainer.model.double().eval()
    first = int(trainer.train_dataset.first_windows[1])  # windows of the second domain
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(first, first + 6)])
    batch["text_embeds"] = batch["text_embeds"].double()
    drawn = trainer._negatives.draw(batch["first_window"])
    assert len(set(drawn.tolist())) == 30
    assert set(drawn.tolist()) & set(batch["target_items"].tolist())  # false negatives of some targets
    assert drawn.min() >= len(tables[0])
    embeds = torch.from_numpy(tables[1][drawn - len(tables[0])]).double()
    sequence_item, sequence_sequence = slow_losses(
        trainer.model, batch, "augmented", duplicate_mask, drawn.tolist(), embeds
    )
    loss = trainer.compute_loss(trainer.model, batch)
    torch.testing.assert_close(loss, sequence_item + sequence_loss_weight * sequence_sequence, rtol=0, atol=1e-10)


def test_draws_are_uniform_over_the_domain_and_depend_on_seed_and_step(make_trainer, domains):
    (sampler, *others) = [
        make_trainer(batch_domains="one", num_negatives=7, seed=seed)._negatives for seed in (3, 3, 4)
    ]
    windows = len(sampler.dataset)
    counts = np.zeros(sum(domain.num_items for domain in domains))
    for step in range(400):
        drawn = sampler.draw(step * windows)  # the first window in each pass: a step of the first domain
        assert len(set(drawn.tolist())) == 7
        counts[drawn] += 1
    assert counts[domains[0].num_items :].sum() == 0
    expected = 400 * 7 / domains[0].num_items
    assert np.abs(counts[: domains[0].num_items] - expected).max() < 5 * expected**0.5
    assert [other.draw(5).tolist() == sampler.draw(5).tolist() for other in others] == [True, False]
    assert sampler.draw(6).tolist() != sampler.draw(5).tolist()


def test_a_small_catalogue_is_drawn_as_a_whole(make_trainer, domains):
    drawn = make_trainer(batch_domains="one", num_negatives=10_000)._negatives.draw(0)
    assert drawn.tolist() == list(range(domains[0].num_items))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_negatives": 8}, "add --batch_domains one"),
        ({"num_negatives": -1, "batch_domains": "one"}, "--num_negatives is -1, expected"),
        (
            {"num_negatives": 8, "batch_domains": "one", "cache_chunk_size": 5},
            "cannot be combined with --cache_chunk_size",
        ),
        ({"num_negatives": 8, "batch_domains": "one", "train_text_encoder": True}, "leave --train_text_encoder out"),
        ({"early_stopping_patience": 2}, "needs a metric to stop by"),
        ({"early_stopping_patience": -2}, "--early_stopping_patience is -2, expected"),
        ({"zero_shot_domain": "shop", "eval_strategy": "no"}, "set --eval_strategy"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        UniSRecPretrainArguments(str(tmp_path), use_cpu=True, **arguments)
    assert "\n" not in str(error.value)


# Training


def test_without_the_sequence_loss_no_views_are_encoded(make_trainer):
    trainers = [make_trainer(sequence_loss_weight=0.0), make_trainer()]
    trainers[0].data_collator.views = False
    batches = [trainer.data_collator([trainer.train_dataset[index] for index in (3, 4)]) for trainer in trainers]
    assert len(batches[0]["item_index"]) == 2
    for name, value in batches[0].items():
        whole = batches[1][name]
        assert torch.equal(value, whole[: len(value)]) if isinstance(value, torch.Tensor) else value == whole, name
    losses = []
    for trainer, batch in zip(trainers, batches, strict=True):
        trainer.compute_loss(trainer.model.eval(), batch)
        losses.append(trainer._loss_parts["sequence_item_loss"][0])
    torch.testing.assert_close(*losses)
    assert "sequence_sequence_loss" not in trainers[0]._loss_parts


def test_the_temperature_of_the_losses_is_that_of_the_model_unless_given(make_trainer):
    of_model, given, default = (
        make_trainer("of-model", {"temperature": 0.3}),
        make_trainer("given", temperature=0.3),
        make_trainer("default"),
    )
    losses = [trainer.train().training_loss for trainer in (of_model, given, default)]
    assert losses[0] == losses[1] != losses[2]
    assert given.model.config.temperature == 0.07  # for transfer
    for weight, expected in zip(given.model.parameters(), of_model.model.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_loss_falls_and_every_weight_moves(make_trainer):
    trainer = make_trainer(num_train_epochs=12, learning_rate=1e-2, sequence_loss_weight=0.1)
    before = weights(trainer.model)
    trainer.train()
    assert [name for name, weight in before.items() if torch.equal(weight, trainer.model.get_parameter(name))] == []

    for name in ("loss", "sequence_item_loss", "sequence_sequence_loss"):
        values = logged(trainer, name)
        steps = len(values) // 12
        assert np.mean(values[-steps:]) < np.mean(values[:steps]) - 0.2, name


def test_bfloat16_is_for_the_products_of_both_losses_too(make_trainer, monkeypatch):
    seen = []

    def spy(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return contrastive_loss(*args, **kwargs)

    monkeypatch.setattr(pretrain_trainer, "contrastive_loss", spy)
    trainer = make_trainer(bf16=True, num_train_epochs=1)
    trainer.train()
    assert seen == [torch.bfloat16] * 2 * trainer.state.global_step


def test_logged_parts_add_up_to_the_loss(make_trainer):
    trainer = make_trainer(num_train_epochs=2, sequence_loss_weight=0.25, logging_steps=3)
    trainer.train()
    losses = np.array(logged(trainer, "loss"))
    parts = [np.array(logged(trainer, f"{name}_loss")) for name in ("sequence_item", "sequence_sequence")]
    assert len(losses) >= 3
    np.testing.assert_allclose(parts[0] + 0.25 * parts[1], losses, rtol=1e-5)


def test_gradient_accumulation_adds_no_negatives(make_trainer):
    """Without steps in between: the loss of two small batches is their mean, each among its own negatives."""
    options = {"model": NO_DROPOUT, "learning_rate": 0.0, "num_train_epochs": 1}
    small, accumulated, large = (
        make_trainer(name, per_device_train_batch_size=batch, gradient_accumulation_steps=steps, **options)
        for name, batch, steps in (("small", 40, 1), ("accumulated", 40, 2), ("large", 80, 1))
    )
    for trainer in (small, accumulated, large):
        trainer.train()
    for name in ("loss", "sequence_item_loss", "sequence_sequence_loss"):
        losses = logged(small, name)
        pairs = [sum(losses[place : place + 2]) / 2 for place in range(0, len(losses) - 1, 2)]
        assert len(pairs) >= 3
        assert logged(accumulated, name)[: len(pairs)] == pytest.approx(pairs, abs=1e-5)
    # Twice the candidates: about log(2) more to tell apart.
    assert np.mean(logged(large, "loss")) > np.mean(logged(accumulated, "loss")) + 0.4


def test_workers_change_nothing(make_trainer):
    alone, helped = (
        make_trainer(name, num_train_epochs=1, dataloader_num_workers=workers)
        for name, workers in (("alone", 0), ("helped", 1))
    )
    alone.train()
    helped.train()
    assert logged(helped, "loss") == logged(alone, "loss")
    assert_equal_weights(helped.model, alone.model)


def test_same_seed_gives_the_same_run_and_another_seed_another(make_trainer):
    runs = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        trainer = make_trainer(name, num_train_epochs=1, seed=seed)
        trainer.train()
        runs.append(logged(trainer, "loss"))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


# Evaluation


def test_metrics_of_each_domain_equal_a_slow_full_ranking(make_trainer, domains, tables, slow_ranking_metrics):
    trainer = make_trainer(per_device_eval_batch_size=7)
    trainer.model.train()
    metrics = trainer.evaluate()
    assert trainer.model.training  # as it was
    trainer.model.eval()
    for domain, table in zip(domains, tables, strict=True):
        expected = slow_ranking_metrics(trainer.model, leave_one_out(domain, "valid"), table)
        assert len(expected) == 8
        for name, value in expected.items():
            assert metrics[f"eval_{domain.name}_{name}"] == pytest.approx(value, abs=1e-6), name
        assert expected["ndcg@50"] != expected["ndcg@50_seen_masked"]


# Checkpoints


@pytest.mark.parametrize(
    "recipe", [{}, {"batch_domains": "one", "num_negatives": 8, "domain_sampling": "2", "lr_scheduler_type": "cosine"}]
)
def test_resumed_run_equals_the_straight_one(make_trainer, tmp_path, recipe):
    straight = make_trainer("straight", num_train_epochs=3, save_strategy="steps", save_steps=1, **recipe)
    steps = len(straight.get_train_dataloader())
    assert steps >= 4
    straight.train()
    losses = logged(straight, "loss")
    for step in (steps - 1, steps, 2 * steps - 2):  # in the first epoch, at its end, in the second one
        resumed = make_trainer(f"from-{step}", model_seed=5, num_train_epochs=3, **recipe)
        resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / f"checkpoint-{step}"))
        assert logged(resumed, "loss") == losses
        assert logged(resumed, "sequence_sequence_loss") == logged(straight, "sequence_sequence_loss")
        assert_equal_weights(resumed.model, straight.model)


def test_checkpoints_are_models_without_pickles(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=1, save_strategy="epoch")
    trainer.train()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    loaded = UniSRecModel.from_pretrained(checkpoint)
    assert loaded.text_encoder is None
    assert_equal_weights(loaded, trainer.model)
    assert not (checkpoint / "training_args.bin").exists()

    trainer.save_model(str(tmp_path / "final"))
    assert_equal_weights(UniSRecModel.from_pretrained(tmp_path / "final"), trainer.model)
    assert {file.suffix for file in (tmp_path / "final").iterdir()} <= {".json", ".safetensors", ".py", ".md", ".png"}
