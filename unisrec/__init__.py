"""Public names of the package, registration with the Auto classes of transformers, and the command line."""

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .registration import register, register_lazily


if TYPE_CHECKING:
    from .configuration import UniSRecConfig as UniSRecConfig
    from .data import Domain as Domain
    from .data import leave_one_out as leave_one_out
    from .data import read_amazon as read_amazon
    from .data import read_official as read_official
    from .data import read_online_retail as read_online_retail
    from .data import read_recbole as read_recbole
    from .data import read_table as read_table
    from .evaluation import evaluate as evaluate
    from .fitting import fit as fit
    from .modeling_unisrec import ItemCatalogue as ItemCatalogue
    from .modeling_unisrec import SequentialRecommendationPipeline as SequentialRecommendationPipeline
    from .modeling_unisrec import UniSRecModel as UniSRecModel
    from .modeling_unisrec import UniSRecModelOutput as UniSRecModelOutput
    from .modeling_unisrec import UniSRecProcessor as UniSRecProcessor
    from .recommender import Recommender as Recommender
    from .serving import serve as serve
    from .trainer import TrainingResult as TrainingResult
    from .trainer import UniSRecFinetuneArguments as UniSRecFinetuneArguments
    from .trainer import UniSRecFinetuneTrainer as UniSRecFinetuneTrainer
    from .trainer import UniSRecPretrainArguments as UniSRecPretrainArguments
    from .trainer import UniSRecPretrainTrainer as UniSRecPretrainTrainer
    from .trainer import build_finetune_trainer as build_finetune_trainer
    from .trainer import build_pretrain_trainer as build_pretrain_trainer
    from .trainer import finetune as finetune
    from .trainer import pretrain as pretrain
    from .updating import update as update

__version__ = version("unisrec")

# In a checkout the code folders are siblings of this one (an install puts them inside), so `python -m unisrec` works.
if not (Path(__file__).parent / "configuration").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

_EXPORTS = {
    "configuration": ["UniSRecConfig"],
    "modeling_unisrec": [
        "ItemCatalogue",
        "SequentialRecommendationPipeline",
        "UniSRecModel",
        "UniSRecModelOutput",
        "UniSRecProcessor",
    ],
    "data": [
        "Domain",
        "leave_one_out",
        "read_amazon",
        "read_official",
        "read_online_retail",
        "read_recbole",
        "read_table",
    ],
    "evaluation": ["evaluate"],
    "trainer": [
        "TrainingResult",
        "UniSRecFinetuneArguments",
        "UniSRecFinetuneTrainer",
        "UniSRecPretrainArguments",
        "UniSRecPretrainTrainer",
        "build_finetune_trainer",
        "build_pretrain_trainer",
        "finetune",
        "pretrain",
    ],
    "recommender": ["Recommender"],
    "fitting": ["fit"],
    "serving": ["serve"],
    "updating": ["update"],
}
_HOME = {name: folder for folder, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that the data modules work without torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


register_lazily()


__all__ = ["__version__", "register", *_HOME]
