"""The model, the processor and the pipeline: everything needed to run a checkpoint."""

from .catalogue_files import lock_catalogue
from .item_catalogue import ItemCatalogue
from .item_columns import Where
from .modeling_unisrec import UniSRecModel, UniSRecModelOutput, UniSRecPreTrainedModel
from .pipeline_unisrec import SequentialRecommendationPipeline
from .processing_unisrec import UniSRecProcessor
from .text_neighbours import TextSpace, enter_catalogue, fit_text_space
from .text_pooling import TextHead


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
    "enter_catalogue",
    "fit_text_space",
    "lock_catalogue",
]
