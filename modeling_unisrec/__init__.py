"""The model, the processor and the pipeline: what a checkpoint needs to run."""

from .modeling_unisrec import UniSRecModel, UniSRecModelOutput, UniSRecPreTrainedModel, pool_tokens, unit_vectors
from .pipeline_unisrec import (
    SequentialRecommendationPipeline,
    best_columns,
    encode_catalogue,
    encode_items,
    rank_items,
)
from .processing_unisrec import ItemCatalogue, UniSRecProcessor


__all__ = [
    "ItemCatalogue",
    "SequentialRecommendationPipeline",
    "UniSRecModel",
    "UniSRecModelOutput",
    "UniSRecPreTrainedModel",
    "UniSRecProcessor",
    "best_columns",
    "encode_catalogue",
    "encode_items",
    "pool_tokens",
    "rank_items",
    "unit_vectors",
]
