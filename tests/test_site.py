"""The site has every page, and a reference of every public name whose links lead somewhere; needs no site builder."""

import importlib.util
import re
from pathlib import Path

import pytest

import unisrec


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Folder of the pages, as `make site` writes them."""
    spec = importlib.util.spec_from_file_location("unisrec_site", ROOT / "docs" / "site.py")
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    site.PAGES = tmp_path_factory.mktemp("site") / "pages"
    site.copy_pages()
    site.write_notebooks()
    site.write_reference()
    return site.PAGES


def test_every_page_is_in_the_navigation_once(pages):
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.M)
    assert sorted(listed) == sorted(page.relative_to(pages).as_posix() for page in pages.rglob("*.md"))


def test_links_of_the_reference_lead_somewhere(pages):
    anchors = {
        page.name: re.findall(r" \{.*#(\S+)\}$", page.read_text(), flags=re.M) for page in pages.glob("reference/*.md")
    }
    names = [name for found in anchors.values() for name in found]
    assert len(names) == len(set(names)) > 150
    links = 0
    for page in pages.glob("reference/*.md"):
        for file, anchor in re.findall(r"\]\((\w+\.md)#([\w.]+)\)", page.read_text(encoding="utf-8")):
            assert anchor in anchors[file], f"{page.name}: {file}#{anchor}"
            links += 1
    assert links > 200


def test_reference_has_every_public_name_and_readable_docstrings(pages):
    index = (pages / "reference" / "index.md").read_text(encoding="utf-8")
    for name in unisrec.__all__:
        assert name == "__version__" or f"[`{name}`](" in index, name
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages.glob("reference/*.md"))
    assert not re.findall(r"^ *(?:Args|Attributes|Returns|Raises|Yields):", text, flags=re.M)
    assert not re.findall(r"\[`[^`\n]+`\](?!\()", text)
    training = (pages / "reference" / "training.md").read_text(encoding="utf-8")
    (finetune,) = re.findall(r"^## finetune \{#finetune\}\n(.*?)(?=^## )", training, flags=re.M | re.S)
    assert "\n- **domain** ([`Domain`](data.md#Domain), `str` or `os.PathLike`): Domain in memory" in finetune
    assert "\n| `lora` | `None` | " in training
