"""Files of checkpoints and text encoders that are there but cannot be read, which transformers takes for absent."""

import json
import shutil

import pytest
from transformers import BertConfig, BertModel

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.text_encoders import load_text_encoder


@pytest.fixture
def checkpoint(make_model, text_encoder, tokenizer, tmp_path):
    folder = tmp_path / "model"
    model = make_model()
    model.attach_text_encoder(text_encoder)
    model.save_pretrained(folder)
    catalogue = ItemCatalogue(["a", "b"], ["red pen", "blue pen"])
    UniSRecProcessor(tokenizer, catalogue, max_history_length=10, max_text_length=32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["a folder", "a link to itself", "a link to nothing"])
@pytest.mark.parametrize(
    "name", ["processor_config.json", "tokenizer_config.json", "tokenizer.json", "catalogue/items.parquet"]
)
def test_what_cannot_be_read_is_named_and_not_taken_for_absent(checkpoint, name, kind):
    load_checkpoint(checkpoint)
    file = checkpoint / name
    file.unlink()
    if kind == "a folder":
        file.mkdir()
    else:
        file.symlink_to(file.name if kind == "a link to itself" else "nothing")
    with pytest.raises(OSError, match=f"{file.name}"):
        load_checkpoint(checkpoint)


def test_a_tokenizer_without_a_vocabulary_is_refused(checkpoint, text_encoder_dir, tmp_path):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(OSError, match=r"the tokenizer has no vocabulary; tokenizer\.json is missing"):
        load_checkpoint(checkpoint)
    shutil.copytree(text_encoder_dir, tmp_path / "encoder")
    load_text_encoder(str(tmp_path / "encoder"))
    (tmp_path / "encoder" / "tokenizer.json").unlink()
    with pytest.raises(OSError, match=r"the tokenizer has no vocabulary: tokenizer\.json or vocab\.txt is missing"):
        load_text_encoder(str(tmp_path / "encoder"))


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda content: content["model"]["vocab"].update(red=10**6), "has a token 1000000, the encoder has only"),
        (lambda content: content.update(model_max_length="x"), "model_max_length of the tokenizer is 'x'"),
    ],
)
def test_a_tokenizer_of_another_encoder_is_refused(checkpoint, edit, line):
    file = checkpoint / ("tokenizer.json" if "token" in line and "max" not in line else "tokenizer_config.json")
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    with pytest.raises(OSError, match=line):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("layers", [-1, 0, 10**12])
def test_layers_that_cannot_be_are_refused_before_they_are_built(checkpoint, text_encoder_dir, tmp_path, layers):
    shutil.copytree(text_encoder_dir, tmp_path / "encoder")
    for file in (tmp_path / "encoder" / "config.json", checkpoint / "config.json"):
        content = json.loads(file.read_text())
        (content.get("text_config") or content)["num_hidden_layers"] = layers
        file.write_text(json.dumps(content))
    with pytest.raises(OSError, match="num_hidden_layers"):
        load_text_encoder(str(tmp_path / "encoder"))
    with pytest.raises(OSError, match="num_hidden_layers"):
        load_checkpoint(checkpoint)


def test_an_encoder_with_fewer_layers_than_its_file_is_refused(tmp_path, text_encoder_dir):
    shutil.copytree(text_encoder_dir, tmp_path / "encoder")
    file = tmp_path / "encoder" / "config.json"
    BertModel(BertConfig(**json.loads(file.read_text()) | {"num_hidden_layers": 2})).save_pretrained(
        tmp_path / "encoder"
    )
    load_text_encoder(str(tmp_path / "encoder"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"weights of more layers .* 'encoder\.layer\.1\."):
        load_text_encoder(str(tmp_path / "encoder"))
