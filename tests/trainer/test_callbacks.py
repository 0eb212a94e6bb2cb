"""What a long run shows: `log.jsonl` line by line, speed and memory in it, and the bar."""

import json
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState

from unisrec.cli import main
from unisrec.trainer.callbacks import SpeedMeter


@pytest.fixture(scope="module")
def domain_dir(tmp_path_factory, make_domain) -> Path:
    folder = tmp_path_factory.mktemp("log") / "toys"
    make_domain().save_to_disk(folder)
    return folder


@pytest.fixture
def pretrain(tmp_path, domain_dir, text_encoder_dir):
    def run(*words: object) -> list[dict[str, float]]:
        command = ["pretrain", "--domains", domain_dir, "--text-encoder", text_encoder_dir, "--use_cpu"]
        command += ["--model-config", "hidden_size=8", "num_experts=2", "--per_device_train_batch_size", 64]
        command += ["--output_dir", tmp_path / "run", "--logging_steps", 1, *words]
        assert main([str(word) for word in command]) == 0
        return [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]

    return run


def test_log_file_is_the_log_with_losses_speed_memory_and_metrics(pretrain, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lines = pretrain("--num_train_epochs", 2)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert lines == state["log_history"]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, state["max_steps"] + 1))
    for line in steps:
        both = line["sequence_item_loss"] + 1e-3 * line["sequence_sequence_loss"]
        assert line["loss"] == pytest.approx(both, rel=1e-4)
        assert line["targets_per_second"] > 0
        assert 0.01 < line["peak_memory_gb"] < 100
    assert len([line for line in lines if "eval_toys_ndcg@10" in line]) == 2
    bar = capsys.readouterr().err
    for shown in ("sequence_item_loss=", "sequence_sequence_loss=", "targets/s=", "memory=", "toys N@10="):
        assert shown in bar


def test_log_file_of_a_resumed_run_goes_on_at_the_checkpoint(pretrain, tmp_path, capsys):
    before = pretrain("--num_train_epochs", 2, "--disable_tqdm", "true")
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    with open(tmp_path / "run" / "log.jsonl", "a") as stream:
        stream.write('{"loss": 1.0, "step": 99}\n{"lo')  # after the checkpoint, and killed in the middle of a line
    capsys.readouterr()
    after = pretrain("--num_train_epochs", 3, "--resume_from_checkpoint", "true")
    output, errors = capsys.readouterr()
    assert "N@10" in output
    assert "%|" not in errors  # no bar where there is no terminal
    kept = json.loads((checkpoint.parent / "trainer_state.json").read_text())["log_history"]
    assert after == kept
    steps = [line["step"] for line in after if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    # All of the first run but the summary that it ended with, which came after its checkpoint.
    assert after[: len(before) - 1] == before[:-1]
    assert "train_runtime" in before[-1]


def test_speed_counts_targets_by_the_second_without_evaluations(monkeypatch):
    clock = iter([10.0, 12.0, 12.0, 50.0, 51.0, 51.0]).__next__
    monkeypatch.setattr("time.perf_counter", clock)
    meter, accelerator = SpeedMeter(), Accelerator(cpu=True)
    meter.add(60)  # at 10
    meter.add(40)
    assert meter.report(accelerator)["targets_per_second"] == 50  # at 12
    meter.add(1000)
    meter.on_evaluate(None, TrainerState(), TrainerControl())  # ends at 50, and what was under way is not counted
    meter.add(30)
    assert meter.report(accelerator)["targets_per_second"] == 30  # at 51
