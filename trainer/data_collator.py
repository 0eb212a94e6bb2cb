"""Pre-training batches of distinct items with augmented views: item drop, word drop (arXiv 2206.05941, section 2.3.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..evaluation.ranking import pad_rows


def query_places(features: Sequence[dict[str, Any]], length: int) -> np.ndarray:
    """Returns the places of the positions with a target in the flattened matrix `(batch_size, length)`, row by row."""
    first = np.array([[feature["first_target"]] for feature in features])
    stop = np.array([[len(feature["items"])] for feature in features])
    targets = np.arange(1, length + 1)  # the place of an input's target in its window
    return np.flatnonzero((targets >= first) & (targets < stop))


def target_items(features: Sequence[dict[str, Any]], windows: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the items of windows at the positions of the targets."""
    return np.concatenate(
        [window[feature["first_target"] :] for feature, window in zip(features, windows, strict=True)]
    )


@dataclass
class PretrainCollator:
    r"""
    Collates windows of one or several domains, each with an augmented view of itself unless `views` is `False`.

    With probability `item_drop_probability`, the view lacks some items (each item but the first is dropped with
    probability `item_drop_ratio`). Otherwise, each of its items has words dropped from its text with probability
    `word_drop_item_ratio`. Prefix t of the view corresponds to prefix t of the original and ends at the last kept item up
    to position t.

    Args:
        features (`Callable`):
            Maps item numbers `(n,)` to text vectors `(n, text_embedding_size)`, or with `tokenize` to texts.
        word_drop_features (`Callable`, *optional*):
            The same for texts with dropped words. Without it, all views are made by item drop.
        tokenize (`Callable`, *optional*):
            Converts texts into `input_ids` and `attention_mask` ([`UniSRecProcessor.tokenize`]) for a text encoder in
            training.
        item_drop_probability (`float`, *optional*, defaults to 0.9): Share of views made by item drop.
        item_drop_ratio (`float`, *optional*, defaults to 0.2): Probability that an item is dropped from such a view.
        word_drop_item_ratio (`float`, *optional*, defaults to 0.2): Probability that an item of the other views
            has words dropped.
        augmentation_draw (`str`, *optional*, defaults to `"sequence"`):
            Whether the kind of view is drawn for each `"sequence"` or for each `"batch"` (official code).
        seed (`int`, *optional*, defaults to 0): Random seed. Draws depend only on seed, epoch and window.
        views (`bool`, *optional*, defaults to `True`): Whether to make views, which the sequence-sequence loss needs.

    Returns:
        `item_index` `(2 * batch_size, length)`: rows of the items + 1, originals first, then views; `text_embeds`
        `(num_items, text_embedding_size)` or tokens; and for each of the `num_targets` pairs, `query_index` and
        `view_index` (places in the flattened halves of `item_index`), `target_rows` (row of the next item),
        `target_items` (its number among the items of all domains) and `target_sequences` (number of the history);
        `first_window` (`int`): lowest index (with epoch) of the windows, which seeds the draw of negatives. Without
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
        query_index = query_places(features, length)
        batch = {
            "item_index": inputs + 1,
            "query_index": query_index,
            "target_rows": target_items(features, row_windows),
            "target_items": target_items(features, windows),
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
        """Returns the views `(batch_size, length)` of the inputs, the place where the view of each place of the flattened
        inputs ends, and the rows with dropped words, which have the numbers from `num_items` on in the views."""
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
        """Draws the masks of kept inputs and of inputs with dropped words, each `(batch_size, length)`."""
        # Each (seed, epoch, window) has its own random stream: the index is the high word of the counter.
        streams = [np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, index])) for index in indices]
        draws = np.stack([stream.random(1 + real.shape[1]) for stream in streams])
        kind = draws[:, :1] if self.augmentation_draw == "sequence" else draws[:1, :1]
        drops_items = kind < (1.0 if self.word_drop_features is None else self.item_drop_probability)
        drawn = draws[:, 1:]
        kept = real & ~(drops_items & (drawn < self.item_drop_ratio))
        kept[:, 0] = True
        return kept, real & ~drops_items & (drawn < self.word_drop_item_ratio)


__all__ = ["PretrainCollator", "query_places", "target_items"]
