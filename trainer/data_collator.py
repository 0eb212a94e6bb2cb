"""Batches of distinct items: padding, item drop, word drop (arXiv 2206.05941, section 2.3.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..evaluation.ranking import pad_rows


def _queries(features: Sequence[dict[str, Any]], length: int) -> np.ndarray:
    """Places of the inputs with a target in the flattened (batch, length) matrix, row by row."""
    first = np.array([[feature["first_target"]] for feature in features])
    stop = np.array([[len(feature["items"])] for feature in features])
    targets = np.arange(1, length + 1)  # the place of an input's target in its window
    return np.flatnonzero((targets >= first) & (targets < stop))


def _targets(features: Sequence[dict[str, Any]], windows: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the items of windows at the positions of the targets."""
    return np.concatenate(
        [window[feature["first_target"] :] for feature, window in zip(features, windows, strict=True)]
    )


@dataclass
class FinetuneCollator:
    r"""
    Windows over one catalogue: each position that has a target with its next item.

    Returns:
        `item_index` `(batch_size, length)`: catalogue rows + 1, 0 is padding on the right; `query_index`
        `(num_targets,)`: places of these positions in the flattened matrix; `labels` `(num_targets,)`: catalogue row of
        each one's next item.
    """

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        windows = [feature["items"] for feature in features]
        length = max(map(len, windows)) - 1
        return {
            "item_index": torch.from_numpy(pad_rows([window[:-1] + 1 for window in windows], length, 0)),
            "query_index": torch.from_numpy(_queries(features, length)),
            "labels": torch.from_numpy(_targets(features, windows)),
        }


