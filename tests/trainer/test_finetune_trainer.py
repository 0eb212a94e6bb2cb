import numpy as np
import pytest
import torch

from unisrec.data import leave_one_out
from unisrec.evaluation import RankingDataset
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import FinetuneCollator, UniSRecFinetuneArguments, UniSRecFinetuneTrainer, WindowDataset, losses
from unisrec.trainer.losses import chunked_cross_entropy


ADAPTOR = {"adaptor.weight", "adaptor.bias", "adaptor.router", "adaptor.router_noise"}
NORM = {"sequence_encoder.layer_norm.weight", "sequence_encoder.layer_norm.bias"}
EVERY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch"}


@pytest.fixture(scope="module")
def domain(make_domain):
    return make_domain(num_users=50, num_items=60, longest=16)


@pytest.fixture(scope="module")
def table(domain):
    return np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)


@pytest.fixture
def make_trainer(make_model, domain, table, training_options, tmp_path):
    """Makes trainers that fine-tune for a few epochs; `model` is a dict of fields of the configuration."""

    def make(
        name: str = "run", setting: str = "inductive", model: dict | None = None, model_seed: int = 0, **arguments
    ) -> UniSRecFinetuneTrainer:
        defaults = {
            "per_device_train_batch_size": 60,
            "learning_rate": 1e-2,
            "num_train_epochs": 3,
            # Best model and early stopping need an evaluation; runs that want them ask for it.
            "load_best_model_at_end": arguments.get("eval_strategy") == "epoch",
        }
        if arguments.get("eval_strategy") != "epoch":
            defaults["early_stopping_patience"] = 0
        num_items = domain.num_items if setting == "transductive" else None
        return UniSRecFinetuneTrainer(
            make_model(seed=model_seed, num_items=num_items, **(model or {})),
            UniSRecFinetuneArguments(output_dir=str(tmp_path / name), **(training_options | defaults | arguments)),
            train_dataset=WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10),
            eval_dataset=RankingDataset(leave_one_out(domain, "valid"), table),
            text_embeds=table,
        )

    return make


def logged(trainer, name):
    return [line[name] for line in trainer.state.log_history if name in line]


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal_weights(left, right):
    for name, parameter in right.named_parameters():
        assert torch.equal(left.get_parameter(name), parameter), name


# The loss


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_loss_and_gradient_equal_a_loop_over_prefixes(make_trainer, setting):
    trainer = make_trainer(setting=setting, freeze_sequence_encoder=False)
    model = trainer.model.double().eval()
    trainer.candidates.text_embeds = trainer.candidates.text_embeds.double()
    windows = [trainer.train_dataset[index] for index in (0, 1, 5, 7)]
    loss, outputs = trainer.compute_loss(model, FinetuneCollator()(windows), return_outputs=True)

    items = model.get_item_features(**trainer.candidates.items({}).inputs)
    losses = []
    for window in windows:
        history = window["items"].tolist()
        for end in range(1, len(history)):
            sequence = model.get_sequence_features(torch.tensor([history[:end]]) + 1, items)[0]
            exponentials = [torch.exp(torch.cosine_similarity(sequence, item, dim=0) / 0.07) for item in items]
            losses.append(-torch.log(exponentials[history[end]] / sum(exponentials)))
    expected = sum(losses) / len(losses)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(outputs.item_embeds, items, rtol=0, atol=1e-10)
    assert outputs.last_hidden_state.shape[0] == len(windows)

    parameters = dict(model.named_parameters())
    parameters.pop("adaptor.router_noise")  # no part in evaluation mode
    gradients = torch.autograd.grad(loss, parameters.values())
    slow = torch.autograd.grad(expected, parameters.values())
    for name, gradient, slow_gradient in zip(parameters, gradients, slow, strict=True):
        torch.testing.assert_close(
            gradient, slow_gradient, rtol=0, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"preprocess_logits_for_metrics": lambda logits, labels: logits},
            "preprocess_logits_for_metrics has no effect",
        ),
        ({"text_embeds": None}, "neither text_embeds nor a data_collator"),
    ],
)
def test_what_the_trainer_cannot_use_is_refused(make_trainer, options, reason):
    trainer = make_trainer()
    given = {"train_dataset": trainer.train_dataset, "text_embeds": np.zeros((60, 16), np.float32)} | options
    with pytest.raises(ValueError, match=reason):
        UniSRecFinetuneTrainer(trainer.model, trainer.args, **given)


# Training


