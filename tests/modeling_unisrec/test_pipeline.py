"""`pipeline("sequential-recommendation")`: forms of input, ranking, batching, and the pipeline of a folder's own code."""

import polars as pl
import pytest
import torch
from transformers import pipeline

from unisrec.modeling_unisrec import ItemCatalogue, SequentialRecommendationPipeline, UniSRecProcessor
from unisrec.modeling_unisrec.pipeline_unisrec import encode_items, rank_items


TEXTS = ["red pen", "blue pen", "steel kettle", "garden lamp", "travel case", "kids chair"]
IDS = ["A", "B", "C", "D", "E", "F"]


@pytest.fixture
def folder(tmp_path, make_model, text_encoder, tokenizer):
    """A whole checkpoint folder, transductive."""
    model = make_model(num_items=len(IDS))
    model.attach_text_encoder(text_encoder)
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS), max_history_length=10, max_text_length=32)
    with torch.no_grad():
        processor.catalogue.item_embeddings = model.get_text_features(**processor.tokenize(TEXTS)).pooler_output
    model.save_pretrained(tmp_path / "shop")
    processor.save_pretrained(tmp_path / "shop")
    return tmp_path / "shop"


@pytest.fixture
def recommend(folder):
    return pipeline("sequential-recommendation", model=str(folder))


@pytest.mark.parametrize("num_items", [0, 1, 6, 7])
def test_items_are_encoded_a_few_at_a_time(make_model, num_items):
    model = make_model(num_items=7).eval()
    texts, ids = torch.randn(num_items, model.config.text_embedding_size), torch.arange(num_items, 0, -1)
    with torch.no_grad():
        whole = model.get_item_features(texts, id_rows=ids)
    parts = encode_items(model, texts, ids, rows_at_a_time=3)
    assert parts.shape == (num_items, model.config.hidden_size)
    torch.testing.assert_close(parts, whole)


def _by_hand(recommend, history: list[int], hidden: set[int] = frozenset()) -> list[tuple[str, float]]:
    """Cosine of the history and each item, one at a time."""
    model, catalogue = recommend.model, recommend.processor.catalogue
    with torch.no_grad():
        output = model(
            item_index=torch.tensor([history]) + 1,
            text_embeds=catalogue.item_embeddings,
            id_rows=torch.arange(1, len(IDS) + 1),
        )
    scores = torch.cosine_similarity(output.sequence_embeds, output.item_embeds).tolist()
    rows = sorted((row for row in range(len(IDS)) if row not in hidden), key=lambda row: -scores[row])
    return [(IDS[row], scores[row]) for row in rows]


def test_one_history_gives_one_ranked_list(recommend):
    assert type(recommend) is SequentialRecommendationPipeline
    items = recommend(["B", "E"])
    expected = _by_hand(recommend, [1, 4], {1, 4})
    assert [item["item_id"] for item in items] == [item_id for item_id, _ in expected]
    assert [item["score"] for item in items] == pytest.approx([score for _, score in expected], abs=1e-6)
    assert all(TEXTS[IDS.index(item["item_id"])] == item["text"] for item in items)


def test_top_k_and_exclude_seen_at_call_and_at_construction(recommend, folder):
    assert recommend(["B", "E"], top_k=2) == recommend(["B", "E"])[:2]
    kept = recommend(["B", "E"], exclude_seen=False)
    assert [item["item_id"] for item in kept] == [item_id for item_id, _ in _by_hand(recommend, [1, 4])]
    other = pipeline("sequential-recommendation", model=str(folder), top_k=1, exclude_seen=False)
    assert other(["B", "E"]) == kept[:1]
    assert len(other(["B", "E"], top_k=50)) == len(IDS)


def test_where_and_columns(recommend):
    catalogue = recommend.processor.catalogue
    columns = pl.DataFrame({"price": [1, 2, None, 4, 5, 6], "url": [f"https://shop/{row}" for row in IDS]})
    recommend.processor.catalogue = catalogue.with_columns(columns)
    everything = recommend([["B"], ["E", "A"]])
    for items, ranked in zip(
        recommend([["B"], ["E", "A"]], where="price BETWEEN 2 AND 5", columns=["price", "url"]),
        everything,
        strict=True,
    ):
        kept = [item for item in ranked if item["item_id"] in "BDE"]
        assert items == [
            {**item, "price": columns["price"][row], "url": columns["url"][row]}
            for item in kept
            for row in [IDS.index(item["item_id"])]
        ]
    for options, message in (
        ({"where": "stock > 0"}, "where: .* no column 'stock'"),
        ({"columns": ["x"]}, "columns: "),
    ):
        with pytest.raises(ValueError, match=message):
            recommend(["B"], **options)


