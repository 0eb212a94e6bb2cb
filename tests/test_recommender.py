"""Ranking the catalogue for histories of ids and texts."""

import pytest
import torch
from torch.nn import functional as F

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import Recommender


IDS = [f"i{row}" for row in range(6)]
TEXTS = ["red pen", "blue pen", "red tent", "steel kettle", "wood lamp", "kids chair"]


@pytest.fixture
def make_recommender(make_model, text_encoder, tokenizer):
    def make(embeddings: bool = True, **fields) -> Recommender:
        model = make_model(**fields)
        model.attach_text_encoder(text_encoder)
        vectors = None
        if embeddings:
            with torch.no_grad():
                encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
                vectors = model.get_text_features(encoded["input_ids"], encoded["attention_mask"])
        catalogue = ItemCatalogue(IDS, TEXTS, vectors)
        return Recommender(model, UniSRecProcessor(tokenizer, catalogue, max_history_length=10, max_text_length=32))

    return make


@pytest.mark.parametrize("num_items", [None, 6])
def test_equals_a_ranking_item_by_item(make_recommender, num_items):
    recommender = make_recommender(num_items=num_items)
    model, catalogue = recommender.model, recommender.processor.catalogue
    (items,) = recommender.recommend([["i1", "i4", "i1"]], top_k=6)
    scores = {}
    with torch.no_grad():
        rows = model.get_item_features(catalogue.item_embeddings, item_ids=torch.arange(1, 7))
        state = model.get_sequence_features(torch.tensor([[2, 5, 2]]), rows)[0]
        for row, item_id in enumerate(IDS):
            if item_id not in ("i1", "i4"):
                scores[item_id] = F.cosine_similarity(state, rows[row], dim=0).item()
    assert [item.item_id for item in items] == sorted(scores, key=scores.get, reverse=True)
    for item in items:
        assert item.score == pytest.approx(scores[item.item_id], abs=1e-5)
        assert item.text == TEXTS[IDS.index(item.item_id)]


def test_a_text_that_is_an_items_own_counts_like_its_id(make_recommender):
    recommender = make_recommender()
    by_id, by_text = recommender.recommend([["i2", "i3"], ["i2", {"text": "steel kettle"}]], 6, exclude_seen=False)
    assert [item.item_id for item in by_id] == [item.item_id for item in by_text]
    for one, other in zip(by_id, by_text, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)


def test_catalogue_without_embeddings_is_encoded(make_recommender):
    for ready, encoded in zip(
        make_recommender().recommend([["i2"]])[0],
        make_recommender(embeddings=False).recommend([["i2"]])[0],
        strict=True,
    ):
        assert ready.item_id == encoded.item_id
        assert ready.score == pytest.approx(encoded.score, abs=1e-5)


def test_one_history_does_not_depend_on_the_others(make_recommender):
    recommender = make_recommender()
    histories = [["i0"], ["i1", "i2", "i3"], ["blue pen for kids", "i5"]]
    for alone, together in zip(histories, recommender.recommend(histories, 3), strict=True):
        (expected,) = recommender.recommend([alone], 3)
        assert [item.item_id for item in expected] == [item.item_id for item in together]


def test_seen_items_are_left_out_unless_asked_for(make_recommender):
    recommender = make_recommender()
    history = [["i0", "i1", "i2", "i3"]]
    assert {item.item_id for item in recommender.recommend(history)[0]} == {"i4", "i5"}
    assert len(recommender.recommend(history, exclude_seen=False)[0]) == 6


def test_equal_scores_stand_in_catalogue_order(make_recommender):
    recommender = make_recommender()
    recommender.item_embeds = recommender.item_embeds[:1].expand(6, -1)
    (items,) = recommender.recommend([["i5"]], 6, exclude_seen=False)
    assert [item.item_id for item in items] == IDS


def test_bad_input(make_recommender, make_model):
    recommender = make_recommender()
    with pytest.raises(ValueError, match="top_k is 0"):
        recommender.recommend([["i0"]], top_k=0)
    with pytest.raises(ValueError, match="history 1 is empty"):
        recommender.recommend([["i0"], []])
    with pytest.raises(KeyError, match="'i9' is not in the catalogue.*nearest ids"):
        recommender.recommend([["i9"]])
    with pytest.raises(ValueError, match="no catalogue to recommend from"):
        Recommender(make_model(), UniSRecProcessor())
    with pytest.raises(ValueError, match="transductive with 4 items, the catalogue has 6"):
        Recommender(make_model(num_items=4), recommender.processor)


def test_folder_gives_the_same_items(make_recommender, tmp_path):
    recommender = make_recommender(num_items=6)
    recommender.model.save_pretrained(tmp_path)
    recommender.processor.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path)
    assert again.recommend([["i1", "red pen for kids"]]) == recommender.recommend([["i1", "red pen for kids"]])
