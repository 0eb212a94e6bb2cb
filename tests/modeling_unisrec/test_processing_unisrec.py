import json

import pytest
import torch
from transformers import AutoProcessor

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor


IDS = ["A1", "A2", "B1", "B20", "C 3"]
TEXTS = ["red pen", "blue pen", "steel kettle 1 l", "camping tent", "red pen"]


@pytest.fixture
def catalogue():
    return ItemCatalogue(IDS, TEXTS, torch.randn(5, 16))


@pytest.fixture
def processor(catalogue, tokenizer):
    return UniSRecProcessor(tokenizer, catalogue, max_history_length=4)


# Catalogue


def test_catalogue_knows_its_items(catalogue):
    assert len(catalogue) == 5
    assert [catalogue.row(item_id) for item_id in IDS] == [0, 1, 2, 3, 4]
    assert "B20" in catalogue
    assert "B2" not in catalogue


def test_ids_that_lost_their_zeros_are_the_nearest():
    catalogue = ItemCatalogue(["0031", "0021", "0011", "0001"], ["a", "b", "c", "d"])
    with pytest.raises(KeyError, match=r"nearest ids: 0001, "):
        catalogue.row("1")


def test_unknown_id_is_named_with_the_three_nearest(catalogue):
    with pytest.raises(KeyError, match=r"item id 'B2' is not in the catalogue of 5 items; nearest ids: B20, B1, A2\."):
        catalogue.row("B2")


def test_id_that_comes_twice_is_named():
    with pytest.raises(ValueError, match="Item id 'A1' comes twice"):
        ItemCatalogue(["A0", "A1", "A2", "A1", "A2"], list("abcde"))


def test_lengths_of_a_catalogue_must_fit():
    with pytest.raises(ValueError, match="2 item ids but 1 texts"):
        ItemCatalogue(["A1", "A2"], ["red pen"])
    with pytest.raises(ValueError, match="2 item ids but 3 rows of `item_embeddings`"):
        ItemCatalogue(["A1", "A2"], ["red pen", "blue pen"], torch.zeros(3, 16))


@pytest.mark.parametrize("with_embeddings", [False, True])
def test_catalogue_round_trip(catalogue, with_embeddings, tmp_path):
    if not with_embeddings:
        catalogue = ItemCatalogue(IDS, TEXTS)
    UniSRecProcessor(catalogue=catalogue).save_pretrained(tmp_path)
    loaded = UniSRecProcessor.from_pretrained(tmp_path).catalogue
    assert loaded.item_ids == IDS
    assert loaded.texts == TEXTS
    if with_embeddings:
        assert torch.equal(loaded.item_embeddings, catalogue.item_embeddings)
    else:
        assert loaded.item_embeddings is None


def test_catalogue_saved_over_another_keeps_none_of_its_vectors(catalogue, tmp_path):
    UniSRecProcessor(catalogue=catalogue).save_pretrained(tmp_path)
    UniSRecProcessor(catalogue=ItemCatalogue(IDS, TEXTS[::-1])).save_pretrained(tmp_path)
    assert UniSRecProcessor.from_pretrained(tmp_path).catalogue.item_embeddings is None


@pytest.mark.parametrize("with_embeddings", [False, True])
def test_rows_of_the_id_embedding_go_where_the_items_go(tokenizer, with_embeddings, tmp_path):
    vectors = torch.randn(5, 16) if with_embeddings else None
    catalogue = ItemCatalogue(IDS, TEXTS, vectors, torch.tensor([7, 0, 2, 9, 0]))
    UniSRecProcessor(tokenizer, catalogue).save_pretrained(tmp_path)
    processor = UniSRecProcessor.from_pretrained(tmp_path)
    batch = processor([["B20", {"text": "red pen"}, "A2"], ["A1"]])
    row_of = {"B20": 9, "A2": 0, "A1": 7, "text": 0}
    history = batch["id_rows"][batch["item_index"][0] - 1]
    assert history.tolist() == [row_of["B20"], row_of["text"], row_of["A2"]]
    assert batch["id_rows"][batch["item_index"][1, 0] - 1] == row_of["A1"]
    with pytest.raises(ValueError, match="5 item ids but 2 `id_rows`"):
        ItemCatalogue(IDS, TEXTS, id_rows=torch.tensor([1, 2]))


def test_unknown_id_of_a_hundred_thousand_characters(catalogue):
    with pytest.raises(KeyError, match=r"item id 'A1x{75}\.\.\.' is not in .* nearest ids: A1, "):
        catalogue.row("A1" + 100_000 * "x")


# What an entry of a history means


def test_forms_of_an_item(processor):
    assert processor.parse("A2") == (1, "blue pen")
    assert processor.parse({"item_id": "A2"}) == (1, "blue pen")
    assert processor.parse("C 3") == (4, "red pen")  # an id with a blank is an id all the same
    assert processor.parse({"text": "green tent"}) == (None, "green tent")
    assert processor.parse({"text": "A2"}) == (None, "A2")


