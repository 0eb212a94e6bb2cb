"""What transformers asks of every model and processor: its own ModelTesterMixin and ProcessorTesterMixin.

They are part of the source distribution of transformers, which pip fetches; nothing of it is kept. `TRANSFORMERS_SDIST` names
a file that is there already.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest


# What the mixins import and the source distribution does not hold; none of it is used by the tests that run.
STUBS = {
    "tests/__init__.py": "",
    "tests/utils/__init__.py": "",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "tests/exporters/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "tests/generation/__init__.py": "",
    "tests/generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url): return url\n",
}


def pip(*words: object) -> None:
    """Runs pip, that of this environment or of the machine; skips where it cannot fetch."""
    command = [sys.executable, "-m", "pip"] if find_spec("pip") else [shutil.which("pip")]
    if command[0] is None:
        pytest.skip("there is no pip to fetch the tests of transformers with")
    options = ["--disable-pip-version-check", "--no-deps", "-q", "--retries", "0"]
    done = subprocess.run([*command, *map(str, words), *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot fetch the tests of transformers: {[*done.stderr.strip().splitlines(), ''][-1]}")


@pytest.fixture(scope="module")
def mixins(tmp_path_factory) -> Path:
    """A folder with the tests of the transformers that is installed, and ours on top of them."""
    folder, release = tmp_path_factory.mktemp("mixins"), version("transformers")
    archive = os.environ.get("TRANSFORMERS_SDIST")
    if archive is None:
        pip("download", "--no-binary", ":all:", "--no-build-isolation", "--dest", folder, f"transformers=={release}")
        archive = folder / f"transformers-{release}.tar.gz"
    if not find_spec("parameterized"):
        pip("install", "--target", folder, "parameterized")
    with tarfile.open(archive) as source:
        for member in source.getmembers():
            if re.fullmatch(r"[^/]+/tests/test_\w+_common\.py", member.name):
                member.name = f"tests/{Path(member.name).name}"
                source.extract(member, folder, filter="data")
    if not (folder / "tests" / "test_processing_common.py").is_file():
        pytest.skip(f"the source distribution of transformers {release} has no tests")
    for name, text in STUBS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(Path(__file__).parent / "mixins" / "unisrec_mixins.py", folder / "test_unisrec_mixins.py")
    return folder


@pytest.mark.rare
def test_no_mixin_test_fails_without_a_reason(mixins):
    environment = os.environ | {"PYTHONPATH": str(mixins), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "test_unisrec_mixins.py", "-q", "-rfEs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=mixins, env=environment, capture_output=True, text=True)
    summary = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, "\n".join(
        line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E "))
    )
    assert int(re.search(r"(\d+) passed", summary)[1]) > 200, summary
    for reason in (
        "not for us: gives the main input and a mask alone",
        "not for us: the losses are those of the trainers",
    ):
        assert reason in done.stdout
