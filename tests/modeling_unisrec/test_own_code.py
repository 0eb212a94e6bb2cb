"""Text encoders with code of their own: run only if it is trusted, and carried along in checkpoints."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedTokenizerBase

from unisrec.cli import main
from unisrec.configuration.configuration_unisrec import CODE_FILES, UniSRecConfig
from unisrec.configuration.own_code_config import OwnCodeConfig
from unisrec.data.text_encoding import encode_texts
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from unisrec.modeling_unisrec.checkpoint import load_checkpoint, untrained_model
from unisrec.modeling_unisrec.outgoing import shared_files
from unisrec.modeling_unisrec.own_code import UntrustedCode, trusting_remote_code
from unisrec.modeling_unisrec.text_encoders import load_text_encoder


CODE = {
    "configuration_words.py": """
from transformers import PretrainedConfig

class WordsConfig(PretrainedConfig):
    model_type = "words"

    def __init__(self, vocab_size=64, width=16, power=1.0, **options):
        self.vocab_size, self.width, self.power = vocab_size, width, power
        super().__init__(**options)

    @property
    def hidden_size(self):
        return self.width
""",
    "layers_words.py": "def raise_to(states, power):\n    return states.abs() ** power\n",
    "modeling_words.py": """
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_words import WordsConfig
from .layers_words import raise_to

class WordsModel(PreTrainedModel):
    config_class = WordsConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.post_init()

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask=None, return_dict=True, **options):
        states = raise_to(self.words(input_ids), self.config.power)
        return BaseModelOutput(last_hidden_state=states)
