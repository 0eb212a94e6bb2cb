"""docs/shop.md is true: its files, its commands and its Python run, on a shop of the same form."""

import re
import shlex
from pathlib import Path

import polars as pl
import pytest

import unisrec
from unisrec.cli import main


pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[2] / "docs" / "shop.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def files(make_domain, tmp_path, monkeypatch):
    """The files of the page, with some more rows."""
    monkeypatch.chdir(tmp_path)
    clicks, products = blocks("text")[:2]
    domain = make_domain(num_items=40, num_users=60)
    for user, history in enumerate(domain.sequences["item_index"].to_list()):
        clicks += "".join(
            f"{user:04};{item + 1:05};{place + 1:02}.02.2025 12:00\n" for place, item in enumerate(history)
        )
    known = re.findall(r"^\d{5}", products, re.MULTILINE)
    rows = zip((f"{row + 1:05}" for row in range(42)), [*domain.items["text"], "red tent", "tea"], strict=True)
    products += "".join(f"{sku};{text};;9,90\n" for sku, text in rows if sku not in known)
    Path("clicks.csv").write_bytes(clicks.encode("cp1252"))
    Path("products.csv").write_bytes(products.encode("cp1252"))
    Path("histories.csv").write_text("user_id,history\n0017,00042 00007\n")


def test_commands(files, text_encoder_dir, capsys):
    (commands,) = blocks("bash")
    fit, *others = (shlex.split(line)[1:] for line in commands.splitlines())
    assert main([*fit, "--text-encoder", str(text_encoder_dir), "--budget", "0.05", "--use-cpu"]) == 0
    said = capsys.readouterr().err
    expected = blocks("text")[2]
    assert said.startswith(expected)
    assert re.search(r"no user, item or time +1 ", said)
    for words in others:
        assert main(words) == 0
    titles = pl.read_parquet("model/catalogue/items.parquet")["text"].to_list()
    assert {"Müslischale, 0,5 l. Acme", "Teekanne & Stövchen"} <= set(titles)
    assert "00099" not in capsys.readouterr().out
    tonight = pl.read_csv("tonight.csv", infer_schema=False)
    assert tonight["user_id"].unique().to_list() == ["0017"]
    assert not {"00042", "00007"} & set(tonight["item_id"])


def test_python(files, text_encoder_dir, monkeypatch, capsys):
    (code,) = blocks("python")
    assert len(code.replace("\n\n", "\n").splitlines()) == 6
    fit = unisrec.fit
    options = {"text_encoder": str(text_encoder_dir), "budget": 0.05, "use_cpu": True}
    monkeypatch.setattr(unisrec, "fit", lambda *tables, **names: fit(*tables, **names, **options))
    exec(code, {})
    assert "Recommendation(" in capsys.readouterr().out
