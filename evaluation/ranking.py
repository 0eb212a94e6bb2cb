"""Full ranking of held-out items by a model: dataset, collator and ranking loop."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data import Split
from ..modeling_unisrec import UniSRecModel
from ..modeling_unisrec.pipeline_unisrec import encode_items
from ..modeling_unisrec.text_neighbours import mix, recent_texts, text_space_of
from .launch import make_accelerator
from .metrics import ranks_of_targets


NO_USER = "No user has three interactions (a history and two held-out targets), so there is nothing to evaluate on."


class RankingDataset(Dataset):
    r"""
    Users with a held-out next item, and the catalogue in which it is ranked.

    Args:
        split (`Split`):
            Histories and targets of a domain, `valid` or `test`. Users are taken by length of history, so that a batch
            pads little.
        catalogue (`np.ndarray` of shape `(num_items, text_embedding_size)` or `Sequence[str]`):
            Text vectors of the catalogue, or its texts if the text encoder of the model is trained.

    Raises:
        ValueError: If the split has no users.
    """

    def __init__(self, split: Split, catalogue: np.ndarray | Sequence[str]):
        if len(split) == 0:
            raise ValueError(NO_USER)
        self.split = split
        self.catalogue = catalogue
        self.order = np.argsort(np.diff(split.offsets), kind="stable")

    @property
    def targets(self) -> np.ndarray:
        """Catalogue rows of the held-out items `(num_users,)`, in the order of the dataset."""
        return self.split.targets[self.order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, np.ndarray | int]:
        row = self.order[index]
        history = self.split.flat[self.split.offsets[row] : self.split.offsets[row + 1]]
        return {"items": history, "target": int(self.split.targets[row])}


def pad_rows(rows: Sequence[np.ndarray], length: int, value: int) -> np.ndarray:
    """Returns rows of integers as one matrix, padded on the right with `value`."""
    matrix = np.full((len(rows), length), value, dtype=np.int64)
    for place, row in enumerate(rows):
        matrix[place, : len(row)] = row
    return matrix


@dataclass
class RankingCollator:
    r"""
    Collates users: the latest `max_length` items of each history, its distinct items, and its target.

    Returns:
        `item_index` `(batch_size, length)`: catalogue rows + 1, 0 is padding on the right; `seen`
        `(batch_size, max_seen)`: distinct catalogue rows of the whole history, padded with -1; `labels`
        `(batch_size,)`: row of the target.
    """

    max_length: int

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        histories = [feature["items"][-self.max_length :] + 1 for feature in features]
        seen = [np.unique(feature["items"]) for feature in features]
        return {
            "item_index": torch.from_numpy(pad_rows(histories, max(map(len, histories)), 0)),
            "seen": torch.from_numpy(pad_rows(seen, max(map(len, seen)), -1)),
            "labels": torch.tensor([feature["target"] for feature in features]),
        }


def catalogue_tensors(text_embeds: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
    """Returns a catalogue as inputs of the model: `text_embeds` `(num_items, D)` and `id_rows` `(num_items,)`."""
    return {
        "text_embeds": torch.from_numpy(np.array(text_embeds, dtype=np.float32)).to(device),
        "id_rows": torch.arange(1, len(text_embeds) + 1, device=device),
    }


class TargetRanker:
    r"""
    Ranks targets among one catalogue, whose item vectors are computed once.

    Args:
        model ([`UniSRecModel`]): In evaluation mode.
        catalogue (`np.ndarray` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        text_neighbours (`float`, *optional*):
            Share of text neighbours in the scores; by default that of the configuration.

    Attributes:
        candidates (`torch.FloatTensor`): Item vectors, as they are compared with those of [`~TargetRanker.queries`].
    """

    @torch.inference_mode()
    def __init__(self, model: UniSRecModel, catalogue: np.ndarray, text_neighbours: float | None = None):
        self.model, self._share = model, model.config.text_neighbours_share(text_neighbours)
        inputs = catalogue_tensors(catalogue, torch.device("cpu"))
        self.item_embeds = encode_items(model, **inputs)
        self._texts = None
        if self._share:
            texts = inputs["text_embeds"].to(self.item_embeds.device)
            self._texts = text_space_of(model, texts).map(texts)
        self.candidates = mix(model.project_items(self.item_embeds), self._texts, self._share)

    @torch.inference_mode()
    def queries(self, item_index: torch.Tensor) -> torch.Tensor:
        r"""
        Returns the vectors of histories.

        Args:
            item_index (`torch.LongTensor` of shape `(batch_size, length)`): As of [`RankingCollator`].

        Returns:
            `torch.FloatTensor` of shape `(batch_size, size)`: Their products with `candidates` are the scores, up to the
            temperature, which changes no rank. With text neighbours, items of the history that are kept among the
            candidates are lowered from there ([`lower_seen`]).
        """
        queries = self.model.project_sequences(self.model.get_sequence_features(item_index, self.item_embeds))
        return mix(queries, recent_texts(item_index, self._texts), self._share) if self._share else queries

    @torch.inference_mode()
    def __call__(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        r"""
        Ranks the targets of a batch of [`RankingCollator`], on the device of the model.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 2)`: As of [`ranks_of_targets`]. A score matrix
            `(batch_size, num_items)` never exists as a whole.
        """
        items = batch["item_index"]
        return ranks_of_targets(
            self.queries(items), self.candidates, batch["labels"], batch["seen"], items, self._share
        )


def user_batches(
    users: Dataset,
    collator: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]],
    batch_size: int,
    accelerator: Accelerator,
    progress: bool = False,
) -> Iterable[dict[str, torch.Tensor]]:
    """Returns this process's batches of users on the device of the accelerator, with a progress bar in the first process."""
    pinned = accelerator.device.type == "cuda"  # the copies of other memory wait for the device
    loader = DataLoader(users, batch_size, collate_fn=collator, pin_memory=pinned)
    return tqdm(accelerator.prepare(loader), desc="Ranking", disable=not (progress and accelerator.is_main_process))


def rank_targets(
    model: UniSRecModel,
    users: RankingDataset,
    *,
    batch_size: int = 512,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> np.ndarray:
    r"""
    Ranks the held-out items of a domain, each among the whole catalogue, in float32, with the share of text neighbours in the
    configuration of the model.

    Args:
        model ([`UniSRecModel`]): The model; moved to the device of the accelerator. Its mode is restored afterwards.
        users ([`RankingDataset`]): Users, with the text vectors of the catalogue.
        batch_size (`int`, *optional*, defaults to 512): Users ranked at a time by each process.
        accelerator (`Accelerator`, *optional*): Device and processes; by default those of the launch.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar in the first process.

    Returns:
        `np.ndarray` of shape `(num_users, 2)`: Ranks from 0 in the order of `users`, with seen items kept and with seen
        items masked, in every process.
    """
    accelerator = make_accelerator() if accelerator is None else accelerator
    collator = RankingCollator(model.config.max_position_embeddings)
    batches = user_batches(users, collator, batch_size, accelerator, progress)
    return rank_batches(model, users.catalogue, batches, accelerator)


def rank_batches(
    model: UniSRecModel,
    catalogue: np.ndarray,
    batches: Iterable[Mapping[str, torch.Tensor]],
    accelerator: Accelerator,
    whole_weights: Callable[[UniSRecModel], AbstractContextManager] = nullcontext,
    text_neighbours: float | None = None,
) -> np.ndarray:
    r"""
    The ranking loop: ranks of the targets of batches, each among the whole catalogue, in float32.

    Args:
        model ([`UniSRecModel`]): The model; moved to the device of the accelerator, its mode is left as it was.
        catalogue (`np.ndarray` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        batches (`Iterable` of `Mapping`): Batches of [`RankingCollator`], from a loader prepared by the accelerator.
        accelerator (`Accelerator`): Device and processes.
        whole_weights (`Callable`, *optional*):
            Makes a context in which the weights of a sharded model are whole. By default the model is not sharded.
        text_neighbours (`float`, *optional*): As for [`TargetRanker`].

    Returns:
        `np.ndarray` of shape `(num_users, 2)`: As [`rank_targets`].
    """
    training = model.training
    model.to(accelerator.device).eval()
    try:
        with whole_weights(model):
            ranker = TargetRanker(model, catalogue, text_neighbours)
        ranks = []
        for batch in batches:
            with whole_weights(model):  # a forward pass shards them again
                own = ranker(batch)
            ranks.append(accelerator.gather_for_metrics(own))  # the device goes on meanwhile
    finally:
        model.train(training)
    return torch.cat(ranks).numpy(force=True)


__all__ = [
    "RankingCollator",
    "RankingDataset",
    "TargetRanker",
    "catalogue_tensors",
    "pad_rows",
    "rank_batches",
    "rank_targets",
    "user_batches",
]
