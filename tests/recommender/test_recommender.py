"""Ranking the catalogue for histories of ids and texts."""

import datetime
import json

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from unisrec.evaluation import RankingDataset
from unisrec.evaluation.ranking import RankingCollator, TargetRanker
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.modeling_unisrec.pipeline_unisrec import SequentialRecommendationPipeline
from unisrec.modeling_unisrec.text_neighbours import fit_text_space
from unisrec.recommender import Recommender
from unisrec.recommender.snapshot import with_catalogue
from unisrec.recommender.tables import write_table


IDS = [f"i{row}" for row in range(6)]
TEXTS = ["red pen", "blue pen", "red tent", "steel kettle", "wood lamp", "kids chair"]


@pytest.fixture
def make_recommender(make_model, text_encoder, tokenizer):
    def make(embeddings: bool = True, **fields) -> Recommender:
        model = make_model(**({"text_pooling": "mean"} | fields))  # vectors of [CLS] would hardly differ
        model.attach_text_encoder(text_encoder)
        vectors = None
        if embeddings:
            with torch.no_grad():
                encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
                vectors = model.get_text_features(encoded["input_ids"], encoded["attention_mask"]).pooler_output
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
        rows = model.get_item_features(catalogue.item_embeddings, id_rows=torch.arange(1, 7))
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
    histories = [["i0"], ["i1", "i2", "i3"], [{"text": "blue pen for kids"}, "i5"]]
    for alone, together in zip(histories, recommender.recommend(histories, 3), strict=True):
        (expected,) = recommender.recommend([alone], 3)
        assert [item.item_id for item in expected] == [item.item_id for item in together]


def test_seen_items_are_left_out_unless_asked_for(make_recommender):
    recommender = make_recommender()
    history = [["i0", "i1", "i2", "i3"]]
    assert {item.item_id for item in recommender.recommend(history)[0]} == {"i4", "i5"}
    assert len(recommender.recommend(history, exclude_seen=False)[0]) == 6


def test_equal_scores_stand_in_catalogue_order(make_recommender, make_model, tokenizer):
    recommender = make_recommender()
    with torch.no_grad():
        recommender.model.adaptor.weight.zero_()  # all item vectors become equal
        recommender.model.adaptor.bias.zero_()
    recommender = Recommender(recommender.model, recommender.processor)
    (items,) = recommender.recommend([["i5"]], 6, exclude_seen=False)
    assert [item.item_id for item in items] == IDS


def test_thousands_of_histories_equal_one_at_a_time_whatever_the_batch(make_recommender):
    recommender = make_recommender(num_items=6)
    entries = [*IDS, {"text": "red pen for kids"}, {"text": "wood"}, {"item_id": "i0"}]
    generator = torch.Generator().manual_seed(0)
    histories = []
    for length in torch.randint(1, 15, (40,), generator=generator):  # the longest are cut to 10
        histories.append([entries[row] for row in torch.randint(9, (length,), generator=generator)])
    alone = [recommender.recommend([history], 4)[0] for history in histories]
    for batch_size in (1, 7, 256):
        for expected, items in zip(alone, recommender.recommend(histories, 4, batch_size=batch_size), strict=True):
            assert [item.item_id for item in items] == [item.item_id for item in expected]
            assert [item.score for item in items] == pytest.approx([item.score for item in expected], abs=1e-5)
    assert recommender.recommend([]) == []


def test_allowed_and_blocked(make_recommender):
    recommender = make_recommender()

    def ids(**options) -> list[str]:
        return [item.item_id for item in recommender.recommend([["i0"]], **options)[0]]

    ranked = ids()
    assert ids(allowed=["i4", "i1", "i0"]) == [item_id for item_id in ranked if item_id in ("i1", "i4")]
    assert ids(blocked={"i1"}) == [item_id for item_id in ranked if item_id != "i1"]
    assert ids(allowed=(item_id for item_id in ["i1", "i4"]), blocked=["i4"]) == ["i1"]
    assert ids(allowed=[]) == []
    assert ids(blocked=[]) == ranked
    for name in ("allowed", "blocked"):
        with pytest.raises(KeyError, match="'i44' is not in the catalogue.*nearest ids: i4"):
            ids(**{name: ["i44"]})
        for wrong in ("i1", "", 1, [1]):
            with pytest.raises(ValueError, match=f"`{name}` (is|holds) .*item ids?"):
                ids(**{name: wrong})


