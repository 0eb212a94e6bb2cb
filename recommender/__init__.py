"""Checkpoint and catalogue -> ranked items and pictures."""

from .plots import plot_training_curves
from .recommender import Recommendation, Recommender


__all__ = ["Recommendation", "Recommender", "plot_training_curves"]
