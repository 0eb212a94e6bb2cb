"""Addresses to serve on, and the life of a server process."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI


MAX_CONNECTIONS = 2_000
STOP_SECONDS = 10  # for the requests that are in progress when the server is asked to stop


def bind_address(host: str, port: int) -> tuple[socket.socket, str]:
    r"""
    Takes an address, before anything is loaded.

    Args:
        host (`str`): Name or number of the host.
        port (`int`): The port; 0 takes a free one.

    Returns:
        `tuple[socket.socket, str]`: A bound socket, on which nothing listens yet, and the URL.

    Raises:
        OSError: If it cannot be served.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise OSError(f"cannot serve on {host}:{port} ({error}); choose another --port or --host.") from error
    return listener, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


class _Server(uvicorn.Server):
    """Calls a function when the server accepts connections."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]):
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_start()


def settings() -> dict[str, object]:
    """Returns the options of [`uvicorn.Config`] that do not depend on the application."""
    return {
        "log_level": "error",
        "access_log": False,
        "server_header": False,
        "limit_concurrency": MAX_CONNECTIONS,
        "timeout_graceful_shutdown": STOP_SECONDS,
    }


def run(app: FastAPI, listener: socket.socket, on_start: Callable[[], None]) -> int:
    r"""
    Serves an application until SIGTERM or Ctrl-C; requests in progress are answered first.

    Args:
        app (`FastAPI`): The application.
        listener (`socket.socket`): A bound socket.
        on_start (`Callable[[], None]`): Called when connections are accepted.

    Returns:
        `int`: Number of requests that were answered.

    Raises:
        RuntimeError: If an event loop runs already, as in a notebook.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("an event loop runs already, as in a notebook: start `unisrec serve FOLDER` in a terminal")
    server = _Server(uvicorn.Config(app, **settings()), on_start)
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    # uvicorn raises the signals that it has caught again at its end; stopping on request is no failure.
    before = {each: signal.signal(each, server.handle_exit) for each in signals}
    try:
        server.run([listener])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return server.server_state.total_requests


__all__ = ["bind_address", "run", "settings"]
