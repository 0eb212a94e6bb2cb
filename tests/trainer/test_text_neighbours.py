"""The share of text neighbours that fine-tuning chooses: by the validation users, kept in the checkpoint, or given."""

import json

import pytest

from unisrec.configuration import UniSRecConfig
from unisrec.evaluation import evaluate
from unisrec.recommender import Recommender
from unisrec.trainer import UniSRecFinetuneArguments, finetune
from unisrec.trainer.ensemble import TEXT_SHARES, choose_text_neighbours


METRIC = "ndcg@10_seen_masked"


@pytest.fixture
def run(transfer_root, training_options, tmp_path):
    """Fine-tunes for an epoch: the result, and the shares of text neighbours with their metrics in the log."""

    def tune(name: str, **arguments):
        options = training_options | {
            "load_best_model_at_end": False,
            "eval_strategy": "epoch",
            "metric_for_best_model": METRIC,
        }
        args = UniSRecFinetuneArguments(str(tmp_path / name), **(options | {"num_train_epochs": 1} | arguments))
        result = finetune(transfer_root / "pretrained", transfer_root / "toys", "inductive", args)
        lines = [line for line in result.trainer.state.log_history if "text_neighbours" in line]
        return result, lines

    return tune


@pytest.mark.parametrize(
    ("metrics", "tried", "best"),
    [
        ([0.3, 0.2], 2, 0.0),
        ([0.3, 0.4, 0.4, 0.5, 0.1], 5, 0.3),
        ([0.3, 0.298, 0.2975, 0.2965], 4, 0.2),  # at most 1 % below the best
        ([-0.3, -0.302, -0.304], 3, 0.1),  # lower is better: negated
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 10, 0.9),
    ],
)
def test_the_largest_share_that_costs_little_is_chosen(metrics, tried, best):
    config, seen = UniSRecConfig(text_embedding_size=4, hidden_size=4), []

    def measure() -> float:
        seen.append(config.text_neighbours)
        return metrics[len(seen) - 1]

    values = choose_text_neighbours(config, measure)
    assert seen == list(TEXT_SHARES[:tried])
    assert config.text_neighbours == best
    assert values == dict(zip(TEXT_SHARES, metrics, strict=False))


def test_the_best_share_is_chosen_and_kept(transfer_root, run, tmp_path, monkeypatch):
    monkeypatch.setattr("unisrec.trainer.ensemble.TEXT_SHARES", (0.0, 1.0))
    # Nothing is learned, so that the texts alone rank better than the model or worse, but not alike.
    result, (line,) = run("chosen", learning_rate=1e-9, interpolate="1")
    alone, texts = line["text_neighbours_0"], line["text_neighbours_1"]
    assert alone != texts
    assert abs(texts - alone) > 0.01 * alone
    best = 1.0 if texts > alone else 0.0
    assert (line["text_neighbours"], result.trainer.validated) == (best, max(alone, texts))
    for share, expected in ((0.0, alone), (1.0, texts), (None, max(alone, texts))):
        found = evaluate(tmp_path / "chosen", transfer_root / "toys", "valid", text_neighbours=share, use_cpu=True)
        assert found[METRIC] == pytest.approx(expected, abs=1e-9)
    assert Recommender.from_pretrained(tmp_path / "chosen").model.config.text_neighbours == best
    assert evaluate(tmp_path / "chosen", transfer_root / "toys", use_cpu=True)[METRIC] == pytest.approx(
        result.metrics[METRIC]
    )
    assert json.loads((tmp_path / "chosen" / "test_results.json").read_text()).get("text_neighbours", 0.0) == best
    assert ("the share was chosen on validation" in (tmp_path / "chosen" / "README.md").read_text()) == (best > 0)


@pytest.mark.parametrize(
    ("arguments", "share"),
    [
        ({"text_neighbours": 0.25}, 0.25),
        ({"text_neighbours": 0.0}, 0.0),
        ({"hold_out": False}, 0.0),
        ({"eval_strategy": "no"}, 0.0),
        ({"train_text_encoder": True}, 0.0),
        ({"lora": "sequence"}, 0.0),
    ],
    ids=str,
)
def test_nothing_is_chosen_where_it_is_given_or_cannot_be(run, arguments, share):
    result, lines = run("given", **arguments)
    config = result.model.get_base_model().config if "lora" in arguments else result.model.config
    assert (config.text_neighbours, lines) == (share, [])
