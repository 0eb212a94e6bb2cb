"""Weights between the pre-trained and the fine-tuned ones: their values, the choice on validation users, what is refused."""

import json

import pytest
import torch

from unisrec.cli import main
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import UniSRecFinetuneArguments, finetune
from unisrec.trainer.ensemble import SHARES, Start, WeightInterpolator, parse_interpolation


@pytest.fixture
def run(transfer_root, training_options, tmp_path):
    """Fine-tunes for two epochs: trainer and test metrics."""

    def tune(name: str, setting: str = "transductive", **arguments):
        options = training_options | {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}
        options |= {"text_neighbours": 0.0}
        args = UniSRecFinetuneArguments(str(tmp_path / name), **(options | {"learning_rate": 0.02} | arguments))
        result = finetune(transfer_root / "pretrained", transfer_root / "toys", setting, args)
        return result.trainer, result.metrics

    return tune


def weights(folder):
    return dict(UniSRecModel.from_pretrained(folder).named_parameters())


@pytest.mark.parametrize(("value", "share"), [("auto", None), ("0", 0.0), ("0.3", 0.3), ("1", 1.0)])
def test_values(value, share):
    assert parse_interpolation(value) == share


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan", "half", ""])
def test_other_values_are_refused_with_one_line(value, tmp_path):
    with pytest.raises(ValueError, match="expected auto or the share of the fine-tuned weights") as error:
        UniSRecFinetuneArguments(str(tmp_path), interpolate=value, use_cpu=True)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_a_model_stays_as_it_was_if_training_does_not_help(transfer_root, run, tmp_path, setting, capsys):
    worse = {"learning_rate": 10.0, "metric_for_best_model": "ndcg@10_seen_masked"}
    trainer, metrics = run("kept", setting, **worse)
    names = transfer_root / "pretrained", transfer_root / "toys", "test"
    start = evaluate(*names, text_neighbours=0, use_cpu=True)
    assert metrics == pytest.approx({name: start[name] for name in metrics}, abs=1e-6)
    assert trainer.validated > trainer.state.best_metric
    before = weights(transfer_root / "pretrained")
    for name, weight in weights(tmp_path / "kept").items():
        assert torch.equal(weight, before[name] if name in before else torch.zeros_like(weight)), name
    assert "before it: the model stays as it was (`interpolate` 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "kept" / "test_results.json").read_text())["kept_start"]
    assert "the model is that from before training" in (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")

    trainer, _ = run("given", setting, interpolate="1", **worse)
    assert trainer.start is None
    assert not torch.equal(weights(tmp_path / "given")["adaptor.weight"], before["adaptor.weight"])


@pytest.mark.parametrize(("values", "stays"), [((0.5, 0.4), True), ((0.4, 0.5), False), ((0.5, 0.5), False)])
def test_the_start_has_its_share_and_no_ids(make_model, values, stays):
    model = make_model(num_items=5)
    start, before = Start(model, 0.3), model.adaptor.weight.detach().clone()
    with torch.no_grad():
        model.adaptor.weight.add_(1)
    ids, trained, seen = model.item_embedding.weight.detach().clone(), model.adaptor.weight.detach().clone(), []

    def measure() -> float:
        is_start = torch.equal(model.adaptor.weight, before)
        seen.append((model.config.text_neighbours, model.item_embedding.weight.any().item(), is_start))
        return values[len(seen) - 1]

    assert start.compare(measure) == values
    assert seen == [(0.3, False, True), (0, True, False)]
    assert torch.equal(model.adaptor.weight, before if stays else trained)
    assert torch.equal(model.item_embedding.weight, torch.zeros_like(ids) if stays else ids)
    assert model.config.text_neighbours == (0.3 if stays else 0)


def test_comparing_with_the_start_does_not_change_the_training(run):
    compared, _ = run("compared", dropout=0.5)
    alone, _ = run("alone", dropout=0.5, interpolate="0.8")
    assert compared.start is not None
    assert alone.start is None
    losses = [[line["loss"] for line in each.state.log_history if "loss" in line] for each in (compared, alone)]
    assert losses[0] == losses[1]
    assert compared.state.best_metric == alone.state.best_metric


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_gives_the_weights_in_between_and_scales_ids(transfer_root, run, tmp_path, setting, share):
    run("tuned", setting, interpolate="1")
    trainer, _ = run("between", setting, interpolate=str(share))
    start, end, found = (
        weights(folder) for folder in (transfer_root / "pretrained", tmp_path / "tuned", tmp_path / "between")
    )
    assert any(not torch.equal(end[name], start[name]) for name in start)
    for name, weight in found.items():
        expected = end[name] * share
        if name in start:
            expected = expected + start[name] * (1 - share)
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6, msg=name)
        if share == 1:
            assert torch.equal(weight, end[name]), name
    if share == 1:
        assert trainer.predict(trainer.eval_dataset).metrics["test_ndcg@10"] == trainer.state.best_metric


