"""Export of the page as a self-contained folder for a Hugging Face Space."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import polars as pl
import yaml

from ..data import Domain
from ..data.domain import check_output_folder
from ..data.markdown import escape, one_line
from ..modeling_unisrec import ItemCatalogue
from ..modeling_unisrec.hub import split_revision
from ..modeling_unisrec.outgoing import check_outgoing
from ..recommender.catalogue import Items, make_catalogue
from .explorer import load_recommender
from .side_by_side import training_counts


APP = '''\
"""The page of a checkpoint."""

from pathlib import Path

from unisrec.demo.app import launch, load_app


here = Path(__file__).parent
launch(load_app({arguments}))
'''
# A Space without a GPU has no use for the CUDA build of PyTorch, which is ten times as large.
REQUIREMENTS = """\
--extra-index-url https://download.pytorch.org/whl/cpu
unisrec[demo]=={version}
"""
README = """\
---
{head}---

# {title}

Build a history of products or of your own words, and see what comes next and why. The page keeps nothing of its visitors.
Made by `unisrec demo --export-space`.
"""


def export_space(
    model: str | os.PathLike,
    output: str | os.PathLike,
    domain_dir: str | os.PathLike | None = None,
    compare: str | os.PathLike | None = None,
    items: "Items | None" = None,
) -> None:
    r"""
    Writes the folder of a Space.

    A checkpoint on the Hub is referenced by name; a local one is copied into the folder with its catalogue. Of a
    domain, only the items and their interaction counts are copied, never user histories.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id.
        output (`str` or `os.PathLike`): New folder.
        domain_dir (`str` or `os.PathLike`, *optional*): Domain folder, as for [`load_app`].
        compare (`str` or `os.PathLike`, *optional*): A second checkpoint.
        items (*optional*): As for [`load_app`].

    Raises:
        FileExistsError: If `output` exists and is not an empty folder.
        OSError: If a checkpoint or the domain cannot be loaded. Nothing is written then.
        ValueError: If a shared file does not pass [`check_outgoing`]. Nothing is written then.
    """
    output = Path(output)
    check_output_folder(output)
    domain = None if domain_dir is None else Domain.load_from_disk(domain_dir)
    catalogue = make_catalogue(domain if items is None else items)
    name = Path(model).absolute().name if Path(model).is_dir() else str(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "space"
        folder.mkdir()
        arguments, hub_ids = [_put(folder, "model", model, catalogue)], [_hub_id(model, catalogue)]
        if compare is not None:
            arguments.append(f"compare={_put(folder, 'compare', compare, catalogue)}")
            hub_ids.append(_hub_id(compare, catalogue))
        if domain is not None:
            counts = training_counts(domain)
            table = pl.DataFrame({"item_id": list(counts), "count": list(counts.values())})
            table.write_parquet(folder / "popularity.parquet")
            arguments.append("popularity_file=here / 'popularity.parquet'")
        arguments.append(f"name={name!a}")  # ASCII: a folder name may not be valid text
        title = one_line(name.rpartition("/")[2].partition("@")[0])
        head = _head(title, [hub_id for hub_id in hub_ids if hub_id is not None])
        readme = README.format(head=head, title=escape(title))
        (folder / "README.md").write_text(readme, encoding="utf-8")
        (folder / "app.py").write_text(APP.format(arguments=", ".join(arguments)), encoding="utf-8")
        (folder / "requirements.txt").write_text(REQUIREMENTS.format(version=version("unisrec")), encoding="utf-8")
        check_outgoing(folder, [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()])
        if output.is_dir():
            output.rmdir()
        folder.rename(output)


def _head(title: str, hub_ids: Sequence[str]) -> str:
    """Returns the YAML front matter of `README.md`, which the Hub reads."""
    settings = {
        "title": title,
        "emoji": "🛒",
        "colorFrom": "indigo",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": gr.__version__,
        "python_version": "3.12",
        "app_file": "app.py",
        "pinned": False,
        **({"models": list(hub_ids)} if hub_ids else {}),
        "short_description": "What comes next? UniSRec recommends from texts.",
    }
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1000)


def _put(folder: Path, place: str, model: str | os.PathLike, items: ItemCatalogue | None) -> str:
    """Returns a Python expression for a checkpoint in the Space; copies the checkpoint unless the Hub has the same
    one."""
    recommender = load_recommender(model, items)
    if _hub_id(model, items) is not None:
        return repr(str(model))
    recommender.model.save_pretrained(folder / place)
    recommender.processor.save_pretrained(folder / place)
    return f"here / {place!r}"


def _hub_id(model: str | os.PathLike, items: ItemCatalogue | None) -> str | None:
    """Returns the id of a checkpoint that the Space can load from the Hub, with its own catalogue."""
    return None if items is not None or Path(model).is_dir() else split_revision(model)[0]


__all__ = ["export_space"]
