"""How commands end: which exceptions are told in one line, output that is lost, Ctrl-C, terminals of other code pages."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import polars as pl
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from unisrec import cli
from unisrec.commands import env


UNISREC = [sys.executable, "-m", "unisrec"]


@pytest.fixture
def verb(monkeypatch):
    """Makes `unisrec env` do something else, as if that stood in the code of the verb."""

    def put(body: str) -> None:
        namespace = {"__name__": "unisrec.commands.env", "torch": torch, "pl": pl, "json": json}
        exec(f"def run(args):\n    {body}\n", namespace)
        monkeypatch.setattr(env, "run", namespace["run"])

    return put


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('the file x.csv has no rows')", "the file x.csv has no rows"),
        ("raise KeyError('item id 7 is not in the catalogue')", "item id 7 is not in the catalogue"),
        ("raise OSError('the Hub cannot be\\n reached')", "the Hub cannot be reached"),
        ("open('none/at-all.txt')", "cannot access 'none/at-all.txt': No such file or directory"),
    ],
)
def test_what_our_code_says_is_told_as_it_is(verb, capsys, body, line):
    verb(body)
    assert cli.main(["env"]) == 2
    assert capsys.readouterr().err == f"unisrec env: error: {line}\n"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("{}['num_items']", "num_items (KeyError while"),
        ("raise KeyError('x')", "x (KeyError while"),
        ("torch.ones(2) @ torch.ones(3)", "(RuntimeError while"),
        ("torch.ones(10**16)", "(RuntimeError while"),
        ("raise NotImplementedError", "no message (NotImplementedError while"),
        ("pl.DataFrame({'a': [1]}).select('b')", "(ColumnNotFoundError of polars while"),
        ("json.loads('[' * 100000)", "(RecursionError of json while"),
        ("json.loads('{')", "(JSONDecodeError of json while"),
        ("json.dumps({1: {1, 2}})", "(TypeError of json while"),
        ("b'\\xff'.decode()", "(UnicodeDecodeError while"),
        ("'a' * 10**15", "(MemoryError while"),
        ("1 / 0", "division by zero (ZeroDivisionError while"),
        ("import no_such_package", "(ModuleNotFoundError while"),
    ],
)
def test_what_a_library_says_is_told_with_the_command(verb, capsys, body, line):
    verb(body)
    assert cli.main(["env"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("unisrec env: error: ")
    assert error.endswith(" while running `unisrec env`; UNISREC_DEBUG=1 shows where)\n")
    assert line in error


@pytest.mark.parametrize(
    "kind", [SafetensorError, StrictDataclassError, zipfile.BadZipFile, zlib.error, pl.exceptions.ComputeError]
)
def test_errors_of_libraries_are_told_by_the_message_of_their_cause(kind):
    def fail() -> None:
        try:
            raise RuntimeError("the header of model.safetensors is too short")
        except RuntimeError as error:
            raise kind("an error occurred") from error

    with pytest.raises(kind) as caught:
        fail()
    line = cli.explain(caught.value, ["unisrec", "env"])
    assert line.startswith("the header of model.safetensors is too short (RuntimeError of ")


@pytest.mark.parametrize("body", ["assert False", "None.name", "name", "[][1]", "'a' + 1", "next(iter(()))", "len(5)"])
def test_faults_of_ours_keep_their_traceback(verb, body):
    verb(body)
    with pytest.raises(cli.PROGRAMMING) as caught:
        cli.main(["env"])
    assert "please report it" in caught.value.__notes__[0]


def test_debugging_shows_the_traceback_too(verb, capsys, monkeypatch):
    monkeypatch.setenv("UNISREC_DEBUG", "1")
    verb("raise ValueError('the file x.csv has no rows')")
    assert cli.main(["env"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "unisrec env: error: the file x.csv has no rows"


@pytest.mark.parametrize(
    "words",
    [
        ["no-such"],
        ["env", "stray"],
        ["items"],
        ["prepare", "table", "--inter", "x"],
        ["evaluate"],
        ["plot", "pie\nchart"],
    ],
)
def test_bad_usage_is_one_line(words):
    done = subprocess.run([*UNISREC, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("unisrec")
    assert " --help" in done.stderr


@pytest.fixture
def without_torch(tmp_path):
    """Variables of processes that need not import torch for `unisrec env`: what counts is how they end."""
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = int\nget_num_threads = int\n")
    return os.environ | {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_not_bad_input(without_torch, unbuffered):
    environment = without_torch | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run([*UNISREC, "env"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("unisrec env: error: standard output cannot be written to (No space left on device)")
    assert done.stderr.count("\n") == 1
    assert unbuffered or "the work is done" in done.stderr


def test_a_reader_that_leaves_and_no_standard_output_at_all(without_torch):
    command, options = " ".join(UNISREC), {"shell": True, "capture_output": True, "env": without_torch}
    done = subprocess.run(f"{command} env | true; exit ${{PIPESTATUS[0]}}", executable="/bin/bash", **options)
    assert (done.returncode, done.stderr) == (141, b"")
    done = subprocess.run(f"{command} env >&-", **options)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def shop(tmp_path):
    """Tables of a shop with Japanese names, in the working folder of `prepare`."""
    rows = [f"u{user},i{(user + step) % 3},{step}" for user in range(9) for step in range(5)]
    (tmp_path / "clicks.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    (tmp_path / "items.csv").write_text("item_id,title\ni0,急須\ni1,湯呑み\ni2,Kanne\n")
    return tmp_path


PREPARE = "prepare table --interactions clicks.csv --items items.csv --user-k 1 --item-k 1".split()


def test_names_that_a_terminal_cannot_show_are_escaped(shop, monkeypatch):
    monkeypatch.chdir(shop)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main([*PREPARE, "--output", "店"]) == 0
    assert b"written to \\u5e97" in terminal.buffer.getvalue()
    assert (shop / "店" / "domain.json").is_file()


def test_a_full_disk_leaves_no_half_domain(shop):
    """Where not one byte can be written; less full ones are in the tests of `prepare`."""
    done = subprocess.run(
        [*UNISREC, *PREPARE, "--output", "shop"], capture_output=True, text=True, cwd=shop,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("unisrec prepare: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    # Python finds no folder for temporary files either.
    assert "too large" in done.stderr or "No usable temporary directory" in done.stderr
    assert sorted(path.name for path in shop.iterdir()) == ["clicks.csv", "items.csv"]


PRETRAIN = "pretrain --domains toys --output_dir out --use_cpu --model-config hidden_size=8 --max_steps 100000".split()
PRETRAIN += "--logging_steps 1 --disable_tqdm true --text-encoder".split()


def test_ctrl_c_while_it_loads_ends_with_130_and_one_line(tmp_path):
    with subprocess.Popen(
        [*UNISREC, *PRETRAIN, "encoder"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores Ctrl-C
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and "libtorch" not in maps.read_text():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "unisrec pretrain: interrupted"
    assert "Traceback" not in err


def test_ctrl_c_while_it_trains_ends_with_130_and_one_line(make_domain, text_encoder_dir, fork, tmp_path):
    make_domain("toys").save_to_disk(tmp_path / "toys")
    run = fork(*PRETRAIN, text_encoder_dir, cwd=tmp_path)
    while run.process.is_alive() and not (tmp_path / "out" / "log.jsonl").is_file():
        time.sleep(0.02)
    status, err = run.end(signal.SIGINT), run.err.read_text()
    assert status == 130, err
    assert err.splitlines()[-1] == "unisrec pretrain: interrupted"
    assert "Traceback" not in err
