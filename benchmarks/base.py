"""Prepares fifteen domains and pre-trains the base checkpoint on them, validated zero-shot on a shop that is left out.

    python benchmarks/base.py --raw raw --output runs/base [--max_steps 15000 ...]

`base.yaml` beside this file names the domains and the recipe; further arguments are those of `unisrec pretrain`. The command
can be stopped at any time (SIGTERM saves a checkpoint first) and goes on where it was when it is started again. Set
OMP_NUM_THREADS=1 to keep it to one core. At the end `OUTPUT/pretrained` holds the checkpoint of the best step on that shop,
`OUTPUT/averaged` the mean of the weights of the last steps saved, and `OUTPUT/unisrec-base` this mean, rounded to bfloat16, without
its text encoder.
With `--without DOMAIN...` these domains are prepared, but not trained on, so that the checkpoints, which are then in
`OUTPUT/without-DOMAIN-...`, can be tested on them.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from unisrec.cli import main as unisrec
from unisrec.evaluation import evaluate
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


def mean_weights(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Mean of the weights of checkpoints of one run, computed in float64."""
    states = [load_file(folder / "model.safetensors") for folder in checkpoints]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(weight.dtype)
        for name, weight in states[-1].items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--output", type=Path, required=True, help="folder for domains and checkpoints")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="YAML file (default: base.yaml beside this file)")
    parser.add_argument("--without", nargs="+", metavar="DOMAIN", help="domains of the recipe that are not trained on")
    options, rest = parser.parse_known_args()
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    domains, runs = options.output / "domains", options.output
    if options.without is not None:
        for name in options.without:
            if name not in recipe["domains"]:
                parser.error(f"--without is {name!r}, expected one of {', '.join(recipe['domains'])}.")
        runs = options.output / "-".join(("without", *options.without))
        runs.mkdir(parents=True, exist_ok=True)
    (unseen,) = prepare(recipe["zero_shot_domain"], options.raw, domains)
    trained = [
        folder
        for folder in prepare(recipe["domains"], options.raw, domains)
        if folder.name not in (options.without or ())
    ]
    settings = recipe["pretrain"] | {
        "domains": [str(folder) for folder in trained],
        "zero_shot_domain": str(unseen),
        "output_dir": str(runs / "pretrained"),
        "resume_from_checkpoint": "auto",
    }
    file = runs / "pretrain.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    if status := unisrec(["pretrain", "--config", str(file), *rest]):
        return status
    steps = sorted((runs / "pretrained").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    model, processor = load_checkpoint(runs / "pretrained")
    model.load_state_dict(mean_weights(steps[-recipe["averaged_checkpoints"] :]), strict=False)  # has no text encoder
    model.save_pretrained(runs / "averaged")
    processor.save_pretrained(runs / "averaged")
    model.detach_text_encoder()
    model.save_pretrained(runs / "unisrec-base")
    weights = runs / "unisrec-base" / "model.safetensors"  # half the size; `config.json` has them loaded in float32
    save_file({name: weight.bfloat16() for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    found = evaluate(runs / "averaged", unseen, "valid", text_neighbours=0)  # alone, as in training
    kept, masked = found["ndcg@10"], found["ndcg@10_seen_masked"]
    print(f"{runs / 'averaged'}: validation N@10 on {unseen.name} {kept:.4f}, with seen items masked {masked:.4f}")
    print(f"without text encoder: {runs / 'unisrec-base'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