def _as_rows(features: Sequence[dict[str, Any]]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The distinct items of a batch in ascending order, and its windows as rows of them."""
    windows = [feature["items"] for feature in features]
    items, rows = np.unique(np.concatenate(windows), return_inverse=True)
    places = np.split(rows, np.cumsum([len(window) for window in windows])[:-1])
    return items, [feature | {"items": window} for feature, window in zip(features, places, strict=True)]


@dataclass
class SampledFinetuneCollator:
    r"""
    Windows over one catalogue for [`sampled_softmax_loss`]: of the catalogue, only the items of the batch.

    Returns:
        `item_index` `(batch_size, length)`: rows of the distinct items + 1, 0 is padding on the right; `query_index`
        `(num_targets,)`: places of positions with a target in the flattened matrix; `labels` `(num_targets,)`: row of
        each one's next item; `items` `(num_items,)`: catalogue rows of the distinct items; `windows`
        `(batch_size, length + 1)`: rows of each window's items, filled up with the first of them; `first_window`
        (`int`): the lowest index (with epoch) of the windows, by which negatives are drawn.
    """

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        items, in_rows = _as_rows(features)
        batch = FinetuneCollator()(in_rows)
        windows = pad_rows([feature["items"] for feature in in_rows], batch["item_index"].shape[1] + 1, -1)
        return batch | {
            "items": torch.from_numpy(items),
            "windows": torch.from_numpy(np.where(windows < 0, windows[:, :1], windows)),
            "first_window": min(feature["index"] for feature in features),
        }


@dataclass
class TextFinetuneCollator:
    r"""
    Windows over one catalogue whose texts are encoded in the step: the items of the batch are the candidates.

    Args:
        texts (`Sequence[str]`): Text of each item of the catalogue.
        tokenize (`Callable`): Texts -> `input_ids` and `attention_mask`, [`UniSRecProcessor.tokenize`].

    Returns:
        `item_index` `(batch_size, length)`: rows of the distinct items + 1, 0 is padding on the right; `query_index`
        `(num_targets,)`: places of positions with a target in the flattened matrix; `labels` `(num_targets,)`: row of
        each one's next item; `items` `(num_items,)`: catalogue rows of the distinct items; their tokens.
    """

    texts: Sequence[str]
    tokenize: Callable[[list[str]], dict[str, torch.Tensor]]

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        items, in_rows = _as_rows(features)
        tokens = self.tokenize([self.texts[item] for item in items])
        return FinetuneCollator()(in_rows) | {"items": torch.from_numpy(items)} | tokens


@dataclass
class PretrainCollator:
    r"""
    Windows of one or several domains, each beside an augmented view of itself unless there are no `views`.

    With probability `item_drop_probability` the view has items left out (each but the first with probability
    `item_drop_ratio`), else `word_drop_item_ratio` of its items have words left out of their text. Prefix t of the view
    belongs to prefix t of the original: it ends at the last kept item that is not after t.

    Args:
        features (`Callable`):
            Item numbers `(n,)` -> text vectors `(n, text_embedding_size)`, or with `tokenize` their texts.
        word_drop_features (`Callable`, *optional*):
            The same for texts with words left out. Without it, all views are made by item drop.
        tokenize (`Callable`, *optional*):
            Texts -> `input_ids` and `attention_mask`, [`UniSRecProcessor.tokenize`], for a text encoder in training.
        item_drop_probability (`float`, *optional*, defaults to 0.9): Share of views made by item drop.
        item_drop_ratio (`float`, *optional*, defaults to 0.2): Share of items left out of such a view.
        word_drop_item_ratio (`float`, *optional*, defaults to 0.2): Share of items changed in the other views.
        augmentation_draw (`str`, *optional*, defaults to `"sequence"`):
            Whether each `"sequence"` or each `"batch"` (official code) draws its kind of view.
        seed (`int`, *optional*, defaults to 0): Of the draws, with epoch and window.
        views (`bool`, *optional*, defaults to `True`): Whether to make views, which the sequence-sequence loss needs.

    Returns:
        `item_index` `(2 * batch_size, length)`: rows of the items + 1, originals first, then views; `text_embeds`
        `(num_items, text_embedding_size)` or tokens; and for each of the `num_targets` pairs, `query_index` and
        `view_index` (places in the flattened halves of `item_index`), `target_rows` (row of the next item),
        `target_items` (its number among the items of all domains) and `target_sequences` (number of the history);
        `first_window` (`int`): the lowest index (with epoch) of the windows, by which negatives are drawn. Without
        views, `item_index` is `(batch_size, length)` and there is no `view_index`.
    """

    features: Callable[[np.ndarray], np.ndarray | list[str]]
    word_drop_features: Callable[[np.ndarray], np.ndarray | list[str]] | None = None
    item_drop_probability: float = 0.9
    item_drop_ratio: float = 0.2
    word_drop_item_ratio: float = 0.2
    augmentation_draw: Literal["sequence", "batch"] = "sequence"
    seed: int = 0
    tokenize: Callable[[list[str]], dict[str, torch.Tensor]] | None = None
    views: bool = True

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        windows = [feature["items"] for feature in features]
        length = max(map(len, windows)) - 1
        items, rows = np.unique(np.concatenate(windows), return_inverse=True)
        row_windows = np.split(rows, np.cumsum([len(window) for window in windows])[:-1])
        inputs = pad_rows([row[:-1] for row in row_windows], length, -1)
        query_index = _queries(features, length)
        batch = {
            "item_index": inputs + 1,
            "query_index": query_index,
            "target_rows": _targets(features, row_windows),
            "target_items": _targets(features, windows),
            "target_sequences": np.array([feature["sequence"] for feature in features])[query_index // length],
        }
        texts = [self.features(items)]
        if self.views:
            views, view_index, changed_rows = self._views(features, inputs, len(items))
            batch["item_index"] = np.concatenate([inputs, views]) + 1
            batch["view_index"] = view_index[query_index]
            if len(changed_rows):
                texts.append(self.word_drop_features(items[changed_rows]))
        batch = {name: torch.from_numpy(array) for name, array in batch.items()}
        batch["first_window"] = min(feature["index"] for feature in features)
        if self.tokenize is None:
            return batch | {"text_embeds": torch.from_numpy(texts[0] if len(texts) == 1 else np.concatenate(texts))}
        return batch | self.tokenize([text for part in texts for text in part])

    def _views(
        self, features: Sequence[dict[str, Any]], inputs: np.ndarray, num_items: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Views `(batch_size, length)` of the inputs; where the view of each place of the flattened inputs ends; and the
        rows whose texts have words left out, which the views count from `num_items` on."""
        kept, changed = self._draw([feature["index"] for feature in features], inputs >= 0)
        last_kept = np.cumsum(kept, axis=1) - 1  # place in the view of the last kept item up to t
        changed_rows, changed_places = np.unique(inputs[changed], return_inverse=True)
        viewed = inputs.copy()
        viewed[changed] = num_items + changed_places
        views = np.full_like(inputs, -1)
        row_of, column_of = np.nonzero(kept)
        views[row_of, last_kept[row_of, column_of]] = viewed[row_of, column_of]
        first_places = np.arange(len(inputs))[:, None] * inputs.shape[1]
        return views, (last_kept + first_places).ravel(), changed_rows

    def _draw(self, indices: Sequence[int], real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws masks of the inputs kept by the view and of those with word drop, `(batch_size, length)` each."""
        # A stream of its own for each (seed, epoch, window): the index is the high word of the counter.
        streams = [np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, index])) for index in indices]
        draws = np.stack([stream.random(1 + real.shape[1]) for stream in streams])
        kind = draws[:, :1] if self.augmentation_draw == "sequence" else draws[:1, :1]
        drops_items = kind < (1.0 if self.word_drop_features is None else self.item_drop_probability)
        drawn = draws[:, 1:]
        kept = real & ~(drops_items & (drawn < self.item_drop_ratio))
        kept[:, 0] = True
        return kept, real & ~drops_items & (drawn < self.word_drop_item_ratio)


__all__ = [
    "FinetuneCollator",
    "PretrainCollator",
    "SampledFinetuneCollator",
    "TextFinetuneCollator",
]
