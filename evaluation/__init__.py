"""Ranking of held-out targets, metrics, baselines and analyses; needs no trainer and no training arguments."""

from .metrics import ranking_metrics, ranks_of_targets, target_ranks


__all__ = ["ranking_metrics", "ranks_of_targets", "target_ranks"]
