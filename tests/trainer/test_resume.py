"""Runs that go on: from folders that were moved, copied or edited, and beside a process that writes into the same one."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from unisrec.cli import main
from unisrec.configuration import UniSRecConfig
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import UniSRecFinetuneArguments, build_finetune_trainer
from unisrec.trainer.checkpoint_folders import DRAFTS, find_damage, lock_run, unlock_run


STEPS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_domain) -> Path:
    """A domain with text vectors, and a model to start from."""
    root = tmp_path_factory.mktemp("resume")
    domain, rng = make_domain(), np.random.default_rng(0)
    vectors = {"item_embeddings": rng.standard_normal((domain.num_items, 16), dtype=np.float32)}
    dataclasses.replace(domain, given_features=vectors).save_to_disk(root / "toys")
    torch.manual_seed(0)
    config = UniSRecConfig(text_embedding_size=16, hidden_size=8, intermediate_size=12, num_experts=2)
    UniSRecModel(config).save_pretrained(root / "start")
    return root


def command(root: Path, output: str | Path, *words: object, steps: int = STEPS) -> list[str]:
    """A transfer whose first model is the best: the learning rate is far too high."""
    parts = ["finetune", "--model", root / "start", "--domain", root / "toys", "--setting", "transductive"]
    parts += ["--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", 32, "--learning_rate", 1.0]
    parts += ["--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2]
    parts += [
        "--freeze_sequence_encoder",
        "true",
        "--save_total_limit",
        3,
        "--early_stopping_patience",
        0,
        "--max_steps",
        steps,
        "--output_dir",
        output,
    ]
    return [str(word) for word in [*parts, *words]]


@pytest.fixture(scope="module")
def unbroken(root) -> Path:
    assert main(command(root, root / "unbroken")) == 0
    state = json.loads((root / "unbroken" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 2, "the test needs a first model that is the best"
    assert state["best_model_checkpoint"] == "checkpoint-2"
    return root / "unbroken"


@pytest.fixture(scope="module")
def stopped(root) -> Path:
    """A run of four steps of the six."""
    assert main(command(root, root / "stopped", steps=4)) == 0
    assert {path.name for path in (root / "stopped").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    return root / "stopped"


def assert_same(one: Path, other: Path) -> None:
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


# The best checkpoint, wherever its folder is


def moved(stopped: Path, place: Path) -> tuple[Path, str]:
    shutil.copytree(stopped, place / "copied")
    shutil.move(place / "copied", place / "moved")
    return place / "moved", str(place / "moved")


def linked(stopped: Path, place: Path) -> tuple[Path, str]:
    shutil.copytree(stopped, place / "run")
    (place / "link").symlink_to(place / "run")
    return place / "run", str(place / "link")


def relative(stopped: Path, place: Path) -> tuple[Path, str]:
    shutil.copytree(stopped, place / "run")
    os.chdir(place)
    return place / "run", "./run/"


def of_home(stopped: Path, place: Path) -> tuple[Path, str]:
    shutil.copytree(stopped, place / "run")
    os.environ["HOME"] = str(place)
    return place / "run", "~/run"


@pytest.mark.parametrize(
    ("spell", "resume"),
    [(moved, "true"), (linked, "folder"), (relative, "true"), (relative, "folder"), (of_home, "folder")],
)
def test_best_checkpoint_is_known_under_any_path(
    root, unbroken, stopped, spell, resume, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", os.environ["HOME"])
    folder, path = spell(stopped, tmp_path)
    assert (
        main(command(root, path, "--resume_from_checkpoint", "true" if resume == "true" else f"{path}/checkpoint-4"))
        == 0
    )
    assert "gone" not in caplog.text
    assert "exist" not in caplog.text
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    assert_same(folder, unbroken)
    assert "best by `ndcg@10` on validation, is kept" in (folder / "README.md").read_text()


def test_a_run_in_a_new_folder_takes_the_best_checkpoint_with_it(root, unbroken, stopped, tmp_path):
    start = shutil.copytree(stopped, tmp_path / "start")
    assert (
        main(
            command(
                root, tmp_path / "new", "--resume_from_checkpoint", start / "checkpoint-4", "--save_total_limit", 1
            )
        )
        == 0
    )
    assert_same(tmp_path / "new", unbroken)
    assert [path.name for path in (tmp_path / "new").glob("checkpoint-*")] == ["checkpoint-2"]
    assert find_damage(start / "checkpoint-2", contents=True) is None


def test_a_run_in_the_folder_of_another_is_refused(root, stopped, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert main(command(root, tmp_path / "other", "--resume_from_checkpoint", stopped / "checkpoint-4")) == 2
    assert "is not a checkpoint of it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_best_checkpoint_that_is_gone_is_said_and_stands_in_the_card(root, unbroken, stopped, tmp_path, caplog):
    folder = shutil.copytree(stopped, tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-2")
    assert main(command(root, folder, "--resume_from_checkpoint", "auto")) == 0  # it has ended
    assert main(command(root, folder, "--resume_from_checkpoint", "true")) == 0
    said = caplog.text
    assert said.count("checkpoint-2, the best checkpoint so far") == 1
    assert said.count("no checkpoint has the best model (step 2, ndcg@10 ") == 1
    assert_same(folder, folder / "checkpoint-6")
    card = (folder / "README.md").read_text()
    assert "the model of the last step is kept, since no checkpoint has the best one" in card
    assert "on validation, is kept" not in card


# Folders that somebody has edited


def change_state(**changes: object) -> Callable[[Path], None]:
    def edit(checkpoint: Path) -> None:
        file = checkpoint / "trainer_state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def without_field(name: str) -> Callable[[Path], None]:
    def edit(checkpoint: Path) -> None:
        file = checkpoint / "trainer_state.json"
        state = json.loads(file.read_text())
        del state[name]
        file.write_text(json.dumps(state))

    return edit


def change_callback(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(checkpoint: Path) -> None:
        file = checkpoint / "trainer_state.json"
        state = json.loads(file.read_text())
        state["stateful_callbacks"][name] = {"args": {}, "attributes": {}} | changes
        file.write_text(json.dumps(state))

    return edit


def change_torch(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(checkpoint: Path) -> None:
        saved = torch.load(checkpoint / name, weights_only=False)
        torch.save(change(saved) or saved, checkpoint / name)

    return edit


def change_moment(name: str, change: Callable[[torch.Tensor], object]) -> Callable[[Path], None]:
    def change_saved(saved: dict) -> None:
        state = saved["state"][max(saved["state"])]
        state[name] = change(state[name])

    return change_torch("optimizer.pt", change_saved)


def change_weights(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(checkpoint: Path) -> None:
        weights = load_file(checkpoint / "model.safetensors")
        change(weights)
        save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})

    return edit


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).write_bytes(content) and None


def delete(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: os.truncate(checkpoint / name, (checkpoint / name).stat().st_size // 2)


def with_first(weights: dict, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    name = sorted(weights)[0]
    weights[name] = change(weights[name]).contiguous()


FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")
EDITS = {f"{name}: {how.__name__}": how(name) for name in FILES for how in (delete, cut)}
EDITS |= {f"{name}: empty": write(name, b"") for name in (*FILES, "config.json")}
EDITS |= {f"{name}: noise": write(name, random.Random(name).randbytes(300)) for name in (*FILES, "config.json")}
EDITS |= {f"{name}: a list": write(name, b"[1, 2]") for name in ("trainer_state.json", "config.json")}
EDITS |= {
    f"state, {name}: {value!r}": change_state(**{name: value})
    for name, values in {
        "global_step": ("four", -1, 0, 3, 10**30, 4.5, None, True, float("nan")),
        "epoch": ("one", -1, float("nan"), [1]),
        "max_steps": ("six", None),
        "total_flos": ("many",),
        "best_metric": ("good", float("nan"), [0.1]),
        "best_global_step": ("two", 400, -2),
        "best_model_checkpoint": (2, "elsewhere", ["checkpoint-2"]),
        "train_batch_size": ("large", -3),
        "log_history": ("none", [1], [{"loss": "low", "step": 1}], [{"loss": 1.0}], None),
        "stateful_callbacks": ("none", None, []),
        "unknown_field": (1,),
    }.items()
    for value in values
}
EDITS |= {
    f"state without {name}": without_field(name) for name in ("global_step", "log_history", "best_metric", "epoch")
}
EDITS |= {
    "control of another form": change_callback("TrainerControl", args={"should_training_stop": "maybe"}),
    "control without arguments": change_callback("TrainerControl", args=None),
    "control with an argument more": change_callback("TrainerControl", args={"should_fly": True}),
    "optimizer: a number": change_torch("optimizer.pt", lambda saved: {"state": 1, "param_groups": saved["param_groups"]}),
    "optimizer: no groups": change_torch("optimizer.pt", lambda saved: {"state": saved["state"]}),
    "optimizer: no state": change_torch("optimizer.pt", lambda saved: {**saved, "state": {}}),
    "optimizer: one group": change_torch("optimizer.pt", lambda saved: {**saved, "param_groups": saved["param_groups"][:1]}),
    "optimizer: fewer weights": change_torch("optimizer.pt", lambda saved: saved["param_groups"][0]["params"].pop() and None),
    "optimizer: rate": change_torch("optimizer.pt", lambda saved: saved["param_groups"][0].update(lr="high")),
    "optimizer: rate NaN": change_torch("optimizer.pt", lambda saved: saved["param_groups"][0].update(lr=float("nan"))),
    "optimizer: no rate": change_torch("optimizer.pt", lambda saved: saved["param_groups"][0].pop("lr") and None),
    "optimizer: betas": change_torch("optimizer.pt", lambda saved: saved["param_groups"][0].update(betas=(0.9,))),
    "optimizer: strange key": change_torch("optimizer.pt", lambda saved: saved["state"].update({"a": {}})),
    "optimizer: entry of a weight": change_torch("optimizer.pt", lambda saved: saved["state"].update({0: 5})),
    "optimizer: no squares": change_torch("optimizer.pt", lambda saved: saved["state"][0].pop("exp_avg_sq") is None),
    "moment: longer": change_moment("exp_avg", lambda moment: torch.cat([moment, moment])),
    "moment: shorter": change_moment("exp_avg", lambda moment: moment[:1]),
    "moment: a scalar": change_moment("exp_avg_sq", lambda moment: moment.sum()),
    "moment: NaN": change_moment("exp_avg", lambda moment: moment * float("nan")),
    "moment: negative squares": change_moment("exp_avg_sq", lambda moment: -moment - 1),
    "moment: text": change_moment("exp_avg", lambda moment: "large"),
    "moment: steps": change_moment("step", lambda step: torch.tensor(float("nan"))),
    "moment: many steps": change_moment("step", lambda step: torch.ones(3)),
    "scheduler: steps": change_torch("scheduler.pt", lambda saved: saved.update(last_epoch="four")),
    "scheduler: negative steps": change_torch("scheduler.pt", lambda saved: saved.update(last_epoch=-4)),
    "scheduler: no rates": change_torch("scheduler.pt", lambda saved: saved.pop("base_lrs") and None),
    "scheduler: too many rates": change_torch("scheduler.pt", lambda saved: saved.update(base_lrs=[1.0] * 9)),
    "scheduler: rates are text": change_torch("scheduler.pt", lambda saved: saved.update(_last_lr=["low", "high"])),
    "generators: python": change_torch("rng_state.pth", lambda saved: saved.update(python=(3, (1, 2), None))),
    "generators: numpy": change_torch("rng_state.pth", lambda saved: saved.update(numpy="random")),
    "generators: torch": change_torch("rng_state.pth", lambda saved: saved.update(cpu=torch.ones(3, dtype=torch.uint8))),
    "generators: none of torch": change_torch("rng_state.pth", lambda saved: saved.pop("cpu") is None),
    "weights: one missing": change_weights(lambda weights: weights.pop(sorted(weights)[0])),
    "weights: one more": change_weights(lambda weights: weights.update(more=torch.ones(2))),
    "weights: another shape": change_weights(lambda weights: with_first(weights, lambda weight: weight[..., :-1])),
    "weights: NaN": change_weights(lambda weights: with_first(weights, lambda weight: weight * float("nan"))),
}  # fmt: skip


def seal(checkpoint: Path) -> None:
    """Writes `files.json` anew, as somebody would who wants the edit to go through."""
    files = [file for file in checkpoint.rglob("*") if file.is_file() and file.name != "files.json"]
    sizes = {file.relative_to(checkpoint).as_posix(): file.stat().st_size for file in files}
    (checkpoint / "files.json").write_text(json.dumps(sizes))


# Half a second each: a part of them, drawn with a seed, is always run.
SAMPLE = random.Random(0).sample(sorted(EDITS), 45)


@pytest.mark.parametrize(
    "name", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.rare) for name in sorted(EDITS)]
)
def test_an_edited_checkpoint_is_resumed_well_or_refused_in_one_line(root, unbroken, stopped, name, tmp_path, capfd):
    folder = shutil.copytree(stopped, tmp_path / "run")
    EDITS[name](folder / "checkpoint-4")
    seal(folder / "checkpoint-4")
    words = command(root, folder, "--resume_from_checkpoint", folder / "checkpoint-4")
    status = main(words)
    said = capfd.readouterr().err
    if status == 0:
        assert_same(folder, unbroken)
    else:
        assert status == 2
        assert len(said.splitlines()) == 1, said
        assert said.startswith("unisrec finetune: error: ")
        assert "resume from another" in said
        assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}


@pytest.mark.parametrize(
    "edit", [change_state(best_metric=0.5), change_moment("exp_avg", lambda moment: moment * 2), cut("optimizer.pt")]
)
def test_an_edit_that_nothing_else_shows_is_found_by_its_checksum(root, stopped, edit, tmp_path, capfd):
    folder = shutil.copytree(stopped, tmp_path / "run")
    edit(folder / "checkpoint-4")
    for resume in ("true", folder / "checkpoint-4"):
        if resume == "true" and find_damage(folder / "checkpoint-4") is not None:
            continue  # a checkpoint that was cut short is removed, and the one before it taken
        assert main(command(root, folder, "--resume_from_checkpoint", resume)) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "this checkpoint is incomplete" in line
        assert (folder / "checkpoint-4").is_dir()


# Two processes in one folder

HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from unisrec.trainer.checkpoint_folders import lock_run
lock_run(Path(sys.argv[1]))
context = multiprocessing.get_context("fork")
born = context.Event()
def work():
    born.set()  # by now filelock has let go of what the fork inherited
    time.sleep(3600)
worker = context.Process(target=work)
worker.start()
born.wait()
print(worker.pid, flush=True)
time.sleep(3600)
"""


