"""Writes the pages of the site to build/pages: copies of the Markdown files, the notebooks with their results, and the
reference from the docstrings.

The copies keep their places in the repository, so that links work as they are. `make site` runs this, then zensical.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import re
import shutil
import textwrap
from functools import cached_property
from pathlib import Path

from transformers import TrainingArguments

from unisrec.cli import build_parser


ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
# Pages of the reference: title, and the modules whose `__all__` is described; a name stands on the first page that has it.
REFERENCE = {
    "data": ("Data", ["unisrec.data"]),
    "training": ("Training", ["unisrec.trainer"]),
    "evaluation": ("Evaluation", ["unisrec.evaluation"]),
    "model": ("Model", ["unisrec.configuration", "unisrec.modeling_unisrec"]),
    "serving": ("Shop and serving", ["unisrec.recommender", "unisrec.serving", "unisrec"]),
}
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):\n((?:\n*(?: +.*))*)", flags=re.M)
ENTRY = re.compile(r"^([\w, *]+) \((.*?)\):(?=\s)", flags=re.S)


def copy_pages() -> None:
    """Copies the pages, and the files of the repository that they link to. Links to folders become text."""
    pages = [
        ROOT / "README.md",
        *ROOT.glob("[CS]*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("checkpoints/*/README.md"),
    ]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name, target, picture in re.findall(r'\[([^\[\]]*)\]\(([^)\s#]+)|src="([^"]+)"', text):
            file = (page.parent / (target or picture)).resolve()
            if file.is_dir():
                text = text.replace(f"[{name}]({target})", name)
            elif file.suffix == ".ipynb":
                text = text.replace(f"]({target})", f"]({target.removesuffix('.ipynb')}.md)")
            elif file.is_file() and file not in pages:
                copy = PAGES / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
        copy = PAGES / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "site.css", PAGES / "docs")


def result(output: dict) -> str:
    """A result of a notebook cell: a table where it has one, otherwise its text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if table := re.search(r"<table.*</table>", "".join(data.get("text/html", "")), flags=re.S):
        rows = re.sub(
            r"(</tr>)<tr>(?:<td>[^<]*</td>)*</tr></thead>", r"\1</thead>", table[0]
        )  # without types of columns
        return re.sub("<table[^>]*>", "<table>", rows).replace("&quot;", "") + "\n"
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```\n"


def write_notebooks() -> None:
    """A page for each notebook, with a link to its file."""
    folder = PAGES / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(ROOT.glob("examples/*.ipynb")):
        shutil.copy(file, folder)
        parts = []
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"]) + "\n"
            parts += [source] if cell["cell_type"] == "markdown" else [f"```python\n{source}```\n"]
            parts += map(result, cell.get("outputs", []))
        parts.append(f"[This page as a notebook]({file.name})\n")
        (folder / f"{file.stem}.md").write_text("\n".join(parts), encoding="utf-8")


def public_members(owner: type, public: set[type]) -> dict[str, tuple[str, object]]:
    """Public methods and properties with a docstring of ours, those of bases without an entry of their own included."""
    found: dict[str, tuple[str, object]] = {}
    for base in owner.__mro__:
        if not base.__module__.startswith("unisrec") or (base is not owner and base in public):
            continue
        for name, member in vars(base).items():
            member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            known = inspect.isfunction(member) or isinstance(member, property | cached_property)
            if known and not name.startswith("_") and member.__doc__:
                found.setdefault(name, (base.__name__, member))
    return found


def signature(name: str, found: object) -> str:
    """The call with its defaults; the types are in the docstring."""
    bare = []
    for parameter in inspect.signature(found).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        default = parameter.default
        if default is not parameter.empty and repr(default).startswith("<"):
            default = inspect.Parameter.empty if default is None else ...
        bare.append(parameter.replace(annotation=parameter.empty, default=default))
    call = f"{name}{inspect.Signature(bare)}".replace("Ellipsis", "...")
    if len(call) > 100:
        lines = textwrap.wrap(call.removeprefix(f"{name}(").removesuffix(")"), 96, break_long_words=False)
        call = "\n".join([f"{name}(", *(f"    {line}" for line in lines), ")"])
    return f"```python\n{call}\n```\n"


def entries(match: re.Match[str]) -> str:
    """A section of a docstring as a list, one item for each parameter, value or error."""
    title, block = match[1], textwrap.dedent(match[2].strip("\n"))
    items = re.split(r"\n(?=\S)", block)
    if title in ("Returns", "Yields"):
        items = [block]
    lines = []
    for item in items:
        item = ENTRY.sub(r"**\1** (\2):", item) if title in ("Args", "Attributes") else item
        first, _, rest = item.partition("\n")
        lines.append(f"- {first}\n" + textwrap.indent(textwrap.dedent(rest), "    "))
    title = title.replace("Args", "Arguments")
    return f"**{title}**\n\n" + "\n".join(line.rstrip("\n") for line in lines) + "\n\n"


def described(found: object) -> str:
    doc = re.sub(r" *# doctest: .*", "", inspect.getdoc(found) or "")
    return SECTION.sub(entries, doc) + "\n"


def fields_of(owner: type) -> str:
    """Table of the training arguments that the package adds to those of transformers."""
    inherited = {
        field.name
        for base in owner.__mro__[1:]
        if dataclasses.is_dataclass(base)
        for field in dataclasses.fields(base)
    }
    rows = ["| argument | default | |", "|---|---|---|"]
    for field in dataclasses.fields(owner):
        if field.name not in inherited:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            text = field.metadata["help"].replace("|", r"\|")
            rows.append(f"| `{field.name}` | `{default!r}` | {text} |")
    return "\n".join(rows) + "\n\n"


def help_of(name: str, parser: argparse.ArgumentParser, level: int) -> str:
    """Help of a command and of its subcommands."""
    text = f"{'#' * level} {name}\n\n```text\n{parser.format_help().strip()}\n```\n\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            text += "".join(help_of(f"{name} {verb}", each, 2) for verb, each in action.choices.items())
    return text


def summary(found: object) -> str:
    return (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ").replace("|", r"\|")


def write_reference() -> None:
    """One page for each entry of `REFERENCE`, an index, and the help of every command."""
    homes: dict[str, str] = {}  # name -> page#anchor
    objects: dict[str, dict[str, object]] = {}
    for page, (_, modules) in REFERENCE.items():
        for module in map(importlib.import_module, modules):
            for name in module.__all__:
                found = getattr(module, name)
                if (inspect.isclass(found) or inspect.isfunction(found)) and name not in homes:
                    homes[name] = f"{page}.md#{name}"
                    objects.setdefault(page, {})[name] = found
    public = {found for each in objects.values() for found in each.values() if inspect.isclass(found)}
    texts = {}
    for page, (title, modules) in REFERENCE.items():
        parts = [f"# {title}\n\nPublic names of " + ", ".join(f"`{each}`" for each in modules) + ".\n"]
        for name, found in sorted(objects[page].items()):
            parts.append(f"## {name} {{#{name}}}\n")
            is_arguments = inspect.isclass(found) and issubclass(found, TrainingArguments)
            parts += (
                [described(found), fields_of(found)] if is_arguments else [signature(name, found), described(found)]
            )
            for member, (base, each) in public_members(found, public).items() if inspect.isclass(found) else ():
                homes[f"{name}.{member}"] = homes[f"{base}.{member}"] = f"{page}.md#{name}.{member}"
                parts.append(f'### {name}.{member} {{data-toc-label="{member}" #{name}.{member}}}\n')
                parts += [signature(member, each) if inspect.isfunction(each) else "", described(each)]
        texts[page] = "\n".join(parts)
    texts["index"] = "# Public names\n"
    modules = dict.fromkeys(["unisrec", *(module for _, each in REFERENCE.values() for module in each)])
    listed: set[str] = set()
    for module in map(importlib.import_module, modules):
        texts["index"] += f"\n## From {module.__name__}\n\n| name | |\n|---|---|\n"
        for name in sorted(homes.keys() & set(module.__all__) - listed, key=str.lower):
            texts["index"] += f"| [`{name}`]({homes[name]}) | {summary(getattr(module, name))} |\n"
            listed.add(name)
    texts["commands"] = help_of("unisrec", build_parser(), 1)
    folder = PAGES / "reference"
    folder.mkdir(parents=True)
    for page, text in texts.items():
        # Docstrings name objects as [`Name`]: a link where it is public, plain code where it is not.
        for name in set(re.findall(r"\[`~?([\w.]+)`\](?!\()", text)):
            home = homes.get(name)
            target = f"[`{home.partition('#')[2]}`]({home})" if home else f"`{name}`"
            text = re.sub(rf"\[`~?{re.escape(name)}`\](?!\()", target, text)
        (folder / f"{page}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    shutil.rmtree(PAGES, ignore_errors=True)
    copy_pages()
    write_notebooks()
    write_reference()
