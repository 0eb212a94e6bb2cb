"""PCA whitening: what the map does, and that it is a part of the checkpoint."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from unisrec.data.text_encoding import encode_texts
from unisrec.data.whitening import fit_whitening
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.trainer import UniSRecFinetuneArguments, UniSRecPretrainArguments, finetune, pretrain


MODEL = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 2, "max_position_embeddings": 10}


def whiten(features: np.ndarray, fitted: dict[str, torch.Tensor]) -> np.ndarray:
    return features @ fitted["weight"].numpy().T + fitted["bias"].numpy()


def test_whitened_components_are_uncorrelated_and_of_variance_one():
    random = np.random.default_rng(0)
    mixed = (random.normal(size=(500, 6)) @ random.normal(size=(6, 6)) + 3).astype(np.float32)
    fitted = fit_whitening([mixed[:100], mixed[100:]])  # of the union
    whitened = whiten(mixed, fitted)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(whitened.T @ whitened / 500, np.eye(6), atol=1e-3)

    # A smaller size keeps the components of the largest variance: those that explain most of the vectors.
    smaller = fit_whitening([mixed], 2)
    assert torch.equal(smaller["weight"], fit_whitening([mixed])["weight"][:2])
    largest = np.linalg.svd(mixed - mixed.mean(0))[2][:2]
    np.testing.assert_allclose(
        np.abs(largest @ smaller["weight"].numpy().T), np.diag(np.linalg.norm(smaller["weight"], axis=1)), atol=1e-3
    )


def test_components_without_variance_are_zero():
    random = np.random.default_rng(0)
    few = random.normal(size=(4, 6)).astype(np.float32)  # four points lie in three dimensions
    fitted = fit_whitening([few])
    assert (fitted["weight"].norm(dim=1) > 0).tolist() == [True] * 3 + [False] * 3
    assert np.abs(whiten(random.normal(size=(50, 6)).astype(np.float32), fitted)).max() < 100


def test_bad_sizes_are_refused():
    table = np.eye(4, dtype=np.float32)
    for size in (0, 5):
        with pytest.raises(ValueError, match=f"can have 1 to 4 numbers, not {size}"):
            fit_whitening([table], size)
    with pytest.raises(ValueError, match="all texts have the same vector"):
        fit_whitening([np.ones((3, 4), dtype=np.float32)])


@pytest.fixture
def domains(make_domain, tmp_path):
    folders = []
    for name, seed in (("toys", 0), ("books", 1)):
        make_domain(name, seed=seed).save_to_disk(tmp_path / name)
        folders.append(tmp_path / name)
    return folders


def test_the_checkpoint_whitens(domains, text_encoder_dir, training_options, tmp_path, make_domain):
    arguments = UniSRecPretrainArguments(str(tmp_path / "run"), load_best_model_at_end=False, **training_options)
    options = {"text_pooling": "mean", "model_config": MODEL, "text_whitening": "pca", "text_whitening_size": 6}
    pretrain(str(text_encoder_dir), domains, arguments, **options)
    model = UniSRecModel.from_pretrained(tmp_path / "run")
    assert model.config.text_whitening_size == 6
    assert model.adaptor.weight.shape == (6, 2, 8)

    texts = [make_domain(name, seed=seed).items["text"].to_list() for name, seed in (("toys", 0), ("books", 1))]
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    vectors = [encode_texts(each, model.text_encoder, tokenizer, progress=False) for each in texts]
    expected = fit_whitening(vectors, 6)
    torch.testing.assert_close(model.adaptor.whitening.weight, expected["weight"], rtol=1e-3, atol=1e-3)

    # Through transfer, also from scratch, and as an embeddings-only model.
    arguments = UniSRecFinetuneArguments(str(tmp_path / "tuned"), load_best_model_at_end=False, **training_options)
    finetune(tmp_path / "run", domains[0], "inductive", arguments, from_scratch=True)
    for folder, changes in (("tuned", {}), ("run", {"text_config": None})):
        loaded = AutoModel.from_pretrained(tmp_path / folder, **changes)
        assert torch.equal(loaded.adaptor.whitening.weight, model.adaptor.whitening.weight)
        assert torch.equal(loaded.adaptor.whitening.bias, model.adaptor.whitening.bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_whitening": "zca"}, "takes none or pca, not 'zca'"),
        ({"text_whitening_size": 4}, "add `text_whitening='pca'`"),
        ({"model_config": {"text_whitening_size": 4}}, "use `text_whitening='pca'` and `text_whitening_size`"),
        ({"text_whitening": "pca", "model_config": {"item_text": False}}, "item_text=false removes"),
        ({"text_whitening": "pca", "text_whitening_size": 17}, "text_whitening_size"),
        ({"model_config": {"text_prompt": "a"}}, "use `text_prompt`, so that its tokens are counted"),
        ({"text_pooling": "mean", "model_config": {"text_pooling": "cls"}}, "`text_pooling` is given twice"),
        ({"text_truncate_dim": 17}, "does not take vectors of 16 numbers"),
    ],
)
def test_options_without_effect_are_refused(domains, text_encoder_dir, training_options, tmp_path, options, message):
    arguments = UniSRecPretrainArguments(str(tmp_path / "run"), load_best_model_at_end=False, **training_options)
    with pytest.raises(ValueError, match=message):
        pretrain(str(text_encoder_dir), domains, arguments, **options)
    assert not (tmp_path / "run").exists()
