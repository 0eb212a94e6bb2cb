"""Requests of the server and of an Inference Endpoint, checked field by field; one line says what is wrong."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator


MAX_TEXT = 2_000  # characters of an id or a text; text encoders read less
MAX_TOP_K = 1_000
ENTRY = 'expected the id of an item, {"item_id": "..."} or {"text": "..."}'
Entry = str | dict[str, str]


def check_entry(value: Any) -> Entry:
    r"""
    Checks an entry of a history without looking it up.

    Args:
        value (`Any`): Part of a parsed JSON body.

    Returns:
        `str` or `dict[str, str]`: The entry as [`UniSRecProcessor.parse`] takes it.

    Raises:
        ValueError: If it is none, is empty or longer than `MAX_TEXT` characters, or cannot be encoded.
    """
    text = value
    if isinstance(value, dict):
        if len(value) != 1 or not value.keys() <= {"item_id", "text"}:
            raise ValueError(ENTRY)
        (text,) = value.values()
    if not isinstance(text, str):
        raise ValueError(f"{ENTRY}, not {shown(text)}")
    if not text.strip() or len(text) > MAX_TEXT:
        raise ValueError(f"{ENTRY}, of 1 to {MAX_TEXT:,} characters")
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError(f"{ENTRY}, without halves of surrogate pairs")
    return value


ENTRY_SCHEMA = {
    "anyOf": [
        {"type": "string", "description": "Id of an item of the catalogue"},
        *(
            {
                "type": "object",
                "properties": {key: {"type": "string"}},
                "required": [key],
                "additionalProperties": False,
            }
            for key in ("item_id", "text")
        ),
    ]
}
CheckedEntry = Annotated[Any, PlainValidator(check_entry), WithJsonSchema(ENTRY_SCHEMA)]
TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K, description="Number of items")]


class RequestModel(BaseModel):
    """Base class of requests: types are not converted, and unknown fields are refused by name."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, data: Any) -> Any:
        fields = ", ".join(sorted(cls.model_fields, key=lambda name: not cls.model_fields[name].is_required()))
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object with {fields}, not {shown(data)}")
        if unknown := [name for name in data if name not in cls.model_fields]:
            raise ValueError(f"unknown field {shown(unknown[0])}; expected {fields}")
        return data


class RecommendOptions(RequestModel):
    """Options of a recommendation, as [`Recommender.recommend`] takes them."""

    top_k: TopK = 10
    exclude_seen: bool = Field(True, description="Whether to leave out the items of the history")
    allowed: list[str] | None = Field(None, description="Ids of the only items that may be recommended")
    blocked: list[str] | None = Field(None, description="Ids of items that must not be recommended")
    where: str | None = Field(None, description='Condition on the columns of the items, such as "stock > 0"')
    cap: dict[str, int] | None = Field(
        None, description='Largest number of items with the same value of a column, such as {"brand": 2}'
    )
    diversity: float = Field(
        0, ge=0, le=1, allow_inf_nan=False, description="Weight of the difference to items before"
    )
    popularity: str | None = Field(None, description="Column of counts by which items are ranked for an empty history")
    columns: list[str] = Field([], description="Columns of the items to add to the answer")


class RecommendRequest(RecommendOptions):
    """One history and the options of its recommendation."""

    history: list[CheckedEntry] = Field(description="Items of the history, oldest first")

    def options(self) -> dict[str, Any]:
        """Returns the keyword arguments for [`Recommender.recommend`]."""
        return {name: getattr(self, name) for name in RecommendOptions.model_fields}


class SimilarOptions(RequestModel):
    """Options of a search for similar items."""

    top_k: TopK = 10


class SimilarRequest(SimilarOptions):
    """One item, given by id or text, to which similar ones are searched."""

    item: CheckedEntry


class ItemsRequest(RequestModel):
    """A page of the catalogue."""

    model_config = ConfigDict(strict=False)  # a query holds strings

    offset: int = Field(0, ge=0, description="Number of items to skip")
    limit: int = Field(100, ge=1, le=MAX_TOP_K, description="Number of items to return")


class ScoredItem(BaseModel):
    """A recommended or similar item, with the columns that were asked for."""

    model_config = ConfigDict(extra="allow")

    item_id: str
    text: str
    score: float


class RankedItems(BaseModel):
    """Answer of `/recommend` and `/similar`, best item first."""

    items: list[ScoredItem]


class CatalogueItem(BaseModel):
    """An item of the catalogue."""

    item_id: str
    text: str


class CataloguePage(BaseModel):
    """Answer of `/items`, in the order of the catalogue."""

    total: int
    items: list[CatalogueItem]


class Problem(BaseModel):
    """Answer to a request that is refused."""

    error: str


def one_line(errors: Sequence[Mapping[str, Any]]) -> str:
    """Returns the first of pydantic's `errors` as one line: where, what was expected, and what was given."""
    error = errors[0]
    place, kind, message = error["loc"], error["type"], error["msg"]
    if kind == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']} at character {place[-1]}"
    where = ""
    for part in place[1:] if place[:1] in (("body",), ("query",)) else place:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else part
    where = printable(where or {"query": "query"}.get(place[0] if place else "", "body"))
    match kind:
        case "missing":
            return f"{where}: missing" + ("; expected a JSON object" if where == "body" else "")
        case "value_error":
            return f"{where}: {message.removeprefix('Value error, ')}"
    expected = message.partition(", ")[0].replace("Input should be", "expected", 1)
    return f"{where}: {expected}, not {shown(error['input'])}"


def shown(value: Any) -> str:
    """Returns a short printable form of a part of a request; of lists and objects, which may be deep, only the kind."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str | int | float):
        return printable(repr(value[:80] if isinstance(value, str) else value))
    return {list: "a list", dict: "an object"}.get(type(value), f"{type(value).__name__}")


def printable(text: str, length: int = 200) -> str:
    """Returns a text of at most `length` characters in one line that can be encoded."""
    text = " ".join(text.split())
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


__all__ = [
    "CataloguePage",
    "ItemsRequest",
    "Problem",
    "RankedItems",
    "RecommendOptions",
    "RecommendRequest",
    "SimilarOptions",
    "SimilarRequest",
    "one_line",
    "printable",
    "shown",
]
