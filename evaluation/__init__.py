"""Ranking of held-out targets, metrics, baselines and analyses; needs no trainer and no training arguments."""

from .comparison import Comparison, compare, evaluate
from .metrics import ranking_metrics, ranks_of_targets, relevance_metrics, target_ranks
from .ranking import RankingCollator, RankingDataset, TargetRanker, rank_targets


__all__ = [
    "Comparison",
    "RankingCollator",
    "RankingDataset",
    "TargetRanker",
    "compare",
    "evaluate",
    "rank_targets",
    "ranking_metrics",
    "ranks_of_targets",
    "relevance_metrics",
    "target_ranks",
]
