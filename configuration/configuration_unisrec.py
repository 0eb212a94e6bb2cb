"""Configuration of UniSRec (KDD 2022, arXiv 2206.05941), and the code that a checkpoint folder carries."""

import importlib.metadata
import json
import math
import os
import re
from pathlib import Path
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .own_code_config import OwnCodeConfig, lacks_code
from .text_vectors import text_vector_size


# `from __future__ import annotations` must stay out of this file: `@strict` would silently stop checking.

# These files let a checkpoint run on a machine without this package (`trust_remote_code=True`).
AUTO_MAP = {
    "AutoConfig": "configuration_unisrec.UniSRecConfig",
    "AutoModel": "modeling_unisrec.UniSRecModel",
    "AutoProcessor": "processing_unisrec.UniSRecProcessor",
}
MAX_LAYERS = 1000  # larger numbers come from damaged files, and building such models would take hours
CUSTOM_PIPELINES = {
    "sequential-recommendation": {
        "impl": "pipeline_unisrec.SequentialRecommendationPipeline",
        "pt": ["AutoModel"],
        "type": "text",
    }
}
CODE_FILES = {
    "configuration_unisrec.py": "configuration",
    "modeling_unisrec.py": "modeling_unisrec",
    "text_pooling.py": "modeling_unisrec",
    "text_neighbours.py": "modeling_unisrec",
    "text_vectors.py": "configuration",
    "own_code_config.py": "configuration",
    "own_code.py": "modeling_unisrec",
    "catalogue_files.py": "modeling_unisrec",
    "item_catalogue.py": "modeling_unisrec",
    "item_columns.py": "modeling_unisrec",
    "item_state.py": "modeling_unisrec",
    "processing_unisrec.py": "modeling_unisrec",
    "pipeline_unisrec.py": "modeling_unisrec",
}
IS_REMOTE_CODE = __name__.startswith("transformers_modules.")


def copy_code(folder: str | os.PathLike) -> None:
    r"""
    Copies the code of configuration, model, processor and pipeline into a checkpoint folder, as flat files.

    Args:
        folder (`str` or `os.PathLike`): The folder, which exists.
    """
    here = Path(__file__).parent
    for name, home in CODE_FILES.items():
        # Code that came with a checkpoint is one folder, from which transformers fetches the files that a class imports.
        source = here / name if IS_REMOTE_CODE else here.parent / home / name
        if not source.is_file():
            continue
        text = source.read_text(encoding="utf-8")
        flat = re.sub(r"^from \.\.\w+\.(\w+) import", r"from .\1 import", text, flags=re.MULTILINE)
        (Path(folder) / name).write_text(flat, encoding="utf-8")


def copy_endpoint_files(folder: str | os.PathLike) -> None:
    r"""
    Writes `handler.py` and `requirements.txt`, by which a Hugging Face Inference Endpoint runs a checkpoint with its
    catalogue. Files of these names that somebody else wrote stay. Code that came with a checkpoint writes none.

    Args:
        folder (`str` or `os.PathLike`): The folder, which exists.
    """
    source = Path(__file__).parents[1] / "serving" / "handler.py"
    if IS_REMOTE_CODE or not source.is_file():
        return
    contents = {"handler.py": source.read_text(encoding="utf-8"), "requirements.txt": endpoint_requirements(folder)}
    for name, text in contents.items():
        file, ours = Path(folder) / name, text.partition("\n")[0].encode()
        if not file.is_file() or file.read_bytes().startswith(ours):
            file.write_text(text, encoding="utf-8")


def endpoint_requirements(folder: str | os.PathLike) -> str:
    """Returns the `requirements.txt` of a checkpoint folder: what the code in the folder needs, and this package if pip can
    fetch it elsewhere from where it was installed here."""
    package = importlib.metadata.distribution("unisrec")
    source = json.loads(
        package.read_text("direct_url.json") or "{}"
    )  # as PEP 610 defines it; none for a package index
    url, version_control = source.get("url", ""), source.get("vcs_info")
    if not source:
        own = f"unisrec[serve]=={package.version}"
    elif url.startswith("https://"):
        commit = f"{version_control['vcs']}+{url}@{version_control['commit_id']}" if version_control else url
        own = f"unisrec[serve] @ {commit}"
    else:
        own = "# unisrec itself came from a folder that an endpoint cannot reach: handler.py runs the code of this folder"
    libraries = "torch|transformers|polars" + "|peft" * (Path(folder) / "adapter_config.json").is_file()
    needed = [each.partition(";")[0] for each in package.requires or () if re.match(rf"({libraries})\b", each)]
    return "\n".join(["# Made by unisrec for Inference Endpoints", *needed, own]) + "\n"


