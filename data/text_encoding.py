"""Encoding of texts into vectors: batches of similar length, precision, and several processes that share a catalogue."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..modeling_unisrec import TextHead
from ..modeling_unisrec.item_catalogue import check_unicode
from ..modeling_unisrec.text_encoders import text_max_length
from .fetching import fetch_late


TextDtype = Literal["auto", "float32", "bfloat16"]
_TEXTS_PER_TOKENIZER_CALL = 16384
_ROWS_PER_GATHER = 65536
# Shares above which there is a warning: of unknown tokens, of tokens that are one letter of another alphabet than the Latin one
# (of Chinese and Japanese, tokenizers make one token a character), and of texts that are cut.
_UNKNOWN_SHARE, _SPELLED_SHARE, _CUT_SHARE = 0.1, 1 / 3, 0.1
_LETTER = re.compile("[\u0370-\u1fff]")
logger = logging.get_logger(__name__)


def resolve_text_dtype(text_dtype: TextDtype, device: torch.device | str) -> torch.dtype | None:
    r"""
    Returns the autocast type in which texts are encoded on a device, as `dtype` of [`encode_texts`].

    Args:
        text_dtype (`str`):
            `"float32"`, `"bfloat16"`, or `"auto"` for bfloat16 on CUDA devices that compute in it, and float32 elsewhere.
        device (`torch.device` or `str`): Device of the encoder.

    Returns:
        `torch.dtype` or `None`: `torch.bfloat16`, or `None` for float32.

    Raises:
        ValueError: If `text_dtype` is another one.
    """
    if text_dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"`text_dtype` is {text_dtype!r}, expected auto, float32 or bfloat16.")
    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if text_dtype == "bfloat16" or (text_dtype == "auto" and on_gpu) else None


def encode_texts(
    texts: Sequence[str],
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pooling: str | None = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    shared: bool = False,
    progress: bool | None = None,
    desc: str = "Encoding texts",
) -> np.ndarray:
    r"""
    Encodes texts into vectors. Equal texts are encoded once, and texts of similar length are batched together.

    Args:
        texts (`Sequence[str]`): Texts, in any order.
        encoder (`PreTrainedModel`): Any text encoder of `AutoModel`. Its training or evaluation mode is restored.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        pooling (`str`, *optional*):
            Pooling of the token states without any further layer, as for [`pool_tokens`]. Defaults to the `text_head`
            of the encoder, set by [`UniSRecModel`] and [`load_text_encoder`]: pooling, layers after it and prompt.
        max_length (`int`, *optional*): Longer texts are cut to this many tokens; defaults to [`text_max_length`].
        tokens_per_batch (`int`, *optional*):
            Size of a batch in tokens, padding included; a single text may be longer. Defaults to 2,048 on a CPU, where
            small batches stay in the cache, and to 16,384 elsewhere.
        device (`torch.device` or `str`, *optional*):
            Device to encode on; the encoder is moved there and not moved back. Defaults to the device of the encoder.
        dtype (`torch.dtype`, *optional*):
            Autocast type of matrix products. `torch.bfloat16` is about twice as fast on a GPU and on a CPU with
            AVX512-BF16 or AMX; the vectors keep a cosine of 0.9999 with those of float32. Defaults to the type of the
            encoder.
        shared (`bool`, *optional*, defaults to `False`):
            Whether all processes of the default group of `torch.distributed` make this call. Each then encodes a share of
            the texts, and all return all vectors. Without a group of several processes it has no effect.
        progress (`bool`, *optional*):
            Whether to show a progress bar over the distinct texts; with several processes, over those of the first. By
            default, only a terminal shows one.
        desc (`str`, *optional*): Label of the progress bar.

    Returns:
        `np.ndarray` of shape `(num_texts, text_embedding_size)`, float32: One row for each text, in the given order.

    Raises:
        ValueError: If `pooling` is unknown, a text holds half of a character, the tokenizer has no padding token or returns
            no token for a text, or the output of the encoder is not finite.
    """
    head = find_head(encoder, pooling)
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token; set tokenizer.pad_token, e.g. to tokenizer.eos_token")
    check_unicode(texts)
    max_length = max_length or text_max_length(encoder, tokenizer)
    device = torch.device(device or encoder.device)
    distinct, row_of_text = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    rank, world = _place(shared)
    # Texts of all lengths for each process. Their lengths in characters are known before they are tokenized.
    order = np.argsort([-len(text) for text in distinct], kind="stable") if world > 1 else np.arange(len(distinct))
    own = order[rank::world]

    was_training = encoder.training
    encoder.to(device).eval()
    head.to(device).eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype, enabled=dtype is not None),
            tqdm(
                total=len(own),
                desc=desc,
                unit="text",
                disable=rank > 0 or (None if progress is None else not progress),
            ) as bar,
        ):
            features = _encode(distinct[own], encoder, head, tokenizer, max_length, tokens_per_batch, bar)
    finally:
        encoder.train(was_training)
    if world > 1:
        features = _gather(features, order, device)

    if not np.isfinite(features).all():
        text = distinct[np.flatnonzero(~np.isfinite(features).all(axis=1))[0]]
        raise ValueError(f"the encoder's output for {text!r} is not finite; load the encoder in float32 or bfloat16")
    if (
        len(distinct) > 1
        and np.allclose(features, features[0], rtol=1e-4, atol=1e-6)
        and _differ(distinct, head, tokenizer, max_length)
    ):
        logger.warning(
            "all %d texts have the same vector by %s pooling: in a causal decoder the first token sees none of the others; "
            "choose another pooling, lasttoken for a decoder",
            len(distinct),
            head.pooling,
        )
    return features[row_of_text]


def find_head(encoder: PreTrainedModel, pooling: str | None) -> TextHead:
    """Returns a head with this pooling, or the head of the encoder."""
    if pooling is not None:
        head = TextHead(pooling)
        head.vector_size(encoder.config.hidden_size)  # refuses an unknown pooling
        return head
    if not hasattr(encoder, "text_head"):
        raise ValueError("the encoder has no `text_head`: load it by `load_text_encoder`, or name a pooling")
    return encoder.text_head


def everywhere(holds: bool, shared: bool, device: torch.device) -> bool:
    """Returns whether a condition holds in all processes that call this, and waits for them; if not `shared`, whether it
    holds in this one."""
    if _place(shared)[1] == 1:
        return holds
    flag = torch.tensor(int(holds), device=_device_of_group(device))
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


def is_first(shared: bool) -> bool:
    """Returns whether this is the first of the processes that share the texts, or the only one."""
    return _place(shared)[0] == 0


def _place(shared: bool) -> tuple[int, int]:
    """Returns the number of this process and the number of processes that share the texts."""
    if shared and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _device_of_group(device: torch.device) -> torch.device:
    """Returns the device whose tensors the processes can exchange."""
    return torch.device("cpu") if "gloo" in dist.get_backend() else device


def _gather(part: np.ndarray, order: np.ndarray, device: torch.device) -> np.ndarray:
    """Returns the vectors of all processes, of which process r has encoded the texts `order[r::world]`; a part at a time,
    so that it takes little memory on a GPU."""
    world, device = dist.get_world_size(), _device_of_group(device)
    features = np.empty((len(order), part.shape[1]), dtype=np.float32)
    for start in range(0, -(-len(order) // world), _ROWS_PER_GATHER):
        rows = [order[rank::world][start : start + _ROWS_PER_GATHER] for rank in range(world)]
        own = torch.zeros(len(rows[0]), part.shape[1])  # the first process has most rows
        piece = part[start : start + _ROWS_PER_GATHER]
        own[: len(piece)] = torch.from_numpy(piece)
        pieces = [torch.empty_like(own, device=device) for _ in range(world)]
        dist.all_gather(pieces, own.to(device))
        for places, piece in zip(rows, pieces, strict=True):
            features[places] = piece[: len(places)].cpu().numpy()
    return features


def _encode(
    texts: np.ndarray,
    encoder: PreTrainedModel,
    head: TextHead,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tokens_per_batch: int | None,
    bar: tqdm,
) -> np.ndarray:
    """Returns vectors of distinct texts, encoded on the device of the encoder."""
    device = encoder.device
    tokens_per_batch = tokens_per_batch or (2048 if device.type == "cpu" else 16384)
    tokens, offsets = _tokenize([head.prompt + text for text in texts], tokenizer, max_length)
    lengths = np.diff(offsets)
    if not lengths.all():
        raise ValueError(f"the tokenizer makes no token of the text {texts[lengths.argmin()]!r}; leave that item out")
    _warn_of_unknown_words(tokens, tokenizer)
    if (cut := int((lengths >= max_length).sum())) > _CUT_SHARE * len(texts):
        logger.warning_once(
            f"{cut:,} of {len(texts):,} texts have {max_length} tokens or more, of which the text encoder reads the first; what tells "
            "products apart should come first"
        )
    features = np.empty((len(texts), head.vector_size(encoder.config.hidden_size)), dtype=np.float32)

    def batches() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        order = np.argsort(-lengths, kind="stable")  # longest first: too large a batch fails at once
        start = 0
        while start < len(order):
            longest = lengths[order[start]]
            rows = order[start : start + max(1, tokens_per_batch // longest)]
            # Texts that are shorter by more than an eighth go into the next batch, unless this one is small.
            rows = rows[: max((8 * lengths[rows] >= 7 * longest).sum(), -(-len(rows) // 8))]
            mask = np.arange(longest) < lengths[rows, None]
            input_ids = np.full(mask.shape, tokenizer.pad_token_id, dtype=np.int64)
            input_ids[mask] = np.concatenate([tokens[offsets[row] : offsets[row + 1]] for row in rows])
            batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask).long()}
            if device.type == "cuda":  # from other memory a copy waits
                batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            states = encoder(**batch, return_dict=True)[0]
            yield rows, head(states, batch["attention_mask"]).float()
            start += len(rows)
            bar.update(len(rows))

    for rows, vectors in fetch_late(batches()):
        features[rows] = vectors
    return features


def _tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the concatenated token ids of all texts, and the start of each text in them."""
    ids, lengths = [np.zeros(0, dtype=np.int32)], [0]
    for start in range(0, len(texts), _TEXTS_PER_TOKENIZER_CALL):
        part = texts[start : start + _TEXTS_PER_TOKENIZER_CALL]
        rows = tokenizer(part, padding=False, truncation=True, max_length=max_length)["input_ids"]
        lengths.extend(len(row) for row in rows)
        ids.append(np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]))
    return np.concatenate(ids), np.cumsum(lengths)


