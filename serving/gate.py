"""Admits to the server only requests with the right token, of the right type, and of a bounded size and duration."""

import secrets
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .bodies import Refusal, read_body, replay


OPEN_PATHS = ("/health", "/docs", "/openapi.json")  # need no token: they tell nothing about the shop
WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")


class Gate:
    r"""
    ASGI middleware in front of the server. It answers 401 for a missing or wrong token, 408 for a body that takes too long,
    413 for one that is too large, and 415 for one that is not JSON.

    Args:
        app (`ASGIApp`): The wrapped application.
        token (`str`, *optional*): Token that requests must bear, except for `OPEN_PATHS`.
        max_body (`int`, *optional*, defaults to 1,048,576): Largest body in bytes.
        body_seconds (`float`, *optional*, defaults to 10): Time that the body of a request may take.
        on_answer (`Callable[[str, int, float], None]`, *optional*):
            Called with path, status and seconds of each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None = None,
        max_body: int = 1 << 20,
        body_seconds: float = 10.0,
        on_answer: Callable[[str, int, float], None] | None = None,
    ):
        self.app, self.max_body, self.body_seconds, self.on_answer = app, max_body, body_seconds, on_answer
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket
            await send({"type": "websocket.close"})
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            self._check_token(scope)
            if scope["method"] not in WITHOUT_BODY:
                _check_type(scope)
                receive = replay(await read_body(receive, self.max_body, self.body_seconds), receive)
        except Refusal as refusal:
            await refused(refusal)(scope, receive, watched)
        else:
            await self.app(scope, receive, watched)
        finally:
            if self.on_answer is not None:
                self.on_answer(scope["path"], status, time.perf_counter() - start)

    def _check_token(self, scope: Scope) -> None:
        if self._token is None or scope["path"] in OPEN_PATHS:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        if not given:
            raise Refusal(401, "Authorization: missing; expected the header Authorization: Bearer TOKEN")
        if kind.lower() != b"bearer" or not secrets.compare_digest(token.strip(), self._token):
            raise Refusal(401, "Authorization: wrong token; expected the header Authorization: Bearer TOKEN")


def _check_type(scope: Scope) -> None:
    kind = Headers(scope=scope).get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, f"Content-Type: expected application/json, not {kind[:80]!a}")


def refused(refusal: Refusal) -> JSONResponse:
    """Returns the answer for a `refusal`. The connection is closed, because the rest of the body may still be on its way."""
    status, line = refusal.args
    headers = {"Connection": "close"} | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    return JSONResponse({"error": line}, status, headers)


__all__ = ["Gate", "refused"]