@strict
class UniSRecConfig(PreTrainedConfig):
    r"""
    Configuration of a [`UniSRecModel`]: text encoder, mixture-of-experts adaptor and causal sequence encoder.

    The defaults are those of the paper and of its released configuration files.

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the bundled text encoder, of any type supported by `AutoModel`. `None` gives an
            embeddings-only model, whose inputs are text vectors of width `text_embedding_size`. With `auto_map`, the
            code of the encoder is its own, and `UniSRecModel.from_pretrained` loads it from the checkpoint.
        text_embedding_size (`int`, *optional*):
            Width of a text vector. Defaults to that of the text encoder, and to 768 without one.
        text_pooling (`str`, *optional*, defaults to `"cls"`):
            Pooling of token states into one text vector: `"cls"` takes the first token, `"lasttoken"` the last,
            `"mean"` averages, `"mean_sqrt_len"` divides the sum by the root of the number of tokens, `"weightedmean"`
            weights each token by its position, `"max"` takes the maximum of each component. Several joined by `+`, as
            in `"cls+mean"`, are concatenated.
        text_layers (`list[dict]`, *optional*):
            Layers applied after the pooling, in order: `{"type": "normalize"}`; `{"type": "dense", "in_features": ...,
            "out_features": ..., "bias": ..., "activation": "Tanh", "residual": False}`; `{"type": "layer_norm",
            "size": ...}`; `{"type": "dropout", "p": ...}`; `{"type": "truncate", "size": ...}`. Their weights are
            stored with those of the text encoder.
        text_prompt (`str`, *optional*, defaults to `""`):
            Text put before each item text.
        text_prompt_tokens (`int`, *optional*, defaults to 0):
            Number of leading tokens excluded from the pooling, for a prompt that is not pooled.
        text_max_length (`int`, *optional*):
            Maximum number of tokens of a text, limited by the positions of the text encoder. Defaults to 512.
        text_scale (`float`, *optional*, defaults to 1.0):
            Factor applied to text vectors before the adaptor. New models with a normalising encoder use
            `sqrt(text_embedding_size) / 4`, about the length of such vectors before normalisation, because vectors of
            length 1 are small compared with the ID embedding.
        text_whitening_size (`int`, *optional*):
            Output width of a fixed linear map in front of the adaptor, the PCA whitening of the texts that the model
            was pre-trained on. `None` disables whitening.
        text_space (`str`, *optional*):
            Maps text vectors to the text space of a catalogue ([`fit_text_space`]) in front of the adaptor: `"catalogue"`,
            that of each catalogue which the model is given, until then the vectors as they are; `"own"`, that of the
            catalogue which it was fine-tuned on or first recommended from, a part of the weights. New weights keep the
            cosines of texts. Excludes `text_whitening_size`.
        hidden_size (`int`, *optional*, defaults to 300):
            Width of item and sequence vectors.
        num_hidden_layers (`int`, *optional*, defaults to 2):
            Layers of the sequence encoder.
        num_attention_heads (`int`, *optional*, defaults to 2):
            Attention heads of each layer; must divide `hidden_size`.
        intermediate_size (`int`, *optional*, defaults to 256):
            Width of the feed-forward blocks.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward blocks.
        hidden_dropout (`float`, *optional*, defaults to 0.5):
            Dropout after the position embedding and after each block, in [0, 1).
        attention_dropout (`float`, *optional*, defaults to 0.5):
            Dropout of attention probabilities, in [0, 1).
        layer_norm_eps (`float`, *optional*, defaults to 1e-12):
            Epsilon of the layer normalisations, in (0, 1).
        max_position_embeddings (`int`, *optional*, defaults to 50):
            Maximum length of a history, in items; of longer histories the latest items are used.
        num_experts (`int`, *optional*, defaults to 8):
            Whitening experts of the adaptor.
        adaptor_dropout (`float`, *optional*, defaults to 0.2):
            Dropout of the text vectors before the experts, in [0, 1).
        whitening_bias (`bool`, *optional*, defaults to `True`):
            Whether each expert shifts text vectors before it projects them.
        router_noise (`float`, *optional*, defaults to 0.01):
            Lower bound of the learned noise scale of the router during training. `None` disables the noise.
        similarity (`str`, *optional*, defaults to `"cosine"`):
            Score of a sequence and an item: `"cosine"`, divided by `temperature`, or the dot product `"dot"`.
        temperature (`float`, *optional*, defaults to 0.07):
            Temperature that divides the cosine similarity of a sequence and an item.
        item_text (`bool`, *optional*, defaults to `True`):
            Whether the text of an item is part of its vector. `False` uses the ID embedding alone, which with
            `similarity="dot"` is SASRec (arXiv 1808.09781).
        text_neighbours (`float`, *optional*, defaults to 0.0):
            Share, in [0, 1], of text neighbours in the score by which recommenders, pipeline and evaluation rank: of the
            cosine between the text of an item and those of the latest items of the history ([`recent_texts`]), in the text
            space of the catalogue ([`fit_text_space`]). Items of the history itself are lowered ([`seen_discount`]). The
            cosine of the model, and what the model itself computes, stay as they are. Needs `item_text` and the similarity
            `"cosine"`. Pre-training saves 0.5, which helps in shops that a model was not trained on; fine-tuning chooses the
            share on validation users.
        num_items (`int`, *optional*):
            Number of rows of the item-ID embedding (without padding) of a transductive model. `None` gives an
            inductive model, which uses text only.
        item_ids_hash (`str`, *optional*):
            [`ItemCatalogue.item_ids_hash`] of the items that the ID embedding of a transductive model was trained for.
            Training sets it; another catalogue is then refused.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        training_data (`list[dict]`, *optional*):
            Training data of the model: for each domain its name (`domain`), its `content_hash`, and in `trained_on`
            the interactions of each user, `"all"` or `"all but the last two"`. It does not affect the model;
            `evaluate` refuses interactions that were seen in training.

    Example:

    ```python
    >>> from unisrec import UniSRecConfig, UniSRecModel

    >>> config = UniSRecConfig(text_embedding_size=384)
    >>> model = UniSRecModel(config)
    >>> config.text_config is None, config.hidden_size
    (True, 300)

    ```
    """

    model_type = "unisrec"
    sub_configs = {"text_config": AutoConfig}
    text_encoder_class = None  # of a text encoder whose code is its own; not saved

    text_config: dict | PreTrainedConfig | None = None
    text_embedding_size: int | None = None
    text_pooling: str = "cls"
    text_layers: list[dict] | None = None
    text_prompt: str = ""
    text_prompt_tokens: int = 0
    text_max_length: int | None = None
    text_scale: float | int = 1.0
    text_whitening_size: int | None = None
    text_space: Literal["catalogue", "own"] | None = None
    hidden_size: int = 300
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 256
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.5
    attention_dropout: float | int = 0.5
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 50
    num_experts: int = 8
    adaptor_dropout: float | int = 0.2
    whitening_bias: bool = True
    router_noise: float | int | None = 1e-2
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float | int = 0.07
    item_text: bool = True
    text_neighbours: float | int = 0.0
    num_items: int | None = None
    item_ids_hash: str | None = None
    initializer_range: float = 0.02
    training_data: list[dict] | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.text_config, dict):
            text_config = dict(self.text_config)
            model_type = text_config.get("model_type")
            if "AutoModel" in (text_config.get("auto_map") or {}):
                self.text_config = OwnCodeConfig(text_config)
            elif model_type in CONFIG_MAPPING:
                del text_config["model_type"]
                self.text_config = CONFIG_MAPPING[model_type](**text_config)
            else:
                raise ValueError(
                    f"`text_config` needs a `model_type` that transformers knows, such as 'bert' (got {model_type!r})."
                )
        if self.text_config is not None:
            self.text_config._name_or_path = ""  # the path that the encoder was loaded from is local to one machine
        if self.text_embedding_size is None:
            self.text_embedding_size = 768
            if self.text_config is not None and not lacks_code(self.text_config):
                self.text_embedding_size = text_vector_size(
                    self.text_config.hidden_size, self.text_pooling, self.text_layers
                )
        if not IS_REMOTE_CODE:
            # The installed classes are registered; a pipeline entry of the folder would override ours.
            kwargs.pop("custom_pipelines", None)
            kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict:
        """Returns the settings, without the class of the text encoder."""
        settings = super().to_dict()
        settings.pop("text_encoder_class", None)
        return settings

    @property
    def score_temperature(self) -> float:
        """Divisor of the similarities in a score: `temperature` for the cosine, 1 for the dot product."""
        return 1.0 if self.similarity == "dot" else self.temperature

    def text_neighbours_share(self, given: float | None = None) -> float:
        """Returns the share of text neighbours to rank by: `text_neighbours`, unless another one is `given`. Raises
        `ValueError` if it is not in [0, 1], or the model has no texts or compares by the dot product."""
        share = self.text_neighbours if given is None else given
        if not 0 <= share <= 1:
            raise ValueError(f"the share of text neighbours is {share}, expected a number from 0 to 1.")
        if share and not self.item_text:
            raise ValueError(
                "text neighbours need texts, and this model represents items by their ID alone: leave them out."
            )
        if share and self.similarity != "cosine":
            raise ValueError(
                "text neighbours are mixed with cosines, and this model scores by the plain product: leave them out."
            )
        return share

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Writes `config.json` and the code that loads it without this package. Every way of saving or
        pushing a model comes through here."""
        super().save_pretrained(save_directory)
        folder = Path(save_directory)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings |= {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES}
        (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        copy_code(folder)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def validate_text_neighbours(self):
        """Checks that the model can be mixed with text neighbours."""
        self.text_neighbours_share()

    def validate_sizes(self):
        """Checks that sizes are consistent with each other."""
        for place, config in (("", self), ("text_config.", self.text_config)):
            for name in ("num_hidden_layers", "num_attention_heads"):
                if not 1 <= (number := getattr(config, name, 1)) <= MAX_LAYERS:
                    raise ValueError(f"`{place}{name}` ({number}) must be from 1 to {MAX_LAYERS}.")
            if getattr(config, "intermediate_size", 1) == 0:
                raise ValueError(f"`{place}intermediate_size` (0) must be at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        is_known = self.text_config is not None and not lacks_code(self.text_config)
        hidden_size = self.text_config.hidden_size if is_known else 1
        text_size = text_vector_size(hidden_size, self.text_pooling, self.text_layers if is_known else None)
        if is_known and text_size != self.text_embedding_size:
            raise ValueError(
                f"`text_embedding_size` ({self.text_embedding_size}) must be the size of the vectors of the text encoder "
                f"({text_size}); leave it out to take that one."
            )
        if self.num_items is not None and self.num_items < 1:
            raise ValueError(f"`num_items` ({self.num_items}) must be at least 1, or None for a text-only model.")
        if self.text_space is not None and (self.text_whitening_size is not None or not self.item_text):
            raise ValueError("`text_space` needs `item_text`, and takes the place of `text_whitening_size`: set one.")
        if not self.item_text and self.num_items is None:
            raise ValueError("`item_text` is False and `num_items` None: an item has neither text nor ID; set one.")

    def validate_ranges(self):
        """Checks the ranges of single values. NaN is always out of range."""
        for name in ("hidden_dropout", "attention_dropout", "adaptor_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be in [0, 1).")
        if not 0 < self.layer_norm_eps < 1:
            raise ValueError(f"`layer_norm_eps` ({self.layer_norm_eps}) must be in (0, 1).")
        for name in ("temperature", "initializer_range", "text_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be positive and finite.")
        if self.router_noise is not None and not 0 <= self.router_noise < math.inf:
            raise ValueError(
                f"`router_noise` ({self.router_noise}) must not be negative, NaN or infinite; None routes without noise."
            )
        if self.text_prompt_tokens < 0:
            raise ValueError(f"`text_prompt_tokens` ({self.text_prompt_tokens}) must not be negative.")
        if self.text_max_length is not None and self.text_max_length < 1:
            raise ValueError(f"`text_max_length` ({self.text_max_length}) must be at least 1, or None for 512.")
        if self.text_whitening_size is not None and not 1 <= self.text_whitening_size <= self.text_embedding_size:
            raise ValueError(
                f"`text_whitening_size` ({self.text_whitening_size}) must be between 1 and `text_embedding_size` "
                f"({self.text_embedding_size}), or None for no whitening."
            )
        for name in (
            "text_embedding_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "num_experts",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 1.")


__all__ = [
    "AUTO_MAP",
    "UniSRecConfig",
    "copy_code",
    "copy_endpoint_files",
]
