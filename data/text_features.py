"""Text features: item vectors of a frozen text encoder, computed once and cached in the domain folder."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import BinaryIO

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..modeling_unisrec.own_code import own_code_files
from ..modeling_unisrec.text_encoders import text_max_length
from .given_features import first_row_not_finite
from .readers.files import reading
from .text_encoding import encode_texts, everywhere, find_head, is_first


logger = logging.get_logger(__name__)


def load_text_features(
    store: str | os.PathLike | MutableMapping[str, np.ndarray],
    texts: Sequence[str],
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pooling: str | None = None,
    *,
    word_drop_ratio: float | None = None,
    seed: int = 0,
    max_length: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    shared: bool = False,
    **encode_kwargs,
) -> np.ndarray:
    r"""
    Loads the text features of a domain from its folder, or encodes the texts and saves the features there.

    The features are stored in `text_features/<key>/features.npy`, with a description in `key.json`. The key is a hash
    of everything they depend on (weights and configuration of the encoder, tokenizer, pooling, prompt, length limit,
    texts after word drop, precision), so features of another encoder, of other texts or in another precision are never
    used.

    Args:
        store (`str`, `os.PathLike` or `MutableMapping`):
            A domain folder, see [`Domain.save_to_disk`]; or a mapping in memory, in which the features are kept by
            their key.
        texts (`Sequence[str]`): The item texts of the domain, in catalogue order.
        encoder (`PreTrainedModel`): The text encoder.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        pooling (`str`, *optional*): As for [`encode_texts`].
        word_drop_ratio (`float`, *optional*): If given, words are first dropped from the texts by [`drop_words`].
        seed (`int`, *optional*, defaults to 0): Seed of the word drop.
        max_length (`int`, *optional*): As for [`encode_texts`].
        device, dtype (*optional*): As for [`encode_texts`].
        shared (`bool`, *optional*, defaults to `False`):
            As for [`encode_texts`]. The first process writes the features, and so does one that does not see its folder.
        encode_kwargs: `tokens_per_batch`, `progress` and `desc` of [`encode_texts`].

    Returns:
        `np.ndarray` of shape `(num_items, text_embedding_size)`, float32: Read-only; of a folder a memory map.

    Raises:
        FileNotFoundError: If there is no such domain folder.
        OSError: If the features cannot be written to the domain folder.
        ValueError: As for [`encode_texts`] and [`drop_words`].
    """
    domain_dir = None if isinstance(store, MutableMapping) else Path(store)
    if domain_dir is not None and not domain_dir.is_dir():
        raise FileNotFoundError(f"{domain_dir}: no such domain folder; write it first with `unisrec prepare`")
    if word_drop_ratio is not None:
        texts = drop_words(texts, word_drop_ratio, seed)
    max_length = max_length or text_max_length(encoder, tokenizer)
    head = find_head(encoder, pooling)

    contents = {
        "encoder": _encoder_hash(encoder),
        "tokenizer": _tokenizer_hash(tokenizer),
        "texts": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest(),
        "pooling": head.pooling,
        "max_length": max_length,
        "word_drop": None if word_drop_ratio is None else {"ratio": word_drop_ratio, "seed": seed},
    }
    if head.settings or head.prompt:
        contents["head"] = [head.settings, head.prompt, head.prompt_tokens, _weights_hash(head)]
    if dtype is not None:
        contents["dtype"] = str(dtype)
    key = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    options = {"pooling": pooling, "max_length": max_length, "dtype": dtype, "shared": shared, **encode_kwargs}
    options["device"] = device = torch.device(device or encoder.device)
    if domain_dir is None:
        if not everywhere(key in store, shared, device):
            store[key] = encode_texts(texts, encoder, tokenizer, **options)
            store[key].flags.writeable = False
        return store[key]
    folder = domain_dir / "text_features" / key
    path = folder / "features.npy"
    shape = (len(texts), head.vector_size(encoder.config.hidden_size))
    features = _open_features(path, shape)
    if everywhere(features is not None, shared, device):
        return features

    with _write_errors_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)  # checked before the long computation
    features = encode_texts(texts, encoder, tokenizer, **options)
    description = {"encoder_name": encoder.name_or_path, "shape": shape, "dtype": str(encoder.dtype), **contents}

    def save() -> None:
        with _write_errors_explained(folder):
            _write(folder / "key.json", lambda file: file.write(json.dumps(description, indent=2).encode()))
            _write(path, lambda file: np.save(file, features))

    if is_first(shared):
        save()
    everywhere(True, shared, device)  # wait for the first process
    if not is_first(shared) and _open_features(path, shape) is None:  # on a machine with a disk of its own
        save()
    return np.load(path, mmap_mode="r")


def drop_words(texts: Sequence[str], ratio: float = 0.15, seed: int = 0) -> list[str]:
    r"""
    Returns copies of texts with randomly dropped words, reproducible for a given seed.

    Each word is dropped independently; a text that would lose all its words keeps the first. The result for a text
    depends on `seed` and the text alone, not on its position in the list.

    Args:
        texts (`Sequence[str]`): Item texts; words are separated by whitespace.
        ratio (`float`, *optional*, defaults to 0.15): Probability that a word is dropped, in `[0, 1)`.
        seed (`int`, *optional*, defaults to 0): Random seed.

    Returns:
        `list[str]`: The remaining words of each text, separated by single spaces, in the order of `texts`.

    Raises:
        ValueError: If `ratio` is outside `[0, 1)`.

    Examples:

    ```python
    >>> drop_words(["Nordkap Stainless Steel Kettle 1.7 L"], ratio=0.3, seed=1)
    ['Nordkap Stainless Kettle L']
    ```
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be at least 0 and below 1, got {ratio}")

    dropped = []
    for text in texts:
        draw = Random(f"{seed} {text}").random
        words = text.split()
        dropped.append(" ".join([word for word in words if draw() >= ratio] or words[:1]))
    return dropped


