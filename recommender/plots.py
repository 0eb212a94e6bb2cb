"""Pictures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def plot_training_curves(
    pretraining: Sequence[Mapping[str, float]], transfers: Mapping[str, Sequence[Mapping[str, float]]], file: Path
) -> None:
    r"""
    Losses of pre-training, and validation NDCG@10 of transfers, as one PNG.

    Args:
        pretraining (`Sequence` of `Mapping`): `trainer.state.log_history` of pre-training.
        transfers (`Mapping` of `str` to the same): By the name that the legend shows.
        file (`Path`): Where to write.

    Raises:
        ImportError: Without matplotlib (`pip install unisrec[plots]`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install unisrec[plots]") from error

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    losses, ranking = figure.subplots(1, 2)
    steps = [entry for entry in pretraining if "sequence_item_loss" in entry]
    for name, label in (("sequence_item_loss", "sequence-item"), ("sequence_sequence_loss", "sequence-sequence")):
        losses.plot([entry["step"] for entry in steps], [entry[name] for entry in steps], label=label)
    losses.set(title="Pre-training", xlabel="step", ylabel="loss (nats)")
    for name, history in transfers.items():
        epochs = [entry for entry in history if "eval_ndcg@10" in entry]
        style = "--" if "scratch" in name else "-"
        ranking.plot(
            [entry["epoch"] for entry in epochs], [entry["eval_ndcg@10"] for entry in epochs], style, label=name
        )
    ranking.set(title="Transfer", xlabel="epoch", ylabel="NDCG@10, validation, seen items kept")
    for axes in (losses, ranking):
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


__all__ = ["plot_training_curves"]
