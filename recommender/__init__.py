"""Checkpoint and catalogue -> ranked items and exported towers."""

from .export import export_onnx
from .recommender import Recommendation, Recommender


__all__ = ["Recommendation", "Recommender", "export_onnx"]
