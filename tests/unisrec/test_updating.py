"""`unisrec update`: a fitted shop, the next day."""

import json
import shutil

import numpy as np
import pandas as pd
import polars as pl
import pytest

import unisrec
from unisrec.cli import main
from unisrec.data import Domain
from unisrec.data.training_data import has_seen
from unisrec.modeling_unisrec import ItemCatalogue
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.item_catalogue import FormerItem
from unisrec.recommender import Recommender
from unisrec.update_data import merge_histories, training_histories


NAMES = ["Kunde", "Artikel", "Zeitpunkt"]


@pytest.fixture(scope="module")
def days(make_domain):
    """Clicks of 40 users before and after a day on which 12 of them buy again, one user is new, and so is an item."""
    domain = make_domain("toys")
    rows = [
        (f"{user:04}", f"{item:03}", f"{1 + place}.1.2024 18:05")
        for user, history in enumerate(domain.sequences["item_index"].to_list())
        for place, item in enumerate(history)
    ]
    new = [
        (f"{user:04}", f"{(3 * user + step) % 30:03}", f"{20 + step}.1.2024 18:05")
        for user in range(12)
        for step in (0, 1)
    ]
    new += [("9999", "007", "20.1.2024 18:05"), ("9999", "030", "21.1.2024 18:05"), ("0000", "404", "21.1.2024 18:05")]
    products = pd.DataFrame({"SKU": [f"{row:03}" for row in range(30)], "Titel": list(domain.items["text"])})
    return pd.DataFrame(rows, columns=NAMES), pd.DataFrame(new, columns=NAMES), products


@pytest.fixture(scope="module")
def model(days, text_encoder_dir, tmp_path_factory):
    """A transductive checkpoint of the shop, with its prepared data as `fit` leaves it."""
    clicks, _, products = days
    folder = tmp_path_factory.mktemp("fitted") / "model"
    options = {"text_encoder": str(text_encoder_dir), "budget": 1e-6, "use_cpu": True}
    unisrec.fit(clicks, products, output=folder, **options)
    loaded, processor = load_checkpoint(folder)
    loaded.reset_item_embedding(30)
    loaded.config.item_ids_hash = processor.catalogue.item_ids_hash
    loaded.save_pretrained(folder)
    return folder