@pytest.mark.parametrize("entry", ["A3", "A 3", "C 4", {"item_id": "A3"}, {"item_id": "A 3"}])
def test_unknown_id_in_a_history(processor, entry):
    """With a blank in it or without: only what is said to be a text is one."""
    with pytest.raises(KeyError, match=r"item id '[AC] ?[34]' is not in the catalogue .* nearest ids: .*'text'"):
        processor([["A1"], ["A1", entry]])


@pytest.mark.parametrize("entry", ["", {"text": ""}, {"text": "  "}])
def test_empty_text_is_refused(processor, entry):
    with pytest.raises((KeyError, ValueError), match=r"is empty|item id ''"):
        processor([[entry]])


@pytest.mark.parametrize("entry", [{}, {"title": "red pen"}, {"text": "red pen", "item_id": "A1"}])
def test_other_mappings_are_refused(processor, entry):
    with pytest.raises(ValueError, match=r"\{'item_id': ...\} or \{'text': ...\}, not as "):
        processor([[entry]])


@pytest.mark.parametrize("entry", [5, {"item_id": 5}, {"text": None}])
def test_ids_and_texts_are_strings(processor, entry):
    with pytest.raises(ValueError, match="ids and texts of items are strings, not "):
        processor([[entry]])


def test_a_list_in_the_place_of_an_item_is_said(processor):
    with pytest.raises(ValueError, match=r"strings, not \['A1'\]: give one item"):
        processor.parse(["A1"])


def test_id_without_a_catalogue(tokenizer):
    with pytest.raises(KeyError, match="'A1': this processor has no catalogue"):
        UniSRecProcessor(tokenizer)([["A1"]])


def test_items_without_a_list_around_them_are_refused(processor):
    with pytest.raises(ValueError, match=r"the histories are the string '00003': expected .* \[\['00003'\]\] for one"):
        processor.parse_histories("00003")
    with pytest.raises(ValueError, match="history 0 is the string 'A1': a history is a list"):
        processor(["A1", "A2"])


def test_empty_history_is_refused(processor):
    with pytest.raises(ValueError, match="history 1 is empty: give at least one item"):
        processor([["A1"], []])


# Batches


def test_batch_of_ids(processor, catalogue):
    batch = processor([["B20", "A1", "B20"], ["A2"]])
    assert batch.keys() == {"item_index", "id_rows", "text_embeds"}
    assert batch["item_index"].tolist() == [[3, 1, 3], [2, 0, 0]]
    assert batch["id_rows"].tolist() == [1, 2, 4]
    assert torch.equal(batch["text_embeds"], catalogue.item_embeddings[[0, 1, 3]])


def test_batch_of_texts(processor, tokenizer):
    batch = processor(
        [
            [{"text": text} for text in texts]
            for texts in (["green tent", "lamp"], ["lamp", "large green tent", "green tent"])
        ]
    )
    assert batch.keys() == {"item_index", "id_rows", "input_ids", "attention_mask"}
    assert batch["item_index"].tolist() == [[1, 2, 0], [2, 3, 1]]
    assert batch["id_rows"].tolist() == [0, 0, 0]
    expected = tokenizer(["green tent", "lamp", "large green tent"], padding=True)
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["attention_mask"].tolist() == expected["attention_mask"]


def test_batch_of_ids_and_texts(processor, catalogue, tokenizer):
    batch = processor([[{"text": "lamp 2"}, "B1"], ["A1", {"text": "lamp 2"}, "A1"]])
    assert batch["item_index"].tolist() == [[3, 2, 0], [1, 3, 1]]
    assert batch["id_rows"].tolist() == [1, 3, 0]
    assert torch.equal(batch["text_embeds"], catalogue.item_embeddings[[0, 2]])
    assert batch["input_ids"].tolist() == tokenizer(["lamp 2"])["input_ids"]


def test_history_is_cut_to_its_latest_items(processor):
    batch = processor([["A1", "A1", "A2", "B1", "B20", "A2"]])
    assert batch["id_rows"].tolist() == [2, 3, 4]
    assert batch["item_index"].tolist() == [[1, 2, 3, 1]]


def test_text_is_cut_to_its_first_tokens(tokenizer):
    processor = UniSRecProcessor(tokenizer, max_text_length=4)
    batch = processor([[{"text": "red blue green white"}, {"text": "red blue lamp"}]])
    assert batch["input_ids"].tolist() == tokenizer(["red blue", "red blue"])["input_ids"]


def test_text_without_a_tokenizer(catalogue):
    processor = UniSRecProcessor(catalogue=catalogue)
    assert processor([["A1"]])["id_rows"].tolist() == [1]
    with pytest.raises(ValueError, match="no tokenizer to read 'green tent' with"):
        processor([["A1", {"text": "green tent"}]])


