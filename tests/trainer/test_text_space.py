"""The text space in front of the adaptor: that of each catalogue before fine-tuning, a part of the weights after it."""

import copy

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, pipeline

from unisrec import ItemCatalogue, UniSRecConfig, UniSRecModel
from unisrec.data import Domain
from unisrec.data.text_encoding import encode_texts
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.text_neighbours import enter_catalogue, fit_text_space, keep_text_space
from unisrec.recommender import Recommender
from unisrec.recommender.onnx_export import export_onnx
from unisrec.trainer import UniSRecFinetuneArguments, UniSRecPretrainArguments, finetune
from unisrec.trainer.pretraining import build_pretrain_trainer, pretrain


MODEL = {
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_experts": 2,
    "max_position_embeddings": 10,
    "text_space": "catalogue",
}
EVALUATED = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}


def reference(vectors: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Vectors in the text space of a catalogue, written out: centred and divided by the power 3/8 of the covariance."""
    unit = of / np.linalg.norm(of, axis=1, keepdims=True)
    mean, size = unit.mean(0), of.shape[1]
    covariance = (unit - mean).T @ (unit - mean)
    variances, components = np.linalg.eigh(covariance + np.trace(covariance) / len(of) * np.eye(size))
    weight = components @ np.diag(variances**-0.375) @ components.T
    mapped = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) - mean) @ weight
    return mapped / np.linalg.norm(mapped, axis=1, keepdims=True)


def vectors_of(domain: Domain, encoder_dir) -> np.ndarray:
    model = UniSRecModel.from_text_encoder(str(encoder_dir), text_pooling="mean", **MODEL)
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    return encode_texts(domain.items["text"].to_list(), model.text_encoder, tokenizer, progress=False)


def domain_of(make_domain, name: str) -> Domain:
    return make_domain(name, seed=["toys", "books", "games"].index(name))


@pytest.fixture(scope="module")
def options(training_options):
    return training_options | {"load_best_model_at_end": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_domain, text_encoder_dir, options):
    """A folder with three domains, a checkpoint pre-trained on two of them, and one fine-tuned on the third."""
    root = tmp_path_factory.mktemp("text-space")
    for name in ("toys", "books", "games"):
        domain_of(make_domain, name).save_to_disk(root / name)
    arguments = UniSRecPretrainArguments(str(root / "pretrained"), num_negatives=4, batch_domains="one", **options)
    folders = [root / "toys", root / "books"]
    pretrain(str(text_encoder_dir), folders, arguments, text_pooling="mean", model_config=MODEL)
    arguments = UniSRecFinetuneArguments(str(root / "tuned"), text_neighbours=0.3, **options)
    finetune(root / "pretrained", root / "games", "inductive", arguments)
    return root


@pytest.mark.parametrize("hidden_size", [16, 8, 24])
def test_a_new_model_keeps_the_cosines_of_texts(hidden_size):
    torch.manual_seed(0)
    config = UniSRecConfig(text_embedding_size=16, hidden_size=hidden_size, text_space="catalogue")
    model = UniSRecModel(config).eval()
    texts = torch.randn(40, 16) @ torch.randn(16, 16) + 3
    enter_catalogue(model, texts)
    mapped = torch.from_numpy(reference(texts.double().numpy(), texts.double().numpy()))
    items = F.normalize(model.get_item_features(texts), dim=-1).double()
    cosines, expected = items @ items.T, mapped @ mapped.T
    assert not torch.equal(
        model.adaptor.weight[:, 0], model.adaptor.weight[:, 1]
    )  # or the experts would stay the same
    if hidden_size >= 16:
        torch.testing.assert_close(cosines, expected, atol=0.05, rtol=0)
    else:  # half of the dimensions
        assert np.corrcoef(cosines.detach().flatten(), expected.flatten())[0, 1] > 0.7


def test_a_catalogue_of_equal_texts_is_not_centred():
    model = UniSRecModel(UniSRecConfig(text_embedding_size=8, hidden_size=8, text_space="catalogue"))
    enter_catalogue(model, torch.ones(3, 8))
    assert torch.equal(model.adaptor.space.weight, torch.eye(8))
    assert not model.adaptor.space.mean.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model = UniSRecModel(UniSRecConfig(text_embedding_size=8, hidden_size=8, text_space="own")).to(dtype).eval()
    items = model.get_item_features(torch.randn(3, 8, dtype=dtype))
    assert items.dtype is dtype
    assert items.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_space": "catalogue", "text_whitening_size": 4}, "takes the place of `text_whitening_size`"),
        ({"text_space": "own", "item_text": False, "num_items": 3}, "needs `item_text`"),
        ({"text_space": "zca"}, "text_space"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        UniSRecConfig(text_embedding_size=8, hidden_size=8, **fields)


@pytest.mark.parametrize(
    ("fields", "text_space"), [({"train_text_encoder": True}, "catalogue"), ({}, "own"), ({}, "zca")]
)
def test_pretraining_refuses_what_it_cannot_do(root, text_encoder_dir, options, tmp_path, fields, text_space):
    arguments = UniSRecPretrainArguments(str(tmp_path / "run"), **fields, **options)
    with pytest.raises(Exception, match="text_space"):
        build_pretrain_trainer(
            str(text_encoder_dir), [root / "toys"], arguments, model_config=MODEL | {"text_space": text_space}
        )
    assert not (tmp_path / "run").exists()


def test_a_trained_text_encoder_stays_in_the_space_of_its_first_vectors(
    root, options, make_domain, text_encoder_dir, tmp_path
):
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), train_text_encoder=True, num_train_epochs=3, **options)
    result = finetune(root / "pretrained", root / "games", "inductive", arguments)
    model, processor = load_checkpoint(tmp_path / "run")
    before = vectors_of(domain_of(make_domain, "games"), text_encoder_dir)
    space = fit_text_space(torch.from_numpy(before))
    assert model.config.text_space == "own"
    torch.testing.assert_close(model.adaptor.space.mean, space.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.adaptor.space.weight, space.weight, atol=1e-2, rtol=1e-2)
    assert not np.allclose(processor.catalogue.item_embeddings, before, atol=1e-5)
    evaluated = evaluate(tmp_path / "run", root / "games", "test")
    shared = evaluated.keys() & result.metrics.keys()
    assert {"ndcg@10", "recall@50_seen_masked"} <= shared
    assert {name: evaluated[name] for name in shared} == pytest.approx({name: result.metrics[name] for name in shared})


def test_adapters_of_the_text_encoder_are_refused(root, options, tmp_path):
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), lora="text", **options)
    with pytest.raises(ValueError, match="take --train_text_encoder without --lora"):
        finetune(root / "pretrained", root / "games", "inductive", arguments)
    assert not (tmp_path / "run").exists()


def test_a_model_without_texts_takes_its_settings_from_one_with_a_text_space(root, options, tmp_path):
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), **options)
    fields = {"item_text": False, "similarity": "dot"}
    finetune(root / "pretrained", root / "games", "transductive", arguments, from_scratch=True, model_config=fields)
    assert load_checkpoint(tmp_path / "run")[0].config.text_space is None


def test_each_domain_is_pretrained_in_its_own_space(root, text_encoder_dir, options, make_domain, tmp_path):
    arguments = UniSRecPretrainArguments(
        str(tmp_path / "run"), zero_shot_domain=str(root / "games"), **options | EVALUATED
    )
    folders = [root / "toys", root / "books"]
    trainer = build_pretrain_trainer(
        str(text_encoder_dir), folders, arguments, text_pooling="mean", model_config=MODEL
    )
    originals, dropped = trainer.data_collator.features, trainer.data_collator.word_drop_features
    for place, name in enumerate(("toys", "books")):
        vectors = vectors_of(domain_of(make_domain, name), text_encoder_dir)
        np.testing.assert_allclose(originals.tables[place], reference(vectors, vectors), atol=1e-4)
        assert not np.allclose(dropped.tables[place], originals.tables[place], atol=1e-2)
        np.testing.assert_allclose(np.linalg.norm(dropped.tables[place], axis=1), 1, atol=1e-5)
    unseen = vectors_of(domain_of(make_domain, "games"), text_encoder_dir)
    np.testing.assert_allclose(trainer.eval_dataset.catalogue, reference(unseen, unseen), atol=1e-4)


def test_a_pretrained_model_enters_each_catalogue(root, make_domain, text_encoder_dir):
    model, _ = load_checkpoint(root / "pretrained")
    assert model.config.text_space == "catalogue"
    assert torch.equal(model.adaptor.space.weight, torch.eye(16))
    assert not model.adaptor.space.mean.any()

    domain = domain_of(make_domain, "games")
    vectors = vectors_of(domain, text_encoder_dir)
    model.eval().adaptor.space.fit(torch.from_numpy(vectors))
    with torch.inference_mode():
        expected = F.normalize(model.get_item_features(torch.from_numpy(vectors)), dim=-1)
    recommender = Recommender.from_pretrained(root / "pretrained", items=domain, text_neighbours=0)
    np.testing.assert_allclose(recommender.item_embeds, expected, atol=1e-4)


def test_a_finetuned_model_keeps_its_own_space(root, make_domain, text_encoder_dir):
    model, _processor = load_checkpoint(root / "tuned")
    vectors = vectors_of(domain_of(make_domain, "games"), text_encoder_dir)
    space = fit_text_space(torch.from_numpy(vectors))
    assert model.config.text_space == "own"
    torch.testing.assert_close(model.adaptor.space.mean, space.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.adaptor.space.weight, space.weight, atol=1e-2, rtol=1e-2)

    other = Recommender.from_pretrained(root / "tuned", items=domain_of(make_domain, "toys"))
    assert torch.equal(other.model.adaptor.space.weight, model.adaptor.space.weight)


def test_recommender_pipeline_and_evaluation_agree(root, make_domain, tmp_path):
    domain = domain_of(make_domain, "games")
    recommender = Recommender.from_pretrained(root / "pretrained", items=domain)
    history = domain.items["item_id"].to_list()[:3]
    ours = recommender.recommend([history], 5)[0]
    recommender.save_pretrained(tmp_path / "shop")
    theirs = pipeline("sequential-recommendation", model=str(tmp_path / "shop"), trust_remote_code=False)(
        history, top_k=5
    )
    assert [each.item_id for each in ours] == [each["item_id"] for each in theirs]
    np.testing.assert_allclose([each.score for each in ours], [each["score"] for each in theirs], atol=1e-4)

    unfitted = evaluate(root / "pretrained", root / "games", "test")
    fitted = evaluate(tmp_path / "shop", root / "games", "test")
    assert unfitted == pytest.approx(fitted)


def test_a_shop_keeps_its_space_and_its_index_when_products_are_added(root, make_domain, tmp_path):
    domain = domain_of(make_domain, "games")
    recommender = Recommender.from_pretrained(root / "pretrained", items=domain)
    before = recommender.model.adaptor.space.weight.clone()
    recommender.add_items({"new": "a wooden train", "newer": "a tin drum"})
    assert torch.equal(recommender.model.adaptor.space.weight, before)
    recommender.save_pretrained(tmp_path / "shop")
    pytest.importorskip("faiss")
    recommender.use_index("hnsw").save(tmp_path / "index", recommender.processor.catalogue.item_ids)

    again = Recommender.from_pretrained(tmp_path / "shop", index=tmp_path / "index")
    assert again.model.config.text_space == "own"
    np.testing.assert_allclose(again.item_embeds, recommender.item_embeds, atol=1e-5)
    model, catalogue = AutoModel.from_pretrained(tmp_path / "shop").eval(), again.processor.catalogue
    with torch.inference_mode():
        vectors = model.project_items(model.get_item_features(catalogue.item_embeddings))
    alone = Recommender.from_pretrained(tmp_path / "shop", text_neighbours=0)
    np.testing.assert_allclose(vectors, alone.item_embeds, atol=1e-5)


def test_recommenders_that_share_a_model_do_not_disturb_each_other(root, make_domain):
    recommender = Recommender.from_pretrained(root / "pretrained", items=domain_of(make_domain, "games"))
    history = [recommender.processor.catalogue.item_ids[:3]]
    before = recommender.recommend(history, 5)[0]
    processor = copy.copy(recommender.processor)
    processor.catalogue = ItemCatalogue(["a", "b"], ["a wooden train", "a tin drum"])
    Recommender(recommender.model, processor).recommend([["a"]], 1)
    assert recommender.recommend(history, 5)[0] == before


def test_a_changed_space_is_noticed(root, make_domain):
    recommender = Recommender.from_pretrained(root / "tuned", items=domain_of(make_domain, "games"))
    before = recommender.item_embeds
    keep_text_space(recommender.model, torch.randn(30, 16))
    assert not np.allclose(recommender.item_embeds, before, atol=1e-3)


def test_pipeline_and_recommender_enter_another_catalogue_and_leave_the_given_model_as_it_is(
    root, make_domain, tmp_path
):
    domain = domain_of(make_domain, "games")
    other = ItemCatalogue(
        [f"x{row}" for row in range(6)], [f"a tin {word}" for word in "drum train bus car ship kite".split()]
    )
    model, processor = load_checkpoint(root / "pretrained")
    recommender = Recommender.from_pretrained(root / "pretrained", items=domain)
    processor.catalogue = copy.deepcopy(recommender.processor.catalogue)
    ranked = pipeline("sequential-recommendation", model=model, processor=processor)
    first, history = processor.catalogue, processor.catalogue.item_ids[:2]
    found = ranked(history, top_k=3)
    shared = Recommender(model, copy.copy(processor))
    before = shared.recommend([history], 3)
    ranked.processor.catalogue, recommender.processor.catalogue = other, copy.deepcopy(other)
    theirs, (ours,) = ranked(["x0"], top_k=3), recommender.recommend([["x0"]], 3)
    assert [each.item_id for each in ours] == [each["item_id"] for each in theirs]
    np.testing.assert_allclose([each.score for each in ours], [each["score"] for each in theirs], atol=1e-4)
    fresh = Recommender.from_pretrained(root / "pretrained", items=other)
    np.testing.assert_allclose(recommender.item_embeds, fresh.item_embeds, atol=1e-5)
    assert model.config.text_space == "catalogue"
    assert torch.equal(model.adaptor.space.weight, torch.eye(16))
    ranked.processor.catalogue = first
    assert ranked(history, top_k=3) == found
    assert shared.recommend([history], 3) == before


def test_a_model_that_is_moved_while_it_runs_enters_the_catalogue_itself_and_once(root, make_domain):
    _, processor = load_checkpoint(root / "pretrained")
    processor.catalogue = Recommender.from_pretrained(
        root / "pretrained", items=domain_of(make_domain, "games")
    ).catalogue
    model = AutoModel.from_pretrained(root / "pretrained").eval()
    ranked = pipeline("sequential-recommendation", model=model, processor=copy.copy(processor))
    expected = ranked(processor.catalogue.item_ids[:2], top_k=3)
    add_hook_to_module(model.adaptor, ModelHook())
    hooked = pipeline("sequential-recommendation", model=model, processor=copy.copy(processor))
    assert hooked(processor.catalogue.item_ids[:2], top_k=3) == expected
    vectors = hooked._ranked
    hooked(processor.catalogue.item_ids[:2], top_k=3)
    assert hooked._ranked is vectors


def test_weights_are_shared_with_the_model_of_which_each_catalogue_has_a_space(root, make_domain):
    model, processor = load_checkpoint(root / "pretrained")
    processor.catalogue = Recommender.from_pretrained(
        root / "pretrained", items=domain_of(make_domain, "games")
    ).catalogue
    recommender = Recommender(model, processor)
    before = recommender.item_embeds
    model.train()
    with torch.no_grad():
        model.adaptor.weight.add_(0.5)
    assert not np.allclose(recommender.item_embeds, before, atol=1e-2)
    assert not model.sequence_encoder.training


def test_the_example_of_the_card_fits_the_space(root, monkeypatch):
    monkeypatch.chdir(root)
    card = (root / "pretrained" / "README.md").read_text(encoding="utf-8")
    (example,) = (part.split("```")[0] for part in card.split("```python") if part.startswith("\nimport unisrec "))
    names: dict = {}
    exec(example, names)
    assert names["model"].adaptor.space.mean.any()
    assert ".space.fit(" not in (root / "tuned" / "README.md").read_text(encoding="utf-8")


def test_a_space_that_is_not_fitted_is_not_exported(root, tmp_path):
    model, _ = load_checkpoint(root / "pretrained")
    with pytest.raises(ValueError, match="has none yet: export a shop"):
        export_onnx(model, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_text_encoder_without_its_tokenizer_is_named(root, options, tmp_path):
    saved = options | {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), train_text_encoder=True, **saved)
    finetune(root / "pretrained", root / "games", "inductive", arguments)
    with pytest.raises(ValueError, match="a text encoder but no tokenizer"):
        evaluate(tmp_path / "run" / "checkpoint-1", root / "games", "test")


def test_from_scratch_and_with_ids(root, options, tmp_path):
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), **options)
    finetune(root / "pretrained", root / "games", "transductive", arguments, from_scratch=True)
    model, _ = load_checkpoint(tmp_path / "run")
    tuned, _ = load_checkpoint(root / "tuned")
    assert model.config.text_space == "own"
    assert model.config.num_items is not None
    assert torch.equal(model.adaptor.space.weight, tuned.adaptor.space.weight)


def test_adapters_find_their_space_again(root, options, tmp_path):
    pytest.importorskip("peft")
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), lora="sequence", **options)
    trained = finetune(root / "pretrained", root / "games", "inductive", arguments).trainer
    expected = trained.accelerator.unwrap_model(trained.model).base_model.model.adaptor.space.weight
    loaded, _ = load_checkpoint(tmp_path / "run")
    torch.testing.assert_close(loaded.adaptor.space.weight, expected, atol=1e-5, rtol=0)
