"""The runners of grids, trials and few-shot curves on tiny data: rows, a second start that trains nothing, bad files."""

import dataclasses
import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

import unisrec.trainer
from unisrec.data import Domain
from unisrec.trainer import UniSRecFinetuneArguments, UniSRecPretrainArguments, pretrain


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def cell(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}".replace("0.", ".")


GRID = """\
title: Toys
seeds: [1, 2]
rows:
  popularity: {baseline: popularity}
  text neighbours: {baseline: text-neighbours}
  SASRec:
    setting: transductive
    from_scratch: true
    config: paper
    model_config: {item_text: false, similarity: dot}
    arguments: {num_train_epochs: 1, use_cpu: true, disable_tqdm: true}
    reported: {recall@10: 0.5, ndcg@10: 0.25}
  SASRec, further:
    setting: transductive
    model: runs/sasrec-{seed}
    arguments: {num_train_epochs: 1, use_cpu: true, disable_tqdm: true}
"""


class Done(NamedTuple):
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def start(make_domain, text_encoder_dir, training_options, tmp_path, monkeypatch, capfd):
    """Runs a script of benchmarks/ beside a domain and a checkpoint that was pre-trained on it."""
    make_domain("toys", num_users=30, num_items=25).save_to_disk(tmp_path / "toys")
    arguments = UniSRecPretrainArguments(
        str(tmp_path / "pretrained"), num_train_epochs=1, item_drop_probability=1.0, **training_options
    )
    # With dropout, all eight numbers of a state may be gone, and the gradient of its normalisation is infinite.
    settings = {"hidden_size": 8, "num_experts": 2, "hidden_dropout": 0.0}
    pretrain(str(text_encoder_dir), [tmp_path / "toys"], arguments, text_pooling="mean", model_config=settings)

    outputs = ("--pretrained", "pretrained", "--output", "runs", "--report", "report.md")

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(BENCHMARKS)

    def start(script: str, *options: str, outputs: Sequence[str] = outputs) -> Done:
        monkeypatch.setattr(sys, "argv", [script, *options, "--domain", "toys", *outputs])
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        return Done(status, *capfd.readouterr())

    return start


@pytest.fixture
def run(start, tmp_path):
    def run(grid: str) -> Done:
        (tmp_path / "grid.yaml").write_text(grid)
        return start("reproduce.py", "grid.yaml")

    return run


def test_grid_is_run_once_and_reported(run, tmp_path):
    done = run(GRID)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report.md").read_text()
    assert report.count("\n| SASRec | 2 |") == 2
    assert "| .5000 / .2500 |" in report
    assert (tmp_path / "report.png").stat().st_size > 5000
    assert report.count("\n| SASRec, further | 2 |") == 2
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("sasrec-*/grid.json")}
    assert len(results) == 4
    assert run(GRID).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert (tmp_path / "report.md").read_text() == report

    done = run(GRID.replace("text-neighbours", "oracle"))
    assert done.returncode == 2
    assert "baseline 'oracle': expected random, popularity, text-neighbours or zero-shot." in done.stderr


MODELS = """\
title: Toys, two models
seeds: [1, 2]
rows:
  ids: {setting: transductive, from_scratch: true, arguments: &short {num_train_epochs: 1, use_cpu: true, disable_tqdm: true}}
  texts: {setting: inductive, from_scratch: true, arguments: *short}
"""


def test_mean_of_models_ranks_by_the_mean_score(run, start, tmp_path):
    assert run(MODELS).returncode == 0

    def mean(*models: str, seeds: Sequence[str] = ("1", "2")) -> Done:
        return start("mean_of_models.py", "--models", *models, "--seeds", *seeds, outputs=())

    # The mean of a model with itself is the model.
    grid = [json.loads((tmp_path / "runs" / f"ids-{seed}" / "grid.json").read_text()) for seed in (1, 2)]
    alone = mean("runs/ids-{seed}", "runs/ids-{seed}")
    assert alone.returncode == 0, alone.stderr
    for protocol, suffix in {"kept": "", "masked": "_seen_masked"}.items():
        columns = (f"{name}{suffix}" for name in ("recall@10", "ndcg@10", "recall@50", "ndcg@50"))
        cells = [cell([metrics[column] for metrics in grid]) for column in columns]
        assert f"| seen items {protocol} | {' | '.join(cells)} |" in alone.stdout
    both = mean("runs/ids-{seed}", "runs/texts-{seed}")
    assert both.returncode == 0, both.stderr
    assert both.stdout != alone.stdout

    done = mean("runs/ids-1", "pretrained")
    assert done.returncode == 2
    assert "mean_of_models: error: pretrained: its catalogue is not that of toys" in done.stderr


