"""`unisrec push`: checkpoint folder -> Hugging Face Hub."""

import argparse
from pathlib import Path


EXAMPLE = """\
example:
  unisrec push runs/office shop/unisrec-office --private
  unisrec push runs/office shop/unisrec-office --revision v2 --message "Trained on data of May"

Log in before by hf auth login, or set HF_TOKEN. Goes up: weights, configuration, tokenizer, processor, catalogue, code,
model card and pictures. All else in the folder stays here, above all the state of the training.
"""
NO_CATALOGUE = """\
The catalogue is not shared here, and the examples need one: `Recommender.from_pretrained(..., domain_dir)` takes it from a
domain folder, `processor.catalogue = ItemCatalogue(item_ids, texts)` from lists. The items of an ID embedding must stand
in the order of the training.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.epilog = EXAMPLE
    parser.add_argument("model", metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "repo_id", metavar="REPO_ID", help="owner/name, made if it is not there; a name alone is yours"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to, made if it is not there (main)")
    parser.add_argument(
        "--no-catalogue",
        action="store_true",
        help="share neither ids nor texts of the items; a catalogue pushed before is deleted",
    )
    parser.add_argument("--message", metavar="TEXT", default="Upload checkpoint", help="message of the commit")


def hub_card(folder: Path, repo_id: str, catalogue: bool) -> str | None:
    """The folder's model card, if it has one, with examples that load the repository."""
    file = folder / "README.md"
    if not file.is_file():
        return None
    card, name = file.read_text(encoding="utf-8"), folder.absolute().name
    for before, after in (('from_pretrained("', '"'), ('model="', '"'), ("--model ", " ")):
        card = card.replace(f"{before}{name}{after}", f"{before}{repo_id}{after}")
    return card if catalogue else card.replace("## Use\n", f"## Use\n\n{NO_CATALOGUE}", 1)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from ..modeling_unisrec.hub import check_checkpoint, create_repository, upload_checkpoint

    folder = Path(args.model)
    check_checkpoint(folder)
    repo_id = create_repository(args.repo_id, args.private or None, args.revision)
    catalogue = not args.no_catalogue
    card = hub_card(folder, repo_id, catalogue)
    commit = upload_checkpoint(folder, repo_id, args.message, args.revision, catalogue=catalogue, card=card)
    if args.no_catalogue:
        print("without catalogue; one that was pushed before is deleted, but stays in the history of the repository")
    print(commit.repo_url if args.revision is None else f"{commit.repo_url}/tree/{args.revision}")
    return 0
