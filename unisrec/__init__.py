"""The front door: public names, registration with the Auto classes of transformers, command line."""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


__version__ = version("unisrec")

# In a checkout the code folders lie beside this one (an install puts them inside): `python -m unisrec` works there too.
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
    "trainer": [
        "UniSRecFinetuneArguments",
        "UniSRecFinetuneTrainer",
        "UniSRecPretrainArguments",
        "UniSRecPretrainTrainer",
        "evaluate",
        "finetune",
        "pretrain",
    ],
    "recommender": ["Recommender"],
}
_HOME = {name: folder for folder, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Public names, imported when they are first used: the data half of the package needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


def _is_command_line() -> bool:
    """Whether Python was started as `unisrec ...` or `python -m unisrec ...`."""
    return Path(sys.argv[0]).stem == "unisrec" or (sys.argv[0] == "-m" and "unisrec" in sys.orig_argv)


def register() -> None:
    """Makes our checkpoints known to the Auto classes and pipelines of transformers, without `trust_remote_code`."""
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration import UniSRecConfig
    from .modeling_unisrec import SequentialRecommendationPipeline, UniSRecModel, UniSRecProcessor

    AutoConfig.register(UniSRecConfig.model_type, UniSRecConfig)
    AutoModel.register(UniSRecConfig, UniSRecModel)
    AutoProcessor.register(UniSRecConfig, UniSRecProcessor)
    if "sequential-recommendation" not in PIPELINE_REGISTRY.get_supported_tasks():  # it warns when told twice
        PIPELINE_REGISTRY.register_pipeline(
            "sequential-recommendation",
            pipeline_class=SequentialRecommendationPipeline,
            pt_model=AutoModel,
            type="text",
        )


# `import unisrec` is enough for the Auto classes; the command line answers `--help` first, without loading torch.
if not _is_command_line():
    register()


__all__ = ["__version__", *_HOME]
