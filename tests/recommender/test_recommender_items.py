"""Items that are added and removed without training, by several threads at once, and checkpoints of such catalogues."""

import threading
import time
from collections.abc import Callable

import polars as pl
import pytest
import torch
from transformers import AutoProcessor

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import Recommender, vectors
from unisrec.recommender.item_changes import ItemChanges


IDS = [f"i{row}" for row in range(6)]
TEXTS = ["red pen", "blue pen", "red tent", "steel kettle", "wood lamp", "kids chair"]
NEW = {"n0": "green garden lamp", "n1": "blue pen refill"}


@pytest.fixture
def make_recommender(make_model, text_encoder, tokenizer):
    def make(**fields) -> Recommender:
        model = make_model(**({"text_pooling": "mean"} | fields))  # vectors of [CLS] would hardly differ
        model.attach_text_encoder(text_encoder)
        return Recommender(model, UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS), 10, 32))

    return make


def scores(recommender: Recommender, history: list) -> dict[str, float]:
    (items,) = recommender.recommend([history], 100, exclude_seen=False)
    return {item.item_id: item.score for item in items}


def test_added_items_equal_a_catalogue_that_had_them(make_recommender):
    recommender = make_recommender()
    recommender.add_items(NEW)
    catalogue = ItemCatalogue([*IDS, *NEW], [*TEXTS, *NEW.values()])
    processor = UniSRecProcessor(recommender.processor.tokenizer, catalogue, 10, 32)
    expected = scores(Recommender(recommender.model, processor), ["i1", "n0"])
    assert scores(recommender, ["i1", "n0"]) == pytest.approx(expected, abs=1e-5)
    assert recommender.processor.catalogue.texts[6:] == list(NEW.values())


