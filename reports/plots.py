"""Pictures of training: losses and validation metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.atomic import whole_file
from .training_log import TrainingRow, loss_name, training_losses, training_rows


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_validation(runs: Mapping[str, Sequence[Mapping[str, float]]], file: Path) -> None:
    r"""
    Plots validation NDCG@10 of several runs as one PNG.

    Args:
        runs (`Mapping` of `str` to `Sequence` of `Mapping`):
            `trainer.state.log_history` of each run, by the name that the legend shows; runs from scratch are dashed.
        file (`Path`): Output file.

    Raises:
        ImportError: If matplotlib is not installed (`pip install unisrec[plots]`).
    """
    figure, (axes,) = new_figure(1)
    for name, history in runs.items():
        epochs = [entry for entry in history if "eval_ndcg@10" in entry]
        style = "--" if "scratch" in name else "-"
        axes.plot(
            [entry["epoch"] for entry in epochs], [entry["eval_ndcg@10"] for entry in epochs], style, label=plain(name)
        )
    axes.set(title="Validation", xlabel="epoch", ylabel="NDCG@10, seen items kept")
    save_figure(figure, file, whole_numbers=True)


def plot_run(log: Sequence[Mapping[str, float]], best_step: int | None, file: Path) -> bool:
    r"""
    Plots the losses and the validation NDCG@10 of one run, as one PNG.

    Args:
        log (`Sequence` of `Mapping`): Entries of `trainer.state.log_history`.
        best_step (`int`, *optional*): Step of the best model, which is marked.
        file (`Path`): Output file.

    Returns:
        `bool`: Whether a file was written, which takes two losses or two evaluations.

    Raises:
        ImportError: If matplotlib is not installed (`pip install unisrec[plots]`).
    """
    lines = [entry for entry in log if training_losses(entry)]
    rows = training_rows(log)
    ranked = [row for row in rows if any("ndcg@10" in metrics for metrics in row.metrics.values())]
    has_losses, has_ranking = len(lines) > 1, len(ranked) > 1
    if not has_losses and not has_ranking:
        return False
    figure, axes = new_figure(has_losses + has_ranking)
    if has_losses:
        _draw_losses(axes[0], lines, rows)
    if has_ranking:
        _draw_ranking(axes[-1], ranked, best_step)
    save_figure(figure, file, whole_numbers=True)
    return True


def _draw_losses(axes: "Axes", lines: Sequence[Mapping[str, float]], rows: Sequence[TrainingRow]) -> None:
    """Draws each part of the loss, or the loss if it has no parts: log entries faint, means between evaluations bold."""
    names = list(dict.fromkeys(name for line in lines for name in training_losses(line)))
    for color, name in enumerate(names[1:] or names):
        logged = [line for line in lines if name in line]
        means = [row for row in rows if name in row.losses]
        epochs, values = [line["epoch"] for line in logged], [line[name] for line in logged]
        axes.plot(
            epochs, values, color=f"C{color}", alpha=0.4, linewidth=1, label=None if means[1:] else loss_name(name)
        )
        if means[1:]:
            epochs, values = [row.epoch for row in means], [row.losses[name] for row in means]
            axes.plot(epochs, values, color=f"C{color}", marker=".", label=loss_name(name))
    axes.set(title="Training", xlabel="epoch", ylabel="nats")


def _draw_ranking(axes: "Axes", rows: Sequence[TrainingRow], best_step: int | None) -> None:
    """Draws NDCG@10 of each domain: solid with seen items kept, dashed with seen items masked."""
    domains = list(dict.fromkeys(domain for row in rows for domain in row.metrics))
    for color, domain in enumerate(domains):
        for suffix, style, protocol in (("", "-", "seen items kept"), ("_seen_masked", "--", "seen items masked")):
            shown = [row for row in rows if f"ndcg@10{suffix}" in row.metrics.get(domain, {})]
            values = [row.metrics[domain][f"ndcg@10{suffix}"] for row in shown]
            label = protocol if len(domains) == 1 else None if suffix else plain(domain)
            axes.plot([row.epoch for row in shown], values, style, color=f"C{color}", marker=".", label=label)
    for row in rows:
        if row.step == best_step:
            axes.axvline(row.epoch, color="0.6", linestyle=":", zorder=0, label="best model")
    title = "Validation" if len(domains) == 1 else "Validation (dashed: seen items masked)"
    axes.set(title=title, xlabel="epoch", ylabel="NDCG@10")


def plain(name: str) -> str:
    """Escapes a name for matplotlib: a dollar sign would start a formula, a leading underscore hide the legend entry."""
    return " " + " ".join(name.split()).replace("$", r"\$")


def new_figure(panels: int) -> "tuple[Figure, Sequence[Axes]]":
    """Creates a figure with panels side by side. Raises `ImportError` if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install unisrec[plots]") from error

    figure = Figure(figsize=(5 * panels, 3.8), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def save_figure(figure: "Figure", file: Path, whole_numbers: bool = False) -> None:
    """Writes a figure as PNG. With `whole_numbers`, horizontal axes have integer ticks only."""
    for axes in figure.axes:
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if whole_numbers:
            axes.xaxis.get_major_locator().set_params(integer=True)
    with whole_file(file) as draft:
        figure.savefig(draft, dpi=150, format="png")


__all__ = ["new_figure", "plain", "plot_run", "plot_validation", "save_figure"]
