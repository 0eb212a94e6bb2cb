"""`unisrec demo`: a web page that shows what a checkpoint recommends."""

import argparse
import shlex
import time
from importlib.util import find_spec

from ._shared import add_items_arguments, add_text_neighbours, given_items


EXAMPLE = """\
example:
  unisrec demo unisrec-base --items products.csv --text-columns title brand
  unisrec demo runs/office --domain domains/office --compare runs/office-id
  unisrec demo shop/unisrec-office --export-space space

The page is reachable from this machine only, unless --host is given, and loads nothing from other hosts. --domain adds
example histories and a comparison with the most popular items; --compare adds a second checkpoint.
Needs pip install "unisrec[demo]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("model", metavar="NAME_OR_PATH", help="checkpoint: folder, unisrec-base or Hub id")
    add_items_arguments(parser, "domain folder: its items, example histories and popularity")
    add_text_neighbours(parser)
    parser.add_argument(
        "--customers",
        action="store_true",
        help="let visitors open the history of any user of --domain whose id they know",
    )
    parser.add_argument("--compare", metavar="NAME_OR_PATH", help="second checkpoint to compare with the first")
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to serve on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, metavar="PORT", help="port to serve on (7860)")
    parser.add_argument(
        "--export-space", metavar="DIR", help="write the folder of a Hugging Face Space instead of serving"
    )


def run(args: argparse.Namespace) -> int:
    if find_spec("gradio") is None:
        raise ValueError('the web page needs gradio: pip install "unisrec[demo]"')
    if args.customers and (args.domain is None or args.export_space is not None):
        raise ValueError(
            "--customers: histories are those of --domain, and are not written into a Space; add --domain."
        )
    if args.text_neighbours is not None and args.export_space is not None:
        raise ValueError(
            "--text-neighbours is for this server; a Space ranks as the configuration of the checkpoint says: set it there."
        )
    items = given_items(args)
    if args.export_space is not None:
        from ..demo.space import export_space

        export_space(args.model, args.export_space, args.domain, args.compare, items)
        folder = shlex.quote(args.export_space)
        print(f"{args.export_space}: ready. To publish: hf upload --repo-type space OWNER/NAME {folder}")
        return 0
    from ..serving.listening import bind_address

    bind_address(args.host, args.port)[0].close()
    from ..demo.app import launch, load_app

    options = {"items": items, "customers": args.customers, "text_neighbours": args.text_neighbours}
    app = load_app(args.model, args.domain, args.compare, **options)
    launch(app, server_name=args.host, server_port=args.port, prevent_thread_lock=True)
    try:
        while app.is_running:
            time.sleep(0.1)
    finally:  # Ctrl-C, which Gradio would treat as a normal exit
        app.close(verbose=False)
    return 0
