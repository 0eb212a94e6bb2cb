"""Files of checkpoints and text encoders that are there but cannot be read, which transformers takes for absent."""

import shutil

import pytest

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.modeling_unisrec.text_encoders import load_text_encoder
from unisrec.trainer.checkpoints import load_checkpoint


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
    with pytest.raises(OSError, match=r"its tokenizer has no vocabulary: tokenizer\.json or vocab\.txt is missing"):
        load_text_encoder(str(tmp_path / "encoder"))