def _warn_of_unknown_words(tokens: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warns, once, if the tokenizer does not know the script or the language of the texts: it makes unknown tokens of words, or
    spells them letter by letter."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):  # GPT-2
        return
    special = [each for each in tokenizer.all_special_ids if each != unknown]
    counts = np.bincount(tokens, minlength=1 + max(tokenizer.all_special_ids))
    counts[special] = 0
    found = counts.nonzero()[0].tolist()
    pieces = zip(found, tokenizer.convert_ids_to_tokens(found), strict=True)
    spelled = [token for token, piece in pieces if _LETTER.fullmatch(piece.removeprefix("##"))]
    if counts[unknown] > _UNKNOWN_SHARE * counts.sum() or counts[spelled].sum() > _SPELLED_SHARE * counts.sum():
        logger.warning_once(
            "the text encoder does not know many words of these texts, so their vectors say little; take an encoder of their "
            "language (docs/encoders.md)"
        )


def _differ(texts: np.ndarray, head: TextHead, tokenizer: PreTrainedTokenizerBase, max_length: int) -> bool:
    """Returns whether any two texts have different tokens."""
    tokens, offsets = _tokenize([head.prompt + text for text in texts], tokenizer, max_length)
    first = tokens[: offsets[1]]
    return any(not np.array_equal(first, tokens[start:end]) for start, end in itertools.pairwise(offsets))


__all__ = ["TextDtype", "encode_texts", "everywhere", "find_head", "is_first", "resolve_text_dtype"]
