"""What all tests share: no network, an environment without the package, ports, processes that need not import, a Hub on this
machine; and fixtures.py."""

import contextlib
import gc
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import pytest
from packaging.requirements import Requirement


os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take more than ten seconds")
    parser.addoption("--rare", action="store_true", help="also run long tests of what other tests nearly cover")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # hands the tests to other processes, and need not import for ten seconds before
    gc.disable()  # until all is imported, see pytest_collection_finish
    spec = spec_from_file_location("unisrec_fixtures", Path(__file__).with_name("fixtures.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    config.pluginmanager.register(module, spec.name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "rare" in item.keywords and not config.getoption("--rare"):
            item.add_marker(pytest.mark.skip(reason="long, and nearly covered by others: run with --rare"))
    if config.getoption("--slow"):  # their files first, so that no process waits for the last of them at the end
        slow = {item.path for item in items if "slow" in item.keywords}
        items.sort(key=lambda item: item.path not in slow)
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes long: run with --slow"))


def pytest_collection_finish() -> None:
    # Modules and tests stay to the end: looking through them costs a second in each of many collections.
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def training_options() -> dict[str, object]:
    """Arguments of a small, silent run on the CPU that writes nothing unless told to."""
    return {
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": None,
    }


def _with_requirements(names: Sequence[str]) -> set[str]:
    """Distributions that an installation of `names` brings with it."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            requirements = [Requirement(line) for line in distribution(name).requires or []]
            todo += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="session")
def transfer_root(tmp_path_factory, make_domain, text_encoder_dir, training_options) -> Path:
    """A folder with the domain `toys`, and a small checkpoint `pretrained` on it."""
    from unisrec.trainer import UniSRecPretrainArguments, pretrain

    root = tmp_path_factory.mktemp("transfer")
    make_domain("toys").save_to_disk(root / "toys")
    args = UniSRecPretrainArguments(str(root / "pretrained"), num_train_epochs=1, **training_options)
    config = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 2}
    pretrain(str(text_encoder_dir), [root / "toys"], args, model_config=config)
    return root


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment with transformers, torch, safetensors, what they need, and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name in _with_requirements(["transformers", "torch", "safetensors"]):
        source = distribution(name)
        for entry in {file.parts[0] for file in source.files} - {"..", "__pycache__"}:
            if not (site_packages / entry).exists():
                (site_packages / entry).symlink_to(Path(source.locate_file(entry)).resolve())
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def find_port() -> Callable[[], int]:
    """Finds a port that nobody listens on, outside of those that the system gives to connections."""

    def find() -> int:
        while True:
            port = SystemRandom().randrange(20_000, 30_000)  # Python's own generator is seeded
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port

    return find


# Forks of a process that has imported the package and done nothing else: one of this would inherit the locks of its threads.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["unisrec.cli", "unisrec.fitting", "unisrec.recommender", "unisrec.trainer"])
IN_FORK = """
import os, signal, sys, tempfile
import torch
os.chdir(folder)
os.environ.update(variables)
tempfile.tempdir = None  # of the variables
for number, file in enumerate(files, 1):
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore Ctrl-C
torch.set_num_threads(1)
sys.argv = words
exec(program, {"__name__": "__main__"})
"""
MAIN = "import runpy; runpy.run_module('unisrec', run_name='__main__')"


class Fork(NamedTuple):
    """A program in a process of its own, and the files of what it prints and says on stderr."""

    process: multiprocessing.Process
    out: Path
    err: Path

    def wait_for(self, text: str, file: Path) -> None:
        """Waits until the program has written a text into one of its files."""
        while text not in file.read_text():
            assert self.process.is_alive(), self.err.read_text()
            time.sleep(0.005)

    def status(self) -> int:
        """Waits for the end: the exit status."""
        self.process.join()
        return self.process.exitcode

    def end(self, signal: int) -> int:
        """Sends a signal, and waits: the exit status."""
        os.kill(self.process.pid, signal)
        return self.status()


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Fork]]:
    """Starts `python -m unisrec WORDS`, or another program with arguments, without the seconds that imports take."""
    running = []

    def start(
        *words: object, program: str = MAIN, cwd: str | Path = ".", log: Path | None = None, **variables: object
    ) -> Fork:
        folder = tmp_path_factory.mktemp("fork")
        files = [log or folder / "out", log or folder / "err"]
        for file in files:
            file.touch()
        names = {
            "words": ["unisrec", *map(str, words)],
            "program": program,
            "folder": os.path.abspath(cwd),
            "files": files,
            "variables": {name: str(value) for name, value in variables.items()},
        }
        process = processes.Process(target=exec, args=(IN_FORK, names))
        process.start()
        running.append(process)
        return Fork(process, *files)

    yield start
    for process in running:
        process.kill()


COMMAND_LINE = """
import contextlib, io, json, os, sys, time
sys.argv[0] = "unisrec"
answers, slept, sleep = [], [], time.sleep
time.sleep = lambda seconds: (slept.append(seconds), sleep(seconds))[1]
from unisrec.cli import main
for words in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = words.pop(0)[len("HF_TOKEN=") :] if words[0].startswith("HF_TOKEN=") else "hf_shop"
    slept.clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    answers.append([status, out.getvalue(), err.getvalue(), sum(slept)])
print(json.dumps(answers))
"""


# Runs one program after the other, each in a fork.
PARENT = """
import json, os, sys, traceback
import unisrec.cli, unisrec.recommender, unisrec.trainer
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            exec(*json.loads(line))
            sys.stdout.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class LocalHub:
    """The stand-in for the Hub, see local_hub.py: its address, and the folder of a machine for caches."""

    def __init__(self, url: str, home: Path):
        self.url, self.home = url, home
        self._parent: subprocess.Popen | None = None

    def _get(self, path: str) -> bytes:
        request = Request(self.url + path, headers={"Authorization": "Bearer hf_shop"})
        return urlopen(request).read()

    def info(self, repo: str) -> dict[str, Any]:
        """What the Hub tells of a repository."""
        return json.loads(self._get(f"/api/models/{repo}"))

    def files(self, repo: str, revision: str = "main") -> set[str]:
        """Files of a repository."""
        entries = json.loads(self._get(f"/api/models/{repo}/tree/{revision}?recursive=true"))
        return {entry["path"] for entry in entries}

    def read(self, repo: str, file: str, revision: str = "main") -> bytes:
        """Content of a file."""
        return self._get(f"/{repo}/resolve/{revision}/{file}")

    def commits(self, repo: str, revision: str = "main") -> list[dict[str, str]]:
        """`id` and `title` of the commits of a branch, the latest first."""
        return json.loads(self._get(f"/api/models/{repo}/commits/{revision}"))

    def run(
        self,
        program: str,
        *arguments: object,
        home: Path | None = None,
        python: str | Path = sys.executable,
        **variables: str,
    ) -> Any:
        """Runs a program that has this Hub for the Hub; what it prints last is JSON. With `home`, a folder for caches, in a
        new interpreter; otherwise with the caches of `self.home`, in a fork that need not import the package."""
        if home is None:
            folder = Path(tempfile.mkdtemp(dir=self.home))
            files = [folder / "out", folder / "err"]
            names = {"words": ["-c", *map(str, arguments)], "program": program, "folder": folder, "files": files}
            code, out = self._fork(names | {"variables": variables}), files[0].read_text()
            err = files[1].read_text()
        else:
            done = subprocess.run(
                [python, "-c", program, *map(str, arguments)],
                capture_output=True,
                text=True,
                cwd=home,
                env=self._environment(home) | variables,
            )
            code, out, err = done.returncode, done.stdout, done.stderr
        assert code == 0, err
        return json.loads(out.splitlines()[-1])

    def _environment(self, home: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # the stand-in has no such storage
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "error:It seems that you are about to commit a data file",
        }

    def _fork(self, names: dict[str, Any]) -> int:
        if self._parent is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._parent = subprocess.Popen(
                [sys.executable, "-c", PARENT], env=self._environment(self.home), cwd=self.home, **pipes
            )
        print(json.dumps([IN_FORK, names], default=str), file=self._parent.stdin, flush=True)
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        """Ends the process that forks."""
        if self._parent is not None:
            self._parent.communicate()

    def verbs(self, *commands: Sequence[object], home: Path | None = None, **variables: str) -> list[list]:
        """Runs command lines in one process of `run`, as `shop` or with a `HF_TOKEN=...` in front: for each exit status, what was
        printed, what was said on stderr, and seconds slept."""
        words = [[str(word) for word in command] for command in commands]
        return self.run(COMMAND_LINE, json.dumps(words), home=home, **variables)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A Hub on this machine."""
    command = [sys.executable, Path(__file__).with_name("local_hub.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        hub = LocalHub(server.stdout.readline().strip(), tmp_path_factory.mktemp("machine"))
        yield hub
        hub.close()
        server.terminate()
