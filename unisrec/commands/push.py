"""`unisrec push`: checkpoint folder -> Hugging Face Hub."""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ._shared import Result, add_json


EXAMPLE = """\
example:
  unisrec push runs/office shop/unisrec-office --private
  unisrec push runs/office shop/unisrec-office --revision v2 --message "Trained on data of May"

Log in first with hf auth login, or set HF_TOKEN. Uploads weights, configuration, tokenizer, processor, catalogue, code,
model card and pictures. All other files, in particular the state of the training, are not uploaded.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("model", metavar="DIR", help="checkpoint folder, or unisrec-base")
    parser.add_argument(
        "repo_id", metavar="REPO_ID", help="owner/name, created if missing; a name without owner is in your account"
    )
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to, created if missing (default: main)")
    parser.add_argument(
        "--no-catalogue",
        action="store_true",
        help="do not upload ids and texts of the items; delete a catalogue that was pushed before",
    )
    parser.add_argument("--message", metavar="TEXT", default="Upload checkpoint", help="commit message")
    add_json(parser)


def hub_card(folder: Path, repo_id: str, catalogue: bool) -> str | None:
    """Returns the model card of the folder, if any, with examples that load the repository. A handwritten card without
    the two marker lines around the examples is returned unchanged, with a one-line notice."""
    from ..reports.card_use import START, UseFacts, replace_use

    file = folder / "README.md"
    if not file.is_file():
        return None
    card = file.read_text(encoding="utf-8")
    written = replace_use(card, UseFacts.of_folder(folder, repo_id, catalogue))
    if written is None:
        print(f"{file}: uploaded unchanged, without generated examples, because it has no {START.strip()} section")
    return card if written is None else written


def run(args: argparse.Namespace) -> Result:
    with checkpoint_folder(args.model) as folder:
        return push(args, folder)


@contextmanager
def checkpoint_folder(name: str) -> Iterator[Path]:
    """Yields the folder to upload; of a released checkpoint, one with its text encoder and card."""
    from ..modeling_unisrec.hub import released_folder

    released = released_folder(name)
    if released is None:
        yield Path(name)
        return
    from transformers.utils.logging import disable_progress_bar

    from ..modeling_unisrec.checkpoint import load_checkpoint

    disable_progress_bar()
    with TemporaryDirectory() as folder:
        for part in load_checkpoint(name):
            part.save_pretrained(folder)
        shutil.copy(released / "README.md", folder)
        yield Path(folder)


def push(args: argparse.Namespace, folder: Path) -> Result:
    """Uploads a folder."""
    from ..modeling_unisrec.hub import check_checkpoint, create_repository, upload_checkpoint

    catalogue = not args.no_catalogue
    check_checkpoint(folder, catalogue)
    repo_id = create_repository(args.repo_id, args.private or None, args.revision)
    card = hub_card(folder, repo_id, catalogue)
    commit = upload_checkpoint(folder, repo_id, args.message, args.revision, catalogue=catalogue, card=card)
    url = str(commit.repo_url) if args.revision is None else f"{commit.repo_url}/tree/{args.revision}"
    found = {"repo_id": repo_id, "revision": args.revision or "main", "commit": commit.oid, "url": url}
    if catalogue:
        return Result(url, found)
    note = "Without a catalogue: one that was pushed before is deleted, but stays in the history of the repository."
    return Result(f"{note}\n{url}", found)
