"""Text encoders of every kind: the same vectors as sentence-transformers, whatever their files ask for."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoProcessor,
    BertConfig,
    CLIPConfig,
    ConvBertConfig,
    FNetConfig,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    ViTConfig,
)

from unisrec.configuration import UniSRecConfig
from unisrec.data import text_encoding
from unisrec.data.text_encoding import encode_texts
from unisrec.modeling_unisrec import UniSRecModel, UniSRecProcessor, text_encoders
from unisrec.modeling_unisrec import checkpoint as checkpoints
from unisrec.modeling_unisrec.text_encoders import find_text_pooling, load_text_encoder, text_max_length
from unisrec.modeling_unisrec.text_pooling import new_text_scale, pool_tokens


sentence_transformers = pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer import modules as st  # noqa: E402


WORDS = "red blue small large steel kettle tent lamp pen case for kids camping with a lid passage query :".split()
TEXTS = [
    "red kettle",
    "tent",
    "small blue lamp case for kids",
    "large red tent with a steel kettle for camping",
    "pen",
]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DECODER = SIZES | {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
PLACES = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
KINDS = {
    "bert": BertConfig(**SIZES, pad_token_id=1, max_position_embeddings=64),
    "roberta": RobertaConfig(**SIZES, **PLACES, max_position_embeddings=66),
    "mpnet": MPNetConfig(**SIZES, **PLACES, max_position_embeddings=66),
    "modernbert": ModernBertConfig(**SIZES, **PLACES, cls_token_id=0, sep_token_id=2, max_position_embeddings=64),
    "qwen3": Qwen3Config(**DECODER, **PLACES),
    "llama": LlamaConfig(**DECODER, **PLACES),
    "gemma": Gemma3TextConfig(**DECODER, **PLACES, use_bidirectional_attention=True, sliding_window=32),
}


def make_tokenizer(**options) -> PreTrainedTokenizerFast:
    vocabulary = {word: place for place, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(special | options))


@pytest.fixture(scope="session")
def make_encoder(tmp_path_factory):
    """Makes a small random encoder of a kind with its tokenizer; the folder is as transformers writes it."""

    @functools.cache
    def make(kind: str, **options) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        config = type(KINDS[kind])(**(KINDS[kind].to_dict() | {"vocab_size": len(WORDS) + 4}))
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = AutoModel.from_config(config)
            for weight in model.parameters():  # those of the initialisation hardly tell one text from another
                weight.data.add_(0.2 * torch.randn_like(weight))
        model.save_pretrained(folder)
        make_tokenizer(**options).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def save_sentence_transformer(make_encoder, tmp_path):
    """Saves a SentenceTransformer of an encoder of a kind, its pooling and further modules; returns model and folder."""

    def save(kind="bert", pooling="mean", *modules, include_prompt=True, tokenizer=None, **options):
        transformer = st.Transformer(str(make_encoder(kind, **(tokenizer or {}))))
        pooled = st.Pooling(16, pooling_mode=pooling, include_prompt=include_prompt)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            model = SentenceTransformer(modules=[transformer, pooled, *modules], device="cpu", **options)
        folder = tmp_path / f"saved-{kind}"
        model.save_pretrained(str(folder), create_model_card=False)
        return model, folder

    return save


def encode(folder: Path, texts=TEXTS, **options) -> np.ndarray:
    encoder, tokenizer = load_text_encoder(str(folder))
    return encode_texts(texts, encoder, tokenizer, progress=False, **options)


def in_old_form(folder: Path) -> None:
    """Rewrites the files as versions before 5.4 wrote them."""
    pooling = folder / "1_Pooling" / "config.json"
    settings = json.loads(pooling.read_text())
    modes = settings.pop("pooling_mode")
    modes = [modes] if isinstance(modes, str) else modes
    flags = {"cls": "cls_token", "lasttoken": "lasttoken"}
    settings["word_embedding_dimension"] = settings.pop("embedding_dimension")
    for mode in st.Pooling.POOLING_MODES:
        flag = flags.get(mode, mode if mode.endswith("tokens") else f"{mode}_tokens")
        settings[f"pooling_mode_{flag}"] = mode in modes
    pooling.write_text(json.dumps(settings))
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": False}))


POOLINGS = [*st.Pooling.POOLING_MODES, ("cls", "mean"), ("lasttoken", "max", "mean_sqrt_len_tokens")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_kind_gives_the_vectors_of_sentence_transformers(save_sentence_transformer, kind, side):
    pooling = "lasttoken" if kind in ("qwen3", "llama") else "mean"
    model, folder = save_sentence_transformer(kind, pooling, st.Normalize(), tokenizer={"padding_side": side})
    # Absolute positions count from the left: padding there gives other vectors in sentence-transformers itself.
    expected = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encode(folder), expected, atol=1e-5)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_every_pooling_in_both_forms(save_sentence_transformer, pooling, old):
    _, folder = save_sentence_transformer("qwen3", pooling)
    if old:
        in_old_form(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    expected = model.encode(TEXTS)
    assert expected.shape[1] == 16 * (1 if isinstance(pooling, str) else len(pooling))
    np.testing.assert_allclose(encode(folder), expected, atol=1e-5)


def test_layers_behind_the_pooling(save_sentence_transformer):
    modules = [
        st.Dense(16, 24, activation_function=torch.nn.GELU()),
        st.LayerNorm(24),
        st.Dense(24, 12, bias=False, activation_function=torch.nn.Identity(), use_residual=True),
        st.Dropout(0.3),
        st.Dense(12, 12, use_residual=True),
        st.Normalize(),
    ]
    model, folder = save_sentence_transformer("mpnet", "mean", *modules)
    np.testing.assert_allclose(encode(folder), model.encode(TEXTS), atol=1e-5)
    shutil.move(folder / "2_Dense" / "model.safetensors", folder / "weights")
    weights = torch.nn.Module.state_dict(modules[0])
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")  # earlier versions did
    np.testing.assert_allclose(encode(folder), model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS[:-2])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_the_prompt_of_documents(save_sentence_transformer, pooling, include_prompt):
    prompts = {"query": "query : ", "document": "passage : "}
    model, folder = save_sentence_transformer("gemma", pooling, include_prompt=include_prompt, prompts=prompts)
    expected = model.encode_document(TEXTS)
    assert not np.allclose(expected, model.encode(TEXTS), atol=1e-3)
    np.testing.assert_allclose(encode(folder), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"passage": "passage : ", "query": "query : "}, None, "passage : "),
        ({"corpus": "a : ", "passage": "passage : "}, None, "passage : "),
        ({"query": "query : "}, "query", ""),
        ({"clustering": "a : "}, "clustering", "a : "),
        ({"clustering": "a : "}, None, ""),
    ],
)
def test_which_prompt_is_that_of_documents(save_sentence_transformer, prompts, default, expected):
    _, folder = save_sentence_transformer(prompts=prompts, default_prompt_name=default)
    assert load_text_encoder(str(folder))[0].text_head.prompt == expected


def test_length_limit_and_truncation(save_sentence_transformer):
    model, folder = save_sentence_transformer("roberta", "mean", st.Normalize(), truncate_dim=5)
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings | {"max_seq_length": 4}))
    model = SentenceTransformer(str(folder), device="cpu")
    expected = model.encode(TEXTS)
    assert expected.shape == (5, 5)
    np.testing.assert_allclose(encode(folder), expected, atol=1e-5)

    encoder, tokenizer = load_text_encoder(str(folder), truncate_dim=3)
    assert text_max_length(encoder, tokenizer) == 4
    longer = UniSRecModel.from_text_encoder(str(folder), hidden_size=8, text_max_length=7).text_encoder
    assert text_max_length(longer, tokenizer) == 7
    np.testing.assert_allclose(encode_texts(TEXTS, encoder, tokenizer, progress=False), expected[:, :3], atol=1e-5)


def test_texts_are_lower_cased_where_the_files_say_so(save_sentence_transformer):
    _, folder = save_sentence_transformer()
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": True}))
    model = SentenceTransformer(str(folder), device="cpu")
    vectors = encode(folder, ["Red KETTLE", "red kettle"])
    np.testing.assert_allclose(vectors, model.encode(["Red KETTLE", "red kettle"]), atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_an_encoder_in_a_subfolder(save_sentence_transformer):
    model, folder = save_sentence_transformer()
    (folder / "0_Transformer").mkdir()
    for file in [file for file in folder.iterdir() if file.is_file() and file.name != "modules.json"]:
        if file.name != "config_sentence_transformers.json":
            shutil.move(file, folder / "0_Transformer" / file.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(encode(folder), model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_reserved_positions_are_counted(make_encoder, kind):
    encoder, tokenizer = load_text_encoder(str(make_encoder(kind)), pooling="mean")
    assert text_max_length(encoder, tokenizer) == 64
    assert np.isfinite(encode_texts(["red " * 500, "pen"], encoder, tokenizer, progress=False)).all()


@pytest.mark.parametrize(
    ("kind", "changes", "pooling"),
    [
        ("bert", {}, "cls"),
        ("modernbert", {}, "cls"),
        ("bert", {"is_decoder": True}, "lasttoken"),
        ("qwen3", {}, "lasttoken"),
        ("qwen3", {"is_causal": False}, "mean"),
        ("gemma", {}, "mean"),
        ("gemma", {"use_bidirectional_attention": False}, "lasttoken"),
    ],
)
def test_pooling_by_kind_where_no_file_says(make_encoder, kind, changes, pooling, warnings, tmp_path):
    folder = Path(shutil.copytree(make_encoder(kind), tmp_path / "encoder"))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))
    assert find_text_pooling(str(folder)) == pooling
    encoder, _ = load_text_encoder(str(folder))
    assert encoder.text_head.pooling == pooling
    assert warnings == 2 * [
        f"{folder}: no file says how its token states are pooled; {pooling!r} is taken for {encoder.config.model_type}."
    ]
    assert load_text_encoder(str(folder), pooling="max+mean")[0].text_head.pooling == "max+mean"


@pytest.fixture
def warnings(monkeypatch):
    """What transformers' loggers of ours warn of."""
    lines = []
    for module in (text_encoders, text_encoding):
        for kind in ("warning", "warning_once"):
            monkeypatch.setattr(module.logger, kind, lambda line, *values: lines.append(line % values))
    return lines


