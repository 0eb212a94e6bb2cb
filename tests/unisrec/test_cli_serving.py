"""`unisrec recommend`, `items` and `index` on a tiny checkpoint: files in, files out, one line for bad input."""

import io
import json
import sys
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from unisrec.cli import main
from unisrec.data import Domain, text_features
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.modeling_unisrec.checkpoint import load_checkpoint, untrained_model
from unisrec.recommender import Recommender


IDS = [f"i{row}" for row in range(6)] + ["7"]
TEXTS = ["red pen", "blue pen", "red tent", "steel kettle", "wood lamp", "kids chair", "green case"]


@pytest.fixture
def shop(make_model, text_encoder, tokenizer, tmp_path):
    """A checkpoint folder, text + ID."""
    model = make_model(num_items=7, text_pooling="mean")
    model.attach_text_encoder(text_encoder)
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS), 10, 32)
    Recommender(model, processor).save_pretrained(tmp_path / "shop")
    (tmp_path / "shop" / "README.md").write_text("# The shop's card\n")
    return tmp_path / "shop"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def bad(capsys, *words: object) -> str:
    """The one line on stderr of a verb that refuses."""
    capsys.readouterr()
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


HISTORIES = {"ann": ["i1", "text:pen"], "bob": ["i2", "text:small wood lamp", "i0"], "cy": ["7"]}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_of_histories(shop, tmp_path, kind):
    file, output = tmp_path / f"histories.{kind}", tmp_path / "new" / f"found.{kind}"
    if kind == "parquet":
        pl.DataFrame({"user_id": list(HISTORIES), "history": list(HISTORIES.values())}).write_parquet(file)
    elif kind == "csv":
        cells = [json.dumps(HISTORIES["ann"]), json.dumps(HISTORIES["bob"]), "7"]
        pl.DataFrame({"user_id": list(HISTORIES), "history": cells}).write_csv(file)
    else:
        lines = [{"user_id": "ann", "history": ["i1", {"text": "pen"}]}]
        lines += [{"user_id": "bob", "history": HISTORIES["bob"], "more": 1}, {"user_id": "cy", "history": [7]}]
        file.write_text("\n".join(map(json.dumps, lines)))
    assert run("recommend", "--model", shop, "--input", file, "--output", output, "--top-k", 3) == 0
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[kind](output)
    histories = [["i1", {"text": "pen"}], ["i2", {"text": "small wood lamp"}, "i0"], ["7"]]
    found = iter(read.select("user_id", "rank", pl.col("item_id").cast(pl.String), "score").rows())
    for user, items in zip(HISTORIES, Recommender.from_pretrained(shop).recommend(histories, 3), strict=True):
        for rank, item in enumerate(items, start=1):
            assert next(found) == (user, rank, item.item_id, pytest.approx(item.score, abs=1e-5))
    assert next(found, None) is None
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_progress_and_unknown_ids_of_a_file(shop, tmp_path, capsys, monkeypatch):
    file, output = tmp_path / "histories.csv", tmp_path / "found.csv"
    file.write_text("user_id,history\nann,i1 i99 i2\nbob,i98\n")
    words = ["recommend", "--model", shop, "--input", file, "--output", output, "--skip-unknown"]
    assert run(*words) == 0
    assert "Recommending" not in capsys.readouterr().err  # nobody watches
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(*words) == 0
    captured = capsys.readouterr()
    assert "left out: 2 unknown ids, 1 user with nothing else" in captured.err
    assert "Recommending: 100%" in captured.err
    assert captured.out == f"5 recommendations for 1 history: {output}\n"
    assert set(pl.read_csv(output)["user_id"]) == {"ann"}


