"""`pipeline("sequential-recommendation", model=...)`: histories in, ranked items of the catalogue out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import BatchFeature, Pipeline, PreTrainedModel

from .processing_unisrec import ItemCatalogue, UniSRecProcessor, check_id_rows


History = Sequence[str | Mapping[str, str]]


def rank_items(scores: torch.Tensor, seen: Sequence[Sequence[int]], top_k: int) -> list[list[tuple[int, float]]]:
    r"""
    The best items of a catalogue for each history.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_items)`): Score of each item; written to.
        seen (`Sequence[Sequence[int]]`): For each history, the rows that are left out.
        top_k (`int`): How many, at most the catalogue.

    Returns:
        `list[list[tuple[int, float]]]`: For each history (row, score), best first; equal scores in catalogue order.

    Raises:
        ValueError: If `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; ask for at least one item.")
    for row, items in enumerate(seen):
        scores[row, list(items)] = -torch.inf
    values, rows = best_columns(scores, top_k)
    return [
        [(row, value) for row, value in zip(*pair, strict=True) if value > -torch.inf]
        for pair in zip(rows.tolist(), values.tolist(), strict=True)
    ]


def best_columns(scores: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    The largest numbers of each row, as `torch.topk` gives them, but equal ones always in the order of their columns.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_columns)`): -inf where a column is left out.
        top_k (`int`): How many, at most all.

    Returns:
        `tuple[torch.FloatTensor, torch.LongTensor]`: Numbers and columns, `(batch_size, min(top_k, num_columns))`.
    """
    if top_k >= scores.shape[1]:
        return scores.sort(dim=1, descending=True, stable=True)
    values, columns = scores.topk(top_k + 1, dim=1)
    last = values[:, top_k - 1]
    tied = (last == values[:, top_k]) & (last > -torch.inf)  # topk took any of the equal ones: sort all
    columns = columns[:, :top_k].sort(dim=1).values
    columns[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :top_k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


@torch.inference_mode()
def encode_items(
    model: PreTrainedModel, text_embeds: torch.Tensor, item_ids: torch.Tensor, rows_at_a_time: int = 1024
) -> torch.Tensor:
    """Item vectors `(num_items, hidden_size)`, on the device of the model, of text vectors and rows of the ID embedding. What
    the experts make of a few rows at a time fits a cache; of a million rows it is 10 GB."""
    parts = zip(text_embeds.split(rows_at_a_time), item_ids.split(rows_at_a_time), strict=True)
    return torch.cat(
        [
            model.get_item_features(text_embeds=texts.to(model.device), item_ids=ids.to(model.device))
            for texts, ids in parts
        ]
    )


def encode_catalogue(model: PreTrainedModel, catalogue: ItemCatalogue) -> torch.Tensor:
    """Item vectors of a catalogue that has text vectors, `(num_items, hidden_size)`, on the device of the model."""
    return encode_items(model, catalogue.item_embeddings, catalogue.item_ids_of(torch.arange(len(catalogue))))


def _chunks(entries: Iterable[Any], size: int) -> Iterator[list[Any]]:
    entries = iter(entries)
    while chunk := list(islice(entries, size)):
        yield chunk


class SequentialRecommendationPipeline(Pipeline):
    r"""
    Recommends the next items for histories.

    A history is a list, oldest item first, of item ids and of texts (see [`UniSRecProcessor.parse`]). One history gives
    one list of `{"item_id", "text", "score"}`, best first; a list of histories gives a list of them, `batch_size`
    (default 64) at a time; an iterator gives an iterator. `score` is the cosine of history and item.

    Args:
        top_k (`int`, *optional*, defaults to 10): How many items, at most the catalogue.
        exclude_seen (`bool`, *optional*, defaults to `True`): Leave out what the history holds.

    Example:

    ```python
    >>> recommend = pipeline("sequential-recommendation", model="runs/office")  # doctest: +SKIP
    >>> recommend(["B00006IE7J", {"text": "label maker tape"}], top_k=3)  # doctest: +SKIP

    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False
    processor: UniSRecProcessor

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None or self.processor.catalogue is None:
            raise ValueError(
                "there is no catalogue to recommend from: take a checkpoint that was saved with one, or set "
                "`processor=UniSRecProcessor(tokenizer, ItemCatalogue(item_ids, texts))`; reading one takes polars."
            )
        check_id_rows(self.model.config, self.processor.catalogue)
        self.model.eval()
        self._item_embeds: torch.Tensor | None = None

    def _sanitize_parameters(self, top_k: int | None = None, exclude_seen: bool | None = None):
        ranking = {"top_k": top_k, "exclude_seen": exclude_seen}
        return {}, {}, {name: value for name, value in ranking.items() if value is not None}

    def __call__(
        self, histories: History | Sequence[History] | Iterable[History], batch_size: int | None = None, **kwargs
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator[list[dict[str, Any]]]:
        r"""
        Ranked items for one history, a list of them or an iterator over them.

        Raises:
            KeyError: For an unknown id, naming the nearest known ones.
            ValueError: For an empty history, or a `top_k` below 1.
        """
        parameters = [
            {**default, **given}
            for default, given in zip(
                (self._preprocess_params, self._forward_params, self._postprocess_params),
                self._sanitize_parameters(**kwargs),
                strict=True,
            )
        ]
        # A batch is made of whole histories, so that an item that several of them hold is computed once.
        if isinstance(histories, str | Mapping):
            raise ValueError(f"a history is a list, also of one item; got {histories!r}.")
        is_list = isinstance(histories, Sequence)
        is_one = is_list and len(histories) > 0 and isinstance(histories[0], str | Mapping)
        ranked = (
            items
            for batch in _chunks([histories] if is_one else histories, batch_size or self._batch_size or 64)
            for items in self.run_single(batch, *parameters)
        )
        if is_one:
            return next(ranked)
        return list(ranked) if is_list else ranked

    def preprocess(self, histories: Sequence[History]) -> dict[str, Any]:
        batch = self.processor(histories)
        parsed = self.processor.parse_histories(histories)
        return {"batch": dict(batch), "seen": [[row for row, _ in items if row is not None] for items in parsed]}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        if self._item_embeds is None:
            self._encode_texts()
            self._item_embeds = encode_catalogue(self.model, self.processor.catalogue)
        sequence_embeds = self.model(**model_inputs["batch"]).sequence_embeds
        scores = self.model.similarity(sequence_embeds, self._item_embeds)
        return {"scores": scores.float(), "seen": model_inputs["seen"]}

    def postprocess(
        self, model_outputs: dict[str, Any], top_k: int = 10, exclude_seen: bool = True
    ) -> list[list[dict[str, Any]]]:
        scores, seen = model_outputs["scores"], model_outputs["seen"]
        catalogue = self.processor.catalogue
        return [
            [
                {"item_id": catalogue.item_ids[row], "text": catalogue.texts[row], "score": score}
                for row, score in items
            ]
            for items in rank_items(scores, seen if exclude_seen else [], top_k)
        ]

    def _encode_texts(self) -> None:
        """Text vectors of the catalogue, where it came without."""
        catalogue, device = self.processor.catalogue, self.model.device
        if catalogue.item_embeddings is None:
            parts = [
                self.model.get_text_features(**BatchFeature(self.processor.tokenize(texts)).to(device)).cpu()
                for texts in _chunks(catalogue.texts, 64)
            ]
            catalogue.item_embeddings = torch.cat(parts)


__all__ = ["SequentialRecommendationPipeline", "best_columns", "encode_catalogue", "encode_items", "rank_items"]