@pytest.fixture
def hold(fork) -> Iterator[Callable[[Path], BaseProcess]]:
    """Starts a process that holds the lock of a folder of drafts, and has a child of its own as a data loader has."""
    processes = []

    def start(drafts: Path) -> BaseProcess:
        holder = fork(drafts, program=HOLD)
        holder.wait_for("\n", holder.out)
        processes.append(int(holder.out.read_text()))
        return holder.process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def test_a_lock_dies_with_its_process_though_its_children_live(hold, tmp_path):
    holder = hold(tmp_path)
    with pytest.raises(BlockingIOError, match=rf"another run is writing .* \(process {holder.pid} on"):
        lock_run(tmp_path)
    holder.kill()
    holder.join()
    lock_run(tmp_path)
    lock_run(tmp_path)  # this process has it already
    unlock_run(tmp_path)


def test_a_second_process_leaves_the_drafts_of_the_first_alone(root, unbroken, stopped, hold, tmp_path, capfd):
    folder = shutil.copytree(stopped, tmp_path / "run")
    draft = folder / DRAFTS / "checkpoint-6"
    draft.mkdir(parents=True)
    holder = hold(folder / DRAFTS)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    for resume in ("auto", "true", folder / "checkpoint-4"):
        assert main(command(root, f"{folder}/", "--resume_from_checkpoint", resume)) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"another run is writing into this output folder (process {holder.pid} on " in line
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    holder.kill()
    holder.join()
    assert main(command(root, folder, "--resume_from_checkpoint", "auto")) == 0
    assert_same(folder, unbroken)
    assert not (folder / DRAFTS).exists()


@pytest.mark.rare
def test_a_second_run_beside_a_live_one_is_refused(root, tmp_path, capfd):
    folder = tmp_path / "run"
    words = command(root, folder, "--resume_from_checkpoint", "auto", steps=20)
    first = subprocess.Popen([sys.executable, "-m", "unisrec", *words], stderr=subprocess.PIPE, text=True)
    try:
        while not list(folder.glob("checkpoint-*")) and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)  # it lives, and does not end before the second begins
        assert main(words) == 2
        assert f"(process {first.pid} on " in capfd.readouterr().err
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    finally:
        first.kill()
        first.wait()


def test_a_trainer_that_is_to_resume_finds_a_checkpoint_or_says_so(root, training_options, tmp_path):
    arguments = UniSRecFinetuneArguments(
        str(tmp_path / "run"), max_steps=1, load_best_model_at_end=False, **training_options
    )
    trainer = build_finetune_trainer(root / "start", root / "toys", "inductive", arguments)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.train().global_step == 1


def test_a_run_that_does_not_begin_leaves_nothing(root, tmp_path, capsys):
    assert main(command(root, tmp_path / "run", "--learning_rate", -1)) == 2
    assert "--learning_rate is -1.0, expected a number in [0, inf)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