def test_bad_files_of_histories(shop, tmp_path, capsys):
    file, output = tmp_path / "histories.jsonl", tmp_path / "found.parquet"
    words = ["recommend", "--model", shop, "--input", file]
    assert "--input and --output belong together" in bad(capsys, *words)
    assert "expected a name that ends in .parquet, .csv, .jsonl" in bad(capsys, *words, "--output", "found.txt")
    words += ["--output", output]
    assert "no such file" in bad(capsys, *words)
    for lines, message in {
        '{"user": 1}': "user_id",
        '{"user_id": "ann", "history": ["i1"]}\n{"user_id": "bob", "history": []}': "history 2, user bob: the history is empty",
        '{"user_id": "ann", "history": ["i77"]}': "history 1, user ann: item id 'i77' is not in the catalogue of 7 items; nearest ids",
        '{"user_id": "ann", "history": [["i1"]]}': "line 1: the history cannot be read (an entry is",
        '{"user_id": "ann", "history": null}': "history 1, user ann: the history is empty",
        '{"user_id": "ann", "history": "[i1"}': "line 1: the history cannot be read",
    }.items():
        file.write_text(lines + "\n")
        assert message in bad(capsys, *words)
    file.write_text('{"user_id": "ann", "history": ["i1"]}\n')
    assert "--top-k is 0" in bad(capsys, *words, "--top-k", 0)
    assert not output.exists()
    assert run(*words, "--top-k", 1000) == 0
    assert pl.read_parquet(output).height == 6


def test_items_added_to_a_new_folder(shop, tmp_path, capsys):
    before = files_of(shop)
    file, output = tmp_path / "new.csv", tmp_path / "today"
    file.write_text('item_id,text\nn0,"green garden lamp"\n12,blue 🖊️ refill\n')
    assert run("items", "add", shop, "--input", file, "--output", output) == 0
    assert capsys.readouterr().out == f"2 items added, 9 in the catalogue: {output}\n"
    assert files_of(shop) == before
    assert (output / "README.md").read_text() == "# The shop's card\n"
    recommender = Recommender.from_pretrained(shop)
    recommender.add_items({"n0": "green garden lamp", "12": "blue 🖊️ refill"})
    again = Recommender.from_pretrained(output)
    (found,), (expected,) = (each.recommend([["n0", "i1"]]) for each in (again, recommender))
    assert [item.item_id for item in found] == [item.item_id for item in expected]
    # Vectors of items that are added later come from a product of another shape, whose last bit a processor may round otherwise.
    assert [item.score for item in found] == pytest.approx([item.score for item in expected], abs=1e-6)
    assert run("items", "list", output, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert json.loads(lines[8]) == {"item_id": "12", "text": "blue 🖊️ refill"}


def test_items_change_in_place(shop, capsys):
    before = files_of(shop)
    assert run("items", "add", shop, "--item", "n0", "green garden lamp", "--item", "n1", "red brush") == 0
    assert run("items", "remove", shop, "--id", "i0", "n1", "i3") == 0
    after = files_of(shop)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"catalogue/items.parquet", "catalogue/item_embeddings.safetensors"}
    processor = UniSRecProcessor.from_pretrained(shop)
    assert processor.catalogue.item_ids == ["i1", "i2", "i4", "i5", "7", "n0"]
    assert processor.catalogue.id_rows_of(torch.arange(6)).tolist() == [2, 3, 5, 6, 7, 0]
    capsys.readouterr()
    assert run("items", "list", shop) == 0
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert (header.split(), first.split()) == (["item_id", "text"], ["i1", "blue", "pen"])
    assert run("items", "add", shop, "--item", "n2", "red case", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        **{"added": 1, "changed": 0, "removed": 0, "unchanged": 0, "updated": 0},
        **{"items": 7, "checkpoint": str(shop)},
    }
    assert run("items", "remove", shop, "--id", "n2") == 0
    assert capsys.readouterr().out == f"1 item removed, 6 in the catalogue: {shop}\n"


