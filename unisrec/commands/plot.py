"""`unisrec plot`: pictures of trainings and of what a model has learnt."""

import argparse
import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


EXAMPLE = """\
example:
  unisrec plot curves runs/office --output curves.png
  unisrec plot map runs/pretrained --domains domains/beauty domains/toys --output map.png
  unisrec plot gates runs/pretrained --domains domains/beauty domains/toys --output gates.png
  unisrec plot popularity --models text=runs/office text+ID=runs/office-id --domain domains/office --output popularity.png

Needs pip install "unisrec[plots]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", required=True, metavar="FILE", help="PNG to write")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    def add_kind(name: str, help: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=help, description=f"Plot {help}.", epilog=EXAMPLE, parents=[shared])

    curves = add_kind("curves", "losses and validation NDCG@10 of a run")
    curves.add_argument("run", metavar="DIR", help="output folder of unisrec pretrain or finetune")
    for name, help in (
        ("map", "catalogues coloured by domain, before and after the adaptor"),
        ("gates", "how much each domain uses each expert"),
    ):
        kind = add_kind(name, help)
        kind.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
        kind.add_argument("--domains", nargs="+", required=True, metavar="DIR", help="domain folders")
        kind.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")
    popularity = add_kind("popularity", "test recall by training interactions of the target")
    popularity.add_argument("--models", nargs="+", required=True, metavar="NAME=M", help="checkpoints to compare")
    popularity.add_argument("--domain", required=True, metavar="DIR", help="domain folder")
    popularity.add_argument("--use-cpu", action="store_true", help="do not use an accelerator")


def run(args: argparse.Namespace) -> int:
    if find_spec("matplotlib") is None:
        raise ValueError('pictures need matplotlib: pip install "unisrec[plots]"')
    from ..data.atomic import check_output_file

    output = Path(args.output)
    check_output_file(args.output)
    if args.kind == "curves":
        plot_curves(Path(args.run), output)
    elif args.kind == "popularity":
        plot_popularity(args.models, args.domain, output, args.use_cpu)
    else:
        plot_domains(args.kind, args.model, args.domains, output, args.use_cpu)
    print(output)
    return 0


def plot_curves(folder: Path, output: Path) -> None:
    """Plots the log of a training run. Raises `OSError` or `ValueError` if there is nothing to draw."""
    from ..reports.plots import plot_run

    file = folder / "trainer_state.json"
    if not plot_run(*read_log(file), output):
        raise ValueError(f"{file}: nothing to draw; a curve takes two logged losses or two evaluations.")


def read_log(file: Path) -> tuple[list[dict[str, float]], int | None]:
    """Returns the log entries of a `trainer_state.json` and the step of the best model. Raises `ValueError` for other
    files."""
    try:
        state = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file; name the output folder of a training.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a JSON file ({error}); name the output folder of a training.") from error
    state = state if isinstance(state, dict) else {}
    log, best_step = state.get("log_history"), state.get("best_global_step")
    if not isinstance(log, list) or not all(map(_is_log_line, log)) or not isinstance(best_step, int | None):
        raise ValueError(
            f"{file}: expected the state of a training: log_history, a list of lines with the numbers step and epoch, "
            "and best_global_step."
        )
    return log, best_step


def _is_log_line(line: object) -> bool:
    if not isinstance(line, dict):
        return False
    if not all(isinstance(value, float) or (isinstance(value, int) and abs(value) < 1e300) for value in line.values()):
        return False
    return all(abs(line.get(name, math.nan)) < 1e15 for name in ("step", "epoch"))


def plot_domains(kind: str, model: str, folders: Sequence[str], output: Path, use_cpu: bool) -> None:
    """Plots a catalogue map or the use of the experts."""
    from ..reports.analysis_plots import domain_vectors, plot_analysis, plot_catalogue_map

    found = domain_vectors(model, folders, use_cpu)
    if kind == "gates":
        plot_analysis(output, gates={name: gates for name, (_, _, gates) in found.items()})
    else:
        before, after = ({name: parts[place] for name, parts in found.items()} for place in (0, 1))
        plot_catalogue_map(before, after, output)


def plot_popularity(pairs: Sequence[str], domain: str, output: Path, use_cpu: bool) -> None:
    """Plots the recall of checkpoints, each given as NAME=M."""
    from ..reports.analysis_plots import metrics_of_models, plot_analysis

    unnamed = next((pair for pair in pairs if not all(pair.partition("="))), None)
    if unnamed is not None:
        raise ValueError(f"--models {unnamed}: expected NAME=M, such as text=runs/office.")
    models = dict(pair.split("=", 1) for pair in pairs)
    if len(models) < len(pairs):
        raise ValueError(f"--models {' '.join(pairs)}: a name comes twice, expected each once.")
    plot_analysis(output, popularity=metrics_of_models(models, domain, use_cpu))
