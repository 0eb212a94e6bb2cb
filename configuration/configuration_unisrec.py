"""Configuration of UniSRec (KDD 2022, arXiv 2206.05941), and the code that a checkpoint folder carries."""

import json
import os
import re
from pathlib import Path
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


# `from __future__ import annotations` must stay out of this file: `@strict` would stop checking without a word.

# A checkpoint runs on a machine without this package (`trust_remote_code=True`) by the files that lie beside it.
AUTO_MAP = {
    "AutoConfig": "configuration_unisrec.UniSRecConfig",
    "AutoModel": "modeling_unisrec.UniSRecModel",
    "AutoProcessor": "processing_unisrec.UniSRecProcessor",
}
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
        # Code that came with a checkpoint lies in one folder, of which transformers fetches what a class imports.
        source = here / name if IS_REMOTE_CODE else here.parent / home / name
        if not source.is_file():
            continue
        text = source.read_text(encoding="utf-8")
        flat = re.sub(r"^from \.\.\w+\.(\w+) import", r"from .\1 import", text, flags=re.MULTILINE)
        (Path(folder) / name).write_text(flat, encoding="utf-8")


@strict
class UniSRecConfig(PreTrainedConfig):
    r"""
    Configuration of a [`UniSRecModel`]: text encoder, mixture-of-experts adaptor and causal sequence encoder.

    The defaults are those of the paper and of its released configuration files.

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the bundled text encoder, of any type that `AutoModel` knows. `None` gives an
            embeddings-only model, which takes item texts as vectors of `text_embedding_size` numbers.
        text_embedding_size (`int`, *optional*):
            Width of a text vector. Defaults to the hidden size of `text_config`, and to 768 without one.
        text_pooling (`str`, *optional*, defaults to `"cls"`):
            How token states become one text vector: `"cls"` takes the first token, `"mean"` averages the real ones.
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
            Epsilon of the layer normalisations.
        max_position_embeddings (`int`, *optional*, defaults to 50):
            Longest history, in items; the latest ones count.
        num_experts (`int`, *optional*, defaults to 8):
            Whitening experts of the adaptor.
        adaptor_dropout (`float`, *optional*, defaults to 0.2):
            Dropout of text vectors on their way into the experts, in [0, 1).
        whitening_bias (`bool`, *optional*, defaults to `True`):
            Whether each expert shifts text vectors before it projects them.
        router_noise (`float`, *optional*, defaults to 0.01):
            Floor of the learned noise scale of the router in training. `None` routes without noise.
        similarity (`str`, *optional*, defaults to `"cosine"`):
            What a sequence and an item are scored by: `"cosine"` over `temperature`, or the plain product `"dot"`.
        temperature (`float`, *optional*, defaults to 0.07):
            Divides the cosine similarity of a sequence and an item.
        item_text (`bool`, *optional*, defaults to `True`):
            Whether the text of an item is part of its vector. `False` leaves the ID embedding alone; with
            `similarity="dot"` that is SASRec (arXiv 1808.09781).
        num_items (`int`, *optional*):
            Rows of the item-ID embedding (padding not counted) of a transductive model. `None` is the inductive
            model: text only.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        training_data (`list[dict]`, *optional*):
            What the model was trained on: for each domain its name (`domain`), its `content_hash`, and in `trained_on` which
            interactions, `"all"` or `"all but the last two"` of each user. No setting of the model; `evaluate` refuses
            what was seen in training.

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

    text_config: dict | PreTrainedConfig | None = None
    text_embedding_size: int | None = None
    text_pooling: Literal["cls", "mean"] = "cls"
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
    num_items: int | None = None
    initializer_range: float = 0.02
    training_data: list[dict] | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.text_config, dict):
            text_config = dict(self.text_config)
            model_type = text_config.pop("model_type", None)
            if model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"`text_config` needs a `model_type` that transformers knows, such as 'bert' (got {model_type!r})."
                )
            self.text_config = CONFIG_MAPPING[model_type](**text_config)
        if self.text_config is not None:
            self.text_config._name_or_path = ""  # where the encoder was read from is a path of one machine
        if self.text_embedding_size is None:
            self.text_embedding_size = 768 if self.text_config is None else self.text_config.hidden_size
        if not IS_REMOTE_CODE:
            # The installed classes are registered; an entry of the folder's own pipeline would win over ours.
            kwargs.pop("custom_pipelines", None)
            kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Writes `config.json` and the code that loads it where this package is not installed. Every way of saving or
        pushing a model comes through here."""
        super().save_pretrained(save_directory)
        folder = Path(save_directory)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings |= {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES}
        (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        copy_code(folder)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def validate_sizes(self):
        """Sizes that must fit each other."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.text_config is not None and self.text_config.hidden_size != self.text_embedding_size:
            raise ValueError(
                f"`text_embedding_size` ({self.text_embedding_size}) must be the hidden size of the text encoder "
                f"({self.text_config.hidden_size}); leave it out to take that one."
            )
        if self.num_items is not None and self.num_items < 1:
            raise ValueError(f"`num_items` ({self.num_items}) must be at least 1, or None for a text-only model.")
        if not self.item_text and self.num_items is None:
            raise ValueError("`item_text` is False and `num_items` None: an item has neither text nor ID; set one.")

    def validate_ranges(self):
        """Values with a range of their own."""
        for name in ("hidden_dropout", "attention_dropout", "adaptor_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be in [0, 1).")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` ({self.temperature}) must be positive.")
        if self.router_noise is not None and self.router_noise < 0:
            raise ValueError(f"`router_noise` ({self.router_noise}) must not be negative; None routes without noise.")
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


__all__ = ["AUTO_MAP", "UniSRecConfig", "copy_code"]