def _encoder_hash(encoder: PreTrainedModel) -> str:
    """Returns a hash of the weights and settings that determine the token states."""
    config = encoder.config.to_dict()
    for name in ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version"):
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in own_code_files(type(encoder), type(encoder.config)):
        digest.update(file.read_bytes())
    # Many checkpoints lack the pooler; it is then randomly initialised, and it is never used.
    _hash_weights(digest, encoder, ("pooler.", "text_head."))
    return digest.hexdigest()


def _weights_hash(module: nn.Module) -> str:
    """Returns a hash of the weights alone."""
    _hash_weights(digest := hashlib.sha256(), module)
    return digest.hexdigest()


def _hash_weights(digest: "hashlib._Hash", module: nn.Module, without: tuple[str, ...] = ()) -> None:
    for name, tensor in sorted(module.state_dict().items()):
        if not name.startswith(without):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a hash of the tokenizer without truncation and padding, which only reflect its latest call."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    else:
        state = [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.special_tokens_map]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _open_features(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Opens a file of features; returns `None` if it is missing or damaged and has to be written again."""
    if not path.exists():
        return None
    try:
        with reading(path):
            features = np.load(path, mmap_mode="r")
        if features.shape == shape and features.dtype == np.float32 and first_row_not_finite(features) is None:
            return features
        reason = f"{features.dtype} {features.shape}, not float32 {shape}, or numbers that are not finite"
    except (EOFError, ValueError) as error:
        reason = str(error)
    logger.warning("%s is damaged (%s): the texts are encoded again", path, reason)
    return None


@contextmanager
def _write_errors_explained(folder: Path) -> Iterator[None]:
    """Replaces a bare system error by one line that names the next step."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder}: text features cannot be written ({error.strerror}); make the domain folder writable, "
            "or copy it to a place with write access and room and use the copy"
        ) from error


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically; of several concurrent writers the last one wins."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


__all__ = ["drop_words", "load_text_features"]
