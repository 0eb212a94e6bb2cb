"""The page as a folder for a Hugging Face Space: everything it needs, nothing of this machine."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import polars as pl

from ..data import Domain
from ..data.domain import check_output_folder
from ..modeling_unisrec.hub import find_model
from .explorer import load_recommender
from .side_by_side import training_counts


APP = '''\
"""The page of {name}."""

from pathlib import Path

from unisrec.recommender.app import launch, load_app


here = Path(__file__).parent
launch(load_app({model}, {options}name={name!r}))
'''
# A Space without a GPU has no use for the CUDA build of PyTorch, which is ten times as large.
REQUIREMENTS = """\
--extra-index-url https://download.pytorch.org/whl/cpu
unisrec[demo]=={version}
"""
README = """\
---
title: {title}
emoji: 🛒
colorFrom: indigo
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
pinned: false
{models}short_description: What comes next? UniSRec recommends from texts.
---

# {title}

Build a history of products or of your own words, and see what comes next and why. The page keeps nothing of its visitors.
Made by `unisrec demo --export-space`.
"""


def export_space(
    model: str | os.PathLike,
    output: str | os.PathLike,
    domain_dir: str | os.PathLike | None = None,
    compare: str | os.PathLike | None = None,
) -> None:
    r"""
    Writes the folder of a Space.

    A checkpoint on the Hub is named; one of this machine is copied into the folder, with its catalogue. Of a domain only
    items and how often each was bought go into it: histories stay here.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id.
        output (`str` or `os.PathLike`): New folder.
        domain_dir (`str` or `os.PathLike`, *optional*): Domain folder, as for [`load_app`].
        compare (`str` or `os.PathLike`, *optional*): A second checkpoint.

    Raises:
        FileExistsError: If it exists and is not an empty folder.
        OSError: If a checkpoint or the domain cannot be loaded. Nothing is written then.
    """
    from .. import __version__

    output = Path(output)
    check_output_folder(output)
    domain = None if domain_dir is None else Domain.load_from_disk(domain_dir)
    name = Path(model).absolute().name if Path(model).is_dir() else str(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "space"
        folder.mkdir()
        used = [_put(folder, "model", model, domain)]
        options = ""
        if compare is not None:
            used.append(_put(folder, "compare", compare, domain))
            options += f"compare={used[-1][0]}, "
        if domain is not None:
            counts = training_counts(domain)
            table = pl.DataFrame({"item_id": list(counts), "count": list(counts.values())})
            table.write_parquet(folder / "popularity.parquet")
            options += 'popularity_file=here / "popularity.parquet", '
        hub_ids = [hub_id for _, hub_id in used if hub_id is not None]
        models = "".join(["models:\n", *(f"- {hub_id}\n" for hub_id in hub_ids)]) if hub_ids else ""
        title = name.rpartition("/")[2].partition("@")[0]
        readme = README.format(title=title, gradio=gr.__version__, models=models)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        app = APP.format(name=name, model=used[0][0], options=options)
        (folder / "app.py").write_text(app, encoding="utf-8")
        (folder / "requirements.txt").write_text(REQUIREMENTS.format(version=__version__), encoding="utf-8")
        if output.is_dir():
            output.rmdir()
        folder.rename(output)


def _put(folder: Path, place: str, model: str | os.PathLike, domain: Domain | None) -> tuple[str, str | None]:
    """Python that names a checkpoint in the Space, and its Hub id; copies it where the Hub does not have it as shown."""
    recommender = load_recommender(model, domain)
    if domain is None and not Path(model).is_dir():
        return repr(str(model)), find_model(model)[0]
    recommender.model.save_pretrained(folder / place)
    recommender.processor.save_pretrained(folder / place)
    return f'here / "{place}"', None


__all__ = ["export_space"]
