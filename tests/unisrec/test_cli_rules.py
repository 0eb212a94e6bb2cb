"""`unisrec recommend` with the rules of a shop."""

import json

import numpy as np
import polars as pl
import pytest

from unisrec.cli import main
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import Recommender


PRODUCTS = """\
sku;title;brand;price;stock;url
i0;red pen;Acme;1,50;0;https://shop/0
i1;blue pen;Acme;2,00;3;https://shop/1
i2;red tent;Umbra;30,00;4;https://shop/2
i3;steel kettle;;4,00;5;https://shop/3
i4;wood lamp;Umbra;5,00;;https://shop/4
007;green case;Umbra;7,90;1;https://shop/7
"""


@pytest.fixture
def shop(make_model, text_encoder, tokenizer, tmp_path):
    """A checkpoint folder and a table of products."""
    model = make_model(text_pooling="mean")
    model.attach_text_encoder(text_encoder)
    catalogue = ItemCatalogue(["i0", "i1"], ["red pen", "blue pen"])
    Recommender(model, UniSRecProcessor(tokenizer, catalogue, 10, 32)).save_pretrained(tmp_path / "shop")
    (tmp_path / "products.csv").write_text(PRODUCTS, encoding="utf-8")
    return tmp_path / "shop"


@pytest.fixture
def words(shop) -> list[str]:
    """Words of `recommend` that name checkpoint and products."""
    return ["recommend", "--model", str(shop), "--items", str(shop.parent / "products.csv"), "--item-column", "sku"]


def found(capsys, *words: object) -> list[dict]:
    assert main([*map(str, words), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def bad(capsys, *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_rules_of_one_history(words, capsys):
    everything = found(capsys, *words, "--history", "i0", "--columns", "brand", "price", "stock", "url")
    assert {item["item_id"]: item["price"] for item in everything} == {"i1": 2, "i2": 30, "i3": 4, "i4": 5, "007": 7.9}
    assert everything[0]["url"].startswith("https://shop/")
    rules = ["--where", "stock > 0 AND price < 20", "--cap", "brand=1", "--columns", "brand"]
    items = found(capsys, *words, "--history", "i0", *rules)
    assert {item["item_id"] for item in items} == {"i1", "i3", "007"}
    assert [item["item_id"] for item in items] == [
        item["item_id"] for item in everything if item["item_id"] in ("i1", "i3", "007")
    ]
    assert main([*words, "--history", "i0", *rules]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["rank", "score", "item_id", "brand", "text"]
    assert len(lines) == 3


def test_empty_histories_of_a_file(words, capsys, tmp_path):
    file, output = tmp_path / "histories.jsonl", tmp_path / "found.parquet"
    file.write_text('{"user_id": "ann", "history": []}\n{"user_id": "bob", "history": ["i1"]}\n')
    asked = [*words, "--input", file, "--output", output]
    assert "history 1, user ann: the history is empty" in bad(capsys, *asked)
    assert not output.exists()
    rules = ["--popularity", "stock", "--where", "price < 20", "--top-k", 2, "--columns", "stock"]
    assert main([str(word) for word in [*asked, *rules]]) == 0
    assert "1 empty history: the most popular items, by the column 'stock'\n" in capsys.readouterr().err
    rows = pl.read_parquet(output)
    assert rows.columns == ["user_id", "rank", "item_id", "score", "stock"]
    assert rows.filter(user_id="ann").rows() == [
        ("ann", 1, "i3", pytest.approx(5 / 13), 5),
        ("ann", 2, "i1", pytest.approx(3 / 13), 3),
    ]
    assert rows.filter(user_id="bob").height == 2
    assert found(capsys, *words, "--history", "--popularity", "stock")[0]["item_id"] == "i3"


def test_purchases_of_a_domain(shop, capsys, make_domain, tmp_path):
    domain = make_domain()
    domain.save_to_disk(tmp_path / "domain")
    words = ["recommend", "--model", shop, "--domain", tmp_path / "domain", "--history", "--top-k", 1]
    assert "history 0 is empty" in bad(capsys, *words)
    assert main([str(word) for word in [*words, "--popularity"]]) == 0
    captured = capsys.readouterr()
    assert f"by the purchases in {tmp_path / 'domain'}" in captured.err
    assert domain.items["item_id"][int(np.bincount(domain.flat).argmax())] in captured.out


def test_stock_of_tonight(shop, capsys, tmp_path):
    words = ["recommend", "--model", shop, "--history", "text:pen", "--where", "stock > 0"]
    message = bad(capsys, *words)
    assert "where: the items have no column 'stock'; the columns are item_id (text), text (text)" in message
    tonight = tmp_path / "tonight.csv"
    tonight.write_text("item_id,stock\ni1,5\ni0,0\nelsewhere,3\n")
    assert [item["item_id"] for item in found(capsys, *words, "--item-data", tonight)] == ["i1"]
    assert "no such file" in bad(capsys, *words, "--item-data", tmp_path / "none.csv")
    tonight.write_text("item_id,stock\nelsewhere,5\n")
    assert "none of its ids is in the catalogue" in bad(capsys, *words, "--item-data", tonight)
    tonight.write_text("item_id,stock\ni1,5\ni1,6\n")
    assert "item id 'i1' comes twice" in bad(capsys, *words, "--item-data", tonight)


def test_bad_rules(words, capsys):
    words = [*words, "--history", "i0"]
    columns = "the columns are item_id (text), text (text), title (text), brand (text), price (number), stock (number)"
    for more, message in {
        ("--where", "stok > 0"): f"where: the items have no column 'stok'; did you mean 'stock'? {columns}",
        ("--where", "price > 99"): "--where: no item of the catalogue fulfils 'price > 99'",
        ("--where", "stock IN (SELECT * FROM read_csv('x'))"): "where: the items have no column 'SELECT'",
        ("--cap", "brand"): "--cap: 'brand', expected COLUMN=N",
        ("--diversity", "2"): "diversity: 2.0, expected a number from 0 (none) to 1",
        ("--popularity",): "--popularity: name a column of the items that counts purchases, or add --domain.",
    }.items():
        assert message in bad(capsys, *words, *more), more


def test_help_names_the_rules(capsys):
    with pytest.raises(SystemExit):
        main(["recommend", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--where", "--cap", "--diversity", "--popularity", "--columns", "--item-data"):
        assert option in text
    assert "from 0 (default) to 1" in text
