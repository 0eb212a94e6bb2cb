"""`accelerate launch` itself: the packaged configurations, several processes against one, and forms that start less."""

import json
import os
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.numpy import load_file
from transformers import TrainingArguments

from unisrec.cli import main
from unisrec.commands.env import ACCELERATE_CONFIGS
from unisrec.evaluation import launch
from unisrec.evaluation.launch import check_launch
from unisrec.trainer import UniSRecPretrainArguments


OPTIONS = ["--report_to", "none", "--disable_tqdm", "true", "--logging_steps", "1"]
NO_DROPOUT = ["hidden_dropout=0", "attention_dropout=0", "adaptor_dropout=0", "router_noise=null"]


def run(*words: object, launcher: tuple[object, ...]) -> subprocess.CompletedProcess:
    """The command line behind a launcher's module and options."""
    command = [sys.executable, "-m", *launcher, "-m", "unisrec", *words]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)


def accelerate(*options: object) -> tuple[object, ...]:
    return ("accelerate.commands.launch", *options)


# The packaged configurations


@pytest.mark.parametrize("path", sorted(ACCELERATE_CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configuration_is_one_of_accelerate_and_says_how_to_launch(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == {"single_gpu": 1, "multi_node": 16}.get(path.stem, 2)
    assert config.num_machines == (2 if path.stem == "multi_node" else 1)
    distributed = {"single_gpu": "NO", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED"}
    assert config.distributed_type == distributed.get(path.stem, "MULTI_GPU")
    comments = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    assert any(line.startswith(f"# accelerate launch --config_file {path.name} ") for line in comments)
    assert any("-m unisrec pretrain" in line for line in comments)


def test_all_configurations_are_there_and_env_says_where(capsys):
    names = {"cpu", "deepspeed_zero2", "fsdp2", "multi_gpu", "multi_node", "single_gpu"}
    assert {path.stem for path in ACCELERATE_CONFIGS.glob("*.yaml")} == names
    assert main(["env"]) == 0
    assert re.search(rf"accelerate configs +{re.escape(str(ACCELERATE_CONFIGS))}\n", capsys.readouterr().out)


# Who is told


def environment(monkeypatch, **variables):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "world_size"),
    [
        ({}, 1),  # python -m unisrec
        ({"ACCELERATE_USE_CPU": "False"}, 1),  # accelerate launch -m unisrec
        ({"ACCELERATE_USE_CPU": "true"}, 1),  # accelerate launch --cpu -m unisrec
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}, 1),  # torchrun of one process
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, 2),  # processes that found each other
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}, 1),  # a cluster's variables, before any launcher
    ],
)
def test_right_forms_are_let_pass_in_silence(monkeypatch, caplog, variables, world_size):
    environment(monkeypatch, **variables)
    check_launch(world_size)
    assert not caplog.records


def test_one_process_where_two_were_asked_for_is_warned_of(monkeypatch):
    said = []
    monkeypatch.setattr(launch.logger, "warning_once", said.append)
    environment(
        monkeypatch, ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1"
    )  # accelerate launch --cpu --num_processes 2
    check_launch(1)
    (line,) = said
    assert "was asked for several processes and started one" in line
    assert "--multi_gpu" in line


