"""`unisrec plot`: what the pictures show, against its definition, and what is refused."""

import numpy as np
import pytest
import torch

from unisrec.cli import main
from unisrec.data import Domain, leave_one_out
from unisrec.data.domain_features import domain_features
from unisrec.evaluation.analysis import metrics_by_popularity
from unisrec.modeling_unisrec import UniSRecProcessor
from unisrec.reports import analysis_plots
from unisrec.reports.analysis_plots import domain_vectors, metrics_of_models
from unisrec.trainer import UniSRecFinetuneArguments, finetune


pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n"


@pytest.fixture
def runs(tmp_path, monkeypatch, make_model, make_domain, text_encoder, tokenizer):
    """Working folder with two domains, a checkpoint and one that knows items by ID alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("toys", "_$tools"):
        make_domain(name, num_users=60, seed=len(name)).save_to_disk(name)
    for name, fields in (("text", {}), ("text-id", {"num_items": 30}), ("id", {"num_items": 30, "item_text": False})):
        model = make_model(**fields)
        model.attach_text_encoder(text_encoder)
        model.save_pretrained(name)
        UniSRecProcessor(tokenizer, max_history_length=10, max_text_length=32).save_pretrained(name)
    return tmp_path


@pytest.fixture
def figures(monkeypatch):
    """Figures that were saved."""
    saved = []
    save = analysis_plots.save_figure
    monkeypatch.setattr(analysis_plots, "save_figure", lambda figure, file: saved.append(figure) or save(figure, file))
    return saved


def test_map_and_gates_show_the_adaptor(runs, figures, capsys):
    found = domain_vectors("text", ["toys", "_$tools"], use_cpu=True)
    model, processor = analysis_plots.load_checkpoint("text")
    for name, (texts, items, gates) in found.items():
        domain = Domain.load_from_disk(name)
        features = domain_features(domain, model.text_encoder, processor.tokenizer, model.config)
        np.testing.assert_array_equal(texts.numpy(), features)
        with torch.no_grad():
            for row in (0, 7, 29):
                assert torch.allclose(model.adaptor(texts[row : row + 1])[0], items[row], atol=1e-5)
            expected = torch.stack([(text @ model.adaptor.router).softmax(0) for text in texts]).mean(0)
        assert gates == pytest.approx(expected.numpy(), abs=1e-5)

    command = ["text", "--domains", "toys", "_$tools", "--use-cpu", "--output"]
    assert main(["plot", "gates", *command, "gates.png"]) == 0
    heights = [[bar.get_height() for bar in bars] for bars in figures[0].axes[0].containers]
    assert heights == [pytest.approx(gates) for _, _, gates in found.values()]
    assert main(["plot", "map", *command, "map.png"]) == 0
    before, after = (axes.collections[0].get_offsets() for axes in figures[1].axes)
    assert len(before) == len(after) == 60
    for place, places in enumerate((before, after)):
        vectors = torch.nn.functional.normalize(torch.cat([parts[place] for parts in found.values()]), dim=-1)
        spread = torch.linalg.svdvals(vectors - vectors.mean(0))[:2]
        assert np.linalg.norm(places, axis=0) == pytest.approx(spread.numpy(), rel=1e-3)
    assert capsys.readouterr().out == "gates.png\nmap.png\n"
    for file in ("gates.png", "map.png"):
        assert (runs / file).read_bytes().startswith(PNG)


def test_popularity_shows_recall_of_each_model(runs, figures):
    command = ["plot", "popularity", "--models", "text=text", "text + ID=text-id", "ID=id", "--domain", "toys"]
    assert main([*command, "--use-cpu", "--output", "popularity.png"]) == 0
    found = metrics_of_models({"text": "text", "text + ID": "text-id", "ID": "id"}, "toys", use_cpu=True)
    lines = figures[0].axes[0].lines
    assert [line.get_label().strip() for line in lines] == ["text", "text + ID", "ID"]
    for line, buckets in zip(lines, found.values(), strict=True):
        assert line.get_ydata().tolist() == [bucket["recall@10"] for bucket in buckets.values()]
    domain = Domain.load_from_disk("toys")
    train, test = leave_one_out(domain, "train"), leave_one_out(domain, "test")
    none = np.zeros((len(test), 2))
    users = {
        name: bucket["num_users"] for name, bucket in metrics_by_popularity(none, test.targets, train, 30).items()
    }
    assert {name: bucket["num_users"] for name, bucket in found["text"].items()} == users


def test_curves_of_a_run(runs, training_options):
    options = {**training_options, "num_train_epochs": 3, "eval_strategy": "epoch", "save_strategy": "epoch"}
    finetune("text", "toys", "inductive", UniSRecFinetuneArguments("run", **options))
    assert main(["plot", "curves", "run", "--output", "run.png"]) == 0
    assert (runs / "run.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("curves text --output x.png", "trainer_state.json: no such file"),
        ("gates id --domains toys --output x.png", "represents items by ID only"),
        ("gates text --domains toys toys --output x.png", "another domain is also named 'toys'"),
        ("map text --domains nowhere --output x.png", "nowhere"),
        ("map text --domains toys --output no/x.png", "there is no folder no"),
        ("popularity --models text --domain toys --output x.png", "--models text: expected NAME=M"),
        ("popularity --models a=text a=text-id --domain toys --output x.png", "a name comes twice"),
    ],
)
def test_refuses_in_one_line(runs, capsys, words, line):
    assert main(["plot", *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("unisrec plot: error:")
    assert line in error
    assert not (runs / "x.png").exists()


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[",
        "[" * 100_000,
        "[1]",
        "{}",
        '{"log_history": 5}',
        '{"log_history": [5, 6]}',
        '{"log_history": [{"loss": 1}, {"loss": 2}]}',
        '{"log_history": [{"loss": 1, "step": 1, "epoch": NaN}, {"loss": 2, "step": 2, "epoch": 2}]}',
        '{"log_history": [{"loss": "x", "step": 1, "epoch": 1}, {"loss": 2, "step": 2, "epoch": 2}]}',
        '{"log_history": [{"loss": 1, "step": 1, "epoch": 1}, {"loss": 2, "step": 2, "epoch": 2}], "best_global_step": "x"}',
    ],
)
def test_a_log_of_another_form_is_named_and_nothing_is_written(tmp_path, monkeypatch, capsys, state):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trainer_state.json").write_text(state)
    assert main(["plot", "curves", "run", "--output", "run.png"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unisrec plot: error: run/trainer_state.json: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
