"""The wheel, installed in a clean environment and run outside of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from unisrec import Recommender
from unisrec.modeling_unisrec.hub import RELEASED


ROOT = Path(__file__).parents[2]
PRODUCTS = ROOT / "examples" / "products.csv"
COLUMNS = ["title", "brand"]


def test_the_image_gets_what_is_installed_and_nothing_else():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    folders = setup["options"]["package_dir"].split("\n")[1:]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {folder.split(" = ")[1].split("/")[0] for folder in folders} | {
        *("LICENSE", "README.md", "model_card.md", "pyproject.toml", "setup.cfg")
    }
    links = [path for name in allowed for path in (ROOT / name).rglob("*") if path.is_symlink()]
    assert {path.resolve().relative_to(ROOT).parts[0] for path in links} <= allowed
    (extras,) = re.findall(r'"/source\[(.*)\]"', (ROOT / "Dockerfile").read_text())
    assert set(extras.split(",")) <= set(setup["options.extras_require"])


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # From a copy: setuptools leaves a build folder, whose stale files would get into the next wheel.
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__", "quickstart", "runs")
    source = shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "dist", source, cwd=folder)
    (wheel,) = (folder / "dist").glob("unisrec-*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel) -> Path:
    """A new virtual environment with the wheel alone, which finds the packages it needs in the one of the tests."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        "--python",
        python,
        "install",
        "--no-deps",
        wheel,
    )
    (site,) = folder.glob("lib/python*/site-packages")
    # Folders named in a .pth file are searched, but their own .pth files, such as that of an editable install, are not read.
    elsewhere = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "elsewhere.pth").write_text("\n".join(elsewhere) + "\n")
    return folder


@pytest.mark.slow
def test_wheel_holds_the_package_and_each_checkpoint_once(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"unisrec", next(top for top in tops if top.endswith(".dist-info"))}
    assert {"unisrec/model_card.md", "unisrec/accelerate_configs/fsdp2.yaml"} <= set(names)
    assert not any(name.startswith(("unisrec/tests", "unisrec/quickstart")) for name in names)
    weights = [name for name in names if name.endswith(".safetensors")]
    assert weights == [f"unisrec/checkpoints/{name}/model.safetensors" for name in RELEASED]
    assert len(names) == len(set(names))
    assert wheel.stat().st_size < 8e6


@pytest.mark.slow
def test_the_wheel_is_found_outside_the_tree(environment, tmp_path):
    code = "import pathlib, unisrec; print(pathlib.Path(unisrec.__file__).parent)"
    folder = Path(run(environment / "bin" / "python", "-c", code, cwd=tmp_path).strip())
    assert folder.is_relative_to(environment)
    assert (folder / "model_card.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_released_checkpoint_recommends_offline_as_in_the_tree(environment, tmp_path, name):
    history = ["sku-17", "text:garden hose"]
    words = ["recommend", "--model", name, "--items", PRODUCTS, "--text-columns", *COLUMNS, "--history", *history]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"), "OMP_NUM_THREADS": "1"}
    printed = run(environment / "bin" / "unisrec", *words, "--json", cwd=tmp_path, env=offline)
    found = [json.loads(line) for line in printed.splitlines()]
    (expected,) = Recommender.from_pretrained(name, PRODUCTS, text_columns=COLUMNS).recommend(
        [["sku-17", {"text": "garden hose"}]]
    )
    assert [item["item_id"] for item in found] == [item.item_id for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item.score for item in expected], abs=1e-5)