""",
}
AUTO_MAP = {"AutoConfig": "configuration_words.WordsConfig", "AutoModel": "modeling_words.WordsModel"}
TEXTS = ["red pen", "small steel kettle", "garden lamp"]


@pytest.fixture
def words_dir(tmp_path, tokenizer) -> Path:
    """A text encoder whose code is in its folder: the words of a text to the power of 1.5."""
    folder = tmp_path / "words"
    folder.mkdir()
    for name, text in CODE.items():
        (folder / name).write_text(text)
    settings = {"model_type": "words", "architectures": ["WordsModel"], "auto_map": AUTO_MAP, "power": 1.5}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"words.weight": torch.randn(64, 16)}, folder / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path, words_dir, tokenizer) -> Path:
    model = UniSRecModel.from_text_encoder(
        str(words_dir), trust_remote_code=True, text_pooling="mean", hidden_size=8, num_experts=2
    )
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(["A", "B", "C"], TEXTS), 10, 16)
    model.save_pretrained(tmp_path / "shop")
    processor.save_pretrained(tmp_path / "shop")
    return tmp_path / "shop"


def vectors_of(model: UniSRecModel, processor: UniSRecProcessor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().get_text_features(**processor.tokenize(TEXTS)).pooler_output


def expected_vectors(folder: Path, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    words = load_file(folder / "model.safetensors")["words.weight"]
    return torch.stack([(words[tokenizer(text)["input_ids"]].abs() ** 1.5).mean(0) for text in TEXTS])


def test_untrusted_code_is_refused_in_one_line_and_not_run(words_dir, capsys, tmp_path):
    (words_dir / "modeling_words.py").write_text("raise SystemExit('executed')")
    with pytest.raises(UntrustedCode) as caught:
        load_text_encoder(str(words_dir))
    line = str(caught.value)
    assert "\n" not in line
    assert "code of its own (modeling_words.WordsModel in modeling_words.py)" in line
    assert "add `trust_remote_code=True` if you trust it, or name an encoder that transformers knows" in line
    with pytest.raises(UntrustedCode, match="code of its own"):
        load_text_encoder(str(words_dir), trust_remote_code=False)  # there is no other class for it
    (tmp_path / "clicks.csv").write_text("user_id,item_id,timestamp,title\n")
    words = ["fit", str(tmp_path / "clicks.csv"), "--output", str(tmp_path / "out"), "--text-encoder", str(words_dir)]
    assert main(words) == 2
    assert "add --trust-remote-code True if you trust it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_class_of_transformers_can_be_taken_instead(text_encoder_dir, tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    for file in text_encoder_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "config.json").read_text()) | {"auto_map": AUTO_MAP}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UntrustedCode, match="or `trust_remote_code=False` for the bert of transformers"):
        load_text_encoder(str(folder))
    model = UniSRecModel.from_text_encoder(str(folder), trust_remote_code=False, text_pooling="mean", hidden_size=8)
    assert type(model.text_encoder).__name__ == "BertModel"
    model.save_pretrained(tmp_path / "saved")
    assert type(UniSRecModel.from_pretrained(tmp_path / "saved").text_encoder).__name__ == "BertModel"


def test_trusted_code_encodes(words_dir):
    encoder, tokenizer = load_text_encoder(str(words_dir), pooling="mean", trust_remote_code=True)
    vectors = encode_texts(TEXTS, encoder, tokenizer, progress=False)
    np.testing.assert_allclose(vectors, expected_vectors(words_dir, tokenizer), atol=1e-6)
    with trusting_remote_code():
        assert torch.equal(load_text_encoder(str(words_dir))[0].words.weight, encoder.words.weight)


def test_a_checkpoint_carries_the_code_and_loads_only_if_it_is_trusted(checkpoint, words_dir, tokenizer, tmp_path):
    assert {file.name for file in checkpoint.glob("*.py")} >= CODE_FILES.keys() | CODE.keys()
    assert set(shared_files(checkpoint)) >= CODE.keys()
    expected = expected_vectors(words_dir, tokenizer)
    for file in words_dir.iterdir():
        file.unlink()
    for load in (
        lambda: load_checkpoint(checkpoint),
        lambda: UniSRecModel.from_pretrained(checkpoint),
        lambda: AutoModel.from_pretrained(checkpoint),
    ):
        with pytest.raises(UntrustedCode, match=r"modeling_words\.WordsModel in modeling_words\.py"):
            load()
    config = UniSRecConfig.from_pretrained(checkpoint)  # reads the settings without running the code
    assert isinstance(config.text_config, OwnCodeConfig)
    with pytest.raises(ValueError, match="which only `from_pretrained` can load"):
        UniSRecModel(config)

    model, processor = load_checkpoint(checkpoint, trust_remote_code=True)
    torch.testing.assert_close(vectors_of(model, processor), expected)
    for load in (AutoModel.from_pretrained, UniSRecModel.from_pretrained):
        torch.testing.assert_close(vectors_of(load(checkpoint, trust_remote_code=True), processor), expected)
    model.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors", *CODE, *CODE_FILES):
        assert (tmp_path / "again" / file).read_bytes() == (checkpoint / file).read_bytes(), file
    fresh = untrained_model(model, None, {"hidden_size": 4})
    assert torch.equal(vectors_of(fresh, processor), vectors_of(model, processor))
    assert UniSRecModel.from_pretrained(checkpoint, text_config=None).text_encoder is None  # nothing to run


def test_a_file_that_the_checkpoint_could_not_hold_is_named(words_dir):
    (words_dir / "layers_words.py").rename(words_dir / "text_pooling.py")
    code = CODE["modeling_words.py"].replace(".layers_words", ".text_pooling")
    (words_dir / "modeling_words.py").write_text(code)
    # The same configuration as in other tests, for which transformers remembers another class of the model.
    with pytest.raises(ValueError, match=r"the text encoder has a file text_pooling\.py"):
        load_text_encoder(str(words_dir), trust_remote_code=True)


@pytest.mark.rare
def test_loads_without_the_package(checkpoint, bare_python, tmp_path, words_dir, tokenizer):
    program = (
        "import sys, json; from transformers import AutoModel, AutoProcessor\n"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "model.save_pretrained(sys.argv[2])\n"
        "batch = processor([[{'text': text}] for text in json.loads(sys.argv[3])])\n"
        "features = model.get_text_features(batch['input_ids'], batch['attention_mask'])\n"
        "print(json.dumps(features.pooler_output.tolist()))"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    words = [bare_python, "-c", program, str(checkpoint), str(tmp_path / "again"), json.dumps(TEXTS)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(
        torch.tensor(json.loads(done.stdout.splitlines()[-1])), expected_vectors(words_dir, tokenizer)
    )
    assert {file.name for file in (tmp_path / "again").glob("*.py")} >= CODE_FILES.keys() | CODE.keys()
