"""`pipeline("sequential-recommendation", model=...)`: histories in, ranked items of the catalogue out."""

import copy
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel
from transformers.pipelines.base import Pipeline  # not of `transformers`, whose pipelines may be the importer

from .item_catalogue import ItemCatalogue, check_id_rows
from .item_columns import Where, check_columns_known, item_mask
from .item_state import item_tower_state
from .processing_unisrec import UniSRecProcessor
from .text_neighbours import (
    TextSpace,
    enter_catalogue,
    mix,
    recent_texts,
    seen_discount,
    text_space_of,
    with_own_text_space,
)


History = Sequence[str | Mapping[str, str]]


def rank_items(scores: torch.Tensor, seen: Sequence[Sequence[int]], top_k: int) -> list[list[tuple[int, float]]]:
    r"""
    Returns the best items of a catalogue for each history.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_items)`): Score of each item; modified in place.
        seen (`Sequence[Sequence[int]]`): Rows to exclude for each history.
        top_k (`int`): Number of items, at most the size of the catalogue.

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
    Returns the largest numbers of each row as `torch.topk` does, with ties in the order of their columns.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_columns)`): Scores, -inf for excluded columns.
        top_k (`int`): Number of columns, at most `num_columns`.

    Returns:
        `tuple[torch.FloatTensor, torch.LongTensor]`: Numbers and columns, `(batch_size, min(top_k, num_columns))`.
    """
    if top_k >= scores.shape[1]:
        return scores.sort(dim=1, descending=True, stable=True)
    values, columns = scores.topk(top_k + 1, dim=1)
    last = values[:, top_k - 1]
    tied = (last == values[:, top_k]) & (last > -torch.inf)  # topk chose arbitrarily among ties: sort all
    columns = columns[:, :top_k].sort(dim=1).values
    columns[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :top_k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


@torch.inference_mode()
def encode_items(
    model: PreTrainedModel, text_embeds: torch.Tensor, id_rows: torch.Tensor, rows_at_a_time: int = 1024
) -> torch.Tensor:
    r"""
    Computes item vectors in chunks, because the outputs of the experts take 10 GB for a million rows.

    Args:
        model ([`UniSRecModel`]): The model.
        text_embeds (`torch.FloatTensor` of shape `(num_items, text_embedding_size)`): Text vectors.
        id_rows (`torch.LongTensor` of shape `(num_items,)`): Rows of the ID embedding, 0 for an item without one.
        rows_at_a_time (`int`, *optional*, defaults to 1024): Items in a chunk.

    Returns:
        `torch.FloatTensor` of shape `(num_items, hidden_size)`: Item vectors, on the device of the model.
    """
    parts = zip(text_embeds.split(rows_at_a_time), id_rows.split(rows_at_a_time), strict=True)
    moved = ((texts.to(model.device), ids.to(model.device)) for texts, ids in parts)
    return torch.cat([model.get_item_features(text_embeds=texts, id_rows=ids) for texts, ids in moved])


def encode_catalogue(model: PreTrainedModel, catalogue: ItemCatalogue) -> torch.Tensor:
    """Returns item vectors `(num_items, hidden_size)`, on the device of `model`, for a `catalogue` with text
    vectors."""
    return encode_items(model, catalogue.item_embeddings, catalogue.id_rows_of(torch.arange(len(catalogue))))


def check_catalogue(model: PreTrainedModel, catalogue: ItemCatalogue) -> None:
    r"""
    Checks that a model can rank a catalogue.

    Args:
        model ([`UniSRecModel`]): The model.
        catalogue ([`ItemCatalogue`]): The catalogue, with or without text vectors.

    Raises:
        ValueError: If it is empty, the ID embedding of a transductive model is not that of the catalogue, or the text
            vectors have another width than the model takes or are not finite.
    """
    config, vectors = model.config, catalogue.item_embeddings
    if len(catalogue) == 0:
        raise ValueError("the catalogue has no items to recommend.")
    check_id_rows(config, catalogue)
    if vectors is not None and vectors.shape[1:] != (config.text_embedding_size,):
        raise ValueError(
            f"the text vectors of the catalogue have {vectors.shape[1]} numbers, the model takes "
            f"{config.text_embedding_size}: encode the texts by the text encoder of the model."
        )
    if vectors is not None and not vectors.isfinite().all():
        row = int((~vectors.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"the text vector of item {catalogue.item_ids[row]!r} holds numbers that are not finite.")


def check_finite(vectors: torch.Tensor, name: str) -> torch.Tensor:
    """Returns `vectors` unchanged. Raises `ValueError` with their `name` if a number is not finite, because it could
    not be ranked."""
    if not vectors.isfinite().all():
        raise ValueError(f"the {name} are not all finite: the weights of the model are damaged.")
    return vectors


def _rows(parsed: Iterable[tuple[int | None, str]]) -> list[int]:
    return [row for row, _ in parsed if row is not None]


def _chunks(entries: Iterable[Any], size: int) -> Iterator[list[Any]]:
    entries = iter(entries)
    while chunk := list(islice(entries, size)):
        yield chunk


@dataclass(frozen=True)
class _Ranked:
    """Ranked catalogue, its item vectors, and the state they were computed from."""

    source: ItemCatalogue  # as the processor has it
    model: PreTrainedModel  # that of the pipeline, in the text space of the catalogue
    state: tuple[Any, ...]
    catalogue: ItemCatalogue  # with text vectors
    candidates: torch.Tensor  # as they are compared, on the device of the model
    share: float  # of text neighbours
    space: TextSpace | None  # in which texts are compared


class SequentialRecommendationPipeline(Pipeline):
    r"""
    Recommends the next items for histories.

    A history is a list, oldest item first, of item ids and of texts (see [`UniSRecProcessor.parse`]). One history
    gives one list of `{"item_id", "text", "score"}`, best first; a list of histories gives a list of them,
    `batch_size` (default 64) at a time; an iterator gives an iterator. `score` is the cosine of history and item, or its
    mean with that of their texts if the configuration has a share of `text_neighbours`.

    Model and processor may be replaced or changed between two calls: item vectors are recomputed if the model or the
    catalogue has changed.

    Args:
        top_k (`int`, *optional*, defaults to 10): Number of items, at most the size of the catalogue.
        exclude_seen (`bool`, *optional*, defaults to `True`): Whether to exclude the items of the history; else [`seen_discount`].
        where (`str`, `pl.Expr` or sequence of `bool`, *optional*):
            Condition on the columns of the catalogue, such as `"stock > 0"`; see [`item_mask`].
        columns (`Sequence[str]`, *optional*): Columns of the catalogue in the result, behind the score.

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
        # `pipeline("folder of adapters")` loads the processor, and so the catalogue, of their base.
        if (adapters := getattr(self.model, "adapters", None)) is not None and self.processor.is_of_pipeline:
            self.processor = type(self.processor).from_pretrained(adapters)
            self.tokenizer = self.processor.tokenizer
        self._ranked: _Ranked | None = None
        check_catalogue(self.model, self._catalogue())

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        exclude_seen: bool | None = None,
        where: Where | None = None,
        columns: Sequence[str] | None = None,
    ):
        ranking = {"top_k": top_k, "exclude_seen": exclude_seen, "where": where, "columns": columns}
        return {}, {}, {name: value for name, value in ranking.items() if value is not None}

    def __call__(
        self, histories: History | Sequence[History] | Iterable[History], batch_size: int | None = None, **kwargs
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator[list[dict[str, Any]]]:
        r"""
        Ranks items for one history, a list of histories or an iterator over them.

        Raises:
            KeyError: For an unknown id, naming the nearest known ones.
            ValueError: For an empty history, a `top_k` below 1, an unknown column, or a condition as [`item_mask`].
        """
        parameters = [
            {**default, **given}
            for default, given in zip(
                (self._preprocess_params, self._forward_params, self._postprocess_params),
                self._sanitize_parameters(**kwargs),
                strict=True,
            )
        ]
        # A batch is a list of histories, so that items shared by several of them are computed once.
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
        """Returns the inputs of the model for `histories`, and what each contains."""
        ranked = self._current()
        processor = copy.copy(self.processor)
        processor.catalogue = ranked.catalogue
        parsed = processor.parse_histories(histories)
        return {"batch": dict(processor(histories)), "parsed": parsed, "ranked": ranked}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        batch, parsed, ranked = dict(model_inputs["batch"]), model_inputs["parsed"], model_inputs["ranked"]
        if ranked.share and "input_ids" in batch:  # new texts are encoded once, for both parts of the score
            new = self.model.get_text_features(batch.pop("input_ids"), batch.pop("attention_mask", None)).pooler_output
            known = batch.get("text_embeds")  # their rows come first
            batch["text_embeds"] = new.float() if known is None else torch.cat([known.float(), new.float()])
        states = check_finite(ranked.model(**batch).sequence_embeds, "vectors of histories")
        users = ranked.model.project_sequences(states)
        if ranked.share:
            texts = ranked.space.map(batch["text_embeds"])
            users = mix(users.float(), recent_texts(batch["item_index"], texts), ranked.share)
        scores = (users @ ranked.candidates.T).float()
        if ranked.share:
            discounts = ranked.share * seen_discount(batch["item_index"])
            for row, (items, discount) in enumerate(zip(parsed, discounts.tolist(), strict=True)):
                scores[row, _rows(items[-self.processor.max_history_length :])] -= discount
        return {"scores": scores, "seen": list(map(_rows, parsed)), "catalogue": ranked.catalogue}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        top_k: int = 10,
        exclude_seen: bool = True,
        where: Where | None = None,
        columns: Sequence[str] = (),
    ) -> list[list[dict[str, Any]]]:
        r"""
        Selects the items with the highest scores.

        Args:
            model_outputs (`dict[str, Any]`): Scores, seen rows and catalogue of a batch.
            top_k (`int`, *optional*, defaults to 10): Number of items for each history.
            exclude_seen (`bool`, *optional*, defaults to `True`): Whether to leave out items of the history.
            where, columns (*optional*): As for the pipeline.

        Returns:
            `list[list[dict]]`: `item_id`, `text`, `score` and `columns` of the items of each history, best first.
        """
        scores, seen, catalogue = (model_outputs[name] for name in ("scores", "seen", "catalogue"))
        check_columns_known(catalogue, columns, "columns")
        if where is not None:
            scores = scores.masked_fill(~item_mask(catalogue, where).to(scores.device), -torch.inf)
        ranked = rank_items(scores, seen if exclude_seen else [], top_k)
        more: dict[int, dict[str, Any]] = {}
        if columns:
            rows = sorted({row for items in ranked for row, _ in items})
            more = dict(zip(rows, catalogue.table(columns)[rows].to_dicts(), strict=True))
        return [
            [
                {"item_id": catalogue.item_ids[row], "text": catalogue.texts[row], "score": score, **more.get(row, {})}
                for row, score in items
            ]
            for items in ranked
        ]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Writes a checkpoint folder of model, processor and the code of both, which loads with and without this
        package; keyword arguments are those of `PreTrainedModel.save_pretrained`."""
        repo_id = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(repo_id)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads the files written by `save_pretrained` to `repo_id` and returns the address of the commit."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*about to commit a data file")
            return super().push_to_hub(repo_id, **kwargs)

    def _catalogue(self) -> ItemCatalogue:
        """Raises `ValueError` if the processor has none."""
        if self.processor is None or self.processor.catalogue is None:
            raise ValueError(
                "there is no catalogue to recommend from: take a checkpoint that was saved with one, or set "
                "`processor=UniSRecProcessor(tokenizer, ItemCatalogue(item_ids, texts))`; reading one takes polars."
            )
        return self.processor.catalogue

    def _current(self) -> _Ranked:
        """Returns the current catalogue and its item vectors. Raises `ValueError` if the model cannot rank it."""
        source = self._catalogue()
        self.model.eval()
        share = self.model.config.text_neighbours_share()
        if self._ranked is None or self._ranked.state != self._state(source):
            check_catalogue(self.model, source)
            catalogue = source
            if source.item_embeddings is None:
                catalogue = source.with_embeddings(self._encode_texts(source.texts))
            model, space = with_own_text_space(self.model), None
            enter_catalogue(model, catalogue.item_embeddings)
            items = model.project_items(check_finite(encode_catalogue(model, catalogue), "vectors of items"))
            if share:
                space = text_space_of(model, catalogue.item_embeddings)
                items = mix(items.float(), space.map(catalogue.item_embeddings), share)
            self._ranked = _Ranked(source, model, self._state(source), catalogue, items, share, space)
        return self._ranked

    def _state(self, source: ItemCatalogue) -> tuple[Any, ...]:
        """Returns a state that changes whenever the searched vectors of a catalogue change."""
        reads_texts = source.item_embeddings is None
        state = *item_tower_state(self.model, source, reads_texts), self.model.config.text_neighbours
        if not reads_texts:
            return state
        return *state, id(self.processor.tokenizer), self.processor.max_text_length, self.processor.text_prompt

    @torch.inference_mode()
    def _encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Returns text vectors `(num_texts, text_embedding_size)` on the CPU."""
        if not self.model.config.item_text:
            return torch.zeros(len(texts), self.model.config.text_embedding_size)
        batches = (BatchFeature(self.processor.tokenize(part)).to(self.model.device) for part in _chunks(texts, 64))
        return torch.cat([self.model.get_text_features(**batch).pooler_output.float().cpu() for batch in batches])


__all__ = [
    "SequentialRecommendationPipeline",
    "best_columns",
    "check_catalogue",
    "check_finite",
    "encode_catalogue",
    "encode_items",
    "rank_items",
]
