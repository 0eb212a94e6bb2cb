"""ID rows belong to the items they were trained for, and a checkpoint's processor is read or said to be unreadable."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import pipeline

from unisrec.cli import main
from unisrec.data import Domain
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.item_catalogue import check_id_rows
from unisrec.recommender import Recommender
from unisrec.trainer import UniSRecFinetuneArguments, finetune


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_domain, make_config, text_encoder_dir, training_options) -> Path:
    """A shop, the same shop in another order, another shop of as many items, and a transductive model of the first."""
    root = tmp_path_factory.mktemp("rows")
    domain = make_domain()
    turned = replace(
        domain,
        items=domain.items.reverse(),
        sequences=domain.sequences.with_columns(
            pl.col("item_index").list.eval((domain.num_items - 1 - pl.element().cast(pl.Int64)).cast(pl.UInt32))
        ),
    )
    for name, each in (("shop", domain), ("turned", turned), ("other", make_domain("books", seed=1))):
        each.save_to_disk(root / name)
    model = UniSRecModel(make_config())
    model.save_pretrained(root / "start")
    arguments = UniSRecFinetuneArguments(
        str(root / "run"),
        max_steps=2,
        per_device_train_batch_size=64,
        load_best_model_at_end=False,
        **training_options,
    )
    finetune(root / "start", root / "shop", "transductive", arguments, text_encoder=str(text_encoder_dir))
    return root


def lines_of(words: list[object], capsys) -> tuple[int, list[str]]:
    status = main([str(word) for word in words])
    return status, capsys.readouterr().err.splitlines()


def without_hash(root: Path, tmp_path: Path) -> Path:
    """As the model was saved before there was a hash."""
    folder = shutil.copytree(root / "run", tmp_path / "old")
    settings = json.loads((folder / "config.json").read_text())
    assert len(settings.pop("item_ids_hash")) == 64
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("shop", ["turned", "other"])
@pytest.mark.parametrize("age", ["new", "old"])
def test_another_catalogue_of_the_same_length_is_refused_everywhere(
    root, shop, age, tmp_path, capsys, training_options
):
    run, domain = root / "run" if age == "new" else without_hash(root, tmp_path), root / shop
    item = Domain.load_from_disk(domain).items["item_id"][0]
    for words in (
        ["recommend", "--model", run, "--domain", domain, "--history", item],
        ["index", run, "--domain", domain, "--output", tmp_path / "index"],
        ["evaluate", "--model", run, "--domain", domain, "--use-cpu"],
    ):
        status, lines = lines_of(words, capsys)
        assert (status, len(lines)) == (2, 1), lines
        assert "the checkpoint is transductive" in lines[0]
    with pytest.raises(ValueError, match="trained for 30 other items"):
        Recommender.from_pretrained(run, domain)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("age", ["new", "old"])
def test_its_own_catalogue_is_taken(root, age, tmp_path, training_options):
    run = root / "run" if age == "new" else without_hash(root, tmp_path)
    own = Recommender.from_pretrained(run).recommend([["toys-3"]])
    assert Recommender.from_pretrained(run, root / "shop").recommend([["toys-3"]]) == own
    ranked = pipeline("sequential-recommendation", model=str(run))(["toys-3"])
    assert [item["item_id"] for item in ranked] == [item.item_id for item in own[0]]
    assert 0 < evaluate(run, root / "shop", "test", use_cpu=True)["recall@50"] <= 1


def test_a_catalogue_folder_that_was_replaced_is_refused(root, tmp_path, capsys):
    run = shutil.copytree(root / "run", tmp_path / "run")
    processor = UniSRecProcessor.from_pretrained(run)
    items = Domain.load_from_disk(root / "other").items
    processor.catalogue = ItemCatalogue(items["item_id"].to_list(), items["text"].to_list())
    processor.save_pretrained(run)
    status, (line,) = lines_of(["recommend", "--model", run, "--history", "books-1"], capsys)
    assert status == 2
    assert "trained for 30 other items" in line
    with pytest.raises(ValueError, match="trained for 30 other items"):
        pipeline("sequential-recommendation", model=str(run))


def test_items_that_were_removed_and_added_keep_the_rows_of_the_others(root, tmp_path):
    recommender = Recommender.from_pretrained(root / "run")
    recommender.remove_items(["toys-0", "toys-4"])
    recommender.add_items({"new": "red pen", "toys-4": "blue kettle"})
    recommender.save_pretrained(tmp_path / "edited")
    again = Recommender.from_pretrained(tmp_path / "edited")
    assert again.processor.catalogue.item_ids_hash == load_checkpoint(root / "run")[0].config.item_ids_hash
    (found,), (expected,) = (each.recommend([["toys-3", "new"]]) for each in (again, recommender))
    # Vectors of items that are added later come from a product of another shape, which may round the last bit otherwise.
    assert {item.item_id: item.score for item in found} == pytest.approx(
        {item.item_id: item.score for item in expected}, abs=1e-6
    )
    # The rows of another model are not those of this one, whatever their number.
    other = ItemCatalogue(["a", "b"], ["red pen", "blue pen"], None, torch.tensor([1, 2]), "another hash")
    with pytest.raises(ValueError, match="trained for 30 other items"):
        check_id_rows(again.model.config, other)
    check_id_rows(
        again.model.config, ItemCatalogue(["a"], ["red pen"], None, torch.tensor([1]))
    )  # from before the hash
    with pytest.raises(ValueError, match="transductive with 30 items"):
        check_id_rows(again.model.config, ItemCatalogue(["a"], ["red pen"], None, torch.tensor([31])))


def test_a_new_embedding_is_of_no_items_yet(make_model):
    model = make_model(num_items=6, item_ids_hash="of six items")
    model.reset_item_embedding(6)
    assert model.config.item_ids_hash is None


def test_hash_is_of_ids_and_their_order():
    texts = ["x", "y"]
    hashes = {ItemCatalogue(ids, texts).item_ids_hash for ids in (["a", "b"], ["b", "a"], ["a,b", "c"], ["a", "b,c"])}
    assert len(hashes) == 4
    assert ItemCatalogue(["a", "b"], ["z", "y"], torch.ones(2, 3)).item_ids_hash in hashes


# The processor


def test_a_processor_is_empty_only_where_there_is_none(root, tmp_path):
    run = shutil.copytree(root / "run", tmp_path / "run")
    for path in ("processor_config.json", "tokenizer_config.json"):
        (run / path).unlink()
    _, processor = load_checkpoint(run)
    assert (processor.catalogue, processor.tokenizer, processor.max_history_length) == (None, None, 10)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("processor_config.json", b""),
        ("processor_config.json", b"[1]"),
        ("processor_config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("catalogue/items.parquet", b"PAR1 and no more"),
        ("catalogue/item_embeddings.safetensors", b"no tensors"),
    ],
)
def test_a_processor_that_cannot_be_read_is_said_in_one_line(root, name, content, tmp_path, capsys):
    run = shutil.copytree(root / "run", tmp_path / "run")
    (run / name).write_bytes(content)
    status, (line,) = lines_of(["recommend", "--model", run, "--history", "toys-1"], capsys)
    assert status == 2
    assert f"the processor of '{run}' cannot be read" in line


def test_a_hub_that_fails_is_no_missing_processor(root, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("the Hub answers 503")

    monkeypatch.setattr("unisrec.modeling_unisrec.checkpoint.cached_file", fail)
    with pytest.raises(OSError, match="the processor of .* cannot be read .*the Hub answers 503"):
        load_checkpoint(root / "run")


def test_catalogue_vectors_may_be_read_by_those_who_may_read_the_items(tmp_path):
    ItemCatalogue(["a"], ["red pen"], torch.from_numpy(np.ones((1, 3), dtype=np.float32))).save(tmp_path)
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1