def test_one_vector_for_all_texts_is_said(make_encoder, warnings):
    encoder, tokenizer = load_text_encoder(str(make_encoder("qwen3")), pooling="cls")
    encode_texts(["pen", "pen"], encoder, tokenizer, progress=False)
    assert not warnings
    encode_texts(TEXTS, encoder, tokenizer, progress=False)
    assert len(warnings) == 1
    assert warnings[0].startswith("all 5 texts have the same vector by cls pooling")


def test_words_that_the_encoder_does_not_know_are_said(make_encoder, warnings):
    encoder, tokenizer = load_text_encoder(str(make_encoder("bert")), pooling="mean")
    known = next(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii())
    encode_texts([f"{sign}{f' {known}' * 10}" for sign in "蓝色棉"], encoder, tokenizer, progress=False)
    assert not warnings
    encode_texts([f"{sign}{f' {known}' * 8}" for sign in "蓝色棉"], encoder, tokenizer, progress=False)
    assert warnings[0].startswith("the text encoder does not know many words of these texts")


@pytest.mark.parametrize(
    ("texts", "is_spelled"), [("сад лампа стол", True), ("lamp a b c d e f g", False), ("東京の塔", False)]
)
def test_words_that_the_encoder_spells_are_said(make_encoder, warnings, texts, is_spelled):
    encoder, tokenizer = load_text_encoder(str(make_encoder("bert")), pooling="mean")
    tokenizer.add_tokens([letter for letter in set(texts) if letter.strip()])  # a vocabulary with all letters
    encoder.resize_token_embeddings(len(tokenizer))
    encode_texts(texts.split(), encoder, tokenizer, progress=False)
    assert [line[:45] for line in warnings] == ["the text encoder does not know many words of t"[:45]] * is_spelled


