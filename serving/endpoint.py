"""`EndpointHandler`: requests in, ranked items out, for Hugging Face Inference Endpoints and for `unisrec serve`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..modeling_unisrec import ItemCatalogue
from ..recommender import Recommender
from .schemas import (
    Entry,
    RecommendOptions,
    RecommendRequest,
    SimilarOptions,
    SimilarRequest,
    one_line,
    shown,
)


MAX_HISTORY = 1_000  # entries of a history
MAX_HISTORIES = 1_000  # in one call of an Inference Endpoint
Items = list[dict[str, Any]]
Model = TypeVar("Model", bound=BaseModel)


class EndpointHandler:
    r"""
    Answers requests from a checkpoint and its catalogue. Requests are checked first; the message of the `ValueError` that
    refuses one is a line for its sender.

    Args:
        path (`str`, *optional*, defaults to `"."`): Folder of the checkpoint.
        recommender ([`Recommender`], *optional*): A loaded checkpoint, instead of `path`.
        max_history (`int`, *optional*, defaults to 1000): Largest number of entries of a history.
    """

    def __init__(
        self,
        path: str | os.PathLike = ".",
        recommender: Recommender | None = None,
        max_history: int = MAX_HISTORY,
    ):
        self.recommender = Recommender.from_pretrained(path or ".") if recommender is None else recommender
        self.max_history = max_history

    def __call__(self, data: Mapping[str, Any]) -> Items | list[Items]:
        r"""
        Answers the body of a request to an Inference Endpoint.

        Args:
            data (`Mapping`):
                `inputs` is a history, a list of ids and `{"text": ...}`, or a list of histories; with
                `"task": "similar"`, one such entry. `parameters` are the fields of [`RecommendOptions`] or
                [`SimilarOptions`].

        Returns:
            `list[dict]`: `item_id`, `text`, `score` and `columns`, best first; a list of such lists for a list of histories.

        Raises:
            ValueError: If something is wrong with the request.
        """
        fields = {"inputs", "parameters", "task"}
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError("expected an object with `inputs` and, where needed, `parameters` and `task`")
        if unknown := [name for name in data if name not in fields]:
            raise ValueError(f"unknown field {shown(unknown[0])}; expected inputs, parameters, task")
        inputs, task = data["inputs"], data.get("task", "recommend")
        parameters = {} if data.get("parameters") is None else data["parameters"]
        if task == "similar":
            options = _validated(SimilarOptions, parameters)
            return self.similar(_validated(SimilarRequest, {"item": inputs, **options.model_dump()}))
        if task != "recommend":
            raise ValueError(f"task: expected recommend or similar, not {shown(task)}")
        if not isinstance(inputs, list) or not inputs:
            raise ValueError(f"inputs: expected a history or a list of histories, not {shown(inputs)}")
        options = _validated(RecommendOptions, parameters).model_dump()
        is_one = not isinstance(inputs[0], list)
        histories = [inputs] if is_one else inputs
        if len(histories) > MAX_HISTORIES:
            raise ValueError(f"inputs: {len(histories):,} histories; expected at most {MAX_HISTORIES:,}")
        requests = []
        for place, history in enumerate(histories):
            where = "" if is_one else f"inputs[{place}]."
            requests.append(_validated(RecommendRequest, {"history": history, **options}, where))
            self.check(requests[-1], where)
        answers = self.recommend(requests)
        for answer in answers:
            if isinstance(answer, ValueError):
                raise answer
        return answers[0] if is_one else answers

    def check(self, request: RecommendRequest, where: str = "") -> None:
        """Raises `ValueError` for a `request` with a history that is empty or too long, or with an id that is unknown; the
        message begins with `where`."""
        if not request.history and request.popularity is None:
            raise ValueError(
                f"{where}history: empty; expected at least one item, or popularity, a column of counts to rank by"
            )
        if len(request.history) > self.max_history:
            raise ValueError(
                f"{where}history: {len(request.history):,} entries; expected at most {self.max_history:,}"
            )
        catalogue = self.recommender.catalogue
        for name in ("history", "allowed", "blocked"):
            for place, entry in enumerate(getattr(request, name) or ()):
                _check_id(entry, catalogue, f"{where}{name}[{place}]")

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Items | ValueError]:
        r"""
        Answers many requests, those with equal options by one call of the model.

        Args:
            requests (`Sequence[RecommendRequest]`): Requests that passed [`~EndpointHandler.check`].

        Returns:
            `list`: For each request the items, best first, or the error that refuses it.
        """
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(request.model_dump_json(exclude={"history"}), []).append(place)
        answers: list[Items | ValueError] = [[] for _ in requests]
        for places in groups.values():
            for place, answer in zip(places, self._recommend([requests[place] for place in places]), strict=True):
                answers[place] = answer
        return answers

    def _recommend(self, requests: Sequence[RecommendRequest]) -> list[Items | ValueError]:
        """Answers requests with equal options. If one of them cannot be answered, each is tried alone."""
        try:
            ranked = self.recommender.recommend([request.history for request in requests], **requests[0].options())
        except (KeyError, ValueError) as error:
            if len(requests) == 1:
                return [ValueError(str(error.args[0]))]
            return [answer for request in requests for answer in self._recommend([request])]
        return [[item.to_json() for item in items] for items in ranked]

    def similar(self, request: SimilarRequest) -> Items:
        """Returns the items most similar to that of a `request`. Raises `ValueError` if it cannot be found."""
        _check_id(request.item, self.recommender.catalogue, "item")
        return [item.to_json() for item in self.recommender.similar_items(request.item, request.top_k)]


def _check_id(entry: Entry, catalogue: ItemCatalogue, where: str) -> None:
    """Raises `ValueError` for an unknown id. The nearest ids, which [`Recommender`] would name, take long to find in a
    large catalogue."""
    item_id = entry.get("item_id") if isinstance(entry, dict) else entry
    if item_id is not None and item_id not in catalogue:
        raise ValueError(
            f"{where}: item id {shown(item_id)} is not in the catalogue of {len(catalogue):,} items; an item that is "
            'not in it can be given in a history as {"text": "..."}'
        )


def _validated(kind: type[Model], data: Any, where: str = "") -> Model:
    """Returns a checked request of a `kind`. Raises `ValueError` with one line, which begins with `where`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ValueError(where + one_line(error.errors(include_url=False))) from None


__all__ = ["EndpointHandler"]
