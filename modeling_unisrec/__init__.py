"""The model, the processor and the pipeline: what a checkpoint needs to run."""

from .modeling_unisrec import UniSRecModel, UniSRecModelOutput, UniSRecPreTrainedModel, pool_tokens
from .pipeline_unisrec import (
    SequentialRecommendationPipeline,
    best_columns,
    check_catalogue,
    check_finite,
    encode_catalogue,
    encode_items,
    item_tower_state,
    rank_items,
)
from .processing_unisrec import ItemCatalogue, UniSRecProcessor, check_id_rows, lock_catalogue


__all__ = [
    "ItemCatalogue",
    "SequentialRecommendationPipeline",
    "UniSRecModel",
    "UniSRecModelOutput",
    "UniSRecPreTrainedModel",
    "UniSRecProcessor",
    "best_columns",
    "check_catalogue",
    "check_finite",
    "check_id_rows",
    "encode_catalogue",
    "encode_items",
    "item_tower_state",
    "lock_catalogue",
    "pool_tokens",
    "rank_items",
]
