"""Admits to the web page only the requests it needs: known routes, bounded bodies, well-formed events."""

import json
import math
import re
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from gradio.block_function import BlockFunction
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..serving.bodies import Refusal, read_body, replay


MAX_BODY = 128 * 1024  # bytes: the longest text, every character escaped as a surrogate pair, fits in half of it
MAX_REQUESTS = 2_000  # in progress at once; an open page holds one or two
BODY_TIMEOUT = 20  # seconds

EVENT, STREAM = "/gradio_api/queue/join", "/gradio_api/queue/data"
CALL = re.compile(r"/gradio_api/call/([\w-]{1,64})")
ANSWER = re.compile(r"/gradio_api/call/[\w-]{1,64}/([0-9a-f]{32})")
SESSION = re.compile(r"[\w-]{1,64}")
# Gradio has about eighty routes. Those left out take uploads, serve files, write the state of a session to disk
# (`deep_link`), run events past the queue (`run`, `api`), fetch other addresses (`proxy=`), or show what others do.
READABLE = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|logout)"
    r"|/(assets|static|svelte)/(?!.*\.\.).+"
    r"|/gradio_api/(info|app_id|startup-events|theme\.css|login_check|user|queue/data)"
    r"|/gradio_api/heartbeat/[\w-]{1,64}"
    rf"|{ANSWER.pattern}"
)
WRITABLE = re.compile(rf"/login|/gradio_api/cancel|{EVENT}|{CALL.pattern}")


class PageGate:
    r"""
    ASGI middleware that filters requests to the page. Refused requests reach neither Gradio nor the log.

    It answers 404 for other routes, 413 for bodies over `MAX_BODY` bytes, 422 for events whose values are not of the
    types of their components, and 503 while `MAX_REQUESTS` requests are in progress.

    Args:
        app (`ASGIApp`): The wrapped application.
    """

    def __init__(self, app: ASGIApp):
        self.app = app
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket, which the page does not use
            await send({"type": "websocket.close"})
            return
        self._requests += 1
        try:
            if self._requests > MAX_REQUESTS:
                raise Refusal(503, "Too many requests at once; try again.")
            check_route(scope)
            check_stream(scope)
            if scope["method"] == "POST":
                receive = await _bounded_body(scope, receive)
        except Refusal as refusal:
            status, line = refusal.args
            await PlainTextResponse(line, status, {"Connection": "close"})(scope, receive, send)
        else:
            await self.app(scope, receive, send)
        finally:
            self._requests -= 1


def check_route(scope: Scope) -> None:
    """Raises [`Refusal`] for a route that the page does not need."""
    path = scope["path"].removesuffix("/") or "/"
    routes = {"GET": READABLE, "HEAD": READABLE, "POST": WRITABLE}.get(scope["method"])
    # `deep_link` asks for the stored state of another session.
    query = parse_qs(scope["query_string"], keep_blank_values=True)
    if routes is None or not routes.fullmatch(path) or b"deep_link" in query:
        raise Refusal(404, "Not found.")


def check_stream(scope: Scope) -> None:
    """Raises [`Refusal`] if the requested event or session does not exist, which Gradio would log as an error."""
    queue = scope["app"].get_blocks()._queue
    if match := ANSWER.fullmatch(scope["path"]):
        known = match[1] in queue.event_ids_to_events
        known = known or any(match[1] in events for events in queue.pending_event_ids_session.values())
    elif scope["path"].startswith(STREAM):
        (*_, session) = [b"", *parse_qs(scope["query_string"]).get(b"session_hash", ())]
        known = session.decode("utf-8", "replace") in queue.pending_messages_per_session
    else:
        return
    if not known:
        raise Refusal(404, "No such session or event.")


async def _bounded_body(scope: Scope, receive: Receive) -> Receive:
    """Reads the body of a POST and checks it if it is an event; returns a `receive` that replays it."""
    body = await read_body(receive, MAX_BODY, BODY_TIMEOUT)
    path = scope["path"].removesuffix("/")
    if path == EVENT or CALL.fullmatch(path):
        check_event(scope["app"].get_blocks(), path, body)
    return replay(body, receive)


def check_event(blocks: gr.Blocks, path: str, body: bytes) -> None:
    r"""
    Checks an event before it is queued.

    Args:
        blocks (`gr.Blocks`): The page.
        path (`str`): Route of the event.
        body (`bytes`): Body of the request.

    Raises:
        Refusal: If the body is not JSON, names no event of the page, or holds a value of a wrong type.
    """
    try:
        event = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not JSON.") from None
    if not isinstance(event, dict) or not isinstance(event.get("data"), list):
        raise Refusal(422, "Expected an object with a list `data`.")
    if event.get("batched") or event.get("event_id") is not None:
        raise Refusal(422, "`batched` and `event_id` are not taken.")
    session = event.get("session_hash")
    if session is None and path == EVENT:
        raise Refusal(422, "`session_hash` is missing.")
    if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
        raise Refusal(422, "`session_hash` is at most 64 letters, digits, - and _.")
    fn = _find_event(blocks, path, event)
    if fn is None:
        raise Refusal(404, "No such event.")
    if fn.collects_event_data:
        clicked = event.get("event_data")
        if not (isinstance(clicked, dict) and _is_text(clicked.get("key"))):
            raise Refusal(422, "`event_data` needs a `key`, which is a text.")
    given = [block for block in fn.inputs if not block.skip_api]  # API clients leave out the session's state
    components = given if path != EVENT and len(event["data"]) == len(given) else fn.inputs
    if len(event["data"]) != len(components):
        raise Refusal(422, f"Expected {len(components)} values in `data`.")
    for component, value in zip(components, event["data"], strict=True):
        if not _fits(component, value):
            raise Refusal(422, f"A {type(component).__name__} does not take this value.")


def _find_event(blocks: gr.Blocks, path: str, event: dict[str, Any]) -> BlockFunction | None:
    if path == EVENT:
        index = event.get("fn_index")
        return blocks.fns.get(index) if type(index) is int else None
    name = CALL.fullmatch(path)[1]
    return next((fn for fn in blocks.fns.values() if fn.api_name == name), None)


def _fits(component: gr.blocks.Block, value: Any) -> bool:
    """Returns whether the page itself could send this value for a component."""
    match component:
        case gr.State():
            return value is None  # it is kept here
        case gr.Textbox():
            return isinstance(value, str)
        case gr.Slider():
            number = type(value) in (int, float) and math.isfinite(value)
            return number and component.minimum <= value <= component.maximum
        case _:
            return False


def _is_text(value: Any) -> bool:
    """Returns whether a value is a string without lone surrogates, which cannot be encoded in an answer."""
    return isinstance(value, str) and all(not "\ud800" <= sign <= "\udfff" for sign in value)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


__all__ = ["PageGate", "Refusal", "check_event", "check_route"]