def test_texts_that_are_cut_are_counted(make_encoder, warnings):
    encoder, tokenizer = load_text_encoder(str(make_encoder("bert")), pooling="mean")
    known = next(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii())
    texts = [" ".join([known] * length) for length in (1, 2, 3, 4, 5, 6, 7, 8, 9, 90)]
    encode_texts([*texts, "b"], encoder, tokenizer, max_length=16, progress=False)
    assert not [line for line in warnings if "tokens or more" in line]
    encode_texts([*texts, f"{known} " * 80], encoder, tokenizer, max_length=16, progress=False)
    assert [line for line in warnings if line.startswith("2 of 11 texts have 16 tokens or more")]


@pytest.mark.parametrize("kind", ["bert", "roberta", "qwen3", "gemma"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_has_one_vector(make_encoder, kind, side, tmp_path):
    """Alone, in a batch, in training, by the processor, and with tokens of a tokenizer that pads on the left."""
    folder = make_encoder(kind, padding_side=side)
    model = UniSRecModel.from_text_encoder(
        str(folder), hidden_size=8, num_experts=2, text_pooling="cls+mean+lasttoken"
    )
    tokenizer = make_tokenizer(padding_side=side)
    processor = UniSRecProcessor(tokenizer, max_text_length=32)
    encoder, own_tokenizer = load_text_encoder(str(folder), pooling="cls+mean+lasttoken")
    assert own_tokenizer.padding_side == "right"
    expected = torch.from_numpy(encode_texts(TEXTS, encoder, own_tokenizer, progress=False, tokens_per_batch=1))

    def check(batch):
        torch.testing.assert_close(model.get_text_features(**batch).pooler_output, expected, rtol=0, atol=1e-5)

    for training in (False, True):
        model.train(training)
        model.text_encoder.eval()  # without dropout
        check(processor.tokenize(TEXTS))
        raw = tokenizer(TEXTS, padding=True, return_tensors="pt")
        check({"input_ids": raw["input_ids"], "attention_mask": raw["attention_mask"]})
        alone = [model.get_text_features(**processor.tokenize([text])).pooler_output for text in TEXTS]
        torch.testing.assert_close(torch.cat(alone), expected, rtol=0, atol=1e-5)
    assert tokenizer.padding_side == side  # a caller's tokenizer stays as it was
    vectors = encode_texts(TEXTS, encoder, tokenizer, progress=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_do_not_overflow_in_half_precision(dtype):
    states, mask = torch.full((1, 300, 4), 3e4, dtype=dtype), torch.ones(1, 300)
    for pooling in ("mean", "weightedmean", "mean_sqrt_len"):
        vector = pool_tokens(states, mask, pooling)
        assert vector.dtype == torch.float32
        scale = 300**0.5 if pooling == "mean_sqrt_len" else 1
        torch.testing.assert_close(vector, scale * states[:, 0].float(), rtol=1e-4, atol=0)


def test_the_checkpoint_keeps_all_of_it(save_sentence_transformer, tmp_path):
    layers = [st.Dense(16, 12), st.Normalize()]
    prompts = {"document": "passage : "}
    model, folder = save_sentence_transformer("gemma", "mean", *layers, include_prompt=False, prompts=prompts)
    ours = UniSRecModel.from_text_encoder(str(folder), hidden_size=8, num_experts=2)
    config, (encoder, tokenizer) = ours.config, load_text_encoder(str(folder))
    assert (config.text_embedding_size, config.text_prompt, config.text_prompt_tokens) == (12, "passage : ", 3)
    ours.save_pretrained(tmp_path / "checkpoint")
    UniSRecProcessor(tokenizer, text_prompt=config.text_prompt).save_pretrained(tmp_path / "checkpoint")
    loaded = AutoModel.from_pretrained(tmp_path / "checkpoint").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "checkpoint")
    with torch.no_grad():
        vectors = loaded.get_text_features(**processor.tokenize(TEXTS)).pooler_output
    np.testing.assert_allclose(vectors, model.encode_document(TEXTS), atol=1e-5)

    bare = AutoModel.from_pretrained(tmp_path / "checkpoint", text_config=None)
    assert bare.text_encoder is None
    bare.attach_text_encoder(encoder)
    with torch.no_grad():
        torch.testing.assert_close(bare.get_text_features(**processor.tokenize(TEXTS)).pooler_output, vectors)
    with pytest.raises(ValueError, match=r"use the encoder that the checkpoint was trained with"):
        bare.attach_text_encoder(AutoModel.from_pretrained(folder))


LOAD = """
import importlib.util, json, sys
import torch
from transformers import AutoModel, AutoProcessor

assert importlib.util.find_spec("unisrec") is None and importlib.util.find_spec("sentence_transformers") is None
vectors = []
for folder in sys.argv[2:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        vectors.append(model.get_text_features(**processor.tokenize(json.loads(sys.argv[1]))).pooler_output.tolist())
print(json.dumps(vectors))
"""


@pytest.mark.rare
def test_without_the_package_the_vectors_are_the_same(save_sentence_transformer, bare_python, tmp_path):
    options = {"include_prompt": False, "prompts": {"document": "passage : "}, "truncate_dim": 7}
    pooling = ("lasttoken", "weightedmean", "max")
    expected, folders = [], []
    for kind in ("qwen3", "roberta"):
        modules, sides = [st.Dense(48, 12), st.Normalize()], {"padding_side": "left"}
        model, folder = save_sentence_transformer(kind, pooling, *modules, tokenizer=sides, **options)
        expected.append([model.encode_document([text])[0] for text in TEXTS])
        ours = UniSRecModel.from_text_encoder(str(folder), hidden_size=8, num_experts=2)
        ours.save_pretrained(tmp_path / kind)
        UniSRecProcessor(make_tokenizer(), text_prompt=ours.config.text_prompt).save_pretrained(tmp_path / kind)
        folders.append(tmp_path / kind)
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [bare_python, "-c", LOAD, json.dumps(TEXTS), *folders]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, atol=1e-5)


def change(folder: Path, file: str, **settings) -> None:
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))


