"""`unisrec serve`: a checkpoint and its catalogue behind HTTP."""

import argparse
import os
from functools import partial
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..words import plural
from ._rules import add_item_data, use_item_data
from ._shared import add_items_arguments, add_text_neighbours, load_recommender


if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI


EXAMPLE = """\
example:
  unisrec serve model --port 8000
  unisrec serve unisrec-base --items products.csv --text-columns title brand
  curl http://127.0.0.1:8000/recommend -H "Content-Type: application/json" -d '{"history": ["sku-17"], "top_k": 5}'

Paths: /recommend, /similar, /items, /health, /metrics (Prometheus), and /docs, a page that describes them. Requests that
arrive at about the same time share one call of the model. SIGTERM and Ctrl-C end the server after the requests in progress.
The server is reachable from this machine only, unless --host is given. Needs pip install "unisrec[serve]".
"""
PACKAGES = ("fastapi", "pydantic", "uvicorn", "prometheus_client")
TOKEN = "UNISREC_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
    add_items_arguments(parser)
    add_text_neighbours(parser)
    add_item_data(parser)
    parser.add_argument(
        "--text-encoder", metavar="NAME_OR_PATH", help="text encoder to use if the checkpoint has none"
    )
    parser.add_argument(
        "--index",
        default="exact",
        metavar="KIND|DIR",
        help="search: exact, exact-bf16, auto, ivf, hnsw, or a folder (exact)",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to serve on (127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="PORT", help="port to serve on; 0 for a free one (8000)"
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help=f"requests must have the header Authorization: Bearer TOKEN (default: {TOKEN} of the environment, if set)",
    )
    parser.add_argument("--max-history", type=int, default=1000, metavar="N", help="longest history, in items (1000)")
    parser.add_argument(
        "--max-body", type=int, default=1 << 20, metavar="BYTES", help="largest body of a request (1048576)"
    )
    parser.add_argument(
        "--max-batch", type=int, default=64, metavar="N", help="requests in one call of the model (64)"
    )
    parser.add_argument(
        "--max-wait", type=float, default=2, metavar="MS", help="milliseconds that a request waits for others (2)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each with its own model (1)")


def check(args: argparse.Namespace) -> None:
    """Raises `ValueError` for an option out of range, and if a package is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f'the server needs {missing[0].replace("_", "-")}: pip install "unisrec[serve]"')
    for name in ("max_history", "max_body", "max_batch", "workers"):
        if getattr(args, name) < 1:
            raise ValueError(f"`{name}` is {getattr(args, name)}; expected a whole number from 1")
    if not 0 <= args.max_wait <= 1000:
        raise ValueError(f"`max_wait` is {args.max_wait:g}; expected milliseconds from 0 to 1000")
    args.token = os.environ.get(TOKEN) if args.token is None else args.token
    if args.token is not None and (not args.token.isascii() or not args.token.isprintable() or not args.token.strip()):
        raise ValueError(
            f"`token` (or {TOKEN}) is empty or holds other than printable ASCII characters; choose another"
        )


def build_app(args: argparse.Namespace) -> "FastAPI":
    """Loads the checkpoint and returns the application."""
    from ..serving.endpoint import EndpointHandler
    from ..serving.server import Limits, create_app

    recommender = load_recommender(args, args.index, partial(use_item_data, args.item_data))
    handler = EndpointHandler(recommender=recommender, max_history=args.max_history)
    limits = Limits(args.token, args.max_body, max_batch=args.max_batch, max_wait=args.max_wait / 1000)
    return create_app(handler, limits)


def build_worker(args: argparse.Namespace) -> "FastAPI":
    """Returns the application of a worker process, which has not run the command line."""
    from transformers.utils.logging import disable_progress_bar

    from .. import register

    register()
    disable_progress_bar()
    return build_app(args)


def run(args: argparse.Namespace) -> int:
    check(args)
    from ..serving.listening import bind_address
    from ..serving.listening import run as serve

    listener, address = bind_address(args.host, args.port)
    with listener:
        app = build_app(args)
        line = f"serving {args.model} ({plural(app.state.num_items, 'item')}) on {address} "
        line += "with a token" if args.token else "without a token"
        if args.workers > 1:
            run_workers(args, listener, f"{line}, {args.workers} processes")
            print("stopped")
        else:
            answered = serve(app, listener, partial(print, f"{line}; Ctrl-C stops", flush=True))
            print(f"stopped after {plural(answered, 'request')}")
    return 0


def run_workers(args: argparse.Namespace, listener: "socket.socket", line: str) -> None:
    """Serves with several processes until SIGTERM or Ctrl-C, and prints a line when they start."""
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from ..serving.listening import settings

    with TemporaryDirectory() as counts:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts
        config = uvicorn.Config(
            partial(build_worker, args),
            factory=True,
            workers=args.workers,
            timeout_worker_healthcheck=60,
            **settings(),
        )
        print(line, flush=True)
        Multiprocess(config, [listener]).run()
    del os.environ["PROMETHEUS_MULTIPROC_DIR"]
