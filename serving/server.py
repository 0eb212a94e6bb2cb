"""The server of `unisrec serve`: an [`EndpointHandler`] behind HTTP, with concurrent requests in one call of the model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from .batching import MicroBatcher
from .endpoint import EndpointHandler
from .errors import answer_errors
from .gate import Gate
from .metrics import Metrics
from .schemas import CataloguePage, ItemsRequest, Problem, RankedItems, RecommendRequest, SimilarRequest


PATHS = {"/recommend", "/similar", "/items", "/health", "/metrics", "/docs", "/openapi.json"}
PROBLEMS = {status: {"model": Problem} for status in (400, 401, 408, 413, 415, 422, 503)}
ABOUT = 'Recommendations of a checkpoint for histories of item ids and texts. Every refusal is `{"error": line}`.'


@dataclass(frozen=True)
class Limits:
    r"""
    Limits and settings of a server.

    Args:
        token (`str`, *optional*): Token that requests must bear.
        max_body (`int`, *optional*, defaults to 1,048,576): Largest body in bytes.
        body_seconds (`float`, *optional*, defaults to 10): Time that the body of a request may take.
        max_batch (`int`, *optional*, defaults to 64): Largest number of requests in one call of the model.
        max_wait (`float`, *optional*, defaults to 0.002): Seconds that a request waits for others, at most.
    """

    token: str | None = None
    max_body: int = 1 << 20
    body_seconds: float = 10.0
    max_batch: int = 64
    max_wait: float = 0.002


def create_app(handler: EndpointHandler, limits: Limits | None = None) -> FastAPI:
    r"""
    Builds the application.

    Args:
        handler ([`EndpointHandler`]): Checkpoint and catalogue.
        limits ([`Limits`], *optional*): Limits and settings.

    Returns:
        `FastAPI`: The application; [`~unisrec.serve`] runs it.
    """
    limits = Limits() if limits is None else limits
    catalogue = handler.recommender.processor.catalogue
    metrics = Metrics(PATHS, len(catalogue))
    batcher = MicroBatcher(handler.recommend, limits.max_batch, limits.max_wait, on_batch=metrics.batches.observe)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield

    bearer = [Depends(HTTPBearer(auto_error=False))] if limits.token else []  # for the page; the gate checks it
    app = FastAPI(
        title="unisrec", description=ABOUT, version="1", lifespan=lifespan, redirect_slashes=False, redoc_url=None
    )
    app.add_middleware(
        Gate,
        token=limits.token,
        max_body=limits.max_body,
        body_seconds=limits.body_seconds,
        on_answer=metrics.answered,
    )
    app.state.num_items = len(catalogue)
    answer_errors(app, PATHS)

    @app.post("/recommend", response_model=RankedItems, responses=PROBLEMS, dependencies=bearer)
    async def recommend(request: RecommendRequest) -> Response:
        """Recommends the next items for a history."""
        handler.check(request)
        return JSONResponse({"items": await batcher.submit(request)})

    @app.post("/similar", response_model=RankedItems, responses=PROBLEMS, dependencies=bearer)
    async def similar(request: SimilarRequest) -> Response:
        """Returns the items most similar to one, whatever the history."""
        return JSONResponse({"items": await batcher.call(handler.similar, request)})

    @app.get("/items", response_model=CataloguePage, responses=PROBLEMS, dependencies=bearer)
    async def items(page: Annotated[ItemsRequest, Query()]) -> Response:
        """Lists the catalogue, page by page."""
        rows = slice(page.offset, page.offset + page.limit)
        pairs = zip(catalogue.item_ids[rows], catalogue.texts[rows], strict=True)
        found = [{"item_id": item_id, "text": text} for item_id, text in pairs]
        return JSONResponse({"total": len(catalogue), "items": found})

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        """Says that the server answers. Needs no token."""
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", dependencies=bearer)
    async def counts() -> Response:
        """Counts of requests and batches, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


__all__ = ["Limits", "create_app"]