def test_prefix_rows_have_the_same_loss_in_evaluation_mode(make_trainer, domain):
    trainer = make_trainer(setting="transductive", model={"max_position_embeddings": 20})
    split = leave_one_out(domain, "train")
    model = trainer.model.eval()
    losses = []
    for prefix_rows in (False, True):
        dataset = WindowDataset([split], [domain.num_items], 20, prefix_rows)
        batch = FinetuneCollator()([dataset[index] for index in range(len(dataset))])
        assert len(batch["labels"]) == int(dataset.num_targets.sum())
        losses.append(trainer.compute_loss(model, batch).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "frozen", "trained"),
    [
        ("inductive", True, ADAPTOR | NORM),
        ("transductive", True, ADAPTOR | NORM | {"item_embedding.weight"}),
        ("inductive", False, None),
        ("transductive", False, None),
    ],
)
def test_loss_falls_and_exactly_the_trainable_weights_move(make_trainer, setting, frozen, trained):
    trainer = make_trainer(setting=setting, freeze_sequence_encoder=frozen, num_train_epochs=12)
    before = weights(trainer.model)
    trainer.train()
    moved = {name for name, weight in before.items() if not torch.equal(weight, trainer.model.get_parameter(name))}
    assert moved == (before.keys() if trained is None else trained)
    if setting == "transductive":
        assert not trainer.model.item_embedding.weight[0].any()  # padding
        assert (trainer.model.item_embedding.weight[1:] != before["item_embedding.weight"][1:]).any(-1).all()
    losses = logged(trainer, "loss")
    steps = len(losses) // 12
    assert np.mean(losses[-steps:]) < np.mean(losses[:steps]) - 0.5


@pytest.mark.parametrize("num_negatives", [None, 16])
def test_bfloat16_is_for_the_products_of_the_softmax_too(make_trainer, monkeypatch, num_negatives):
    seen = []

    def spy(queries, *args, **kwargs):
        seen.append((queries.dtype, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return chunked_cross_entropy(queries, *args, **kwargs)

    monkeypatch.setattr(losses, "chunked_cross_entropy", spy)
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}
    trainer, exact = (
        make_trainer(name, model=still, bf16=name == "rounded", num_negatives=num_negatives, num_train_epochs=1)
        for name in ("rounded", "exact")
    )
    trainer.train()
    assert set(seen) == {(torch.float32, True, torch.bfloat16)}
    exact.train()
    np.testing.assert_allclose(logged(trainer, "loss"), logged(exact, "loss"), rtol=0.02)
    assert logged(trainer, "loss") != logged(exact, "loss")
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_training_learns_what_comes_next(make_trainer):
    trainer = make_trainer(
        setting="transductive",
        model={"hidden_size": 32, "hidden_dropout": 0.2, "attention_dropout": 0.0},
        freeze_sequence_encoder=False,
        num_train_epochs=25,
    )
    before = trainer.evaluate()["eval_ndcg@10"]
    trainer.train()
    assert trainer.evaluate()["eval_ndcg@10"] > before + 0.1


@pytest.mark.parametrize(
    "arguments", [{}, {"num_negatives": 20}, {"num_negatives": 20, "sparse_item_embedding": True}]
)
def test_rare_items_have_no_id_and_go_by_their_text(make_trainer, domain, table, arguments):
    trainer = make_trainer(setting="transductive", min_id_interactions=5, freeze_sequence_encoder=False, **arguments)
    rare = np.bincount(leave_one_out(domain, "train").flat, minlength=domain.num_items) < 5
    assert 5 < rare.sum() < domain.num_items - 5
    trainer.train()
    model = trainer.model.eval()
    rows = model.item_embedding.weight[1:]
    assert not rows[rare].any()
    assert rows[~rare].any(-1).all()
    ids = torch.arange(1, domain.num_items + 1)
    with torch.no_grad():
        own, unknown = (model.get_item_features(torch.from_numpy(table), id_rows=each) for each in (ids, 0 * ids))
    assert torch.equal(own[rare], unknown[rare])
    assert not torch.isclose(own[~rare], unknown[~rare]).all(-1).any()


def test_rare_items_are_trained_as_text_alone(make_trainer, domain):
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}
    trainer = make_trainer("rare", setting="transductive", model=still, min_id_interactions=5)
    expected = make_trainer("by hand", setting="transductive", model=still)
    rare = np.bincount(leave_one_out(domain, "train").flat, minlength=domain.num_items) < 5
    with torch.no_grad():
        expected.model.item_embedding.weight[1:][rare] = 0
    batch = next(iter(trainer.get_train_dataloader()))
    losses = [each.compute_loss(each.model, batch) for each in (trainer, expected)]
    assert torch.equal(*losses)
    gradients = [
        torch.autograd.grad(loss, each.model.item_embedding.weight)[0]
        for loss, each in zip(losses, (trainer, expected), strict=True)
    ]
    assert not gradients[0][1:][rare].any()
    assert gradients[1][1:][rare].any(-1).all()
    torch.testing.assert_close(gradients[0][1:][~rare], gradients[1][1:][~rare])


@pytest.mark.parametrize(
    "arguments", [{"setting": "inductive"}, {"setting": "transductive", "model": {"item_text": False}}]
)
def test_items_without_id_need_a_text(make_trainer, arguments):
    with pytest.raises(ValueError, match="--min_id_interactions is for the transductive setting"):
        make_trainer(min_id_interactions=2, **arguments)


