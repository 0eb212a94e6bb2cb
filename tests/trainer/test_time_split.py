"""Training for a time split: what it learns from, validates on, measures and records."""

import json

import numpy as np
import polars as pl
import pytest

from unisrec.cli import main
from unisrec.data import Domain, cut_at
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.trainer import UniSRecFinetuneArguments, finetune


@pytest.fixture(scope="module")
def shop(make_domain, tmp_path_factory):
    """Folder of a domain of the days 0 to 99."""
    rng, domain = np.random.default_rng(0), make_domain("shop", num_users=60)
    times = [sorted(rng.integers(100, size=length).tolist()) for length in np.diff(domain.offsets)]
    folder = tmp_path_factory.mktemp("time") / "shop"
    Domain("shop", domain.items, domain.sequences.with_columns(pl.Series("time", times))).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(shop, text_encoder_dir):
    """Checkpoint pre-trained by the command line on what lies before day 60."""
    words = ["pretrain", "--domains", shop, "--text_encoder", text_encoder_dir, "--split", "time:60", "--use_cpu"]
    words += ["--model_config", "hidden_size=8", "num_experts=2", "--num_train_epochs", 1, "--report_to", "none"]
    words += ["--output_dir", shop.parent / "pretrained", "--disable_tqdm", "true"]
    assert main([str(word) for word in words]) == 0
    return shop.parent / "pretrained"


def test_pretraining_ends_at_the_cut(shop, pretrained, capsys):
    (record,) = load_checkpoint(pretrained)[0].config.training_data
    assert (record["trained_on"], record["before"]) == ("before", 60)
    capsys.readouterr()
    words = ["evaluate", "--domain", str(shop), "--use-cpu", "--json", "--model", str(pretrained), "popularity"]
    assert main([*words, "--split", "time:60", "--k", "5"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["model"] for row in rows] == [f"{pretrained}, 0.5 text neighbours", "popularity"]
    assert rows[0]["users"] == rows[1]["users"] > 0
    assert rows[0]["cut"] == "60"
    assert main([*words, "--split", "time:50"]) == 2
    assert "interactions of 'shop' that are held out from 50 on" in capsys.readouterr().err
    assert main(words) == 2  # leave-one-out: many users ended before day 60
    assert "held out for validation and test" in capsys.readouterr().err


@pytest.mark.parametrize("setting", [pytest.param("inductive", marks=pytest.mark.rare), "transductive"])
def test_finetuning_measures_what_evaluate_measures(shop, pretrained, training_options, tmp_path, setting):
    options = training_options | {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), **options)
    result = finetune(pretrained, shop, setting, args, split="time:70")
    domain = cut_at(Domain.load_from_disk(shop), "time:70")
    learned = result.trainer.train_dataset
    start = np.sort(domain.times[domain.times < 70])[-int(np.ceil(0.1 * (domain.times < 70).sum()))]
    before = [int((np.array(times) < start).sum()) for times in domain.sequences["time"].to_list()]
    assert learned.num_targets.sum() == sum(max(length - 1, 0) for length in before)
    assert any("eval_ndcg@10" in line for line in result.trainer.state.log_history)
    found = evaluate(tmp_path / "run", shop, "time:70", use_cpu=True)
    assert result.metrics.keys() == {
        name for name in found if name.startswith(("recall", "ndcg", "mrr", "map", "hit"))
    }
    for name, value in result.metrics.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    card = (tmp_path / "run" / "README.md").read_text()
    assert "All interactions from 70 on are held out for test (split `time:70`)" in card
    assert "Split `time:70`: all that" in card
    assert "leave-one-out" not in card
    assert json.loads((tmp_path / "run" / "test_results.json").read_text())["split"] == "time:70"
    args = UniSRecFinetuneArguments(str(tmp_path / "other"), **options)
    with pytest.raises(ValueError, match="measured on the split time:70, this run is on leave-one-out"):
        finetune("unisrec-base", shop, setting, args, compare_with=tmp_path / "run")


def test_what_contradicts_a_time_split_is_refused(shop, pretrained, training_options, tmp_path):
    for options, split, message in (
        (
            {"hold_out": False, "num_train_epochs": 1},
            "time:60",
            "--hold_out false holds nothing out, and --split time:60 does",
        ),
        ({}, "time:300", "its times are from 0 to 99"),
        ({}, "test", "unknown split 'test', expected a date"),
        ({}, "time:50", "interactions of 'shop' that are held out from 50 on"),
    ):
        args = UniSRecFinetuneArguments(
            str(tmp_path / "run"),
            **(training_options | {"load_best_model_at_end": False, "early_stopping_patience": 0} | options),
        )
        with pytest.raises(ValueError, match=message):
            finetune(pretrained, shop, "inductive", args, split=split)