def test_a_table_is_synced_as_the_checkpoint_remembers(shop, tmp_path, capsys):
    base, file = tmp_path / "base", tmp_path / "products.csv"
    model, processor = load_checkpoint(shop)
    processor.catalogue = None
    model.reset_item_embedding(None)
    model.save_pretrained(base)
    processor.save_pretrained(base)
    file.write_bytes("SKU;Titel;Marke\n07;Müslischale red pen;Acme\n08;blue pen;\n09;;\n".encode("cp1252"))
    named = ["--item-column", "SKU", "--text-columns", "Titel", "Marke", "--separator", ";"]
    assert run("items", "add", base, "--input", file, *named, "--output", tmp_path / "mine") == 0
    assert capsys.readouterr().out == f"2 items added, 2 in the catalogue: {tmp_path / 'mine'}\n"
    stored = json.loads((tmp_path / "mine" / "catalogue" / "tables.json").read_text())
    assert stored == {"items_id_column": "SKU", "text_columns": ["Titel", "Marke"], "separator": ";"}
    file.write_text("SKU;Marke;Titel\n08;;blue pen\n10;Acme;green lamp\n07;Acme;red <b>pen</b>\n")
    before = files_of(tmp_path / "mine")
    assert run("items", "sync", tmp_path / "mine", file) == 0
    assert capsys.readouterr().out == (
        f"1 added, 1 changed, 0 removed, 1 unchanged; 3 in the catalogue: {tmp_path / 'mine'}\n"
    )
    after = files_of(tmp_path / "mine")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"catalogue/items.parquet", "catalogue/item_embeddings.safetensors"}
    assert run("items", "sync", tmp_path / "mine", file, "--text-columns", "Titel", "--json") == 0
    assert json.loads(capsys.readouterr().out)["changed"] == 2
    assert (
        run("recommend", "--model", tmp_path / "mine", "--items", file, "--history", "10") == 0
    )  # columns as remembered
    assert "blue pen" in capsys.readouterr().out
    file.write_text("id;Titel\n1;pen\n")
    line = bad(capsys, "items", "sync", tmp_path / "mine", file)
    assert "no column 'SKU', the columns are id, Titel; name the column by --item-column" in line
    (tmp_path / "mine" / "catalogue" / "tables.json").write_text("[]")
    assert "tables.json: expected an object" in bad(capsys, "items", "list", tmp_path / "mine")


def test_recommendations_have_a_header(shop, tmp_path, capsys):
    words = ["recommend", "--model", shop, "--history", "i1", "--top-k", 2]
    assert run(*words) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["rank", "score", "item_id", "text"]
    assert (first.split()[0], second.split()[0]) == ("1", "2")
    assert {line.index(line.split()[2]) for line in (header, first, second)} == {header.index("item_id")}
    assert run(*words, "--json", tmp_path / "found.jsonl") == 0
    assert [item["item_id"] for item in map(json.loads, (tmp_path / "found.jsonl").open())] == [
        first.split()[2],
        second.split()[2],
    ]


def test_bad_items_leave_everything_as_it_was(shop, tmp_path, capsys):
    before, file = files_of(shop), tmp_path / "new.jsonl"
    add = ["items", "add", shop, "--input", file]
    for lines, message in {
        '{"item_id": "n0"}': "neither a column 'title' nor 'text', the columns are item_id",
        '{"item_id": "n0", "text": " "}': "none of its 1 rows has an id and a text",
        '{"id": "n0", "text": "pen"}': "no column 'item_id', the columns are id, text; name the column by --item-column",
    }.items():
        file.write_text(lines + "\n")
        assert message in bad(capsys, *add)
    assert "--separator is for .csv, .tsv and .txt files" in bad(capsys, *add, "--separator", ";")
    named = ["--item", "n", "pen", "--encoding", "cp1252", "--item-column", "sku"]
    assert "--item-column and --encoding are for --input" in bad(capsys, "items", "add", shop, *named)
    assert "an id is given twice" in bad(capsys, "items", "add", shop, "--item", "n", "pen", "--item", "n", "tent")
    assert "'i9' is not in the catalogue" in bad(capsys, "items", "remove", shop, "--id", "i0", "i9")
    assert "is not a local folder: name a new folder" in bad(capsys, "items", "remove", "shop/office", "--id", "i0")
    assert "not an empty folder" in bad(capsys, "items", "remove", shop, "--id", "i0", "--output", shop)
    assert files_of(shop) == before