def test_a_day_is_learnt_and_the_folder_replaced(days, model, tmp_path, capsys, monkeypatch):
    clicks, new, products = days
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "model")
    (tmp_path / "model" / ".git").mkdir()
    (tmp_path / "model" / ".git" / "notes").write_text("mine")
    stored = json.loads((tmp_path / "model/catalogue/tables.json").read_text())
    assert stored["text_columns"] == ["Titel"]
    assert (stored["user_column"], stored["items_id_column"], stored["missing_text"]) == ("Kunde", "SKU", "drop")
    before, _ = load_checkpoint("model")
    pd.concat([clicks.tail(3), new]).to_csv("new.csv", sep=";", index=False)
    today = pd.concat([products[1:], pd.DataFrame({"SKU": ["030"], "Titel": ["red tent"]})])
    today.to_csv("products.csv", index=False)
    words = [
        "update",
        "model",
        "--interactions",
        "new.csv",
        "--items",
        "products.csv",
        "--use-cpu",
        "--json",
        "out.json",
    ]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert (
        "26 new interactions of 13 users; items: 1 added, 0 changed, 1 removed, 0 unchanged, 29 with other columns; share"
        in captured.out
    )
    assert "1 interaction with unknown products left out" in captured.err
    assert "3 interactions already known" in captured.err
    found = json.loads((tmp_path / "out.json").read_text())
    training = found["training"]
    assert training["num_validated"] == 3
    assert training["after"] >= training["before"]
    assert training["num_compared"] == 28
    assert 0 <= training["overlap"] <= 1
    assert {path.name for path in tmp_path.iterdir()} == {"model", "new.csv", "products.csv", "out.json"}
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"domain", "report.html", "README.md", "catalogue", "model.safetensors"} <= names
    assert {name for name in names if name.startswith((".", "checkpoint-", "test_results"))} == {".git"}
    assert (tmp_path / "model" / ".git" / "notes").read_text() == "mine"
    assert (
        f"NDCG@10 on 3 new interactions set aside {training['before']:.4f}"
        in (tmp_path / "model/README.md").read_text()
    )
    domain = Domain.load_from_disk("model/domain")
    assert domain.num_users == 41
    assert domain.num_interactions == len(clicks) + 26
    after, processor = load_checkpoint("model")
    assert has_seen(after.config, domain)
    assert after.config.num_items == 31
    assert set(processor.catalogue.item_ids) == {f"{row:03}" for row in range(1, 31)}
    assert set(processor.catalogue.former) == {"000"}
    recommender = Recommender(after, processor)
    assert len(recommender.recommend([["000", "030"]], top_k=31)[0]) == 29
    words = ["recommend", "--model", "model", "--users", "all", "--output", "tonight.csv", "--top-k", "40"]
    assert main(words) == 0  # the domain in the folder, the catalogue of the checkpoint: nothing that is gone
    assert "encoded in" not in capsys.readouterr().err
    tonight = pl.read_csv("tonight.csv", infer_schema=False)
    assert tonight["user_id"].n_unique() == 41
    assert "000" not in tonight["item_id"].to_list()
    if training["share"] == 0:  # nothing was learnt: each item has its row again
        rows = dict(zip(processor.catalogue.item_ids, processor.catalogue.id_rows.tolist(), strict=True))
        old = before.item_embedding.weight.detach()
        np.testing.assert_allclose(after.item_embedding.weight.detach()[rows["005"]], old[6])
    assert main(["update", "model", "--interactions", "new.csv", "--use-cpu"]) == 2
    assert "there is no new interaction" in capsys.readouterr().err


def test_new_interactions_alone(days, model, tmp_path):
    _, new, _ = days
    lines = []
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("domain"))
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"text_neighbours": 0.5}))
    tables = tmp_path / "model" / "catalogue" / "tables.json"
    tables.write_text(json.dumps(json.loads(tables.read_text()) | {"date_format": "%d/%m/%Y"}))
    # The format of the files of `fit` is not for a frame of dates.
    new = new.assign(Zeitpunkt=pd.to_datetime(new["Zeitpunkt"], format="%d.%m.%Y %H:%M"))
    result = unisrec.update(tmp_path / "model", new, output=tmp_path / "next", use_cpu=True, report=lines.append)
    assert "the data of the training is not at hand: learning from the new interactions alone" in lines
    assert result.training.overlap is None
    left_out = any(line.startswith("text neighbours are left out") for line in lines)  # by the validation users
    assert result.recommender().model.config.text_neighbours == (0 if left_out else 0.5)
    assert not (tmp_path / "next" / "domain").exists()
    assert result.recommender().recommend([["007"]])
    assert (tmp_path / "model" / "test_results.json").exists()  # untouched


def test_a_tie_of_all_shares_takes_the_one_without_validation(days, model, tmp_path, monkeypatch):
    monkeypatch.setattr("unisrec.update_training.CHOICE", "recall@50_seen_masked")  # 1 in a shop of 31 items
    result = unisrec.update(model, days[1], output=tmp_path / "next", use_cpu=True)
    assert result.training.num_validated > 0
    assert (result.training.share, result.training.before, result.training.after) == (0.6, 1, 1)
    start, end = (load_checkpoint(folder)[0].state_dict() for folder in (model, tmp_path / "next"))
    assert any(not weight.equal(start[name]) for name, weight in end.items() if name in start)


