"""Serving: ranked items from a checkpoint and its catalogue, vector search, and exported towers."""

from .exact_index import ExactIndex
from .faiss_index import FaissIndex
from .onnx_export import export_onnx
from .recommender import Recommender
from .snapshot import Recommendation
from .tables import export_vectors


__all__ = ["ExactIndex", "FaissIndex", "Recommendation", "Recommender", "export_onnx", "export_vectors"]