def test_a_new_item_is_its_text_alone_in_a_transductive_model(make_recommender):
    recommender = make_recommender(num_items=6)
    before = scores(recommender, ["i1", {"text": NEW["n0"]}])
    recommender.add_items(NEW)
    after = scores(recommender, ["i1", "n0"])
    assert {item_id: after[item_id] for item_id in IDS} == pytest.approx(before, abs=1e-5)
    with torch.no_grad():
        rows = recommender.model.get_item_features(
            recommender.processor.catalogue.item_embeddings[6:], id_rows=torch.tensor([0, 0])
        )
    torch.testing.assert_close(
        torch.from_numpy(recommender.item_embeds[6:]), torch.nn.functional.normalize(rows, dim=-1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("num_items", [None, 6])
def test_removed_items_leave_the_others_as_they_were(make_recommender, num_items):
    recommender = make_recommender(num_items=num_items)
    recommender.add_items(NEW)
    before = scores(recommender, ["i1", "i4", "n1"])
    recommender.remove_items(["i0", "i3", "n0"])
    after = scores(recommender, ["i1", "i4", "n1"])
    assert set(after) == {"i1", "i2", "i4", "i5", "n1"}
    assert after == pytest.approx({item_id: before[item_id] for item_id in after}, abs=1e-5)


@pytest.mark.parametrize("num_items", [None, 6])
def test_saved_catalogue_keeps_the_rows_of_the_id_embedding(make_recommender, num_items, tmp_path):
    recommender = make_recommender(num_items=num_items)
    recommender.add_items(NEW)
    recommender.remove_items(["i0", "i4"])
    recommender.save_pretrained(tmp_path)
    history = ["i1", "i5", "n0"]
    # Saved and loaded, all items are of one product; before, those added were of one of their own, in another last bit.
    assert scores(Recommender.from_pretrained(tmp_path), history) == pytest.approx(
        scores(recommender, history), abs=1e-6
    )
    processor = AutoProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        one, other = (
            recommender.model(**each([history])).sequence_embeds for each in (processor, recommender.processor)
        )
    assert torch.equal(one, other)
    if num_items is not None:
        assert processor([history])["id_rows"].tolist() == [2, 6, 0]  # of i1, i5 and n0


def test_bad_changes_leave_the_catalogue_alone(make_recommender):
    recommender = make_recommender(num_items=6)
    for items in ({"n0": " "}, {"n0": "nan"}, {"n0": "[]"}, {"": "red pen"}, {"NaN": "red pen"}, {"n0": 3}):
        with pytest.raises(ValueError, match="an item is an id and a text, neither of them empty"):
            recommender.add_items(items)
    with pytest.raises(KeyError, match="'n0' is not in the catalogue of 6 items"):
        recommender.remove_items(["i0", "n0"])
    with pytest.raises(ValueError, match="no item would be left"):
        recommender.remove_items(IDS)
    recommender.add_items({})
    assert recommender.processor.catalogue.item_ids == IDS
    recommender.model.detach_text_encoder()
    assert len(recommender.recommend([["i0"]])[0]) == 5
    with pytest.raises(ValueError, match="no text encoder to read 'red pen 2' with"):
        recommender.add_items({"n0": "red pen 2"})


@pytest.mark.parametrize("num_items", [None, 6])
def test_a_product_list_is_synced(make_recommender, num_items, monkeypatch, tmp_path):
    recommender = make_recommender(num_items=num_items)
    before = scores(recommender, ["i1", "i5"])
    encoded = []
    encode = vectors.encode_texts
    monkeypatch.setattr(
        vectors, "encode_texts", lambda texts, *a, **k: encoded.extend(texts) or encode(texts, *a, **k)
    )
    products = dict(zip(IDS, TEXTS, strict=True)) | NEW | {"i2": "large red tent"}
    del products["i0"], products["i4"]
    changes = recommender.sync_items(products)
    assert str(changes) == "2 added, 1 changed, 2 removed, 3 unchanged"
    assert sorted(encoded) == sorted([*NEW.values(), "large red tent"])
    after = scores(recommender, ["i1", "i5"])
    assert set(after) == set(products)
    kept = ["i1", "i3", "i5"]
    assert [after[each] for each in kept] == pytest.approx([before[each] for each in kept], abs=1e-5)
    assert scores(recommender, ["i0", "i1"]) == scores(recommender, [{"text": TEXTS[0]}, "i1"])  # gone, not unknown
    recommender.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path)
    assert scores(again, ["i0", "i1"]) == pytest.approx(scores(recommender, ["i0", "i1"]), abs=1e-6)
    if num_items is not None:
        catalogue = again.processor.catalogue
        rows = dict(zip(catalogue.item_ids, catalogue.id_rows.tolist(), strict=True))
        assert rows == {"i1": 2, "i2": 3, "i3": 4, "i5": 6, "n0": 0, "n1": 0}
    # What comes back is as it was.
    assert str(again.sync_items(dict(zip(IDS, TEXTS, strict=True)))) == "2 added, 1 changed, 2 removed, 3 unchanged"
    assert scores(again, ["i1", "i5"]) == pytest.approx(before, abs=1e-5)
    assert set(again.processor.catalogue.former) == set(NEW)
    again.remove_items(["n0"])
    with pytest.raises(KeyError, match="'n0' is not in the catalogue"):
        again.recommend([["n0"]])


def test_lists_that_overlap_are_added(make_recommender):
    recommender = make_recommender(num_items=6)
    changes = recommender.add_items(NEW | {"i2": "large red tent", "i3": TEXTS[3]})
    assert changes == ItemChanges(added=2, changed=1, removed=0, unchanged=1)
    assert recommender.add_items(NEW) == ItemChanges(0, 0, 0, 2)
    catalogue = recommender.processor.catalogue
    assert len(catalogue) == 8
    assert catalogue.texts[catalogue.row("i2")] == "large red tent"


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def test_readers_see_one_catalogue_while_items_come_and_go(make_recommender):
    """Items come in pairs that have one text: whoever sees one of a pair sees the other, next to it and equal."""
    recommender = make_recommender(num_items=6)
    histories = [["i1", {"text": "green lamp"}], ["i2"], [{"text": "pen 2"}, "i5"]]
    expected = [
        {item.item_id: item.score for item in items}
        for items in recommender.recommend(histories, 100, exclude_seen=False)
    ]
    done, faults, counts = threading.Event(), [], set()

    def read() -> None:
        while not done.is_set():
            try:
                for items, old in zip(
                    recommender.recommend(histories, 100, exclude_seen=False), expected, strict=True
                ):
                    found = {item.item_id: item.score for item in items}
                    assert {item_id: found[item_id] for item_id in IDS} == pytest.approx(old, abs=1e-5)
                    new = set(found) - set(IDS)
                    assert {item_id[:-1] for item_id in new if item_id.endswith("a")} == {
                        item_id[:-1] for item_id in new if item_id.endswith("b")
                    }
                    for item in items:
                        assert item.text.startswith("kids lamp") == (item.item_id in new)
                    counts.add(len(items))
            except Exception as fault:
                faults.append(fault)
                return

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    wait_for(lambda: faults or counts)  # until they read
    for number in range(15):
        recommender.add_items({f"n{number}a": f"kids lamp {number}", f"n{number}b": f"kids lamp {number}"})
        if number % 3 == 2:
            recommender.remove_items([f"n{number - 1}a", f"n{number - 1}b"])
    wait_for(lambda: faults or len(counts) > 1)
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(counts) > 1
    assert len(recommender.processor.catalogue) == 6 + 2 * 10


def test_two_writers_lose_nothing(make_recommender):
    recommender = make_recommender()

    def write(name: str) -> None:
        for number in range(10):
            recommender.add_items({f"{name}{number}": f"{name} lamp {number}"})

    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(recommender.processor.catalogue) == len(recommender.item_embeds) == 6 + 30


def test_changed_and_missing_columns_are_said(make_recommender, caplog):
    recommender = make_recommender(num_items=6)
    table = pl.DataFrame({"item_id": IDS, "text": TEXTS, "stock": range(6), "price": [1.5] * 6})
    recommender.sync_items(table)
    more = table.with_columns(stock=pl.Series([0, 1, 2, 3, 4, 50]))
    assert str(recommender.sync_items(more)) == "0 added, 0 changed, 0 removed, 5 unchanged, 1 with other columns"
    assert recommender.sync_items(more) == ItemChanges(0, 0, 0, 6)
    assert not caplog.records
    flags = more.with_columns(stock=pl.col("stock") > 0)
    assert recommender.sync_items(flags).updated == 6
    recommender.sync_items(more)
    recommender.sync_items(flags.head(4))  # the items that go have no say in the types
    assert recommender.processor.catalogue.columns["stock"].dtype == pl.Boolean
    recommender.sync_items(flags)
    assert recommender.sync_items(more.with_columns(pl.col("stock").cast(pl.Float64))).updated == 6
    assert recommender.sync_items(more) == ItemChanges(0, 0, 0, 6)
    nulls = more.with_columns(stock=pl.Series(["0", None, "2", "3", "4", "50"]))
    assert recommender.add_items(nulls.head(3)).updated == 1
    caplog.clear()
    assert recommender.sync_items(table.drop("stock", "price")) == ItemChanges(0, 0, 0, 6)
    assert "no column 'stock', 'price'" in caplog.text
    assert recommender.processor.catalogue.columns["price"].to_list() == [1.5] * 6
