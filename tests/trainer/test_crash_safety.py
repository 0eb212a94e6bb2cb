"""Runs that die: killed at any system call while saving, by SIGTERM, a full disk, a lost worker, a loss that is no number."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from unisrec.cli import main
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import UniSRecFinetuneTrainer, UniSRecTrainer
from unisrec.trainer.checkpoint_folders import DRAFTS, clear_drafts, find_damage, publish_checkpoint, publish_files


class Killed(BaseException):
    """What no `except Exception` sees, as nothing sees SIGKILL."""


class Countdown:
    """Kills at the n-th change of the file system."""

    CHANGES = ("os.remove", "os.rmdir", "os.rename", "os.mkdir", "open")

    def __init__(self):
        self.left: int | None = None

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.left is not None and event in self.CHANGES:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed


@pytest.fixture(scope="module")
def countdown() -> Countdown:
    hook = Countdown()
    sys.addaudithook(hook)  # for as long as the process lives: it sleeps but in these tests
    return hook


def write_folder(folder: Path, text: str) -> None:
    for name in ("config.json", "model.safetensors", "catalogue/items.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read_folder(folder: Path) -> set[str]:
    files = [file for file in folder.rglob("*") if file.is_file() and DRAFTS not in file.parts]
    return {file.read_text() for file in files if file.name != "files.json"}


def test_checkpoint_killed_at_any_change_of_a_file_leaves_a_complete_one(tmp_path, countdown):
    for moment in itertools.count():
        run = tmp_path / str(moment)
        write_folder(run / DRAFTS / "checkpoint-4", "old")
        publish_checkpoint(run / DRAFTS / "checkpoint-4", run / "checkpoint-4")
        write_folder(run / DRAFTS / "checkpoint-4", "new")
        countdown.left = moment
        try:
            publish_checkpoint(run / DRAFTS / "checkpoint-4", run / "checkpoint-4")
        except Killed:
            clear_drafts(run)
            assert find_damage(run / "checkpoint-4") is None
            assert read_folder(run) in ({"old"}, {"new"})
            assert not any((run / DRAFTS).iterdir())
        else:
            break
        finally:
            countdown.left = None
    assert moment > 10
    assert read_folder(run) == {"new"}


def test_model_killed_at_any_change_of_a_file_is_not_loadable_or_whole(tmp_path, countdown):
    for moment in itertools.count():
        run = tmp_path / str(moment)
        write_folder(run, "old")
        write_folder(run / DRAFTS / "run", "new")
        countdown.left = moment
        try:
            publish_files(run / DRAFTS / "run", run)
        except Killed:
            assert not (run / "config.json").exists() or read_folder(run) in ({"old"}, {"new"})
        else:
            break
        finally:
            countdown.left = None
    assert moment > 5
    assert read_folder(run) == {"new"}


@pytest.mark.parametrize("damage", ["shorter", "gone", "unsealed"])
def test_damaged_checkpoint_is_removed_and_said_in_one_line(tmp_path, damage):
    for step in (2, 10):
        write_folder(tmp_path / DRAFTS / f"checkpoint-{step}", "whole")
        publish_checkpoint(tmp_path / DRAFTS / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    broken = tmp_path / "checkpoint-10"
    if damage == "shorter":
        (broken / "model.safetensors").write_text("wh")
    elif damage == "gone":
        (broken / "catalogue" / "items.parquet").unlink()
    else:
        (broken / "files.json").unlink()
    (said,) = record_warnings(lambda: clear_drafts(tmp_path))
    assert "\n" not in said
    assert "checkpoint-10 was incomplete" in said
    assert "resumes from checkpoint-2." in said
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def record_warnings(call: Callable[[], None]) -> list[str]:
    """Warnings of ours, whose loggers do not hand them on to the root."""
    from unisrec.trainer.checkpoint_folders import logger

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "warning", lambda message, *values: said.append(message))
        call()
    return said


@pytest.fixture(scope="module")
def domain_dir(tmp_path_factory, make_domain) -> Path:
    """A domain with text vectors."""
    domain, rng = make_domain(), np.random.default_rng(0)
    vectors = {
        name: rng.standard_normal((domain.num_items, 16), dtype=np.float32)
        for name in ("item_embeddings", "word_drop_embeddings")
    }
    folder = tmp_path_factory.mktemp("domain") / "toys"
    dataclasses.replace(domain, given_features=vectors).save_to_disk(folder)
    return folder


class Fault(TrainerCallback):
    """Does something once, in the middle of a step."""

    def __init__(self, step: int, act: Callable[[], None]):
        self.step, self.act = step, act

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step and self.act is not None:
            act, self.act = self.act, None
            act()


class Runs:
    """Runs of the command line in this process, with faults."""

    unbroken: Path  # what a run ends with that nothing happens to
    an_epoch: int  # in steps

    def __init__(self, root: Path, domain: Path):
        self.root, self.domain = root, domain

    def __call__(self, name: str, *words: object, fault: Fault | None = None) -> int:
        command = ["pretrain", "--domains", self.domain, "--model-config", "hidden_size=8", "num_experts=2"]
        return self.run(*command, "--num_train_epochs", 3, "--output_dir", self.root / name, *words, fault=fault)

    def run(self, *words: object, fault: Fault | None = None) -> int:
        start = UniSRecTrainer.__init__

        def start_with_fault(trainer, *args, **kwargs):
            start(trainer, *args, **kwargs)
            if fault is not None:
                trainer.add_callback(fault)

        common = ["--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", 32, "--logging_steps", 1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(UniSRecTrainer, "__init__", start_with_fault)
            return main([str(word) for word in [words[0], *common, *words[1:]]])

    def checkpoints(self, name: str) -> list[int]:
        return sorted(int(path.name.split("-")[1]) for path in (self.root / name).glob("checkpoint-*"))

    def assert_same(self, one: Path, other: str) -> None:
        left, right = (load_file(folder / "model.safetensors") for folder in (one, self.root / other))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[weight], right[weight]) for weight in left)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, domain_dir) -> Path:
    runs = Runs(tmp_path_factory.mktemp("runs"), domain_dir)
    assert runs("unbroken") == 0
    return runs.root / "unbroken"


@pytest.fixture
def runs(tmp_path, domain_dir, unbroken) -> Runs:
    runs = Runs(tmp_path, domain_dir)
    runs.unbroken = unbroken
    (last,) = (int(path.name.split("-")[1]) for path in unbroken.glob("checkpoint-*"))
    runs.an_epoch = last // 3
    assert last % 3 == 0
    assert runs.an_epoch > 2
    return runs


AUTO = ("--resume_from_checkpoint", "auto")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_leaves_and_auto_goes_on_to_the_same_bits(runs, capsys):
    handler = signal.getsignal(signal.SIGTERM)
    an_epoch = runs.an_epoch
    # In the middle of the first epoch, at the last step of the second, and in the run that goes on.
    for step in (1, an_epoch + 1, 2 * an_epoch - 1):
        assert runs("stopped", *AUTO, fault=Fault(step, terminate)) == 143
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unisrec")]
        assert line.endswith(
            f"stopped by SIGTERM after step {step + 1}. Resume from {runs.root / 'stopped'}/checkpoint-{step + 1} with "
            "--resume_from_checkpoint auto."
        )
        assert runs.checkpoints("stopped") == [step + 1]
        assert not (runs.root / "stopped" / "config.json").exists()
        assert signal.getsignal(signal.SIGTERM) is handler
    assert runs("stopped", *AUTO) == 0
    runs.assert_same(runs.unbroken, "stopped")
    assert not (runs.root / "stopped" / DRAFTS).exists()
    UniSRecModel.from_pretrained(runs.root / "stopped")

    written = {file: file.stat().st_mtime_ns for file in (runs.root / "stopped").rglob("*")}
    capsys.readouterr()
    assert runs("stopped", *AUTO) == 0
    assert "this run has ended already" in capsys.readouterr().out
    assert written == {file: file.stat().st_mtime_ns for file in (runs.root / "stopped").rglob("*")}


def test_auto_starts_anew_after_a_death_before_the_first_checkpoint_but_not_in_a_folder_of_others(runs, capsys):
    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        runs("dead", fault=Fault(1, die))
    assert runs.checkpoints("dead") == []
    assert runs("dead", "--resume_from_checkpoint", "true") == 2
    assert "no checkpoint to resume from" in capsys.readouterr().err
    assert runs("dead", *AUTO) == 0
    runs.assert_same(runs.unbroken, "dead")

    other = runs.root / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert runs("other", *AUTO) == 2
    assert "neither empty nor that of a run" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_truncated_checkpoint_is_passed_over(runs, capsys):
    keep = ("--save_total_limit", 3)
    assert runs("stopped", *keep, fault=Fault(3 * runs.an_epoch - 2, terminate)) == 143
    _, second, third = runs.checkpoints("stopped")
    optimizer = runs.root / "stopped" / f"checkpoint-{third}" / "optimizer.pt"
    os.truncate(optimizer, optimizer.stat().st_size // 2)
    assert runs("stopped", "--resume_from_checkpoint", optimizer.parent) == 2
    assert "this checkpoint is incomplete (optimizer.pt has" in capsys.readouterr().err
    said = record_warnings(lambda: runs("stopped", *keep, *AUTO))
    assert len(said) == 1
    assert f"the run resumes from checkpoint-{second}." in said[0]
    runs.assert_same(runs.unbroken, "stopped")


def test_transfer_killed_after_early_stopping_ends_as_it_would_have(runs, monkeypatch):
    transfer = ["finetune", "--model", runs.unbroken, "--domain", runs.domain, "--setting", "transductive"]
    transfer += ["--num_train_epochs", 20, "--early_stopping_patience", 1, "--learning_rate", 0.05]
    assert runs.run(*transfer, "--output_dir", runs.root / "unbroken") == 0

    output = ("--output_dir", runs.root / "dead", *AUTO)
    for moment in ("_finalize_training", "predict", "save_model"):
        with monkeypatch.context() as patch:
            original = getattr(UniSRecFinetuneTrainer, moment)

            def die_outside(trainer, *args, _original=original, **kwargs):
                if getattr(trainer, "_drafting", False):  # a checkpoint is saved by the same method
                    return _original(trainer, *args, **kwargs)
                raise Killed

            patch.setattr(UniSRecFinetuneTrainer, moment, die_outside)
            with pytest.raises(Killed):
                runs.run(*transfer, *output)
    assert runs.run(*transfer, *output) == 0
    states = [json.loads((runs.root / name / "trainer_state.json").read_text()) for name in ("unbroken", "dead")]
    assert states[0]["global_step"] == states[1]["global_step"] < states[0]["max_steps"]
    runs.assert_same(runs.root / "unbroken", "dead")


def test_loss_that_is_no_number_keeps_the_checkpoint_before(runs, capsys):
    class Spoil(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == runs.an_epoch + 1:
                with torch.no_grad():
                    next(model.parameters()).fill_(float("nan"))

    # With a log line a hundred steps away, the checkpoint at the end of the epoch comes first.
    for logging_steps in (1, 100):
        name = f"run-{logging_steps}"
        assert runs(name, "--logging_steps", logging_steps, fault=Spoil()) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unisrec")]
        assert "not finite" in line or "the loss is nan" in line
        assert "--learning_rate" in line
        assert runs.checkpoints(name) == [runs.an_epoch]
        weights = load_file(runs.root / name / f"checkpoint-{runs.an_epoch}" / "model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_weights_that_are_no_numbers_are_not_saved_without_checkpoints_either(runs, capsys):
    class SpoilLastStep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == state.max_steps:
                with torch.no_grad():
                    next(model.parameters()).fill_(float("inf"))

    quiet = ("--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false")
    assert runs("spoilt", *quiet, fault=SpoilLastStep()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unisrec")]
    assert "a weight is not finite" in line
    assert not (runs.root / "spoilt" / "model.safetensors").exists()


def test_full_disk_is_one_line_and_the_next_start_goes_on(runs, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fill = Fault(runs.an_epoch, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard)))
    try:
        assert runs("full", fault=fill) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unisrec")]
    assert f"checkpoint-{2 * runs.an_epoch} could not be written" in line
    assert f"Resume from {runs.root / 'full'}/checkpoint-{runs.an_epoch} with --resume_from_checkpoint auto." in line
    assert runs.checkpoints("full") == [runs.an_epoch]
    assert runs("full", *AUTO) == 0
    runs.assert_same(runs.unbroken, "full")


def test_killed_worker_is_one_line_and_the_next_start_goes_on(runs, capsys):
    def kill_workers() -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()  # the signal of its death, which torch raises from, must not reach the next run

    workers = ("--dataloader_num_workers", 1, "--dataloader_prefetch_factor", 1)
    status = runs("lost", *workers, fault=Fault(runs.an_epoch, kill_workers))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unisrec")]
    assert status == 2
    assert "a worker of the data loader died" in line
    assert f"checkpoint-{runs.an_epoch} with --resume_from_checkpoint auto" in line
    assert runs("lost", *workers, *AUTO) == 0
    runs.assert_same(runs.unbroken, "lost")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_folder_that_cannot_be_written_to_is_refused_at_once(runs, capsys):
    (runs.root / "locked").mkdir(mode=0o500)
    assert runs("locked/run") == 2
    assert "cannot be written to; name another --output_dir." in capsys.readouterr().err


@pytest.mark.rare
@pytest.mark.parametrize("verbs", [(), ("--verbs",)])
def test_a_few_kills_lose_nothing(verbs):
    kills = 10 if verbs else 2
    command = [
        sys.executable,
        Path(__file__).parents[2] / "benchmarks" / "kill_test.py",
        "--kills",
        str(kills),
        *verbs,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [rf"all +{kills} +\d+ +\d+ +0"] if verbs else [f"kills +{kills}", "corrupt folders +0"]
    assert all(re.search(f"^{row}$", done.stdout, re.MULTILINE) for row in rows), done.stdout


@pytest.mark.rare
@pytest.mark.distributed
def test_two_processes_agree_on_the_step_after_sigterm(runs):
    train = ["pretrain", "--domains", runs.domain, "--use_cpu", "--num_train_epochs", 30, "--disable_tqdm", "true"]
    train += ["--model-config", "hidden_size=8", "num_experts=2", "hidden_dropout=0", "attention_dropout=0"]
    train += ["adaptor_dropout=0", "router_noise=null"]  # so that one process trains as two do
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2]
    launch += ["--main_process_port", 0, "-m", "unisrec", *train, "--per_device_train_batch_size", 32, *AUTO]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen:
        command = [str(word) for word in [*launch, "--output_dir", runs.root / "stopped"]]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    stopped = start()
    while not runs.checkpoints("stopped") and stopped.poll() is None:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)  # to the launcher, which hands it on
    _, said = stopped.communicate()
    (step,) = runs.checkpoints("stopped")
    assert said.count(f"stopped by SIGTERM after step {step}. Resume from") == 1, said
    assert not (runs.root / "stopped" / "config.json").exists()
    resumed = start()
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said

    one_process = [*train, "--per_device_train_batch_size", 64, "--output_dir", runs.root / "unbroken"]
    assert main([str(word) for word in one_process]) == 0
    left, right = (load_file(runs.root / name / "model.safetensors") for name in ("unbroken", "stopped"))
    assert left.keys() == right.keys()
    for name, weight in left.items():
        torch.testing.assert_close(
            weight, right[name], rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
