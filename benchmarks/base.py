"""Prepares fifteen domains and pre-trains the base checkpoint on them, validated zero-shot on a shop that is left out.

    python benchmarks/base.py --raw raw --output runs/base [--max_steps 15000 ...]

`base.yaml` beside this file names the domains and the recipe; further arguments are those of `unisrec pretrain`. The command
can be stopped at any time (SIGTERM saves a checkpoint first) and goes on where it was when it is started again. Set
OMP_NUM_THREADS=1 to keep it to one core. At the end `OUTPUT/pretrained` holds the checkpoint with its text encoder, and
`OUTPUT/unisrec-base` the same without.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from unisrec.cli import main as unisrec
from unisrec.modeling_unisrec.checkpoint import load_checkpoint


RECIPE = Path(__file__).with_suffix(".yaml")


def prepare(domains: Mapping[str, str], raw: Path, output: Path) -> list[Path]:
    """Folders of the domains, those that are not there yet made by `unisrec prepare` with the arguments given."""
    folders = []
    for name, arguments in domains.items():
        folder = output / name
        if not folder.is_dir():
            source = shlex.quote(str(raw / "domains" / name))
            tables = f"--interactions {source}/interactions.parquet --items {source}/items.parquet"
            words = shlex.split(arguments.format(raw=shlex.quote(str(raw)), tables=tables))
            if status := unisrec(["prepare", *words, "--output", str(folder)]):
                raise SystemExit(status)
        folders.append(folder)
    return folders


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--output", type=Path, required=True, help="folder for domains and checkpoints")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="YAML file (default: base.yaml beside this file)")
    options, rest = parser.parse_known_args()
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    domains = options.output / "domains"
    (unseen,) = prepare(recipe["zero_shot_domain"], options.raw, domains)
    settings = recipe["pretrain"] | {
        "domains": [str(folder) for folder in prepare(recipe["domains"], options.raw, domains)],
        "zero_shot_domain": str(unseen),
        "output_dir": str(options.output / "pretrained"),
        "resume_from_checkpoint": "auto",
    }
    file = options.output / "pretrain.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    if status := unisrec(["pretrain", "--config", str(file), *rest]):
        return status
    model, _ = load_checkpoint(options.output / "pretrained")
    model.detach_text_encoder()
    model.save_pretrained(options.output / "unisrec-base")
    print(f"without text encoder: {options.output / 'unisrec-base'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