def test_two_processes_that_are_alone_are_refused(monkeypatch):
    environment(monkeypatch, LOCAL_RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    with pytest.raises(ValueError, match="2 processes were started and each would train alone") as error:
        check_launch(1)
    assert "\n" not in str(error.value)


def test_several_gpus_without_a_launcher_are_one(monkeypatch, tmp_path):
    setup = TrainingArguments._setup_devices.func

    def two_gpus(self):
        device = setup(self)
        self._n_gpu = 2
        return device

    described = cached_property(two_gpus)
    described.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", described)
    assert TrainingArguments(output_dir=str(tmp_path), use_cpu=True).n_gpu == 2
    assert UniSRecPretrainArguments(output_dir=str(tmp_path), use_cpu=True).n_gpu == 1


def test_cached_batches_are_refused_with_fsdp(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    UniSRecPretrainArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="--cache_chunk_size cannot be used with FSDP"):
        UniSRecPretrainArguments(output_dir=str(tmp_path), use_cpu=True, cache_chunk_size=64)


# The launchers themselves


@pytest.fixture(scope="module")
def domains(tmp_path_factory, make_domain):
    root = tmp_path_factory.mktemp("domains")
    for name, seed in (("toys", 0), ("books", 1)):
        make_domain(name, seed=seed).save_to_disk(root / name)
    return root


@pytest.mark.rare
@pytest.mark.distributed
def test_processes_that_do_not_find_each_other_end_with_one_line_and_status_2(domains, text_encoder_dir, tmp_path):
    done = run(
        *("pretrain", "--domains", domains / "toys", "--text-encoder", text_encoder_dir),
        *("--output_dir", tmp_path / "run", *OPTIONS),
        launcher=accelerate("--multi_gpu", "--num_processes", 2, "--main_process_port", 0),
    )
    assert done.returncode != 0
    # Both processes write to one stderr, so what they say may stand in one line.
    said = [part.partition("\n")[0] for part in done.stderr.split("unisrec pretrain: error: ")[1:]]
    line = min(said, key=len)
    assert all(other.startswith(line) for other in said)
    assert "2 processes were started and each would train alone" in line
    assert "--use_cpu" in line
    assert re.search(r"exitcode\s*: 2\b", done.stderr)  # of ours; the launcher's own is always 1
    assert not (tmp_path / "run").exists()
    assert not (domains / "toys" / "text_features").exists()


@pytest.mark.rare
@pytest.mark.distributed
def test_one_process_where_two_were_asked_for_is_said_in_one_line(tmp_path):
    words = ("pretrain", "--domains", tmp_path / "absent", "--output_dir", tmp_path / "run", *OPTIONS)
    done = run(*words, launcher=accelerate("--cpu", "--num_processes", 2))
    said = [line for line in done.stderr.splitlines() if "was asked for several processes and started one" in line]
    assert len(said) == 1
    assert "--multi_gpu" in said[0]
    assert "no such folder" in done.stderr


def logged(folder: Path) -> tuple[list[float], dict[str, float]]:
    """All losses and the last value of each metric."""
    lines = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    tests = folder / "test_results.json"
    lines += [json.loads(tests.read_text())] if tests.exists() else []
    metrics = {name: value for line in lines for name, value in line.items() if "@" in name}
    return [line["loss"] for line in lines if "loss" in line], metrics


@pytest.mark.distributed
@pytest.mark.parametrize(
    "verb", [pytest.param("pretrain", marks=pytest.mark.rare), pytest.param("finetune", marks=pytest.mark.slow)]
)
def test_two_processes_end_as_one_with_the_joined_batch(domains, text_encoder_dir, verb, tmp_path):
    """Pre-training by the launcher's options, transfer by our configuration. Adam in float32 without dropout: losses to
    1e-5, weights to 1e-4, every metric equal."""
    pretrain = ["pretrain", "--domains", domains / "toys", domains / "books", "--text-encoder", text_encoder_dir]
    pretrain += ["--text-pooling", "mean", "--model-config", "hidden_size=8", *NO_DROPOUT, *OPTIONS, "--use_cpu"]
    pretrain += ["--domain_sampling", "uniform"]
    if verb == "pretrain":
        words, launcher = pretrain, accelerate("--multi_gpu", "--num_processes", 2, "--main_process_port", 0)
    else:
        begin = [*pretrain, "--num_train_epochs", 1, "--output_dir", tmp_path / "pretrained"]
        assert main([str(word) for word in begin]) == 0
        words = ["finetune", "--model", tmp_path / "pretrained", "--domain", domains / "books", *OPTIONS, "--use_cpu"]
        words += ["--setting", "transductive"]
        launcher = accelerate("--config_file", ACCELERATE_CONFIGS / "cpu.yaml")
    words = [*words, "--learning_rate", 0.01, "--num_train_epochs", 3, "--seed", 3]
    alone = [*words, "--per_device_train_batch_size", 64, "--output_dir", tmp_path / "one"]
    assert main([str(word) for word in alone]) == 0
    both = [*words, "--per_device_train_batch_size", 32, "--output_dir", tmp_path / "two"]
    done = run(*both, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "started" not in done.stderr
    assert done.stdout.count("checkpoint: ") == 1
    (losses, metrics), (expected_losses, expected) = (logged(tmp_path / number) for number in ("two", "one"))
    assert len(expected_losses) >= 6
    assert losses == pytest.approx(expected_losses, abs=1e-5)
    assert len(expected) >= 8
    assert metrics == pytest.approx(expected, abs=1e-7)
    weights = load_file(tmp_path / "two" / "model.safetensors")
    for name, values in load_file(tmp_path / "one" / "model.safetensors").items():
        assert weights.pop(name) == pytest.approx(values, abs=1e-4), name
    assert not weights
