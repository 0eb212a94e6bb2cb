"""Answers to requests that are refused: a status and one line."""

from collections.abc import Iterable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .batching import Overloaded
from .bodies import Refusal
from .gate import refused
from .schemas import one_line, printable


def answer_errors(app: FastAPI, paths: Iterable[str]) -> None:
    r"""
    Gives every refusal the form `{"error": line}`.

    Args:
        app (`FastAPI`): The application.
        paths (`Iterable[str]`): Paths that exist, named in the answer to a request for another one.
    """

    def line(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": printable(text, 600)}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()
        return line(400 if problems[0]["type"] == "json_invalid" else 422, one_line(problems))

    @app.exception_handler(ValueError)
    async def impossible(request: Request, error: ValueError) -> Response:
        return line(422, str(error))

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> Response:
        return line(503, "Too many requests are waiting; try again.", {"Retry-After": "1"})

    @app.exception_handler(Refusal)
    async def refusal(request: Request, error: Refusal) -> Response:
        return refused(error)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        path = printable(ascii(request.url.path))
        match error.status_code:
            case 404:
                return line(404, f"{path} is not here; expected one of {', '.join(sorted(paths))}")
            case 405:
                allowed = (error.headers or {}).get("Allow", "")
                return line(405, f"{request.method} {path}: expected {allowed}", error.headers)
            case 400:
                return line(400, "the body is not JSON in UTF-8, or is nested too deeply")
        return line(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return line(500, "A fault of the server; its log has the details.")


__all__ = ["answer_errors"]