def test_texts_that_are_in_no_catalogue(recommend):
    (mixed,) = recommend([["B", {"text": "small wood brush"}]])
    assert {item["item_id"] for item in mixed} == set(IDS) - {"B"}
    assert recommend([{"text": "small wood brush"}]) != recommend([{"text": "large steel refill"}])
    with pytest.raises(
        KeyError, match=r"'small wood brush' is not in the catalogue .* \{'text': '\.\.\.'\} in Python"
    ):
        recommend(["small wood brush"])


def test_lists_and_iterators_equal_one_at_a_time_whatever_the_batch(recommend):
    histories = [["A"], ["B", "C", "D"], [{"text": "red lamp"}], ["F", "A"], ["C", "C"]]
    single = [recommend(history) for history in histories]
    for batch_size in (None, 1, 2, 5, 64):
        batched = recommend(histories, batch_size=batch_size)
        for alone, together in zip(single, batched, strict=True):
            assert [item["item_id"] for item in alone] == [item["item_id"] for item in together]
            scores = [item["score"] for item in together]
            assert [item["score"] for item in alone] == pytest.approx(scores, abs=1e-6)
    stream = recommend(iter(histories), batch_size=2)
    assert next(stream) == recommend(histories, batch_size=2)[0]
    assert len(list(stream)) == len(histories) - 1
    assert recommend([]) == []


def test_an_iterator_is_read_no_further_than_needed(recommend):
    read = []
    stream = recommend((read.append(item) or [item] for item in IDS), batch_size=2)
    next(stream)
    assert read == ["A", "B"]


def test_catalogue_without_vectors_is_encoded(recommend):
    before = recommend(["B", "E"])
    bare = UniSRecProcessor(recommend.processor.tokenizer, ItemCatalogue(IDS, TEXTS), 10, 32)
    again = SequentialRecommendationPipeline(model=recommend.model, processor=bare)(["B", "E"])
    assert [item["item_id"] for item in again] == [item["item_id"] for item in before]
    scores = [item["score"] for item in before]
    assert [item["score"] for item in again] == pytest.approx(scores, abs=1e-5)


def test_half_precision(folder, recommend):
    half = pipeline("sequential-recommendation", model=str(folder), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    items = half(["B", {"text": "red lamp"}], top_k=6)
    exact = {item["item_id"]: item["score"] for item in recommend(["B", {"text": "red lamp"}], top_k=6)}
    assert all(abs(exact[item["item_id"]] - item["score"]) < 0.05 for item in items)


@pytest.mark.parametrize(
    ("histories", "error", "message"),
    [
        ("A", ValueError, "a history is a list, also of one item; got 'A'"),
        ({"text": "red pen"}, ValueError, "a history is a list"),
        ([["A"], []], ValueError, "history 1 is empty"),
        (["A", "Z"], KeyError, "item id 'Z' is not in the catalogue of 6 items; nearest ids"),
        ([["A", 3]], ValueError, "are strings, not 3"),
    ],
)
def test_bad_histories(recommend, histories, error, message):
    with pytest.raises(error, match=message):
        recommend(histories)


def test_bad_top_k(recommend):
    with pytest.raises(ValueError, match="top_k is 0"):
        recommend(["A"], top_k=0)


def test_no_catalogue(recommend, tokenizer):
    with pytest.raises(ValueError, match="there is no catalogue to recommend from"):
        SequentialRecommendationPipeline(model=recommend.model, processor=UniSRecProcessor(tokenizer))


def test_ties_are_in_catalogue_order_and_seen_items_gone():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.9], [0.1, 0.1, 0.1, 0.1]])
    ranked = rank_items(scores, [[1], []], top_k=3)
    assert [[row for row, _ in items] for items in ranked] == [[3, 0, 2], [0, 1, 2]]


# What changes between two calls


def answer(recommend, history=("B", "E")) -> dict[str, float]:
    return {item["item_id"]: item["score"] for item in recommend(list(history), top_k=100, exclude_seen=False)}


def fresh_answer(recommend, history=("B", "E")) -> dict[str, float]:
    """What a pipeline of the same model and processor says that has kept nothing."""
    return answer(SequentialRecommendationPipeline(model=recommend.model, processor=recommend.processor), history)


@pytest.fixture
def inductive(make_model, text_encoder, tokenizer):
    """A pipeline on texts alone that has answered once; its catalogue has text vectors, or none."""

    def make(with_vectors: bool) -> SequentialRecommendationPipeline:
        model = make_model(text_pooling="mean")
        model.attach_text_encoder(text_encoder)
        vectors = torch.randn(len(IDS), 16) if with_vectors else None
        processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS, vectors), 10, 32)
        recommend = SequentialRecommendationPipeline(model=model, processor=processor)
        answer(recommend)
        return recommend

    return make


def replace_catalogue(recommend):
    recommend.processor.catalogue = ItemCatalogue(IDS, TEXTS[::-1], torch.randn(len(IDS), 16))


def replace_processor(recommend):
    recommend.processor = UniSRecProcessor(recommend.processor.tokenizer, ItemCatalogue(IDS, TEXTS[::-1]))