def test_few_shot_trains_on_a_share_of_the_users_and_ranks_all(start, tmp_path, monkeypatch):
    short = partial(UniSRecFinetuneArguments, num_train_epochs=1)  # the script trains until nothing improves
    monkeypatch.setattr(unisrec.trainer, "UniSRecFinetuneArguments", short)
    done = start("few_shot.py", "--shares", "0.4", "1", "--seeds", "1", "2")
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report.md").read_text()
    assert report.count("| 12 | ") == report.count("| 30 | ") == 6
    starts = ("from scratch,", "from scratch, settings of the checkpoint,", "pre-trained,")
    assert [report.count(f"| {each}") for each in starts] == [8, 4, 4]
    few = [Domain.load_from_disk(tmp_path / "runs" / f"0.4-seed-{seed}" / "domain") for seed in (1, 2)]
    whole = Domain.load_from_disk(tmp_path / "toys")
    assert [domain.num_users for domain in few] == [12, 12]
    assert few[0].items.equals(whole.items)
    assert few[0].sequences["user_id"].to_list() != few[1].sequences["user_id"].to_list()
    assert few[0].sequences.join(whole.sequences, on="user_id").height == 12
    # Nothing is trained a second time.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/few_shot.json")}
    assert len(times) == 12
    assert start("few_shot.py", "--shares", "0.4", "1", "--seeds", "1", "2").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (tmp_path / "report.md").read_text() == report


TRIALS = """\
title: Toys, trials
seeds: [1, 2]
base:
  setting: transductive
  from_scratch: true
  arguments: {num_train_epochs: 2, use_cpu: true, disable_tqdm: true}
trials:
  dot: {model_config: {similarity: dot}}
"""


def test_trials_are_logged_once_and_never_see_the_test_split(start, tmp_path):
    def trials(text: str) -> list[dict]:
        (tmp_path / "trials.yaml").write_text(text)
        done = start("tune.py", "trials.yaml")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in (tmp_path / "runs" / "trials.jsonl").read_text().splitlines()]

    lines = trials(TRIALS)
    assert [(line["name"], line["seed"]) for line in lines] == [("base", 1), ("base", 2), ("dot", 1), ("dot", 2)]
    assert all(len(line["epochs"]) == 2 for line in lines)
    assert "| dot | 2 |" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "runs" / "run").exists()
    # What differs is run, and nothing else.
    assert trials(TRIALS.replace("similarity: dot", "temperature: 0.1"))[:-2] == lines

    # With other test items it is the same domain to the trials: all anew, and to the same numbers.
    domain = Domain.load_from_disk(tmp_path / "toys")
    histories = [
        [*items[:-1], (items[-1] + 7) % domain.num_items] for items in domain.sequences["item_index"].to_list()
    ]
    sequences = domain.sequences.with_columns(item_index=pl.Series(histories, dtype=pl.List(pl.UInt32)))
    shutil.rmtree(tmp_path / "toys")
    dataclasses.replace(domain, sequences=sequences).save_to_disk(tmp_path / "toys")
    (tmp_path / "runs" / "trials.jsonl").unlink()
    again = trials(TRIALS)
    assert [line["epochs"] for line in again] == [line["epochs"] for line in lines]

    (tmp_path / "trials.yaml").write_text("title: nothing to try")
    done = start("tune.py", "trials.yaml")
    assert done.returncode == 2
    assert "tune: error: trials.yaml lacks base, seeds, trials" in done.stderr