def test_index_is_built_said_and_used(shop, tmp_path, capsys):
    pytest.importorskip("faiss")
    assert "'flat': exact search finds the same" in bad(capsys, "index", shop, "--output", "x", "--kind", "flat")
    assert run("index", shop, "--output", tmp_path / "index") == 0
    out = capsys.readouterr().out
    assert "kind    hnsw (with fewer than 50,000 items, exact search is as quick)" in out
    assert "recall  1.000 of the exact top 10" in out
    assert "memory  0.0 MB" in out
    recommend = ["recommend", "--model", shop, "--history", "i1", "--json", "--top-k", 3]
    assert run(*recommend) == 0
    exact = capsys.readouterr().out
    assert "'flat': exact search finds the same" in bad(capsys, *recommend, "--index", "flat")
    for index in (tmp_path / "index", "hnsw", "auto"):
        assert run(*recommend, "--index", index) == 0
        found = [json.loads(line)["item_id"] for line in capsys.readouterr().out.splitlines()]
        assert found == [json.loads(line)["item_id"] for line in exact.splitlines()]
    assert run("index", shop, "--output", tmp_path / "second", "--kind", "hnsw", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["items"], found["output"]) == ("hnsw", 7, str(tmp_path / "second"))
    assert "not an empty folder" in bad(capsys, "index", shop, "--output", tmp_path / "index")
    assert "no index there" in bad(capsys, *recommend, "--index", tmp_path / "none")
    assert run("items", "remove", shop, "--id", "i4") == 0
    assert "not of this checkpoint and catalogue" in bad(capsys, *recommend, "--index", tmp_path / "index")


def test_duplicate_ids_in_a_stored_catalogue(shop, capsys):
    items = pl.read_parquet(shop / "catalogue" / "items.parquet")
    items.with_columns(item_id=pl.lit("i0")).write_parquet(shop / "catalogue" / "items.parquet")
    assert "Item id 'i0' comes twice in the catalogue" in bad(capsys, "recommend", "--model", shop, "--history", "i0")


