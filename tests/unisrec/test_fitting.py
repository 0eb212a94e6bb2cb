"""`unisrec fit`: from a shop's tables to a checkpoint, chosen by validation, with a report."""

import json
import re
import signal

import numpy as np
import pandas as pd
import pytest
from transformers.utils import logging

import unisrec
from unisrec import fit_trainings
from unisrec.cli import main
from unisrec.configuration import UniSRecConfig
from unisrec.data import build_domain, read_table
from unisrec.data.splits import Split
from unisrec.data.training_data import has_seen
from unisrec.evaluation import compare, evaluate
from unisrec.fit_notes import is_repeat, notes_on_metrics
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.recipes import CHOICE, recipes
from unisrec.trainer.ensemble import TRANSFER_DROPOUT


@pytest.fixture(scope="module")
def shop(make_domain):
    """Clicks and products of 40 users, in the manner of a German shop; the last product is new."""
    domain = make_domain("toys")
    rows = [
        (f"{user:04}", f"{item:03}", f"{1 + place}.1.2024 18:05")
        for user, history in enumerate(domain.sequences["item_index"].to_list())
        for place, item in enumerate(history)
    ]
    clicks = pd.DataFrame(rows, columns=["Kunde", "Artikel", "Zeitpunkt"]).sample(frac=1, random_state=0)
    products = pd.DataFrame({"SKU": [f"{row:03}" for row in range(31)], "Titel": [*domain.items["text"], "red tent"]})
    products["Lager"] = [row % 3 for row in range(31)]
    products["Einkauf"] = 1.5
    return clicks, products


@pytest.fixture(scope="module")
def fitted(shop, text_encoder_dir, tmp_path_factory):
    """A model of the shop alone, and the lines that were told."""
    lines = []
    output = tmp_path_factory.mktemp("fitted") / "model"
    options = {"text_encoder": str(text_encoder_dir), "budget": 0.1, "use_cpu": True, "report": lines.append}
    return unisrec.fit(*shop, output=output, keep_columns=["Lager"], **options), lines


def test_the_folder_holds_a_checkpoint_that_recommends(fitted, shop):
    result, _ = fitted
    names = {path.name for path in result.output.iterdir()}
    assert {"model.safetensors", "README.md", "report.html", "catalogue", "test_results.json"} <= names
    assert not {name for name in names if name.startswith((".", "checkpoint-"))}
    assert [path.name for path in result.output.parent.iterdir()] == ["model"]
    (items,) = result.recommender().recommend([["007", {"text": "red tent"}]], top_k=31)
    assert {item.item_id for item in items} == set(shop[1]["SKU"]) - {"007"}  # the unsold product too
    (items,) = result.recommender().recommend([["007"]], where="Lager > 1", columns=["Lager"])
    assert {item.columns["Lager"] for item in items} == {2}
    measured = evaluate(result.output, result.domain, use_cpu=True)
    assert {name: measured[name] for name in result.metrics} == pytest.approx(result.metrics)
    written = json.loads((result.output / "test_results.json").read_text())
    assert written["test_ndcg@10"] == result.metrics["ndcg@10"]
    card = (result.output / "README.md").read_text()
    assert "# model" in card
    assert "no run from scratch" not in card


def test_the_best_validation_metric_is_chosen(fitted):
    result, lines = fitted
    scores = {each.name: each.score for each in result.attempts if each.score is not None}
    assert result.chosen == max(scores, key=scores.get)
    best = next(each for each in result.attempts if each.name == result.chosen)
    assert best.score == max(score for _, score in best.curve)
    model, _ = load_checkpoint(result.output)
    assert not has_seen(model.config, result.domain)
    validation = evaluate(result.output, result.domain, "valid", use_cpu=True)
    assert validation["ndcg@10_seen_masked"] == pytest.approx(best.score)
    assert f"chosen by validation: {result.chosen}" in lines
    assert list(result.rows) == ["popularity", "text neighbours", result.chosen]


