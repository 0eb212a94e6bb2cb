"""Checkpoints on a machine without this package: code, weights, tokenizer and processor come out of the folder."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor


CODE = {
    "configuration_unisrec.py",
    "modeling_unisrec.py",
    "pipeline_unisrec.py",
    "processing_unisrec.py",
    "own_code.py",
    "own_code_config.py",
    "text_neighbours.py",
    "text_pooling.py",
    "text_vectors.py",
    "catalogue_files.py",
    "item_catalogue.py",
    "item_columns.py",
    "item_state.py",
}
TEXTS = ["red pen", "small steel kettle", "garden lamp"]


@pytest.fixture
def checkpoint(tmp_path, make_model, text_encoder, tokenizer) -> Path:
    """A folder with all there is: text encoder, tokenizer, catalogue."""
    folder = tmp_path / "shop"
    model = make_model()
    model.attach_text_encoder(text_encoder)
    model.save_pretrained(folder)
    catalogue = ItemCatalogue(["A", "B", "C"], TEXTS)
    with torch.no_grad():
        processor = UniSRecProcessor(tokenizer, catalogue, max_history_length=10, max_text_length=32)
        catalogue.item_embeddings = model.get_text_features(**processor.tokenize(TEXTS)).pooler_output
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def run_bare(bare_python, tmp_path):
    """Runs a program where the package is not installed: what it prints last, which is JSON, and what it says on stderr."""

    def run(program: str, *arguments: object):
        environment = {
            **os.environ,
            "HF_HOME": str(tmp_path / "hf-home"),
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [bare_python, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run


LOAD = """
import importlib.util, json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer

assert all(importlib.util.find_spec(name) is None for name in ("unisrec", "polars", "datasets", "accelerate"))
found, again = [], sys.argv[1]
for folder in sys.argv[2:]:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert processor.catalogue is None  # there is no polars
    batch = processor([[{"text": "red pen"}, {"text": "garden lamp"}], [{"text": "small steel kettle"}]])
    assert tokenizer(["red pen"])["input_ids"][0] == batch["input_ids"][0, :4].tolist()
    if not found:
        model.save_pretrained(again)
        processor.save_pretrained(again)
    with torch.no_grad():
        found.append([type(config).__module__, config.hidden_size, model(**batch).sequence_embeds.tolist()])
print(json.dumps(found))
"""


def _expected(folder: Path) -> list[list[float]]:
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    batch = processor([[{"text": "red pen"}, {"text": "garden lamp"}], [{"text": "small steel kettle"}]])
    with torch.no_grad():
        return model(**batch).sequence_embeds.tolist()


def test_saved_folder_carries_flat_code_and_says_so(checkpoint):
    assert {file.name for file in checkpoint.glob("*.py")} == CODE | {"handler.py"}
    settings = json.loads((checkpoint / "config.json").read_text())
    for entry in settings["auto_map"].values():
        module, name = entry.split(".")
        assert re.search(rf"^class {name}\(", (checkpoint / f"{module}.py").read_text(), flags=re.MULTILINE)
    for file in checkpoint.glob("*.py"):
        text = file.read_text()
        assert "from .." not in text
        compile(text, file.name, "exec")


def test_loads_without_the_package_saves_again_and_loads_again(checkpoint, run_bare, tmp_path):
    """Then the same checkpoint in shards; texts work although there is nothing to read the catalogue."""
    again, sharded = tmp_path / "again", tmp_path / "sharded"
    AutoModel.from_pretrained(checkpoint).save_pretrained(sharded, max_shard_size="4KB")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 3
    found, said = run_bare(LOAD, again, checkpoint, again, sharded)
    assert "pip install polars" in said
    expected = _expected(checkpoint)
    for module, hidden_size, states in found:
        assert module.startswith("transformers_modules.")
        assert hidden_size == 8
        assert states == expected
    assert len(found) == 3

    assert {file.name for file in again.glob("*.py")} == CODE
    for file in ("config.json", "processor_config.json", "model.safetensors", *CODE):
        assert (again / file).read_bytes() == (checkpoint / file).read_bytes(), file
    assert _expected(again) == expected  # the installed classes load it as well


def test_the_installed_classes_win_over_remote_code(checkpoint):
    for trust in (None, True):
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=trust)
        model = AutoModel.from_pretrained(checkpoint, trust_remote_code=trust)
        processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=trust)
        assert type(model) is UniSRecModel
        assert type(processor) is UniSRecProcessor
        assert type(config) is type(model.config)
    assert AutoTokenizer.from_pretrained(checkpoint).vocab_size == processor.tokenizer.vocab_size


def test_saving_twice_writes_the_same_files(checkpoint, tmp_path):
    again = tmp_path / "again"
    AutoModel.from_pretrained(checkpoint).save_pretrained(again)
    for file in ("config.json", "model.safetensors", *CODE):
        assert (again / file).read_bytes() == (checkpoint / file).read_bytes(), file


def test_the_configuration_alone_carries_the_code_too(make_config, tmp_path):
    make_config().save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.glob("*.py")} == CODE
    assert "auto_map" not in make_config().to_dict()