def test_numbers_that_are_not_finite_are_one_line(shop, tmp_path, capsys):
    """In the weights, and in the vectors of the catalogue: never an empty list with status 0."""
    words = ["recommend", "--model", shop, "--history", "i1"]
    vectors = load_file(shop / "catalogue" / "item_embeddings.safetensors")["item_embeddings"]
    vectors[2, 3] = torch.nan
    save_file({"item_embeddings": vectors}, shop / "catalogue" / "item_embeddings.safetensors")
    for verb in (words, ["items", "list", shop], ["items", "add", shop, "--item", "n", "red lamp"]):
        assert "item_embeddings.safetensors: expected a table of finite numbers" in bad(capsys, *verb)
    (shop / "catalogue" / "item_embeddings.safetensors").unlink()
    assert run(*words) == 0
    weights = load_file(shop / "model.safetensors")
    weights["sequence_encoder.position_embedding.weight"][1] = torch.nan
    save_file(weights, shop / "model.safetensors", {"format": "pt"})
    assert "NaN" in bad(capsys, *words)
    assert "NaN" in bad(capsys, "export", shop, "--output", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_titles_beyond_the_code_page_of_the_terminal(shop, tmp_path, monkeypatch, capsys):
    output = tmp_path / "店"
    assert run("items", "add", shop, "--item", "t-1", "急須 red lamp", "--output", output) == 0
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run("items", "list", output) == 0
    assert rb"\u6025\u9808 red lamp" in terminal.buffer.getvalue()
    assert capsys.readouterr().err == ""
    assert UniSRecProcessor.from_pretrained(output).catalogue.texts[-1] == "急須 red lamp"


@pytest.fixture
def domain(tmp_path):
    """The shop's users, whose ids and items have the form of numbers and of texts."""
    rows = {"7": [6, 0], "text:er": [1, 2, 3], "ann": [5]}
    domain = Domain(
        "shop",
        pl.DataFrame({"item_id": IDS, "text": TEXTS}),
        pl.DataFrame(
            {"user_id": list(rows), "item_index": list(rows.values())},
            schema={"user_id": pl.String, "item_index": pl.List(pl.UInt32)},
        ),
    )
    domain.save_to_disk(tmp_path / "domain")
    return tmp_path / "domain"


def test_users_of_a_domain(shop, domain, tmp_path, capsys):
    options = ["recommend", "--model", shop, "--domain", domain, "--top-k", 2]
    assert run(*options, "--users", "all", "--output", tmp_path / "all.csv") == 0
    found = pl.read_csv(tmp_path / "all.csv", infer_schema=False)
    assert found["user_id"].to_list() == ["7", "7", "text:er", "text:er", "ann", "ann"]
    recommender = Recommender.from_pretrained(shop)
    expected = recommender.recommend([["7", "i0"], ["i1", "i2", "i3"], ["i5"]], top_k=2)
    assert found["item_id"].to_list() == [item.item_id for items in expected for item in items]
    (tmp_path / "some.txt").write_text("user_id\nann\n7\n")
    assert run(*options, "--users", tmp_path / "some.txt", "--output", tmp_path / "some.csv") == 0
    some = pl.read_csv(tmp_path / "some.csv", infer_schema=False)["item_id"].to_list()
    assert some == [item for user in ("ann", "7") for item in found.filter(user_id=user)["item_id"]]
    capsys.readouterr()
    assert run(*options, "--user", "text:er", "--json") == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["item_id"] for item in printed] == found.filter(user_id="text:er")["item_id"].to_list()
    in_memory = Domain.load_from_disk(domain)
    assert recommender.recommend_dataset(in_memory, top_k=2).to_polars()["item_id"].equals(found["item_id"])
    assert recommender.recommend_dataset(in_memory, ["ann"], top_k=2)["user_id"] == ["ann", "ann"]


def test_text_vectors_of_a_domain_are_kept_and_used(shop, domain, tmp_path, capsys, monkeypatch):
    words = ["recommend", "--model", shop, "--domain", domain, "--user", "ann"]
    assert run(*words) == 0
    (vectors,) = domain.glob("text_features/*/features.npy")
    first = capsys.readouterr().out
    monkeypatch.setattr(text_features, "encode_texts", lambda *_, **__: pytest.fail("the texts are encoded again"))
    assert run(*words) == 0
    assert capsys.readouterr().out == first
    assert vectors.exists()


def test_interactions_in_a_file(shop, tmp_path):
    rows = {
        "user_id": ["bob", "ann", "bob"],
        "item_id": ["i0", "7", "i2"],
        "timestamp": ["2.1.2024", "1.1.2024", "1.1.2024"],
    }
    pl.DataFrame(rows).write_csv(tmp_path / "clicks.csv", separator=";")
    assert run("recommend", "--model", shop, "--input", tmp_path / "clicks.csv", "--output", tmp_path / "out.csv") == 0
    expected = Recommender.from_pretrained(shop).recommend([["i2", "i0"], ["7"]])
    found = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert found["item_id"].to_list() == [item.item_id for items in expected for item in items]
    as_frame = Recommender.from_pretrained(shop).recommend_dataset(pd.DataFrame(rows)).to_pandas()
    assert as_frame["item_id"].tolist() == found["item_id"].to_list()
    assert as_frame["user_id"].tolist() == found["user_id"].to_list()


