"""Registration with the Auto classes of transformers, at the moment each of their modules is first imported."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration import UniSRecConfig

    AutoConfig.register(UniSRecConfig.model_type, UniSRecConfig, exist_ok=True)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModel

    from .configuration import UniSRecConfig
    from .modeling_unisrec import UniSRecModel

    AutoModel.register(UniSRecConfig, UniSRecModel, exist_ok=True)


def _register_processor() -> None:
    from transformers.models.auto.processing_auto import AutoProcessor

    from .configuration import UniSRecConfig
    from .modeling_unisrec import UniSRecProcessor

    AutoProcessor.register(UniSRecConfig, UniSRecProcessor, exist_ok=True)


def _register_pipeline() -> None:
    from transformers.models.auto.modeling_auto import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .modeling_unisrec import SequentialRecommendationPipeline

    if (
        "sequential-recommendation" not in PIPELINE_REGISTRY.get_supported_tasks()
    ):  # registering twice would log a warning
        PIPELINE_REGISTRY.register_pipeline(
            "sequential-recommendation",
            pipeline_class=SequentialRecommendationPipeline,
            pt_model=AutoModel,
            type="text",
        )


# Each registration has a module of transformers, whose import triggers it, and a module of ours, imported for it.
REGISTRATIONS: dict[Callable[[], None], tuple[str, str]] = {
    _register_config: ("transformers.models.auto.configuration_auto", f"{__package__}.configuration"),
    _register_model: ("transformers.models.auto.modeling_auto", f"{__package__}.modeling_unisrec"),
    _register_processor: ("transformers.models.auto.processing_auto", f"{__package__}.modeling_unisrec"),
    _register_pipeline: ("transformers.pipelines", f"{__package__}.modeling_unisrec"),
}
WATCHED = {name for names in REGISTRATIONS.values() for name in names}


def _is_imported(name: str) -> bool:
    """Returns whether a module is completely imported."""
    return name in sys.modules and not getattr(sys.modules[name].__spec__, "_initializing", False)


def _register_what_is_ready(just_imported: str | None = None) -> None:
    for registration, (theirs, ours) in list(REGISTRATIONS.items()):
        # A module of ours that is still being imported has itself imported transformers and will finish later.
        ready = ours not in sys.modules or ours == just_imported or _is_imported(ours)
        if ready and (theirs == just_imported or _is_imported(theirs)):
            registration()


class _RegisteringLoader(Loader):
    """Loads a module with its own loader, then runs the pending registrations."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its own loader, because `inspect` and `importlib.resources` query it for files.
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register_what_is_ready(module.__name__)


class _RegisteringFinder(MetaPathFinder):
    """Finds the watched modules with the other finders, and wraps their loaders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in WATCHED:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _RegisteringFinder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _RegisteringLoader(spec.loader)
                return spec
        return None


def register_lazily() -> None:
    """
    Makes our checkpoints known to `AutoConfig`, `AutoModel`, `AutoProcessor` and `pipeline`, without importing
    transformers.

    Modules that transformers has already imported are registered now, the others on import.
    """
    if not any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisteringFinder())
    _register_what_is_ready()


def register() -> None:
    """Registers with all Auto classes and pipelines now. `import unisrec` makes this unnecessary."""
    for registration in REGISTRATIONS:
        registration()


__all__ = ["register", "register_lazily"]