REFUSED = {
    "router": ("modules.json", {1: "sentence_transformers.base.modules.router.Router"}, "Router"),
    "custom": ("modules.json", {0: "custom_st.Transformer"}, "the module custom_st.Transformer"),
    "no pooling": (
        "modules.json",
        {1: "sentence_transformers.models.Normalize"},
        "the modules Transformer, Normalize",
    ),
    "words": ("modules.json", {0: "sentence_transformers.models.WordEmbeddings"}, "WordEmbeddings"),
    "pooling": ("1_Pooling/config.json", {"pooling_mode": "attention"}, "the pooling 'attention'"),
    "empty pooling": ("1_Pooling/config.json", {"pooling_mode": []}, "the pooling ''"),
    "flag": ("1_Pooling/config.json", {"pooling_mode_attention": True}, "pooling_mode_attention=True"),
    "task": ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task='fill-mask'"),
    "chat": ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "modality_config="),
    "arguments": ("sentence_bert_config.json", {"config_kwargs": {"num_labels": 3}}, "num_labels=3"),
    "unknown": ("sentence_bert_config.json", {"reverse_words": True}, "reverse_words=True"),
    "sparse": ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "a SparseEncoder"),
    "activation": ("2_Dense/config.json", {"activation_function": "mine.Act"}, "the activation mine.Act"),
    "tokens": ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name="),
    "scale": ("2_Dense/config.json", {"scale": 2.0}, "scale=2.0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(save_sentence_transformer, case):
    file, settings, message = REFUSED[case]
    _, folder = save_sentence_transformer("bert", "mean", st.Dense(16, 8))
    if file == "modules.json":
        modules = json.loads((folder / file).read_text())[:2]
        for place, kind in settings.items():
            modules[place]["type"] = kind
        (folder / file).write_text(json.dumps(modules))
    else:
        change(folder, file, **settings)
    with pytest.raises(ValueError, match="asks for") as error:
        load_text_encoder(str(folder))
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"text encoder '{folder}': {file} asks for ")
    assert message in line
    assert "name another encoder, or make the vectors with sentence-transformers" in line


