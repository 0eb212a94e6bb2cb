"""The model, the processor and the pipeline: what a checkpoint needs to run."""

from .modeling_unisrec import UniSRecModel, UniSRecModelOutput, UniSRecPreTrainedModel
from .pipeline_unisrec import (
    SequentialRecommendationPipeline,
    best_columns,
    encode_catalogue,
    encode_items,
    rank_items,
)
from .processing_unisrec import ItemCatalogue, UniSRecProcessor, check_id_rows
from .text_pooling import TextHead, pool_tokens


__all__ = [
    "ItemCatalogue",
    "SequentialRecommendationPipeline",
    "TextHead",
    "UniSRecModel",
    "UniSRecModelOutput",
    "UniSRecPreTrainedModel",
    "UniSRecProcessor",
    "best_columns",
    "check_id_rows",
    "encode_catalogue",
    "encode_items",
    "pool_tokens",
    "rank_items",
]
