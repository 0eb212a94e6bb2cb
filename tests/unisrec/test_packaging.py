"""The wheel, imported outside of the tree."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_wheel_works_outside_the_tree(tmp_path):
    # From a copy: setuptools leaves a build folder, whose stale files would get into the next wheel.
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__", "quickstart", "runs")
    source = shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "dist", source],
        check=True,
        cwd=tmp_path,
    )
    (wheel,) = (tmp_path / "dist").glob("unisrec-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"unisrec", next(top for top in tops if top.endswith(".dist-info"))}
    assert {"unisrec/model_card.md", "unisrec/accelerate_configs/fsdp2.yaml"} <= set(names)
    assert not any(name.startswith(("unisrec/tests", "unisrec/quickstart")) for name in names)

    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, cwd=tmp_path)
    code = (
        "import pathlib, unisrec, unisrec.reports.model_card as card\n"
        "from transformers import AutoModel\n"
        "from unisrec import Recommender, UniSRecConfig\n"
        "assert card.TEMPLATE.is_file(), card.TEMPLATE\n"
        "model = AutoModel.from_config(UniSRecConfig(text_embedding_size=8))\n"
        "print(pathlib.Path(unisrec.__file__).parent, type(model).__name__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "unisrec"), "UniSRecModel"]