@pytest.mark.parametrize("fields", [{}, {"similarity": "dot"}, {"num_items": 6}])
def test_vectors_of_users_and_items_multiply_to_the_scores(make_recommender, fields):
    recommender = make_recommender(**fields)
    histories = [["i1", "i4"], [{"text": "blue pen for kids"}], ["i3"]]
    scores = recommender.encode_users(histories) @ recommender.item_embeds.T
    assert scores.dtype == np.float32
    for row, items in zip(scores, recommender.recommend(histories, 6, exclude_seen=False), strict=True):
        for item in items:
            assert item.score == pytest.approx(row[IDS.index(item.item_id)], abs=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_similar_items_by_the_cosine_of_item_vectors(make_recommender, similarity):
    recommender = make_recommender(similarity=similarity)
    with torch.no_grad():
        vectors = recommender.model.get_item_features(recommender.processor.catalogue.item_embeddings)
    cosines = F.cosine_similarity(vectors[2:3], vectors).tolist()
    items = recommender.similar_items("i2", top_k=50)
    assert [item.item_id for item in items] == sorted(set(IDS) - {"i2"}, key=lambda i: -cosines[IDS.index(i)])
    assert items[0].score == pytest.approx(sorted(cosines)[-2], abs=1e-5)
    nearest, *_ = recommender.similar_items({"text": "red tent"}, top_k=1)
    assert (nearest.item_id, nearest.score) == ("i2", pytest.approx(1, abs=1e-5))


def test_table_of_recommendations_goes_to_parquet(make_recommender, tmp_path):
    recommender = make_recommender()
    histories = [["i0"], ["i1", "i2", "i3", "i4"]]
    table = recommender.recommend_dataset(histories, ["ann", "bob"], top_k=3)
    table.to_parquet(tmp_path / "items.parquet")
    rows = pl.read_parquet(tmp_path / "items.parquet")
    assert rows.columns == ["user_id", "rank", "item_id", "score"]
    expected = [
        (user, rank, item.item_id, pytest.approx(item.score))
        for user, items in zip(("ann", "bob"), recommender.recommend(histories, 3), strict=True)
        for rank, item in enumerate(items, start=1)
    ]
    assert rows.rows() == expected
    assert rows["user_id"].to_list() == ["ann"] * 3 + ["bob"] * 2
    assert recommender.recommend_dataset(histories)["user_id"][0] == "0"
    with pytest.raises(ValueError, match="1 user ids but 2 histories"):
        recommender.recommend_dataset(histories, ["ann"])
    with pytest.raises(KeyError, match="'gone'"):
        recommender.recommend_dataset([["gone"], ["gone", "i0"]], top_k=3)
    left = recommender.recommend_dataset([["gone"], ["gone", "i0"]], ["ann", "bob"], top_k=3, skip_unknown=True)
    assert left.to_dict() == recommender.recommend_dataset([["i0"]], ["bob"], top_k=3).to_dict()


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
    assert again.recommend([["i1", {"text": "red pen for kids"}]]) == recommender.recommend(
        [["i1", {"text": "red pen for kids"}]]
    )


@pytest.mark.parametrize(
    "text", [20_000 * "pen 2 ", 100_000 * "x", "\x00\x01\x7f\u200b", "🖊️🫖👩‍👩‍👧", "a\u0301 \u202e pen", "笔" * 5000]
)
def test_odd_texts_are_read_as_they_are(make_recommender, text):
    recommender = make_recommender()
    (items,) = recommender.recommend([["i1", {"text": text}]], top_k=100)
    assert {item.item_id for item in items} == set(IDS) - {"i1"}
    assert all(-1 <= item.score <= 1 for item in items)
    recommender.add_items({"odd": text})
    assert recommender.similar_items({"text": text}, top_k=1)[0].score == pytest.approx(1, abs=1e-5)
    (found,) = recommender.recommend([["odd"]], top_k=1, allowed=["odd"], exclude_seen=False)[0]
    assert found.text == text


def test_only_unknown_ids(make_recommender):
    recommender = make_recommender()
    with pytest.raises(KeyError, match="'x1' is not in the catalogue of 6 items; nearest ids: i1, "):
        recommender.recommend([["i0"], ["x1", "x2"]])
    with pytest.raises(KeyError, match=r"'x{77}\.\.\.' is not in the catalogue"):
        recommender.recommend([[100_000 * "x"]])


# What changes between two calls


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("index", ["exact", "exact-bf16", "hnsw"])
def test_answers_are_those_of_the_weights_and_the_catalogue_of_now(make_recommender, embeddings, index):
    if index == "hnsw":
        pytest.importorskip("faiss")

    def answer(recommender):
        (items,) = recommender.recommend([["i2", "i3"]], 6, exclude_seen=False)
        return {item.item_id: item.score for item in items}

    def fresh(recommender):
        processor = recommender.processor
        if not embeddings:  # the recommender has read the texts itself
            processor = with_catalogue(
                processor, ItemCatalogue(processor.catalogue.item_ids, processor.catalogue.texts)
            )
        other = Recommender(recommender.model, processor)
        other.use_index(index)
        return answer(other)

    recommender = make_recommender(embeddings)
    recommender.use_index(index)
    for change in (
        lambda: recommender.model.adaptor.weight.data.mul_(torch.randn(16, 1, 1)),
        lambda: recommender.model.train(),
        lambda: setattr(recommender.processor, "catalogue", ItemCatalogue(IDS[::-1], TEXTS)),
        lambda: setattr(recommender.model.config, "text_neighbours", 0.4),
        lambda: setattr(recommender.model.config, "text_neighbours", 0.0),
        lambda: setattr(recommender.model.config, "similarity", "dot"),
        lambda: recommender.model.to(torch.bfloat16),
    ):
        change()
        assert answer(recommender) == pytest.approx(fresh(recommender), abs=2e-2 if "bf16" in index else 1e-5)
    assert type(recommender._snapshot.index).__name__ == ("FaissIndex" if index == "hnsw" else "ExactIndex")
    assert recommender.processor.catalogue.texts[0] == "red pen"
    assert recommender.processor.catalogue.item_ids[0] == "i5"


def test_text_vectors_follow_the_text_encoder_that_made_them(make_recommender):
    recommender = make_recommender(embeddings=False)
    before = recommender.item_embeds
    recommender.recommend([["i1"]])
    assert recommender._snapshot is recommender._current()
    with torch.no_grad():
        recommender.model.text_encoder.embeddings.word_embeddings.weight.add_(torch.randn(16))
    assert not np.allclose(recommender.item_embeds, before, atol=1e-4)
    kept = recommender.item_embeds
    recommender.model.detach_text_encoder()
    assert np.array_equal(recommender.item_embeds, kept)


def test_model_cannot_be_replaced(make_recommender, make_model):
    with pytest.raises(AttributeError, match="model"):
        make_recommender().model = make_model()


def test_numbers_that_are_not_finite_are_refused(make_recommender):
    recommender = make_recommender()
    with torch.no_grad():
        recommender.model.sequence_encoder.position_embedding.weight.fill_(torch.nan)
    with pytest.raises(
        ValueError, match="vectors of histories are not all finite: the weights of the model are damaged"
    ):
        recommender.recommend([["i1"]])
    recommender.processor.catalogue.item_embeddings[2, 1] = torch.inf
    with pytest.raises(ValueError, match="text vector of item 'i2' holds numbers that are not finite"):
        recommender.recommend([["i1"]])


def test_representations_tell_sizes_and_kinds(make_recommender):
    recommender = make_recommender(num_items=6)
    assert repr(recommender) == (
        "Recommender(transductive, ItemCatalogue(6 items, with text vectors), "
        "ExactIndex(6 items, hidden_size=8, torch.float32, device='cpu'))"
    )
    recommender.add_items({"n": "red lamp"})
    assert repr(recommender.processor.catalogue) == "ItemCatalogue(7 items, with text vectors, 6 with an ID embedding)"
    assert repr(ItemCatalogue(IDS, TEXTS)) == "ItemCatalogue(6 items, no text vectors)"


@pytest.mark.parametrize("number", [0, -1, 2.5, True, "3", None])
def test_counts_are_whole_numbers(make_recommender, number):
    recommender = make_recommender()
    for call in (
        lambda: recommender.recommend([["i1"]], top_k=number),
        lambda: recommender.similar_items("i1", top_k=number),
        lambda: recommender.recommend([["i1"]], batch_size=number),
        lambda: recommender.encode_users([["i1"]], batch_size=number),
    ):
        with pytest.raises(ValueError, match=f"is {number!r}, expected a whole number of at least 1"):
            call()
    assert recommender.recommend([["i1"]], top_k=np.int64(2), batch_size=np.int32(1))[0]


@pytest.mark.parametrize("text", ["\ud83d mug", "caf\udce9 mug"])
def test_half_characters_are_refused(make_recommender, text):
    recommender = make_recommender()
    for refuse in (
        lambda: recommender.recommend([[{"text": text}]]),
        lambda: recommender.encode_items([text]),
        lambda: recommender.add_items({"new": text}),
        lambda: ItemCatalogue(["a"], [text]),
    ):
        with pytest.raises(ValueError, match=r"mug' holds half of a character"):
            refuse()


def test_values_of_columns_in_files_and_as_json(make_recommender, tmp_path):
    recommender = make_recommender()
    dates = [datetime.date(2026, 1, 1 + row) for row in range(6)]
    times = [datetime.datetime(2026, 1, 1, row, 30) for row in range(6)]
    columns = pl.DataFrame(
        {
            "item_id": IDS,
            "added": dates,
            "sold": times,
            "number": pl.Series([2**63 + row for row in range(6)], dtype=pl.UInt64),
        }
    )
    recommender.set_columns(columns)
    names = ["added", "sold", "number"]
    (items,) = recommender.recommend([["i2"]], 2, columns=names)
    rows = [IDS.index(item.item_id) for item in items]
    expected = [(f"2026-01-0{1 + row}", f"2026-01-01 0{row}:30:00", 2**63 + row) for row in rows]
    assert [tuple(json.loads(json.dumps(item.to_json()))[name] for name in names) for item in items] == expected
    table = recommender.recommend_dataset([["i2"]], top_k=2, columns=names)
    assert table["number"] == [number for _, _, number in expected]
    write_table(table, tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [tuple(line[name] for name in names) for line in written] == expected
    assert [line["item_id"] for line in written] == [item.item_id for item in items]


def test_users_of_a_domain_are_named_by_strings(make_recommender, make_domain):
    with pytest.raises(ValueError, match="user ids are strings, not 1: write a number as '12'"):
        make_recommender().recommend_dataset(make_domain(), [1])


@pytest.mark.parametrize("num_items", [None, 6])
def test_text_neighbours_are_mixed_by_their_share(make_recommender, num_items):
    plain = make_recommender(num_items=num_items)
    history = ["i1", "i4", {"text": "red boat"}, "i0"]
    lowered = 0.6 * 4 / (4 + 6) * np.isin(IDS, history)  # no item twice

    def scores(share: float) -> np.ndarray:
        recommender = Recommender(plain.model, plain.processor, text_neighbours=share)
        (items,) = recommender.recommend([history], 6, exclude_seen=False)
        users = recommender.encode_users([history])
        found = {item.item_id: item.score for item in items}
        products = (users @ recommender.item_embeds.T)[0]
        assert products - share * lowered == pytest.approx([found[item_id] for item_id in IDS], abs=1e-5)
        return products

    space = fit_text_space(plain.processor.catalogue.item_embeddings)
    texts, told = space.map(plain.processor.catalogue.item_embeddings), space.map(plain._encoder.texts(["red boat"]))
    text = sum(0.7**age * row for age, row in enumerate([texts[0], told[0], texts[4], texts[1]]))
    cosines = (texts @ F.normalize(text, dim=0)).numpy()
    assert scores(1.0) == pytest.approx(cosines, abs=1e-5)
    assert scores(0.5) == pytest.approx((scores(0.0) + cosines) / 2, abs=1e-5)


def test_items_of_the_history_are_lowered_as_by_the_pipeline_and_by_evaluations(make_recommender, make_split):
    plain = make_recommender()
    histories = [["i1", "i4", "i0"], ["i2"], ["i3", "i5", "i3"], [f"i{place % 6}" for place in range(9)]]
    processor, model = plain.processor, plain.model
    processor.max_history_length, model.config.text_neighbours = 6, 0.7  # no item twice in the last history
    recommender, pipeline = Recommender(model, processor), SequentialRecommendationPipeline(model, processor=processor)
    told = [["i0", *[{"text": f"boat {place}"} for place in range(5)], "i4"]]  # of which "i0" is not read
    lists = recommender.recommend([*histories, *told], 6, exclude_seen=False)
    assert lists == recommender.recommend([*histories, *told], 6, exclude_seen=False, cap={"item_id": 1})
    ranks = []
    for items, others in zip(lists, pipeline([*histories, *told], top_k=6, exclude_seen=False), strict=True):
        assert [item.item_id for item in items] == [item["item_id"] for item in others]
        assert [item.score for item in items] == pytest.approx([item["score"] for item in others], abs=1e-5)
        ranks.append({item.item_id: rank for rank, item in enumerate(items)})
    rows = [[IDS.index(item_id) for item_id in history[-6:]] for history in histories]
    ranker = TargetRanker(model, processor.catalogue.item_embeddings.numpy())
    for target, item_id in enumerate(IDS):
        users = RankingDataset(make_split(rows, targets=[target] * 4), processor.catalogue.item_embeddings.numpy())
        found = ranker(RankingCollator(6)([users[place] for place in range(4)]))[:, 0]
        assert found.tolist() == [ranks[row][item_id] for row in users.order]


def test_the_share_given_is_saved_and_the_model_left_as_it_was(make_recommender, tmp_path):
    plain = make_recommender()
    recommender = Recommender(plain.model, plain.processor, text_neighbours=0.25)
    recommender.save_pretrained(tmp_path / "shop")
    assert plain.model.config.text_neighbours == 0
    loaded = Recommender.from_pretrained(tmp_path / "shop")
    assert loaded.recommend([["i2", "i3"]]) == recommender.recommend([["i2", "i3"]]) != plain.recommend([["i2", "i3"]])


def test_another_shop_for_a_model_with_the_text_space_of_one_is_said(make_recommender, tmp_path, caplog):
    make_recommender(text_space="catalogue").save_pretrained(tmp_path / "shop")
    Recommender.from_pretrained(tmp_path / "shop", items={"i3": "steel kettle", "new": "oak table"})
    assert not caplog.records
    Recommender.from_pretrained(tmp_path / "shop", items={"k1": "steel kettle", "k2": "oak table"})
    assert [record.message[:60] for record in caplog.records] == [
        "none of the items given is in the catalogue of the checkpoint,"[:60]
    ]


def test_an_added_item_has_its_text_in_the_mix(make_recommender):
    plain = make_recommender()
    recommender = Recommender(plain.model, plain.processor, text_neighbours=1.0)
    recommender.add_items({"new": "steel kettle"})
    (items,) = recommender.recommend([["i3"]], 7, exclude_seen=False)
    assert {item.item_id for item in items[:2]} == {"new", "i3"}
    assert items[0].score == pytest.approx(1)
    fresh = Recommender(recommender.model, recommender.processor, text_neighbours=1.0)
    assert recommender.item_embeds == pytest.approx(fresh.item_embeds, abs=1e-6)  # in the text space of all items


@pytest.mark.parametrize(
    ("share", "fields", "message"),
    [
        (1.5, {}, "from 0 to 1"),
        (-0.1, {}, "from 0 to 1"),
        (0.5, {"similarity": "dot"}, "plain product"),
        (0.5, {"item_text": False, "num_items": 6}, "need texts"),
    ],
)
def test_text_neighbours_that_cannot_be_mixed(make_recommender, share, fields, message):
    plain = make_recommender(**({"embeddings": False} if "item_text" in fields else {}), **fields)
    with pytest.raises(ValueError, match=message):
        Recommender(plain.model, plain.processor, text_neighbours=share)