def test_damaged_files_are_named(save_sentence_transformer):
    _, folder = save_sentence_transformer("bert", "mean", st.Dense(16, 8))
    change(folder, "2_Dense/config.json", in_features=8)
    with pytest.raises(ValueError, match=r"the layers behind its pooling do not fit \(the text layer .* 16 numbers"):
        load_text_encoder(str(folder))
    (folder / "modules.json").write_text("[")
    with pytest.raises(ValueError, match=r"modules\.json is no JSON"):
        load_text_encoder(str(folder))


@pytest.mark.parametrize(
    ("file", "contents"),
    [
        ("modules.json", "{}"),
        ("modules.json", "[3]"),
        ("modules.json", '[{"path": ""}]'),
        ("1_Pooling/config.json", '{"pooling_mode": 3}'),
        ("1_Pooling/config.json", "[]"),
        ("2_Dense/config.json", "{}"),
        ("2_Dense/model.safetensors", "cut"),
        ("sentence_bert_config.json", '{"max_seq_length": "many"}'),
        ("sentence_bert_config.json", '{"max_seq_length": 0}'),
        ("config_sentence_transformers.json", '{"truncate_dim": -1}'),
        ("config_sentence_transformers.json", '{"prompts": ["passage"], "default_prompt_name": "a"}'),
    ],
)
def test_files_of_another_form_are_one_line(save_sentence_transformer, file, contents):
    _, folder = save_sentence_transformer("bert", "mean", st.Dense(16, 8))
    (folder / file).write_text(contents)
    with pytest.raises(ValueError, match="text encoder ") as error:
        load_text_encoder(str(folder))
    assert "\n" not in str(error.value)


