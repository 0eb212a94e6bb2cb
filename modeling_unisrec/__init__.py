"""The model and the processor: what a checkpoint needs to run."""

from .modeling_unisrec import UniSRecModel, UniSRecModelOutput, UniSRecPreTrainedModel, pool_tokens
from .processing_unisrec import ItemCatalogue, UniSRecProcessor


__all__ = [
    "ItemCatalogue",
    "UniSRecModel",
    "UniSRecModelOutput",
    "UniSRecPreTrainedModel",
    "UniSRecProcessor",
    "pool_tokens",
]
