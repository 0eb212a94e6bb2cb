"""Several models on the same users: leave-one-out as before, and a time split beside plain loops."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from accelerate import Accelerator

from unisrec.data import cut_at, leave_one_out, time_test
from unisrec.data.training_data import SeenInTraining, training_record
from unisrec.evaluation import RankingDataset, compare, evaluate, rank_targets, ranking_metrics
from unisrec.evaluation.baselines import popularity_metrics, text_neighbour_metrics
from unisrec.modeling_unisrec import UniSRecProcessor
from unisrec.modeling_unisrec.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def domain(make_domain):
    """A domain of the days 0 to 99, where every ninth user comes on day 70 or later, and item 29 on day 80."""
    rng = np.random.default_rng(5)
    domain = make_domain("toys", num_users=60, seed=4)
    lengths = np.diff(domain.offsets)
    times = [np.sort(rng.integers(0 if user % 9 else 70, 100, size=length)) for user, length in enumerate(lengths)]
    items = [
        [29 if time >= 80 and row % 7 == 0 else row % 29 for row, time in zip(rows, when, strict=True)]
        for rows, when in zip(np.split(domain.flat, domain.offsets[1:-1]), times, strict=True)
    ]
    columns = {"item_index": items, "time": [when.tolist() for when in times]}
    schema = {"item_index": pl.List(pl.UInt32), "time": pl.List(pl.Int64)}
    return replace(domain, sequences=domain.sequences.with_columns(pl.DataFrame(columns, schema=schema)))


@pytest.fixture(scope="module")
def save(make_model, text_encoder_dir, tmp_path_factory):
    """Saves a checkpoint with a record of its training data."""
    from transformers import AutoModel, AutoTokenizer

    def save(*records):
        model = make_model()
        model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir).eval())
        model.config.training_data = list(records)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
        UniSRecProcessor(tokenizer, max_history_length=10, max_text_length=32).save_pretrained(folder)
        return str(folder)

    return save


def test_leave_one_out_of_several_models_is_that_of_each(domain, save):
    folder = save()
    names = ["popularity", folder, "text-neighbours", "random"]
    found = compare(names, domain, cutoffs=[5, 10, 50], use_cpu=True)
    assert list(found.rows) == names
    assert found.counts == {"users": len(leave_one_out(domain, "test")), "items": 30}
    model, _ = load_checkpoint(folder)
    vectors = next(iter(domain.encoded.values()))
    train, test = leave_one_out(domain, "train"), leave_one_out(domain, "test")
    expected = {
        "popularity": popularity_metrics(train, test, 30),
        "text-neighbours": text_neighbour_metrics(test, vectors),
        folder: ranking_metrics(
            rank_targets(model.eval(), RankingDataset(test, vectors), accelerator=Accelerator(cpu=True))
        ),
    }
    for name, metrics in expected.items():
        for key, value in metrics.items():
            assert found.rows[name][key] == pytest.approx(value, abs=1e-12), (name, key)
    row = found.rows[folder]
    assert "map@5" not in row
    assert 0 < row["mrr@5"] <= row["mrr@10"] <= row["ndcg@10"] <= row["recall@10"]
    assert found.rows["popularity"]["coverage@5"] < found.rows["random"]["coverage@5"] == 1
    assert found.rows["popularity"]["novelty@5"] < found.rows["random"]["novelty@5"]
    assert all(0 <= row[f"diversity@5{suffix}"] <= 2 for row in found.rows.values() for suffix in ("", "_seen_masked"))
    assert evaluate(folder, domain, cutoffs=[5, 10, 50], use_cpu=True) == row


def test_text_neighbours_as_a_share_and_alone(domain, save):
    folder = save()
    alone = compare(["recent-text-neighbours", folder], domain, text_neighbours=1.0, use_cpu=True).rows
    assert list(alone) == ["recent-text-neighbours", f"{folder}, 1 text neighbours"]
    recent, of_model = alone.values()
    # Texts of the same words in another order are as near up to rounding.
    assert of_model["ndcg@50"] == pytest.approx(recent["ndcg@50"], abs=0.05)
    assert recent != compare([folder, "text-neighbours"], domain, use_cpu=True).rows["text-neighbours"]
    half = evaluate(folder, domain, text_neighbours=0.5, use_cpu=True)
    assert half not in (of_model, evaluate(folder, domain, use_cpu=True))
    with pytest.raises(ValueError, match="only baselines"):
        compare(["popularity"], domain, text_neighbours=0.5, use_cpu=True)


def test_time_split_by_a_plain_loop(domain, save):
    found = compare(["popularity", save()], domain, "time:70", cutoffs=[3], use_cpu=True)
    rows = list(zip(domain.sequences["item_index"].to_list(), domain.sequences["time"].to_list(), strict=True))
    before = [[item for item, time in zip(*row, strict=True) if time < 70] for row in rows]
    after = [{item for item, time in zip(*row, strict=True) if time >= 70} for row in rows]
    counts = np.bincount([item for items in before for item in items], minlength=30)
    assert counts[29] == 0

    def recall(candidates, relevant):
        # Ties count half: an item is among the first three if its mean place is.
        places = {
            item: sum(counts[other] > counts[item] for other in candidates)
            + (sum(counts[other] == counts[item] for other in candidates) - 1) / 2
            for item in relevant
        }
        return np.mean([place < 3 for place in places.values()])

    users = [(set(history), later) for history, later in zip(before, after, strict=True) if history and later]
    everything = set(range(30))
    popular = found.rows["popularity"]
    assert popular["recall@3"] == pytest.approx(np.mean([recall(everything, later) for _, later in users]))
    unseen = [(seen, later - seen) for seen, later in users if later - seen]
    masked = np.mean([recall(everything - seen, later) for seen, later in unseen])
    assert popular["recall@3_seen_masked"] == pytest.approx(masked)
    newcomers = [later for history, later in zip(before, after, strict=True) if not history]
    assert popular["new_users_recall@3"] == pytest.approx(np.mean([recall(everything, later) for later in newcomers]))
    assert popular["new_items_recall@3"] == 0  # nobody had it
    assert found.counts == {
        "users": len(users),
        "items": 30,
        "relevant": sum(len(later) for _, later in users),
        "users_seen_masked": len(unseen),
        "new_items_users": sum(29 in later for _, later in users),
        **time_test(cut_at(domain, "time:70")).counts,
    }
    assert found.counts["new_items"] == 1
    other = list(found.rows.values())[1]
    assert 0 < other["map@3"] <= other["hit@3"] <= 1
    assert other["new_items_recall@3"] <= 1
    assert "new_users_recall@3" not in other


def test_a_checkpoint_that_saw_later_interactions_is_refused(domain, save):
    cut = cut_at(domain, "time:70")
    folder = save(training_record(domain, text_encoder=False))
    with pytest.raises(SeenInTraining, match=r"held out from 70 on: .*--allow-seen; finetune.*--split time:70\.$"):
        evaluate(folder, domain, "time:70", use_cpu=True)
    (row,) = compare([folder], domain, "time:70", use_cpu=True, allow_seen=True).rows
    assert row == f"{folder} (seen in training)"
    evaluate(save(training_record(cut, text_encoder=False)), domain, "time:70", use_cpu=True)


def test_what_cannot_be_compared_is_refused(domain):
    for options, message in (
        ({"models": []}, "no model is named"),
        ({"models": ["random", "random"]}, "random is named twice"),
        ({"cutoffs": []}, "cutoffs is empty"),
        ({"cutoffs": [0]}, "a cutoff is 0"),
        ({"split": "later"}, "split is 'later', expected"),
        ({"split": "time:500"}, "choose a moment between them"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(**({"models": ["popularity"], "domain": domain, "use_cpu": True} | options))
