"""A checkpoint over HTTP: the handler of Hugging Face Inference Endpoints, and the server of `unisrec serve`.

FastAPI, pydantic and uvicorn are imported when they are needed: they come with `pip install "unisrec[serve]"`.
"""

import os
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..recommender import Recommender
    from .server import Limits


def serve(
    model: "Recommender | str | os.PathLike",
    host: str = "127.0.0.1",
    port: int = 8000,
    max_history: int = 1000,
    limits: "Limits | None" = None,
) -> int:
    r"""
    Serves a checkpoint until SIGTERM or Ctrl-C, as `unisrec serve` does.

    Args:
        model ([`Recommender`], `str` or `os.PathLike`): A loaded checkpoint, a folder, `"unisrec-base"` or a Hub id.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Address to serve on.
        port (`int`, *optional*, defaults to 8000): Port to serve on; 0 takes a free one.
        max_history (`int`, *optional*, defaults to 1000): Largest number of entries of a history.
        limits ([`Limits`], *optional*): Token and other limits.

    Returns:
        `int`: Number of requests that were answered.

    Raises:
        ImportError: If a package of `unisrec[serve]` is missing.
        OSError: If the address cannot be served or the checkpoint not be loaded.
        RuntimeError: If an event loop runs already, as in a notebook.
    """
    try:
        from .listening import bind_address, run
        from .server import EndpointHandler, create_app
    except ModuleNotFoundError as error:
        raise ImportError(f'the server needs {error.name}: pip install "unisrec[serve]"') from error
    from ..recommender import Recommender

    listener, address = bind_address(host, port)
    with listener:
        recommender = model if isinstance(model, Recommender) else Recommender.from_pretrained(model)
        app = create_app(EndpointHandler(recommender=recommender, max_history=max_history), limits)
        line = f"serving {app.state.num_items:,} items on {address}; Ctrl-C stops"
        return run(app, listener, lambda: print(line, flush=True))  # noqa: T201


__all__ = ["serve"]
