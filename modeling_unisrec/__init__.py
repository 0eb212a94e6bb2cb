"""The model, the processor and the pipeline: everything needed to run a checkpoint."""

from .catalogue_files import lock_catalogue
from .item_catalogue import ItemCatalogue, check_id_rows
from .item_columns import Where, check_columns_known, item_mask
from .modeling_unisrec import UniSRecModel, UniSRecModelOutput, UniSRecPreTrainedModel
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
from .processing_unisrec import UniSRecProcessor
from .text_neighbours import TextSpace, fit_text_space, mix, recent_texts, unit_vectors
from .text_pooling import TextHead, pool_tokens


__all__ = [
    "ItemCatalogue",
    "SequentialRecommendationPipeline",
    "TextHead",
    "TextSpace",
    "UniSRecModel",
    "UniSRecModelOutput",
    "UniSRecPreTrainedModel",
    "UniSRecProcessor",
    "Where",
    "best_columns",
    "check_catalogue",
    "check_columns_known",
    "check_finite",
    "check_id_rows",
    "encode_catalogue",
    "encode_items",
    "fit_text_space",
    "item_mask",
    "item_tower_state",
    "lock_catalogue",
    "mix",
    "pool_tokens",
    "rank_items",
    "recent_texts",
    "unit_vectors",
]
