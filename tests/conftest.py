"""What all tests share: no network, an environment without the package, ports, a Hub on this machine; and fixtures.py."""

import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
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


class LocalHub(NamedTuple):
    """The stand-in for the Hub, see local_hub.py."""

    url: str

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

    def run(self, program: str, *arguments: object, home: Path, python: str | Path = sys.executable, **variables: str):
        """Runs a program that has this Hub for the Hub and `home` for its cache; what it prints last is JSON."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # the stand-in has no such storage
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        done = subprocess.run(
            [python, "-c", program, *map(str, arguments)], capture_output=True, text=True, cwd=home, env=environment
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def verbs(self, *commands: Sequence[object], home: Path, **variables: str) -> list[list]:
        """Runs command lines in one process, as `shop` or with a `HF_TOKEN=...` in front: for each exit status, what was
        printed, what was said on stderr, and seconds slept."""
        words = [[str(word) for word in command] for command in commands]
        return self.run(COMMAND_LINE, json.dumps(words), home=home, **variables)


@pytest.fixture(scope="session")
def hub() -> Iterator[LocalHub]:
    """A Hub on this machine."""
    command = [sys.executable, Path(__file__).with_name("local_hub.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield LocalHub(server.stdout.readline().strip())
        server.terminate()
