"""The whole story through the real command line, with the packaged text encoder."""

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_quickstart_tells_the_whole_story(tmp_path):
    command = [sys.executable, "-m", "unisrec", "quickstart", "--output", "out", "--use-cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # other tests want a core too
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    rows = {}
    for line in done.stdout.splitlines():
        if match := re.fullmatch(r"(\S.*?)\s+((?:0\.\d{4}\s*){8})", line.rstrip()):
            rows[match[1]] = [float(cell) for cell in match[2].split()]
    recall = {name: cells[0] for name, cells in rows.items()}
    # What the data are made for: text carries over between shops.
    assert recall["zero-shot"] > 2 * recall["popularity"] > 2 * recall["random"]
    for setting in ("inductive", "transductive"):
        assert recall[f"{setting}, pre-trained"] > recall["zero-shot"]
        assert recall[f"{setting}, pre-trained"] > recall[f"{setting}, from scratch"]
    for cells in rows.values():
        assert cells[4] >= cells[0]  # R@10 with seen items masked is no worse than with them kept
    assert re.search(r"  1\.  [01]\.\d{3}  \S+", done.stdout)
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "inductive-pre-trained" / "catalogue" / "items.parquet").is_file()
