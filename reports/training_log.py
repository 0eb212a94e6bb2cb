"""The log of a training as rows of a table: losses and validation metrics at each evaluation."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np


# eval_ndcg@10, eval_NAME_ndcg@10 where there are several domains, and the same with _seen_masked.
METRIC = re.compile(r"eval_(?:(.+)_)?((?:recall|ndcg)@\d+(?:_seen_masked)?)", re.DOTALL)


@dataclass
class TrainingRow:
    r"""
    Summary of one evaluation and the steps before it.

    Args:
        step (`int`): Number of optimizer steps so far.
        epoch (`float`): Number of epochs so far.
        losses (`dict[str, float]`): Mean of each loss since the previous row, in nats: `loss`, `sequence_item_loss`, ...
        metrics (`dict[str, dict[str, float]]`):
            Validation metrics by domain (`""` if only one is evaluated) and by the names of [`ranking_metrics`].
    """

    step: int
    epoch: float
    losses: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def training_losses(entry: Mapping[str, float]) -> dict[str, float]:
    """Returns the losses of a training log entry, or an empty dict for other entries."""
    return {name: value for name, value in entry.items() if name.endswith("loss")} if "loss" in entry else {}


def loss_name(name: str) -> str:
    """Formats a loss for readers: `sequence_item_loss` becomes `sequence-item loss`."""
    return name.removesuffix("_loss").replace("_", "-") + " loss" if name != "loss" else name


def training_rows(log: Iterable[Mapping[str, float]]) -> list[TrainingRow]:
    r"""
    Summarises a log as one row per evaluation or, without evaluations, per epoch.

    Args:
        log (`Iterable[Mapping[str, float]]`): Entries of `trainer.state.log_history`, in order.

    Returns:
        `list[TrainingRow]`: Rows in the order of steps. Losses after the last evaluation form a row of their own.
    """
    rows: list[TrainingRow] = []
    losses: list[Mapping[str, float]] = []  # entries since the last row
    log = list(log)
    evaluated = any(METRIC.fullmatch(name) for entry in log for name in entry)

    def close(entry: Mapping[str, float]) -> None:
        names = dict.fromkeys(name for line in losses for name in training_losses(line))
        means = {name: float(np.mean([line[name] for line in losses if name in line])) for name in names}
        rows.append(TrainingRow(entry["step"], entry["epoch"], means))
        losses.clear()

    for entry in log:
        metrics = [(match[1] or "", match[2], entry[name]) for name in entry if (match := METRIC.fullmatch(name))]
        if metrics and (not rows or rows[-1].step != entry["step"]):
            close(entry)
        for domain, name, value in metrics:
            rows[-1].metrics.setdefault(domain, {})[name] = value
        if training_losses(entry):
            if losses and not evaluated and ceil(entry["epoch"]) > ceil(losses[-1]["epoch"]):
                close(losses[-1])
            losses.append(entry)
    if losses:
        close(losses[-1])
    return rows


def thin_rows(rows: Sequence[TrainingRow], most: int, best_step: int | None = None) -> list[TrainingRow]:
    """Selects at most `most` evenly spaced rows, including the first, the last and the best one."""
    if len(rows) <= most:
        return list(rows)
    places = set(np.linspace(0, len(rows) - 1, most - 1).round().astype(int).tolist())
    return [row for place, row in enumerate(rows) if place in places or row.step == best_step]


__all__ = ["TrainingRow", "loss_name", "thin_rows", "training_losses", "training_rows"]
