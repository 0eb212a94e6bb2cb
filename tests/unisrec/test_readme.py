"""The examples of the README run as printed, on tiny data; links between the pages lead somewhere."""

import argparse
import ast
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

import unisrec
from unisrec.cli import VERBS, build_parser
from unisrec.data import Domain
from unisrec.trainer import UniSRecFinetuneArguments, UniSRecPretrainArguments
from unisrec.trainer.argument_rules import UNSUPPORTED


README = Path(__file__).parents[2] / "README.md"
PAGES = [README, *README.parent.glob("[CS]*.md"), *README.parent.glob("docs/*.md")]
CARDS = [README.parent / "model_card.md", *README.parent.glob("checkpoints/*/README.md")]


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_python_examples_run(tmp_path, monkeypatch, make_domain, text_encoder_dir, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("beauty", "toys"):
        make_domain(name).save_to_disk(Path("domains") / name)
    rows = [f"u{user},sku-{(user + 2 * step) % 20},{step}\n" for user in range(60) for step in range(7)]
    Path("clicks.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    products = [f"sku-{item},{['red', 'blue'][item % 2]} pen {item % 10},acme\n" for item in range(20)]
    Path("products.csv").write_text("item_id,title,brand\n" + "".join(products))

    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(blocks) == 4
    _, shop, loaded, pretrained = blocks
    code = "\n".join([pretrained, shop, loaded]).replace('"minilm"', repr(str(text_encoder_dir)))
    code = code.replace("num_train_epochs=10", "num_train_epochs=1, use_cpu=True, disable_tqdm=True")
    code = code.replace('("runs/shop"))', '("runs/shop", num_train_epochs=1, use_cpu=True, disable_tqdm=True))')
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert Domain.load_from_disk("domains/shop").num_interactions == 420
    assert names["output"].sequence_embeds.shape == (1, 384)
    assert "Recommendation(item_id='sku-" in capsys.readouterr().out


def test_first_example_prints_what_is_shown(tmp_path, monkeypatch, capsys):
    shutil.copytree(README.parent / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    code, shown = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", text, flags=re.S).groups()
    assert len(code.splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    # Other weights may order the list differently, but not turn it into another list.
    printed, shown = capsys.readouterr().out.splitlines(), shown.splitlines()
    assert len(printed) == len(shown) == 5
    assert len(set(printed) & set(shown)) >= 3
    products = (tmp_path / "examples" / "products.csv").read_text(encoding="utf-8").splitlines()
    assert {line.split()[0] for line in printed + shown} < {line.split(",")[0] for line in products}


def options_of(verb: str, words: list[str]) -> set[str]:
    """Options of a verb, or of its subcommand, in the spelling of their definition."""
    parser = build_parser()
    for word in [verb, *words]:
        children = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if children and word in children[0]:
            parser = children[0][word]
    options = {name for action in parser._actions for name in action.option_strings}
    kinds = {"pretrain": UniSRecPretrainArguments, "finetune": UniSRecFinetuneArguments}
    return options | {f"--{field.name}" for field in fields(kinds[verb])} if verb in kinds else options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_options_that_exist_in_the_spelling_of_their_verb(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(
        r"^(?:\$ )?(?:accelerate launch .*)?unisrec (\w+) (.*)$|`unisrec (\w+) ([^`]*)`", text, flags=re.M
    )
    for verb, rest, *inline in commands:
        verb, rest = (verb, rest) if verb else inline
        assert verb in VERBS
        options = options_of(verb, rest.split())
        for word in rest.split(" | ")[0].split(" # ")[0].split():
            if word.startswith("--"):
                assert re.sub(r"[=,;.].*", "", word) in options, f"unisrec {verb} {rest}"


def test_table_of_verbs_is_complete():
    listed = re.findall(r"^\| `(\w+)", README.read_text(), flags=re.M)
    assert listed[1 : len(VERBS) + 1] == list(VERBS)


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: page.relative_to(README.parent).as_posix())
def test_links_lead_somewhere(page):
    for target in map(
        "".join, re.findall(r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"', page.read_text(encoding="utf-8"))
    ):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_refused_arguments_are_all_listed():
    page = (README.parent / "docs" / "arguments.md").read_text(encoding="utf-8")
    section = page.split("## Arguments that must keep their default")[1].split("\n## ")[0]
    listed = [
        name for row in re.findall(r"^\| (`.*?`) \|", section, flags=re.M) for name in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(listed) == sorted(UNSUPPORTED)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_code_spans_exist(page):
    for name in re.findall(r"`((?:tests|benchmarks)/[\w/]+\.(?:py|yaml))`", page.read_text(encoding="utf-8")):
        assert (README.parent / name).is_file(), name


def test_code_named_in_the_guide_for_contributors_exists():
    guide = (README.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w.]+/)+[\w.]+\.py)(?:::([\w.]+))?`", guide)
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((README.parent / file).read_text(encoding="utf-8"))
        assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        defined = {getattr(node, "name", None) for node in tree.body} | {
            getattr(node, "id", None) for node in assigned
        }
        assert not name or name in defined, f"{file}::{name}"
    for owner, method in re.findall(r"`(UniSRecModel)\.(\w+)`", guide):
        assert hasattr(getattr(unisrec, owner), method), f"{owner}.{method}"