def test_adapters_are_refused(make_encoder, tmp_path):
    folder = Path(shutil.copytree(make_encoder("bert"), tmp_path / "encoder"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds adapters"):
        load_text_encoder(str(folder))


def test_code_of_its_own_is_refused(make_encoder, tmp_path):
    folder = Path(shutil.copytree(make_encoder("bert"), tmp_path / "encoder"))
    (folder / "mine.py").write_text("raise SystemExit('executed')")
    change(folder, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    with pytest.raises(ValueError, match=r"config\.json asks for code of its own \(mine\.Model in mine\.py\)"):
        load_text_encoder(str(folder))


def test_the_text_half_of_a_multimodal_model(make_encoder, tmp_path):
    text = make_encoder("gemma")
    half = AutoModel.from_pretrained(text)
    vision = {**SIZES, "image_size": 8, "patch_size": 4}
    config = Gemma3Config(text_config=half.config, vision_config=vision, mm_tokens_per_image=4)
    whole = AutoModel.from_config(config)
    whole.language_model.load_state_dict(half.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    make_tokenizer().save_pretrained(tmp_path / "whole")
    encoder, tokenizer = load_text_encoder(str(tmp_path / "whole"), pooling="mean")
    assert encoder.config.model_type == "gemma3_text"
    vectors = encode_texts(TEXTS, encoder, tokenizer, progress=False)
    np.testing.assert_allclose(
        vectors, encode_texts(TEXTS, half, tokenizer, pooling="mean", progress=False), atol=1e-6
    )
    model = UniSRecModel.from_text_encoder(str(tmp_path / "whole"), hidden_size=8, text_pooling="mean")
    model.save_pretrained(tmp_path / "checkpoint")
    assert AutoModel.from_pretrained(tmp_path / "checkpoint").config.text_config.model_type == "gemma3_text"


def test_a_model_of_pictures_and_texts_in_two_towers_is_refused(tmp_path):
    AutoModel.from_config(CLIPConfig(text_config=SIZES | {"vocab_size": 30}, vision_config=SIZES)).save_pretrained(
        tmp_path
    )
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a CLIPModel, whose text model cannot be used alone"):
        load_text_encoder(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_encoders_are_used_in_float32(make_encoder, dtype, tmp_path):
    folder = Path(shutil.copytree(make_encoder("gemma"), tmp_path / "encoder"))
    AutoModel.from_pretrained(folder).to(dtype).save_pretrained(folder)
    encoder, tokenizer = load_text_encoder(str(folder))
    assert encoder.dtype == torch.float32
    model = UniSRecModel.from_text_encoder(str(folder), hidden_size=8).to(dtype).eval()
    batch = UniSRecProcessor(tokenizer).tokenize(TEXTS)
    with torch.no_grad():
        vectors = model.get_text_features(**batch).pooler_output
        assert model.get_item_features(**batch).dtype == dtype
    exact = encode_texts(TEXTS, encoder, tokenizer, progress=False)
    cosines = torch.cosine_similarity(vectors, torch.from_numpy(exact))
    assert cosines.min() > 0.99


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ConvBertConfig(**SIZES, embedding_size=16, vocab_size=30), r"\(convbert\) mixes padding into its states"),
        (FNetConfig(**SIZES, vocab_size=30, pad_token_id=1), r"\(fnet\) mixes padding into its states"),
        (
            OPTConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                ffn_dim=24,
                word_embed_proj_dim=8,
                vocab_size=30,
            ),
            r"\(opt\) gives states of shape \(6, 8\) for 6 tokens, where one of 16 numbers",
        ),
        (ViTConfig(**SIZES, image_size=8, patch_size=4), r"\(vit\) cannot read a text"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_an_encoder_without_one_vector_for_a_text_is_refused(config, message, tmp_path):
    AutoModel.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_text_encoder(str(tmp_path), pooling="mean")


def test_a_tokenizer_without_padding_token_pads_by_the_end_of_text(make_encoder, tmp_path):
    folder = Path(shutil.copytree(make_encoder("llama"), tmp_path / "encoder"))
    make_tokenizer(pad_token=None).save_pretrained(folder)
    encoder, tokenizer = load_text_encoder(str(folder))
    assert tokenizer.pad_token == "</s>"
    vectors = encode_texts(TEXTS, encoder, tokenizer, progress=False)
    alone = encode_texts(TEXTS, encoder, tokenizer, progress=False, tokens_per_batch=1)
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_a_text_without_tokens_is_named(make_encoder, tmp_path):
    folder = Path(shutil.copytree(make_encoder("qwen3"), tmp_path / "encoder"))
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save_pretrained(folder)
    encoder, tokenizer = load_text_encoder(str(folder))
    with pytest.raises(ValueError, match="makes no token of the text ''"):
        encode_texts(["pen", ""], encoder, tokenizer, progress=False)


def test_the_checkpoint_is_followed_where_it_differs_from_the_files(save_sentence_transformer, tmp_path, monkeypatch):
    _, folder = save_sentence_transformer("bert", "mean", st.Normalize())
    UniSRecModel(UniSRecConfig(text_embedding_size=16, hidden_size=8)).save_pretrained(tmp_path / "bare")
    lines = []
    monkeypatch.setattr(checkpoints.logger, "warning", lambda line, *values: lines.append(line % values))
    model, _ = checkpoints.load_checkpoint(tmp_path / "bare", str(folder))
    assert model.text_encoder.text_head.pooling == "cls"
    assert len(lines) == 1
    assert "text_pooling='cls', text_layers=None" in lines[0]


@pytest.mark.parametrize("scale", [1, 4.9])
def test_vectors_of_length_1_are_scaled_in_front_of_the_adaptor(scale):
    assert new_text_scale([{"type": "normalize"}], 384) == pytest.approx(384**0.5 / 4)
    assert new_text_scale([{"type": "normalize"}, {"type": "dense"}], 384) == new_text_scale(None, 384) == 1
    config = UniSRecConfig(text_embedding_size=16, hidden_size=8, num_experts=2, text_scale=scale)
    model, plain = (
        UniSRecModel(config).eval(),
        UniSRecModel(UniSRecConfig(**(config.to_dict() | {"text_scale": 1.0}))).eval(),
    )
    plain.load_state_dict(model.state_dict())
    text_embeds = torch.randn(5, 16)
    torch.testing.assert_close(model.adaptor(text_embeds), plain.adaptor(text_embeds * scale))
    torch.testing.assert_close(model.adaptor.gate(text_embeds), plain.adaptor.gate(text_embeds * scale))