# Evaluation


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_metrics_equal_a_slow_full_ranking(make_trainer, domain, table, slow_ranking_metrics, setting, split):
    trainer = make_trainer(setting=setting, per_device_eval_batch_size=8, num_train_epochs=6)
    trainer.train()
    users = leave_one_out(domain, split)
    metrics = trainer.evaluate(RankingDataset(users, table), metric_key_prefix=split)
    trainer.model.eval()
    expected = slow_ranking_metrics(trainer.model, users, table)
    for name, value in expected.items():
        assert metrics[f"{split}_{name}"] == pytest.approx(value, abs=1e-6), name
    assert expected["ndcg@50"] != expected["ndcg@50_seen_masked"]


def test_predict_gives_the_ranks_of_each_user(make_trainer, domain, table):
    trainer = make_trainer(per_device_eval_batch_size=8)
    dataset = RankingDataset(leave_one_out(domain, "test"), table)
    output = trainer.predict(dataset)
    assert output.predictions.shape == (50, 2)
    assert output.label_ids.tolist() == [dataset[index]["target"] for index in range(50)]
    assert output.metrics["test_recall@10"] == pytest.approx((output.predictions[:, 0] < 10).mean())
    assert (output.predictions[:, 1] <= output.predictions[:, 0]).all()


# The best model and the end of training


def test_training_stops_when_the_metric_no_longer_rises(make_trainer):
    trainer = make_trainer(learning_rate=0.0, num_train_epochs=20, early_stopping_patience=3, **EVERY_EPOCH)
    trainer.train()
    assert len(logged(trainer, "eval_ndcg@10")) == 4  # the first evaluation is the best one


def test_patience_without_evaluations_does_not_matter(make_trainer):
    trainer = make_trainer(eval_strategy="no", early_stopping_patience=1, num_train_epochs=2)
    trainer.train()
    assert trainer.state.epoch == 2


def test_patience_of_zero_never_stops(make_trainer):
    trainer = make_trainer(learning_rate=0.0, num_train_epochs=6, early_stopping_patience=0, **EVERY_EPOCH)
    trainer.train()
    assert len(logged(trainer, "eval_ndcg@10")) == 6


def test_resumed_run_stops_when_the_straight_one_does(make_trainer, tmp_path):
    arguments = {"learning_rate": 0.0, "num_train_epochs": 20, "early_stopping_patience": 3, **EVERY_EPOCH}
    straight = make_trainer("straight", **arguments)
    straight.train()
    steps = straight.state.global_step // 4
    resumed = make_trainer("resumed", **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / f"checkpoint-{2 * steps}"))
    assert resumed.state.global_step == straight.state.global_step


def test_best_model_is_there_at_the_end(make_trainer):
    # At so high a rate the metric goes up and down.
    trainer = make_trainer(learning_rate=0.3, num_train_epochs=8, early_stopping_patience=0, **EVERY_EPOCH)
    trainer.train()
    history = logged(trainer, "eval_ndcg@10")
    assert history[-1] < max(history)
    assert trainer.state.best_metric == max(history)
    assert trainer.evaluate()["eval_ndcg@10"] == max(history)


# Checkpoints


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_resumed_run_equals_the_straight_one(make_trainer, tmp_path, setting):
    arguments = {
        "setting": setting,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": False,
    }
    straight = make_trainer("straight", **arguments)
    steps = len(straight.get_train_dataloader())
    assert steps >= 3
    straight.train()
    for step in (steps - 1, steps, 2 * steps - 2):  # in the first epoch, at its end, in the second one
        resumed = make_trainer(f"from-{step}", model_seed=5, **arguments)
        resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / f"checkpoint-{step}"))
        assert logged(resumed, "loss") == logged(straight, "loss")
        assert logged(resumed, "eval_ndcg@50") == logged(straight, "eval_ndcg@50")
        assert_equal_weights(resumed.model, straight.model)


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_checkpoints_are_models_without_pickles(make_trainer, tmp_path, setting, domain):
    trainer = make_trainer(setting=setting, num_train_epochs=1, save_strategy="epoch")
    trainer.train()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    loaded = UniSRecModel.from_pretrained(checkpoint)
    assert loaded.text_encoder is None
    assert loaded.config.num_items == (domain.num_items if setting == "transductive" else None)
    assert_equal_weights(loaded, trainer.model)
    assert not (checkpoint / "training_args.bin").exists()

    trainer.save_model(str(tmp_path / "final"))
    assert_equal_weights(UniSRecModel.from_pretrained(tmp_path / "final"), trainer.model)
    assert {file.suffix for file in (tmp_path / "final").iterdir()} <= {".json", ".safetensors", ".py", ".md", ".png"}
