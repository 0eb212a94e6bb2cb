"""`unisrec plot`: pictures of trainings and of what a model has learnt."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..trainer import UniSRecTrainingArguments


EXAMPLE = """\
example:
  unisrec plot curves runs/office --output curves.png
  unisrec plot map runs/pretrained --domains domains/beauty domains/toys --output map.png
  unisrec plot gates runs/pretrained --domains domains/beauty domains/toys --output gates.png
  unisrec plot popularity --models text=runs/office text+ID=runs/office-id --domain domains/office --output popularity.png

Needs pip install "unisrec[plots]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `curves`, `map`, `gates` and `popularity`, each with its own inputs."""
    parser.epilog = EXAMPLE
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", required=True, metavar="FILE", help="PNG to write")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    def add_kind(name: str, help: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=help, description=f"{name}: {help}.", parents=[shared])

    curves = add_kind("curves", "losses and validation NDCG@10 of a run")
    curves.add_argument("run", metavar="DIR", help="output folder of unisrec pretrain or finetune")
    for name, help in (
        ("map", "catalogues coloured by domain, before and after the adaptor"),
        ("gates", "how much each domain uses each expert"),
    ):
        kind = add_kind(name, help)
        kind.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder or Hub id")
        kind.add_argument("--domains", nargs="+", required=True, metavar="DIR", help="domain folders")
        kind.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    popularity = add_kind("popularity", "test recall by training interactions of the target")
    popularity.add_argument("--models", nargs="+", required=True, metavar="NAME=M", help="checkpoints to compare")
    popularity.add_argument("--domain", required=True, metavar="DIR", help="domain folder")
    popularity.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    if find_spec("matplotlib") is None:
        raise ValueError('pictures need matplotlib: pip install "unisrec[plots]"')
    output = Path(args.output)
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent} to write to.")
    if args.kind == "curves":
        plot_curves(Path(args.run), output)
    else:
        from ..trainer import UniSRecTrainingArguments

        with tempfile.TemporaryDirectory() as scratch:
            options = UniSRecTrainingArguments(scratch, eval_strategy="no", use_cpu=args.use_cpu)
            if args.kind == "popularity":
                plot_popularity(args.models, args.domain, output, options)
            else:
                plot_domains(args.kind, args.model, args.domains, output, options)
    print(output)
    return 0


def plot_curves(folder: Path, output: Path) -> None:
    """The log that a training left. Raises `ValueError` where there is nothing to draw."""
    from ..trainer.plots import plot_run

    file = folder / "trainer_state.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; name the output folder of a training.")
    state = json.loads(file.read_text(encoding="utf-8"))
    if not plot_run(state["log_history"], state.get("best_global_step"), output):
        raise ValueError(f"{file}: nothing to draw; a curve takes two logged losses or two evaluations.")


def plot_domains(
    kind: str, model: str, folders: Sequence[str], output: Path, options: "UniSRecTrainingArguments"
) -> None:
    """Map or use of the experts."""
    from ..trainer.analysis_plots import domain_vectors, plot_analysis, plot_catalogue_map

    found = domain_vectors(model, folders, options)
    if kind == "gates":
        plot_analysis(output, gates={name: gates for name, (_, _, gates) in found.items()})
    else:
        before, after = ({name: parts[place] for name, parts in found.items()} for place in (0, 1))
        plot_catalogue_map(before, after, output)


def plot_popularity(pairs: Sequence[str], domain: str, output: Path, options: "UniSRecTrainingArguments") -> None:
    """Recall of checkpoints, each given as NAME=M."""
    from ..trainer.analysis_plots import metrics_of_models, plot_analysis

    unnamed = next((pair for pair in pairs if not all(pair.partition("="))), None)
    if unnamed is not None:
        raise ValueError(f"--models {unnamed}: expected NAME=M, such as text=runs/office.")
    plot_analysis(output, popularity=metrics_of_models(dict(pair.split("=", 1) for pair in pairs), domain, options))
