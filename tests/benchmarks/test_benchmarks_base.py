"""`benchmarks/base.py` on tiny tables: domains, checkpoint with and without text encoder, a second start."""

import runpy
import sys
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import UniSRecPretrainArguments


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Done(NamedTuple):
    """How a start of the script ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def start(make_domain, text_encoder_dir, tmp_path, monkeypatch, capfd):
    """Starts the script on the tables of three domains, of which the third is left out of the training."""
    for seed, name in enumerate(("toys", "tools", "shop")):
        domain = make_domain(name, num_users=30, num_items=25, seed=seed)
        folder = tmp_path / "raw data" / "domains" / name
        folder.mkdir(parents=True)
        domain.items.rename({"text": "title"}).write_parquet(folder / "items.parquet")
        rows = domain.sequences.explode("item_index").select(
            "user_id",
            item_id=name + "-" + pl.col("item_index").cast(pl.String),
            timestamp=pl.int_range(pl.len()).over("user_id"),
        )
        rows.write_parquet(folder / "interactions.parquet")
    recipe = yaml.safe_load((BENCHMARKS / "base.yaml").read_text())
    table = "table {tables} --user-k 1 --item-k 1"
    recipe |= {
        "domains": {"toys": table, "tools": table},
        "zero_shot_domain": {"shop": table},
        "averaged_checkpoints": 2,
    }
    recipe["pretrain"] |= {
        "text_encoder": str(text_encoder_dir),
        "model_config": ["hidden_size=8", "num_experts=2", "hidden_dropout=0"],
        "max_steps": 4,
        "eval_steps": 2,
        "save_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    monkeypatch.chdir(tmp_path)

    def start(*words: str) -> Done:
        command = ["base.py", "--raw", "raw data", "--output", "out", "--recipe", "recipe.yaml", *words]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(BENCHMARKS / "base.py"), run_name="__main__")
        return Done(stop.value.code, *capfd.readouterr())

    return start


@pytest.mark.slow
def test_it_prepares_pretrains_and_goes_on(start, tmp_path):
    done = start("--learning_rat", "1")
    assert done.returncode == 2
    assert "did you mean --learning_rate?" in done.stderr
    done = start("--num_negatives", "9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'eval_ndcg@10_seen_masked'") == 2
    out = tmp_path / "out"
    assert {folder.name for folder in (out / "domains").iterdir()} == {"toys", "tools", "shop"}
    card = (out / "pretrained" / "README.md").read_text()
    assert "validated zero-shot on shop, which was not trained on" in card
    assert "| `num_negatives` | `9` |" in card
    whole, bare = (UniSRecModel.from_pretrained(out / name) for name in ("averaged", "unisrec-base"))
    assert whole.text_encoder is not None
    assert bare.text_encoder is None
    assert bare.config.text_config is None
    first, second = (load_file(out / "pretrained" / f"checkpoint-{step}" / "model.safetensors") for step in (2, 4))
    for name, weight in bare.state_dict().items():
        assert weight.dtype is torch.float32
        assert torch.equal(weight, whole.state_dict()[name].bfloat16().float())
        torch.testing.assert_close(whole.state_dict()[name], (first[name] + second[name]) / 2)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert "validation N@10 on shop" in done.stdout
    again = start()
    assert again.returncode == 0, again.stderr
    assert "this run has ended already" in again.stdout
    assert {record["domain"] for record in bare.config.training_data} == {"toys", "tools"}
    without = start("--without", "toys", "--max_steps", "2")
    assert without.returncode == 0, without.stderr
    model = UniSRecModel.from_pretrained(out / "without-toys" / "unisrec-base")
    assert [record["domain"] for record in model.config.training_data] == ["tools"]


def test_a_domain_to_leave_out_is_one_of_the_recipe(start):
    done = start("--without", "games")
    assert done.returncode == 2
    assert "--without is 'games', expected one of tools, toys." in done.stderr


def test_the_recipe_names_arguments_that_exist():
    recipe = yaml.safe_load((BENCHMARKS / "base.yaml").read_text())
    known = {each.name for each in fields(UniSRecPretrainArguments)} | {"text_encoder", "text_pooling", "model_config"}
    assert set(recipe["pretrain"]) <= known
    assert len(recipe["domains"]) == 15
    assert not set(recipe["domains"]) & set(recipe["zero_shot_domain"])
