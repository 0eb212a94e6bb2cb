"""What the item vectors of a catalogue depend on, to see whether they have to be computed again."""

from typing import Any

import torch
from transformers import PreTrainedModel

from .item_catalogue import ItemCatalogue


COMPARED_NUMBERS = 1 << 15  # of a tensor


def tensor_state(tensor: torch.Tensor | None) -> tuple[Any, ...] | None:
    """Returns a state that changes if a tensor is replaced, moved, cast or modified in place. Changes through NumPy or
    `.data`, which torch does not track, are detected if one of about 30,000 evenly spaced numbers changes."""
    if tensor is None:
        return None
    flat = tensor.detach().flatten()
    sample = flat[:: max(1, len(flat) // COMPARED_NUMBERS) | 1].cpu().contiguous().view(torch.uint8).numpy()
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device, tensor.shape, hash(sample.tobytes())


def item_tower_state(model: PreTrainedModel, catalogue: ItemCatalogue, reads_texts: bool) -> tuple[Any, ...]:
    r"""
    Summarises everything that the item vectors of a catalogue depend on.

    Args:
        model ([`UniSRecModel`]): The model.
        catalogue ([`ItemCatalogue`]): The catalogue.
        reads_texts (`bool`): Whether the model computes the text vectors from the texts.

    Returns:
        `tuple`: A state that differs from an earlier one if the item vectors have to be computed again.
    """
    towers = [model.adaptor, model.item_embedding, *([model.text_encoder] if reads_texts else [])]
    towers = [tower for tower in towers if tower is not None]
    weights = (weight for tower in towers for weight in (*tower.parameters(), *tower.buffers()))
    adapters = [
        (layer.disable_adapters, tuple(layer.active_adapters))
        for tower in towers
        for layer in tower.modules()
        if isinstance(getattr(layer, "disable_adapters", None), bool)
    ]
    settings = model.config.similarity, model.config.text_space, *adapters
    texts = hash(tuple(catalogue.texts)) if reads_texts else None
    return id(catalogue), texts, settings, *map(tensor_state, (catalogue.item_embeddings, catalogue.id_rows, *weights))


__all__ = ["item_tower_state"]
