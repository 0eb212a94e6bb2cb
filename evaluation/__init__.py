"""Ranking of held-out targets, metrics, baselines and analyses; needs no trainer and no training arguments."""

from .metrics import ranking_metrics, ranks_of_targets, target_ranks
from .ranking import RankingCollator, RankingDataset, TargetRanker, evaluate, rank_targets


__all__ = [
    "RankingCollator",
    "RankingDataset",
    "TargetRanker",
    "evaluate",
    "rank_targets",
    "ranking_metrics",
    "ranks_of_targets",
    "target_ranks",
]
