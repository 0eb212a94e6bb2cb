"""`pipeline("sequential-recommendation")`: forms of input, ranking, batching, and the pipeline of a folder's own code."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import pipeline

from unisrec.modeling_unisrec import (
    ItemCatalogue,
    SequentialRecommendationPipeline,
    UniSRecProcessor,
    encode_items,
    rank_items,
)


TEXTS = ["red pen", "blue pen", "steel kettle", "garden lamp", "travel case", "kids chair"]
IDS = ["A", "B", "C", "D", "E", "F"]


@pytest.fixture
def folder(tmp_path, make_model, text_encoder, tokenizer):
    """A whole checkpoint folder, transductive."""
    model = make_model(num_items=len(IDS))
    model.attach_text_encoder(text_encoder)
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS), max_history_length=10, max_text_length=32)
    with torch.no_grad():
        processor.catalogue.item_embeddings = model.get_text_features(**processor.tokenize(TEXTS))
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
        whole = model.get_item_features(texts, item_ids=ids)
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
            item_ids=torch.arange(1, len(IDS) + 1),
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


def test_the_pipeline_of_the_folder_itself(folder, recommend, tmp_path):
    """The folder's own code, in a process that does not know the package, gives what the registered pipeline gives."""
    program = (
        "import json, sys\n"
        "from transformers import pipeline\n"
        "recommend = pipeline(model=sys.argv[1], trust_remote_code=True)\n"
        "assert type(recommend).__module__.startswith('transformers_modules.'), type(recommend)\n"
        "assert 'unisrec' not in sys.modules\n"
        "print(json.dumps(recommend(['B', {'text': 'red lamp'}])))"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == recommend(["B", {"text": "red lamp"}])