def replace_vectors(recommend):
    recommend.processor.catalogue.item_embeddings = torch.randn(len(IDS), 16)


def change_vectors_in_place(recommend):
    recommend.processor.catalogue.item_embeddings[3] += 1


def change_vectors_through_numpy(recommend):
    recommend.processor.catalogue.item_embeddings.numpy()[3] += 1


def train(recommend):
    with torch.no_grad():
        recommend.model.adaptor.weight.add_(torch.randn_like(recommend.model.adaptor.weight))


def change_data(recommend):
    recommend.model.adaptor.weight.data[2] += 1


def load_weights(recommend):
    state = {name: torch.randn_like(weight) for name, weight in recommend.model.state_dict().items()}
    recommend.model.load_state_dict(state)


def cast(recommend):
    recommend.model.to(torch.bfloat16)


@pytest.mark.parametrize(
    ("with_vectors", "change"),
    [
        (True, replace_catalogue),
        (False, replace_catalogue),
        (True, replace_processor),
        (True, replace_vectors),
        (True, change_vectors_in_place),
        (True, change_vectors_through_numpy),
        (True, train),
        (True, change_data),
        (True, load_weights),
        (False, load_weights),
        (True, cast),
        (False, cast),
    ],
)
def test_no_vector_outlives_what_it_was_made_from(inductive, with_vectors, change):
    recommend = inductive(with_vectors)
    before = answer(recommend)
    change(recommend)
    after = answer(recommend)
    assert after == pytest.approx(fresh_answer(recommend), abs=1e-6)
    assert after != pytest.approx(before, abs=1e-4)


def test_smaller_catalogue_and_texts_changed_in_place(inductive):
    recommend = inductive(with_vectors=False)
    recommend.processor.catalogue.texts[3] = "green lamp"
    assert answer(recommend) == pytest.approx(fresh_answer(recommend), abs=1e-6)
    recommend.processor.catalogue = ItemCatalogue(["a", "b"], ["red mug", "tent"])
    assert [item["item_id"] for item in recommend(["a"])] == ["b"]
    recommend.processor.catalogue = None
    with pytest.raises(ValueError, match="there is no catalogue to recommend from"):
        recommend(["a"])


def test_catalogue_of_the_caller_gets_no_vectors(inductive):
    assert inductive(with_vectors=False).processor.catalogue.item_embeddings is None


def test_vectors_are_kept_while_nothing_changes(inductive):
    recommend = inductive(with_vectors=False)
    kept = recommend._ranked
    assert answer(recommend) == answer(recommend)
    assert recommend._ranked is kept


def test_model_in_training_mode_answers_without_dropout(inductive):
    recommend = inductive(with_vectors=True)
    expected = answer(recommend)
    recommend.model.train()
    assert answer(recommend) == expected


def test_foreign_catalogue_is_refused_by_a_transductive_model(recommend):
    recommend(["A"])
    recommend.processor.catalogue = ItemCatalogue(["a", "b"], ["red mug", "tent"])
    with pytest.raises(ValueError, match="transductive with 6 items, the catalogue has 2: take the catalogue saved"):
        recommend(["a"])
    with pytest.raises(ValueError, match="transductive with 6 items"):
        SequentialRecommendationPipeline(model=recommend.model, processor=recommend.processor)


def test_numbers_that_are_not_finite_are_refused(inductive):
    recommend = inductive(with_vectors=True)
    recommend.processor.catalogue.item_embeddings[4, 2] = torch.nan
    with pytest.raises(ValueError, match="text vector of item 'E' holds numbers that are not finite"):
        recommend(["A"])
    for name in ("adaptor.weight", "sequence_encoder.position_embedding.weight"):
        recommend = inductive(with_vectors=True)
        with torch.no_grad():
            recommend.model.get_parameter(name).fill_(torch.nan)
        with pytest.raises(ValueError, match="are not all finite: the weights of the model are damaged"):
            recommend(["A"])


def test_vectors_of_another_width_are_refused(inductive):
    recommend = inductive(with_vectors=True)
    recommend.processor.catalogue.item_embeddings = torch.randn(len(IDS), 12)
    with pytest.raises(ValueError, match="have 12 numbers, the model takes 16"):
        recommend(["A"])


# Saving


def test_saved_pipeline_is_the_folder_it_came_from(recommend, folder, tmp_path):
    """That loads without the package: see test_hub.py."""
    recommend.save_pretrained(tmp_path / "saved")
    # tokenizer_config.json tells where it was read from.
    for file in (file for file in folder.rglob("*") if file.is_file() and file.name != "tokenizer_config.json"):
        assert (tmp_path / "saved" / file.relative_to(folder)).read_bytes() == file.read_bytes(), file.name
    again = pipeline("sequential-recommendation", model=str(tmp_path / "saved"))
    assert again(["B", {"text": "red lamp"}]) == recommend(["B", {"text": "red lamp"}])