def test_users_need_a_domain_that_knows_them(shop, domain, tmp_path, capsys):
    options = ["recommend", "--model", shop]
    assert "--users and --user are those of a domain: add --domain" in bad(capsys, *options, "--user", "ann")
    assert "or --users and --output" in bad(capsys, *options, "--domain", domain, "--users", "all")
    line = bad(capsys, *options, "--domain", domain, "--user", "eve")
    assert "user id 'eve' is not among the 3 of 'shop'" in line
    (tmp_path / "users.csv").write_text("who\nann\n")
    words = ["--domain", domain, "--users", tmp_path / "users.csv", "--output", tmp_path / "out.csv"]
    assert "no column 'user_id', the columns are who" in bad(capsys, *options, *words)
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "users.csv").write_text("Kunde\nann\n")
    assert run(*options, *words) == 0
    assert set(pl.read_csv(tmp_path / "out.csv")["user_id"]) == {"ann"}


def test_no_output_replaces_what_is_read_or_another_output(shop, domain, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("us.csv").write_text("user_id,item_id\nann,i1\n")
    recommend, of_domain = ["recommend", "--model", shop], ["--domain", domain, "--users"]
    before = files_of(tmp_path)
    for words in (
        [*recommend, "--input", "us.csv", "--output", "us.csv"],
        [*recommend, *of_domain, "us.csv", "--output", tmp_path / "us.csv"],
        [*recommend, *of_domain, "all", "--output", domain / "items.parquet"],
        [*recommend, *of_domain, "all", "--output", "a.csv", "--json", "./a.csv"],
        [*recommend, "--history", "i1", "--json", shop / "config.json"],
        ["evaluate", "--model", shop, "--domain", domain, "--json", domain / "new.json"],
        ["fit", "us.csv", "--output", "model", "--json", "us.csv"],
        ["fit", "us.csv", "--output", "model", "--json", "model"],
        ["items", "list", shop, "--json", shop / "README.md"],
    ):
        assert "which this command uses too; name another file" in bad(capsys, *words)
    assert files_of(tmp_path) == before


def test_of_an_option_given_twice_the_last_counts_in_either_spelling(shop, capsys):
    """As in other command lines: scripts append to the options that they hand on."""
    for words in (["--top_k", 3, "--top-k=1"], ["--top-k", 3, "--top_k", 1]):
        assert run("recommend", "--model", shop, "--history", "i1", *words) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2  # header and one item


def test_ids_are_checked_before_anything_is_encoded(shop, tmp_path, capsys, monkeypatch):
    products, output = tmp_path / "products.csv", tmp_path / "found.csv"
    products.write_text("item_id,text\nn1,red tent\nn2,tin cup\n")
    words = ["recommend", "--model", tmp_path / "base", "--items", products]
    model, processor = load_checkpoint(shop)
    model = untrained_model(model, None, {})
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    (tmp_path / "histories.csv").write_text("user_id,history\nann,n1 n9\nbob,n8\n")
    of_file = ["--input", tmp_path / "histories.csv", "--output", output]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Recommender, "__init__", lambda *_: pytest.fail("the catalogue is encoded first"))
        assert "item id 'n9' is not in the catalogue of 2 items" in bad(capsys, *words, "--history", "n1", "n9")
        assert "history 1, user ann: item id 'n9' is not" in bad(capsys, *words, *of_file)
        nothing = bad(capsys, *words, "--history", "n8", "n9", "--skip-unknown")
        assert "no id is in the catalogue (2 left out)" in nothing
    assert run(*words, "--history", "n1", "n9", "--skip-unknown") == 0
    assert "left out: 1 unknown id\n" in capsys.readouterr().err
    assert run(*words, *of_file, "--skip-unknown") == 0
    said = capsys.readouterr().err
    assert "left out: 2 unknown ids, 1 user with nothing else" in said
    assert "Arrow format" not in said