def test_what_was_recognised_is_told(fitted):
    result, lines = fitted
    assert lines[:6] == [
        "time: 'Zeitpunkt' of interactions (by its name)",
        "item: 'Artikel' of interactions (by its name)",
        "user: 'Kunde' of interactions (by its name)",
        "item of the items: 'SKU' of items (by its content: 100% of the ids are in the other table)",
        "text: 'Titel' of items (by their names)",
        "not used: 'Einkauf' of items",
    ]
    assert any(re.search(r"epoch [\d.]+, validation NDCG@10 0\.\d+, at most \d+ seconds left", line) for line in lines)
    stops = [line for line in lines if ": stopped, " in line]
    assert len(stops) >= len([each for each in result.attempts if each.curve])
    assert all(re.search(r"(its time is over|no improvement for 10 epochs)$", line) for line in stops)


def test_the_report_tells_everything_on_one_page(fitted):
    result, _ = fitted
    page = (result.output / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=", page)  # it loads nothing else
    for name, row in result.rows.items():
        cells = "".join(
            rf"<td>{row[metric]:.4f}</td>\s*" for metric in ("recall@10_seen_masked", "ndcg@10_seen_masked")
        )
        assert re.search(rf"<td>{name}</td>\s*{cells}", page)
    for attempt in result.attempts:
        assert attempt.name in page
    assert all(note[1:-1].replace("'", "&#39;") in page for note in result.notes)
    assert "(1 of them never sold)" in page
    assert page.count('<span class="hit">') + page.count("<span>") == 10 * 5
    share = re.search(r"of 40 users are\s+(\d+) different ones, ([\d.]+) % of the", page)
    assert float(share[2]) == pytest.approx(100 * int(share[1]) / 31, abs=0.05)
    # On a busy machine, the budget may not suffice for a second evaluation.
    assert page.count("<polyline") == sum(len(attempt.curve) > 1 for attempt in result.attempts)


def test_recipes_depend_on_the_size_of_the_shop(make_domain, monkeypatch):
    small, large = make_domain(num_users=40), make_domain(num_users=900)
    assert [each.name for each in recipes(small, True)] == [
        "text only, sequence encoder frozen",
        "text only",
        "text only, from scratch",
    ]
    assert {each.setting for each in recipes(large, True)} == {"inductive", "transductive"}
    assert [each.from_scratch for each in recipes(large, False)] == [True, True]
    sizes = [recipes(domain, True)[0].options["per_device_train_batch_size"] for domain in (small, large)]
    assert sizes == [64, 64 if sizes[1] == 64 else 128]
    monkeypatch.setattr("unisrec.recipes.LARGE_SHOP", 100)
    assert [each.name for each in recipes(large, True)] == ["text and ID, from scratch", "text and ID", "text only"]
    assert all(each.options["num_negatives"] == 1024 for each in recipes(large, True) + recipes(large, False))


def test_a_start_that_no_training_beats_is_kept(fitted, shop, tmp_path, monkeypatch):
    start, _ = fitted
    monkeypatch.setattr(fit_trainings, "recipes", lambda *_: [])
    lines = []
    result = unisrec.fit(*shop, output=tmp_path / "kept", model=start.output, use_cpu=True, report=lines.append)
    assert result.chosen == "zero-shot"
    assert {name: result.metrics[name] for name in start.metrics} == pytest.approx(start.metrics)
    assert "was not trained here" in (tmp_path / "kept" / "README.md").read_text()
    assert len(result.recommender().recommend([["007"]])[0]) == 10


def test_histories_of_three_leave_nothing_to_train_on(fitted, shop, text_encoder_dir, tmp_path):
    clicks, products = shop
    clicks, lines = clicks.groupby("Kunde").head(3), []
    options = {"budget": 0.05, "use_cpu": True, "train_on_all": True, "report": lines.append}
    result = unisrec.fit(clicks, products, output=tmp_path / "kept", model=fitted[0].output, **options)
    assert result.chosen == "zero-shot"
    assert {each.name for each in result.attempts if each.score is not None} == {"zero-shot"}
    assert any("so nothing can be trained: the model stays as it is" in line for line in lines)
    assert "zero-shot was chosen, so nothing is trained on all interactions" in lines
    with pytest.raises(ValueError, match="so nothing can be trained; leave `text_encoder` out to start from unisrec"):
        unisrec.fit(clicks, products, output=tmp_path / "new", text_encoder=str(text_encoder_dir), **options)
    assert not (tmp_path / "new").exists()


def test_a_new_model_gets_one_step_whatever_the_budget(shop, text_encoder_dir, tmp_path):
    lines, bars = [], []

    def report(line):
        lines.append(line)
        bars.append(logging.is_progress_bar_enabled())

    options = {"text_encoder": str(text_encoder_dir), "budget": 1e-6, "use_cpu": True, "report": report}
    logging.enable_progress_bar()
    result = unisrec.fit(*shop, output=tmp_path / "model", **options)
    assert logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    assert not any(bars)  # of the many weight files on the way
    assert result.chosen == "text only"
    assert "text only: the budget is too small for a training, one step is made" in lines
    assert np.isfinite(result.metrics["ndcg@10"])


def test_a_start_is_trained_on_without_a_word_on_options_of_finetune(fitted, shop, tmp_path, capsys):
    options = {"model": fitted[0].output, "budget": 0.05, "use_cpu": True}
    start = UniSRecConfig.from_pretrained(fitted[0].output)
    assert start.hidden_dropout not in (0, TRANSFER_DROPOUT)  # which `finetune` tells
    unisrec.fit(*shop, output=tmp_path / "model", **options)
    told = capsys.readouterr()
    assert told.out == ""
    assert "dropout" not in told.err


def test_once_more_on_all_interactions(shop, text_encoder_dir, tmp_path):
    options = {"text_encoder": str(text_encoder_dir), "budget": 0.05, "use_cpu": True, "train_on_all": True}
    result = unisrec.fit(*shop, output=tmp_path / "model", **options)
    model, _ = load_checkpoint(tmp_path / "model")
    assert has_seen(model.config, result.domain)
    assert np.isfinite(result.metrics["ndcg@10"])
    said = "he saved model was trained on all interactions; the metrics are those of the model before"
    assert f"t{said}" in result.notes
    assert f"T{said}" in (tmp_path / "model" / "report.html").read_text()


@pytest.mark.rare
def test_a_time_split_measures_what_comes_after_it(shop, text_encoder_dir, tmp_path, capsys):
    clicks, products = shop
    clicks.to_csv(tmp_path / "clicks.csv", index=False)
    products.to_csv(tmp_path / "products.csv", index=False)
    words = ["fit", tmp_path / "clicks.csv", "--items", tmp_path / "products.csv", "--output", tmp_path / "model"]
    words += ["--split", "time:2024-01-07", "--budget", "0.05", "--use-cpu", "--text-encoder", text_encoder_dir]
    assert main([*map(str, words), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (record,) = load_checkpoint(tmp_path / "model")[0].config.training_data
    assert record["before"] == 1_704_585_600_000_000
    clicks, products = str(tmp_path / "clicks.csv"), str(tmp_path / "products.csv")
    columns = {"user_column": "Kunde", "item_column": "Artikel", "time_column": "Zeitpunkt"}
    raw = read_table(clicks, products, **columns, text_columns=["Titel"], items_id_column="SKU")
    domain = build_domain(*raw[:2], name="model", source="x", user_k=1, item_k=1, keep_unsold=True)
    found = compare([tmp_path / "model", "popularity"], domain, "time:2024-01-07", use_cpu=True).rows
    rows = {str(tmp_path / "model"): result["test"][result["chosen"]], "popularity": result["test"]["popularity"]}
    for name, row in rows.items():
        assert {"recall@10", "map@10", "ndcg@50_seen_masked"} <= row.keys()
        for metric, value in row.items():
            assert found[name][metric] == pytest.approx(value, abs=1e-6), (name, metric)
    page = (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    assert "All that each user took from 2024-01-07 00:00 on" in page
    assert "second-to-last" not in page


def test_notes_on_repeat_purchases_and_better_baselines():
    histories, targets = [[0, 1], [2], [0, 3, 0]], np.array([1, 0, 0])
    flat, offsets = np.concatenate(histories), np.array([0, 2, 3, 6])
    test = Split(flat, offsets, np.arange(3), targets)
    assert is_repeat(test).tolist() == [True, False, True]
    rows = {"popularity": {CHOICE: 0.5}, "text neighbours": {CHOICE: 0.1}, "text only": {CHOICE: 0.3}}
    ranks = np.array([[0.0, 0.0], [1.0, 1.0], [90.0, 90.0]])
    repeats, new, better = notes_on_metrics(test, ranks, rows, "text only", False)
    assert repeats.startswith("2 of 3 customers bought again what they had bought before")
    assert "unless --include-seen (Python: exclude_seen=False)" in repeats
    assert new.startswith(
        "new purchases only (1 of 3 customers), seen items masked, 'text only': Recall@10 1.0000, NDCG@10 0.63"
    )
    assert better == "better than 'text only' (0.3000) by NDCG@10 of the test, seen items masked: popularity 0.5000"
    assert (
        notes_on_metrics(Split(flat, offsets, np.arange(3), targets + 9), ranks, {"a": {CHOICE: 1.0}}, "a", False)
        == []
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user-column", "Kundin"], r"clicks.csv: no column 'Kundin', .*did you mean 'Kunde'\?"),
        (["--budget", "0"], r"--budget is 0.0, expected a positive number of minutes"),
        (
            ["--date-format", "%d/%m/%Y"],
            r"clicks.csv, line 2: 'Zeitpunkt' is '\d+.1.2024 18:05', expected a date of the",
        ),
        (["--text-encoder", "nowhere"], r"fit: error: text encoder 'nowhere' cannot be loaded"),
        (["--separator", "::"], r"--separator is '::'"),
        (["--model", "nowhere"], r"fit: error: model 'nowhere' cannot be loaded"),
        (["--user-column", "Zeile"], r"no user has 3 interactions, .* 'Zeile' \(--user-column\)"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(shop, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    clicks, products = shop
    clicks.assign(Zeile=range(len(clicks))).to_csv("clicks.csv", sep=";", index=False)
    products.to_csv("products.csv", index=False)
    assert main(["fit", "clicks.csv", "--items", "products.csv", "--output", "model", "--use-cpu", *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.search(message, error)
    assert error.startswith("unisrec fit: error: ")
    assert {path.name for path in tmp_path.iterdir()} == {"clicks.csv", "products.csv"}


def test_an_existing_folder_is_not_touched(shop, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already exists and is not an empty folder"):
        unisrec.fit(*shop, output=tmp_path)


@pytest.mark.parametrize("line", [pytest.param("text: ", marks=pytest.mark.rare), "epoch"])
def test_sigterm_leaves_nothing(shop, text_encoder_dir, fork, tmp_path, line):
    clicks, products = shop
    clicks.to_csv(tmp_path / "clicks.csv", index=False)
    products.to_csv(tmp_path / "products.csv", index=False)
    words = ["fit", "clicks.csv", "--items", "products.csv", "--output", "model", "--use-cpu"]
    run = fork(*words, "--text-encoder", text_encoder_dir, cwd=tmp_path)
    run.wait_for(line, run.err)
    assert run.end(signal.SIGTERM) == 143
    assert run.err.read_text().splitlines()[-1] == "unisrec fit: ended by SIGTERM; nothing was written"
    assert {path.name for path in tmp_path.iterdir()} == {"clicks.csv", "products.csv"}
