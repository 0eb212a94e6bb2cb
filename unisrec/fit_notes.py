"""Sentences on what the metrics of a fit do not show."""

from collections.abc import Mapping

import numpy as np

from .data.splits import Split
from .evaluation.metrics import ranking_metrics
from .recipes import CHOICE


def is_repeat(test: Split) -> np.ndarray:
    """
    Finds the targets that their user had already bought.

    Args:
        test ([`Split`]): Histories and targets.

    Returns:
        `np.ndarray` of `bool`, shape `(num_histories,)`: Whether the target is in the history.
    """
    users = np.repeat(np.arange(len(test)), np.diff(test.offsets))
    found = np.zeros(len(test), dtype=bool)
    found[users[test.flat == test.targets[users]]] = True
    return found


def notes_on_metrics(
    test: Split, ranks: np.ndarray, rows: Mapping[str, Mapping[str, float]], chosen: str, train_on_all: bool
) -> list[str]:
    """
    Describes what the metrics of a fit do not show.

    Args:
        test ([`Split`]): Test users.
        ranks (`np.ndarray` of shape `(num_users, 2)`): Ranks of their targets by the chosen model, [`target_ranks`].
        rows (`Mapping`): Test metrics by name of baseline or recipe.
        chosen (`str`): The recipe that was chosen.
        train_on_all (`bool`): Whether the saved model was trained again on all interactions.

    Returns:
        `list[str]`: Sentences on repeat purchases, on better baselines, and on the saved model, where there is any to
        tell of.
    """
    notes, repeats = [], is_repeat(test)
    if count := int(repeats.sum()):
        notes.append(
            f"{count:,} of {len(test):,} customers bought again what they had bought before; the metrics keep such an item "
            "among the candidates, but `recommend` leaves it out unless --include-seen (Python: exclude_seen=False)"
        )
        if count < len(test):
            new = ranking_metrics(ranks[~repeats])
            notes.append(
                f"new purchases only ({len(test) - count:,} of {len(test):,} customers), seen items masked, {chosen!r}: Recall@10 "
                f"{new['recall@10_seen_masked']:.4f}, NDCG@10 {new[CHOICE]:.4f}"
            )
    better = {name: row[CHOICE] for name, row in rows.items() if row[CHOICE] > rows[chosen][CHOICE]}
    if better:
        scores = ", ".join(f"{name} {score:.4f}" for name, score in better.items())
        own = rows[chosen][CHOICE]
        notes.append(f"better than {chosen!r} ({own:.4f}) by NDCG@10 of the test, seen items masked: {scores}")
    if train_on_all:
        notes.append("the saved model was trained on all interactions; the metrics are those of the model before")
    return notes


__all__ = ["is_repeat", "notes_on_metrics"]
