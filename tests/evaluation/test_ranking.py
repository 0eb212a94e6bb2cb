"""Users and batches of the full ranking, and its loop beside the definition and beside the trainer's."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from unisrec.data import Domain, leave_one_out
from unisrec.evaluation import (
    RankingCollator,
    RankingDataset,
    evaluate,
    rank_targets,
    ranking_metrics,
    target_ranks,
)
from unisrec.evaluation.ranking import catalogue_tensors
from unisrec.modeling_unisrec import UniSRecProcessor
from unisrec.trainer import UniSRecTrainer, UniSRecTrainingArguments


def test_ranking_dataset_holds_each_user_once_by_length(make_split):
    histories = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 1]]
    dataset = RankingDataset(make_split(histories, targets=[10, 11, 12, 13]), np.zeros((14, 2)))
    users = [(dataset[index]["items"].tolist(), dataset[index]["target"]) for index in range(len(dataset))]
    assert dataset.targets.tolist() == [target for _, target in users]
    assert users == [([4], 11), ([9, 1], 13), ([1, 2, 3], 10), ([5, 6, 7, 8], 12)]


def test_split_without_users_is_refused(make_split):
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        RankingDataset(make_split([], targets=[]), np.zeros((3, 2)))


def test_ranking_collator_cuts_the_history_but_not_the_seen_items():
    users = [{"items": np.array([4, 0, 2, 4]), "target": 3}, {"items": np.array([1]), "target": 1}]
    batch = RankingCollator(max_length=3)(users)
    assert batch["item_index"].tolist() == [[1, 3, 5], [2, 0, 0]]
    assert batch["seen"].tolist() == [[0, 2, 4], [1, -1, -1]]
    assert batch["labels"].tolist() == [3, 1]


def test_catalogue_as_tensors_is_a_copy():
    table = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    table.setflags(write=False)  # as a memory map of text features is
    tensors = catalogue_tensors(table, torch.device("cpu"))
    assert tensors["id_rows"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(tensors["text_embeds"].numpy(), table)
    tensors["text_embeds"].zero_()
    assert table.any()


@pytest.fixture
def domain(make_domain):
    return make_domain("toys", num_users=60, seed=4)


@pytest.mark.parametrize("fields", [{}, {"similarity": "dot"}, {"num_items": 30}])
def test_ranks_are_those_of_all_scores_at_once(make_model, domain, fields):
    model = make_model(**fields)
    table = np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)
    users = RankingDataset(leave_one_out(domain, "test"), table)
    model.train()
    ranks = rank_targets(model, users, batch_size=7, accelerator=Accelerator(cpu=True))
    assert model.training  # it is left as it was
    model.eval()
    batch = RankingCollator(model.config.max_position_embeddings)([users[place] for place in range(len(users))])
    with torch.no_grad():
        items = model.get_item_features(**catalogue_tensors(table, model.device))
        scores = model.score(model.get_sequence_features(batch["item_index"], items), items)
    expected = target_ranks(scores, batch["labels"], batch["seen"]).numpy()
    np.testing.assert_allclose(ranks, expected)


def test_trainer_and_loop_give_the_same_ranks(make_model, domain, tmp_path):
    model = make_model()
    table = np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)
    users = RankingDataset(leave_one_out(domain, "valid"), table)
    args = UniSRecTrainingArguments(str(tmp_path), use_cpu=True, eval_strategy="no", disable_tqdm=True)
    predicted = UniSRecTrainer(model, args).predict(users)
    ranks = rank_targets(model, users, accelerator=Accelerator(cpu=True))
    np.testing.assert_array_equal(ranks, predicted.predictions)
    np.testing.assert_array_equal(users.targets, predicted.label_ids)


def test_evaluate_takes_no_training_arguments(make_model, domain, text_encoder, tokenizer, tmp_path):
    domain.save_to_disk(tmp_path / "toys")
    model = make_model()
    model.attach_text_encoder(text_encoder)
    model.save_pretrained(tmp_path / "model")
    UniSRecProcessor(tokenizer, max_history_length=10, max_text_length=32).save_pretrained(tmp_path / "model")
    metrics = evaluate(tmp_path / "model", tmp_path / "toys", use_cpu=True)
    assert metrics == evaluate(tmp_path / "model", tmp_path / "toys", "test", batch_size=5, use_cpu=True)
    assert metrics.keys() > ranking_metrics(np.zeros((1, 2))).keys()
    assert 0 < metrics["recall@10"] < 1
    assert Domain.load_from_disk(tmp_path / "toys").content_hash == domain.content_hash


def test_evaluate_refuses_other_splits_and_batches():
    with pytest.raises(
        ValueError, match="split is 'train', expected 'valid' or 'test'.*'time:2024-06-01' or 'time:0.1'"
    ):
        evaluate("model", "domain", "train")
    for size in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"batch_size is {size}, expected a whole number of at least 1"):
            evaluate("model", "domain", batch_size=size)
