"""The grid runner on tiny data: rows, a second start that trains nothing, a bad grid."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisrec.trainer import UniSRecPretrainArguments, pretrain


REPRODUCE = Path(__file__).parents[1] / "benchmarks" / "reproduce.py"
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
"""


@pytest.fixture
def run(make_domain, text_encoder_dir, training_options, tmp_path):
    make_domain("toys", num_users=30, num_items=25).save_to_disk(tmp_path / "toys")
    arguments = UniSRecPretrainArguments(
        str(tmp_path / "pretrained"), num_train_epochs=1, item_drop_probability=1.0, **training_options
    )
    pretrain([tmp_path / "toys"], str(text_encoder_dir), arguments, "mean", {"hidden_size": 8, "num_experts": 2})

    def run(grid: str) -> subprocess.CompletedProcess:
        (tmp_path / "grid.yaml").write_text(grid)
        command = [sys.executable, REPRODUCE, "grid.yaml", "--domain", "toys", "--pretrained", "pretrained"]
        command += ["--output", "runs", "--report", "report.md"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return run


def test_grid_is_run_once_and_reported(run, tmp_path):
    done = run(GRID)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report.md").read_text()
    assert report.count("\n| SASRec | 2 |") == 2
    assert "| .5000 / .2500 |" in report
    assert (tmp_path / "report.png").stat().st_size > 5000
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("sasrec-*/grid.json")}
    assert len(results) == 2
    assert run(GRID).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert (tmp_path / "report.md").read_text() == report

    done = run(GRID.replace("text-neighbours", "oracle"))
    assert done.returncode == 2
    assert "baseline 'oracle': expected random, popularity, text-neighbours or zero-shot." in done.stderr
