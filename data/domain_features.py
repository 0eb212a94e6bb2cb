"""The catalogue of a domain for a model, with text vectors that its text encoder computes or that come with the domain."""

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..configuration import UniSRecConfig
from ..modeling_unisrec import ItemCatalogue
from .domain import Domain
from .given_features import given_text_features
from .readers.shop_columns import shop_columns
from .text_encoding import TextDtype, resolve_text_dtype
from .text_features import load_text_features


def domain_features(
    domain: Domain,
    text_encoder: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    config: UniSRecConfig,
    *,
    word_drop_ratio: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    text_dtype: TextDtype = "auto",
    shared: bool = False,
    progress: bool | None = None,
) -> np.ndarray:
    r"""
    Returns the text vectors of a domain's catalogue for a model: computed by its text encoder or, without one, those
    supplied with the domain.

    Args:
        domain ([`Domain`]): The domain. Computed vectors are cached in its folder or, for a domain in memory, with it.
        text_encoder (`PreTrainedModel`, *optional*): Text encoder of the model.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer.
        config ([`UniSRecConfig`]): Configuration of the model.
        word_drop_ratio (`float`, *optional*): If given, the vectors are those of the texts after word drop.
        seed (`int`, *optional*, defaults to 0): Seed of the word drop.
        text_dtype (`str`, *optional*, defaults to `"auto"`): Precision of the encoder, see [`resolve_text_dtype`].
        device, shared, progress (*optional*): As for [`encode_texts`].

    Returns:
        `np.ndarray` of shape `(num_items, text_embedding_size)`, float32; `(num_items, 0)` for a model without texts.

    Raises:
        ValueError: If there is neither a text encoder nor supplied vectors, their width does not fit, or a precision is
            asked for that has no encoder to apply to.
        OSError: As for [`load_text_features`].
    """
    if not config.item_text:
        return np.empty((domain.num_items, 0), dtype=np.float32)
    if text_encoder is None:
        given = given_text_features(domain, config.text_embedding_size, word_drop=word_drop_ratio is not None)
        if given is not None and text_dtype != "auto":
            raise ValueError(
                f"{domain.name} came with its text vectors, which are used as they are: leave `text_dtype` out."
            )
        if given is not None:
            return given
        if word_drop_ratio is not None and domain.given_features:
            raise ValueError(
                f"{domain.name}: no text vectors with words left out came with the domain; name a text encoder by "
                "`text_encoder`, or make all views by item drop with --item_drop_probability 1."
            )
        raise ValueError("there is no text encoder; name the one of the checkpoint by `text_encoder`.")
    if tokenizer is None:
        raise ValueError(
            "the checkpoint has a text encoder but no tokenizer, as those in the middle of a training: take the folder with the "
            "result, or go on with --resume_from_checkpoint auto."
        )
    device = torch.device(device or text_encoder.device)
    return load_text_features(
        domain.encoded if domain.folder is None else domain.folder,
        domain.items["text"].to_list(),
        text_encoder,
        tokenizer,
        word_drop_ratio=word_drop_ratio,
        seed=seed,
        desc=f"Texts of {domain.name}" + ("" if word_drop_ratio is None else ", words dropped"),
        device=device,
        dtype=resolve_text_dtype(text_dtype, device),
        shared=shared,
        progress=progress,
    )


def domain_catalogue(domain: Domain, text_vectors: np.ndarray | None = None) -> ItemCatalogue:
    r"""
    Returns the catalogue of a domain, which remembers how the tables of the shop were read.

    Args:
        domain ([`Domain`]): The domain.
        text_vectors (`np.ndarray` of shape `(num_items, text_embedding_size)`, *optional*): Its text vectors; copied.

    Returns:
        [`ItemCatalogue`]: The items in the order of the domain.
    """
    tables = dict(domain.info.get("tables") or {})
    if tables and (missing := domain.info.get("filters", {}).get("missing_text")):
        tables["missing_text"] = missing
    vectors = None if text_vectors is None else torch.from_numpy(np.array(text_vectors))
    ids, texts = domain.items["item_id"].to_list(), domain.items["text"].to_list()
    return ItemCatalogue(ids, texts, vectors, columns=shop_columns(domain.items), tables=tables)


__all__ = ["domain_catalogue", "domain_features"]
