"""Pre-training batches of distinct items with augmented views: item drop, word drop (arXiv 2206.05941, section 2.3.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from .window_batches import Layout, StaticShapes, WindowBatch, to_tensors, uniform


@dataclass
class PretrainCollator:
    r"""
    Collates windows of one or several domains, each with an augmented view of itself unless `views` is `False`.

    With probability `item_drop_probability`, the view lacks some items (each item but the first is dropped with
    probability `item_drop_ratio`). Otherwise, each of its items has words dropped from its text with probability
    `word_drop_item_ratio`. Prefix t of the view corresponds to prefix t of the original and ends at the last kept item up
    to position t.

    Args:
        features (`Callable` or `None`):
            Maps item numbers `(n,)` to text vectors `(n, text_embedding_size)`, or with `tokenize` to texts. `None` leaves
            this to the trainer, which has all text vectors on its device.
        word_drop_features (`Callable` or `int`, *optional*):
            The same for texts with dropped words, or with `features=None` what to add to an item number for the row of
            its text with dropped words. Without it, all views are made by item drop.
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
        shapes ([`StaticShapes`], *optional*):
            Packs windows into batches of a few fixed shapes. By default each window has a row.

    Returns:
        `item_index` `(2 * batch_size, length)`: rows of the items + 1, originals first, then views; `text_embeds`
        `(num_items, text_embedding_size)`, tokens, or `items` `(num_items,)`, the rows of their text vectors; and for each
        of the `num_targets` pairs, `query_index` and `view_index` (places in the flattened halves of `item_index`), `target_rows` (row of the next item),
        `target_items` (its number among the items of all domains) and `target_sequences` (number of the history);
        `first_window` (`int`): lowest index (with epoch) of the windows, which seeds the draw of negatives; `num_targets`
        (`int`). Without views, `item_index` is `(batch_size, length)` and there is no `view_index`. With `shapes`, also
        `position_ids` like `item_index` and `is_target` `(num_targets,)`, `False` for padding; padding has the target
        item and the sequence -1.
    """

    features: Callable[[np.ndarray], np.ndarray | list[str]] | None
    word_drop_features: Callable[[np.ndarray], np.ndarray | list[str]] | int | None = None
    item_drop_probability: float = 0.9
    item_drop_ratio: float = 0.2
    word_drop_item_ratio: float = 0.2
    augmentation_draw: Literal["sequence", "batch"] = "sequence"
    seed: int = 0
    tokenize: Callable[[list[str]], dict[str, torch.Tensor]] | None = None
    views: bool = True
    shapes: StaticShapes | None = None

    def __call__(self, features: WindowBatch | Sequence[dict[str, Any]]) -> dict[str, torch.Tensor | int]:
        windows = WindowBatch.of(features)
        layout = Layout(windows, self.shapes)
        items, rows = np.unique(windows.items, return_inverse=True)
        inputs, next_rows = rows[layout.entries], rows[layout.entries[layout.queries] + 1]
        batch = {
            "item_index": layout.matrix(layout.places, inputs + 1),
            "query_index": layout.pad(layout.places[layout.queries]),
            "target_rows": layout.pad(next_rows),
            "target_items": layout.pad(items[next_rows], -1),
            "target_sequences": layout.pad(windows.sequences[layout.windows[layout.queries]], -1),
        } | layout.extras()
        changed = items[:0]
        if self.views:
            views, view_places, changed_rows = self._views(windows, layout, inputs, len(items))
            batch["item_index"] = np.concatenate([batch["item_index"], views])
            batch["view_index"] = layout.pad(view_places[layout.queries])
            if "position_ids" in batch:
                batch["position_ids"] = np.concatenate([batch["position_ids"]] * 2)
            changed = items[changed_rows]
        if self.features is None:
            numbers = np.concatenate([items, changed + self.word_drop_features]) if len(changed) else items
            batch["items"] = layout.pad(numbers)
        batch = to_tensors(batch)
        batch |= {"first_window": int(windows.indices.min()), "num_targets": len(layout.queries)}
        if self.features is None:
            return batch
        texts = [self.features(items)]
        if len(changed):
            texts.append(self.word_drop_features(changed))
        if self.tokenize is None:
            return batch | {"text_embeds": torch.from_numpy(texts[0] if len(texts) == 1 else np.concatenate(texts))}
        return batch | self.tokenize([text for part in texts for text in part])

    def _views(
        self, windows: WindowBatch, layout: Layout, inputs: np.ndarray, num_items: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the matrix of the views, the place in it where the view of each input's prefix ends, and the rows with
        dropped words, which have the numbers from `num_items` on in the views."""
        kept, changed = self._draw(windows.indices, layout.windows, layout.steps)
        number = np.cumsum(kept)
        first = np.flatnonzero(layout.steps == 0)  # it is always kept
        last_kept = number - number[first][layout.windows]  # place in the view of the last kept item up to each input
        places = layout.first_places[layout.windows] + last_kept
        changed_rows, changed_places = np.unique(inputs[changed], return_inverse=True)
        viewed = inputs.copy()
        viewed[changed] = num_items + changed_places
        return layout.matrix(places[kept], viewed[kept] + 1), places, changed_rows

    def _draw(self, indices: np.ndarray, windows: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws which inputs are kept, and of which inputs words are dropped, each `(num_inputs,)`."""
        kind = uniform(self.seed, indices if self.augmentation_draw == "sequence" else indices[:1], np.zeros(1))
        share = 1.0 if self.word_drop_features is None else self.item_drop_probability
        drops_items = np.broadcast_to(kind < share, indices.shape)[windows]
        drawn = uniform(self.seed, indices[windows], steps + 1)
        kept = ~(drops_items & (drawn < self.item_drop_ratio)) | (steps == 0)
        return kept, ~drops_items & (drawn < self.word_drop_item_ratio)


__all__ = ["PretrainCollator"]