def test_a_day_without_one_of_the_kinds(days, model, tmp_path):
    _, new, products = days
    lines = []
    shutil.copytree(model, tmp_path / "model")
    tables = tmp_path / "model" / "catalogue" / "tables.json"
    events = {"event_column": "Was", "events": ["Kauf", "Korb"], "keep_columns": ["Lager"]}
    tables.write_text(json.dumps(json.loads(tables.read_text()) | events))
    new = new.assign(Was=["Kauf", "Blick"] * (len(new) // 2) + ["Kauf"] * (len(new) % 2))
    products = products.assign(Lager=1, Einkauf=9.5)
    options = {"output": tmp_path / "next", "use_cpu": True, "budget": 1e-6, "report": lines.append}
    result = unisrec.update(tmp_path / "model", new, products, **options)
    assert "Was is not Kauf: 13 rows left out" in lines
    assert result.num_interactions <= (new["Was"] == "Kauf").sum()
    assert result.recommender().processor.catalogue.columns.columns == ["Lager"]
    with pytest.raises(ValueError, match=r"no 'Was' is 'Kauf', the most frequent are Blick"):
        unisrec.update(tmp_path / "model", new[new["Was"] == "Blick"], **options | {"output": tmp_path / "other"})
    assert not (tmp_path / "other").exists()


def test_histories_are_merged(make_domain):
    items = {"a": "red pen", "b": "blue pen", "c": "green lamp"}
    catalogue = ItemCatalogue(list(items), list(items.values()), former={"gone": FormerItem("wood chair")})
    new = pl.DataFrame({"user_id": ["1", "2", "1", "3"], "item_id": ["a", "b", "x", "c"], "time": [5, 6, 7, None]})
    old = Domain(
        "shop",
        pl.DataFrame({"item_id": ["a", "gone", "forgotten"], "text": ["red pen", "chair", "rug"]}),
        pl.DataFrame(
            {"user_id": ["1", "4"], "item_index": [[1, 0, 2], [0]], "time": [[1, 5, 2], [9]]},
            schema={"user_id": pl.String, "item_index": pl.List(pl.UInt32), "time": pl.List(pl.Int64)},
        ).with_columns(time=pl.col("time").list.sort()),
    )
    history = merge_histories(new, old, catalogue, "shop")
    assert history.domain.items["item_id"].to_list() == ["a", "b", "c", "gone"]
    assert history.domain.sequences["user_id"].to_list() == ["1", "2", "4"]
    assert history.domain.sequences["item_index"].to_list() == [[3, 0, 0], [1], [0]]
    assert history.is_new.tolist() == [False, False, True, True, False]
    assert history.notes == [
        "1 interaction without user, item or time left out",
        "1 interaction with unknown products left out; `items` adds products",
    ]
    train, valid = training_histories(history, 2, 1.0, np.random.default_rng(0))
    assert (valid.users.tolist(), valid.targets.tolist(), valid.flat.tolist()) == ([0], [0], [3, 0])
    assert train.flat[train.offsets[0] : train.offsets[1]].tolist() == [3, 0]  # without what is kept apart
    times = pl.col("time").list.eval(pl.element() * 10**9)
    old = Domain("shop", old.items, old.sequences.with_columns(times))
    new = new.with_columns(time=pl.col("time") * 10**13)
    with pytest.raises(ValueError, match="in another unit than those the model was trained on"):
        merge_histories(new, old, catalogue, "shop")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not a local folder: name a new folder for the updated checkpoint (--output)"),
        (["MODEL", "--budget", "0"], "--budget is 0.0, expected a positive number of minutes"),
        (["MODEL", "--user-column", "Kundin"], "no column 'Kundin'"),
        (["MODEL", "--separator", "::"], "--separator is '::'"),
        (["MODEL", "--domain", "nowhere"], "nowhere: no such folder"),
        (["MODEL", "--items", "renamed.csv"], "name the column by --items-id-column"),
    ],
)
def test_bad_input_changes_nothing(days, model, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    days[1].to_csv("new.csv", index=False)
    days[2].rename(columns={"SKU": "artno"}).to_csv("renamed.csv", index=False)
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    words = [str(model) if word == "MODEL" else word for word in words]
    assert main(["update", *words, "--interactions", "new.csv", "--use-cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    assert {path.name for path in model.parent.iterdir()} == {"model"}