def test_auto_takes_the_best_share_on_validation_users(transfer_root, run, tmp_path):
    trainer, metrics = run("auto", interpolate="auto", metric_for_best_model="ndcg@10_seen_masked")
    (line,) = [line for line in trainer.state.log_history if "interpolation_share" in line]
    values = {share: line[f"interpolation_{share:g}"] for share in SHARES}
    assert len(set(values.values())) > 2
    assert values[1.0] == trainer.state.best_metric
    best = line["interpolation_share"]
    assert values[best] == max(values.values())
    assert best == max(share for share in SHARES if values[share] == values[best])
    # Each value is that of a run with this share.
    for share in (0.4, best):
        given, same = run(f"given-{share}", interpolate=str(share))
        measured = given.predict(given.eval_dataset).metrics["test_ndcg@10_seen_masked"]
        assert measured == pytest.approx(values[share], abs=1e-9)
    assert same == pytest.approx(metrics)
    card = (tmp_path / "auto" / "README.md").read_text()
    assert f"weights interpolated after training: {best:g} of the fine-tuned ones" in card
    assert "the share was chosen on validation" in card
    assert "| `interpolate` | `auto` |" in card
    assert json.loads((tmp_path / "auto" / "test_results.json").read_text())["interpolation_share"] == best


def test_of_equal_shares_the_one_nearest_to_the_fine_tuned_model(make_model):
    model = make_model()
    interpolator = WeightInterpolator(model)
    values = interpolator.choose([0.0, 0.5, 0.75, 1.0], iter([0.1, 0.2, 0.2, 0.1]).__next__)
    assert next(iter(values.items())) == (0.75, 0.2)


def test_frozen_weights_stay(make_model):
    model = make_model()
    model.freeze_sequence_encoder()
    interpolator = WeightInterpolator(model)
    frozen = model.sequence_encoder.position_embedding.weight
    with torch.no_grad():
        frozen.add_(1)
        model.adaptor.router.add_(1)
    expected, router = frozen.clone(), model.adaptor.router.clone()
    interpolator.choose([0.25], lambda: 0.0)
    assert torch.equal(frozen, expected)
    torch.testing.assert_close(model.adaptor.router, router - 0.75)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from-scratch"], "--interpolate keeps trained weights, and --from_scratch has none"),
        (["--lora", "sequence"], "--interpolate interpolates full weights, not adapters"),
        (["--hold_out", "false", "--num_train_epochs", "1"], "auto needs validation users: give a share"),
    ],
)
def test_refused_with_one_line(transfer_root, tmp_path, capsys, words, message):
    command = ["finetune", "--model", transfer_root / "pretrained", "--domain", transfer_root / "toys"]
    command += [
        "--setting",
        "inductive",
        "--output_dir",
        tmp_path / "run",
        "--use_cpu",
        "--interpolate",
        "auto",
        *words,
    ]
    assert main([str(word) for word in command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