def test_catalogue_without_vectors_goes_through_the_tokenizer(tokenizer):
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS))
    batch = processor([["B1", "A2"], [{"text": "green tent"}, "B1"]])
    assert batch.keys() == {"item_index", "id_rows", "input_ids", "attention_mask"}
    assert batch["item_index"].tolist() == [[1, 2], [3, 1]]
    assert batch["id_rows"].tolist() == [3, 2, 0]
    expected = tokenizer(["steel kettle 1 l", "blue pen", "green tent"], padding=True)
    assert batch["input_ids"].tolist() == expected["input_ids"]


def test_items_of_the_same_text_keep_their_own_ids(tokenizer):
    # "A1" and "C 3" have the same text, and so has the item given by text: three ID vectors all the same.
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS))
    batch = processor([["A1", "C 3", {"text": "red pen"}]])
    rows = batch["item_index"][0] - 1
    assert batch["id_rows"][rows].tolist() == [1, 5, 0]


@torch.no_grad()
@pytest.mark.parametrize("num_items", [None, 5])
def test_model_takes_the_batch(text_encoder_dir, processor, tokenizer, num_items):
    model = UniSRecModel.from_text_encoder(str(text_encoder_dir), hidden_size=8, num_items=num_items).eval()
    tokens = processor.tokenize(TEXTS)
    features = model.get_text_features(**tokens).pooler_output
    processor.catalogue = ItemCatalogue(IDS, TEXTS, features)
    histories = [["A1", {"text": "green tent"}, "B20"], ["B1"]]
    sequences = model(**processor(histories)).sequence_embeds

    processor.catalogue = ItemCatalogue(IDS, TEXTS)  # the same vectors, computed on the way
    torch.testing.assert_close(model(**processor(histories)).sequence_embeds, sequences)

    new_item = model.get_text_features(**processor.tokenize(["green tent"])).pooler_output
    items = model.get_item_features(torch.cat([features, new_item]), id_rows=torch.tensor([1, 2, 3, 4, 5, 0]))
    expected = model.get_sequence_features(torch.tensor([[1, 6, 4], [3, 0, 0]]), items)
    torch.testing.assert_close(sequences, expected)


# Saving and loading


def test_round_trip(processor, tmp_path):
    processor.max_text_length = 9
    processor.save_pretrained(tmp_path)
    loaded = UniSRecProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.max_history_length, loaded.max_text_length) == (4, 9)
    histories = [["A1", {"text": "green tent"}, "B20"], [{"text": "lamp 1"}]]
    batch, expected = loaded(histories), processor(histories)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_save_over_the_folder_it_was_loaded_from(processor, catalogue, tmp_path):
    processor.save_pretrained(tmp_path)
    UniSRecProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path)
    embeddings = UniSRecProcessor.from_pretrained(tmp_path).catalogue.item_embeddings
    assert torch.equal(embeddings, catalogue.item_embeddings)


def test_round_trip_of_an_empty_processor(tmp_path):
    UniSRecProcessor().save_pretrained(tmp_path)
    loaded = UniSRecProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer is None
    assert loaded.catalogue is None


def test_folder_without_processor_is_named(tmp_path):
    with pytest.raises(OSError, match=r"has no processor_config\.json"):
        UniSRecProcessor.from_pretrained(tmp_path)


def test_auto_processor_knows_the_folder(processor, make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is UniSRecProcessor
    assert loaded.catalogue.item_ids == IDS


def test_config_file_holds_no_path(processor, text_encoder_dir, tmp_path):
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    assert settings == {
        "auto_map": {"AutoProcessor": "processing_unisrec.UniSRecProcessor"},
        "processor_class": "UniSRecProcessor",
        "max_history_length": 4,
        "max_text_length": 512,
        "text_prompt": "",
    }
    for file in tmp_path.glob("*.json"):
        assert str(text_encoder_dir) not in file.read_text(encoding="utf-8"), file.name


def test_keywords_of_from_pretrained_are_honoured_or_refused(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = UniSRecProcessor.from_pretrained(tmp_path, max_history_length=7, cls_token="(CLS)", padding_side="left")
    assert (loaded.max_history_length, loaded.max_text_length) == (7, processor.max_text_length)
    assert (loaded.tokenizer.cls_token, loaded.tokenizer.padding_side) == ("(CLS)", "left")
    assert AutoProcessor.from_pretrained(tmp_path, max_text_length=3).max_text_length == 3
    for name in ("max_histroy_length", "subfolder", "hidden_size"):
        with pytest.raises(TypeError, match=f"neither the processor nor its tokenizer has a setting {name}"):
            UniSRecProcessor.from_pretrained(tmp_path, **{name: 7})
    for value in (0, -1, 2.5, "7", True, None):
        with pytest.raises(ValueError, match="max_history_length is .*, expected a whole number from 1"):
            UniSRecProcessor.from_pretrained(tmp_path, max_history_length=value)


def test_tensors_are_those_of_torch(processor):
    expected = processor([["A1"]])
    assert processor([["A1"]], return_tensors="pt").keys() == expected.keys()
    with pytest.raises(ValueError, match="return_tensors is 'np'"):
        processor([["A1"]], return_tensors="np")
    with pytest.raises(TypeError, match="takes no padding"):
        processor([["A1"]], padding=True)
