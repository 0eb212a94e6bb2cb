"""Checkpoint and catalogue -> ranked items, their search, and exported towers."""

from .export import export_onnx
from .faiss_index import FaissIndex
from .recommender import Recommender
from .search import ExactIndex
from .snapshot import Recommendation
from .tables import export_vectors


__all__ = ["ExactIndex", "FaissIndex", "Recommendation", "Recommender", "export_onnx", "export_vectors"]
