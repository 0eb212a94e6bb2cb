"""What transformers asks of every model: weights that are new, saved, loaded, placed and resized."""

import copy
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel

from unisrec.configuration import UniSRecConfig
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.modeling_unisrec.checkpoint import load_checkpoint


TEXT_CONFIG = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 8,
}
SETTINGS = {"inductive": {}, "transductive": {"num_items": 6}, "text": {"text_config": TEXT_CONFIG}}


def equal_weights(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


# Saving and loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("setting", SETTINGS)
def test_dtype_auto_gives_the_saved_bits(make_model, setting, dtype, tmp_path):
    model = make_model(**SETTINGS[setting]).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".py"}  # nothing to unpickle
    loaded, report = UniSRecModel.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(report.values())
    assert loaded.dtype == dtype
    equal_weights(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_checkpoint_opened_in_bfloat16(make_model, make_batch, setting, tmp_path):
    model = make_model(**SETTINGS[setting])
    model.save_pretrained(tmp_path)
    loaded = UniSRecModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    batch = make_batch(setting)
    expected = model(**batch).sequence_embeds
    output = loaded(**batch).sequence_embeds
    assert output.dtype == torch.bfloat16
    assert F.cosine_similarity(output.float(), expected).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@torch.no_grad()
def test_model_runs_in_other_dtypes(make_model, make_batch, dtype):
    model, batch = make_model(**SETTINGS["text"]), make_batch("text")
    expected = model(**batch).sequence_embeds
    output = model.to(dtype)(**batch).sequence_embeds
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.05 if dtype == torch.float16 else 1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_config_survives_json_and_deepcopy(make_config, setting):
    config = make_config(**SETTINGS[setting])
    assert UniSRecConfig(**json.loads(config.to_json_string())).to_dict() == config.to_dict()
    twin = copy.deepcopy(config)
    assert twin.to_dict() == config.to_dict()
    if setting == "text":
        twin.text_config.vocab_size = 99
        assert config.text_config.vocab_size == 20


# Initialisation


@pytest.fixture
def nan_memory():
    """New memory holds NaN, so that no weight looks initialised by luck."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def is_new(name, tensor, std):
    """Whether a parameter of ours is as a new model has it."""
    if "norm.weight" in name:
        return bool((tensor == 1).all())
    if name.endswith(("bias", "router", "router_noise")):
        return not tensor.any()
    if name == "item_embedding.weight":
        return not tensor[0].any() and is_new("", tensor[1:], std)
    return 0.75 * std < tensor.std() < 1.25 * std and abs(tensor.mean()) < std


def test_new_weights_follow_the_config_and_the_seed(make_config, nan_memory):
    text_config = {**TEXT_CONFIG, "initializer_range": 0.3}
    config = make_config(text_config=text_config, num_items=30, initializer_range=0.1)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(UniSRecModel(config))
    equal_weights(models[0].state_dict(), models[1].state_dict())
    text_weights = dict(models[0].text_encoder.named_parameters())
    assert text_weights["embeddings.word_embeddings.weight"].std().item() == pytest.approx(0.3, rel=0.2)
    for name, parameter in models[0].named_parameters():
        assert name.startswith("text_encoder.") or is_new(name, parameter, 0.1), name


@pytest.mark.parametrize(
    "missing",
    [
        "adaptor.",
        "adaptor.weight",
        "adaptor.bias",
        "adaptor.router",
        "sequence_encoder.layers.1.",
        "sequence_encoder.layers.0.self_attn.q_proj.weight",
        "sequence_encoder.layers.0.mlp_norm.weight",
        "sequence_encoder.position_embedding.weight",
        "item_embedding.weight",
        "text_encoder.",
    ],
)
def test_missing_part_is_initialised_and_the_rest_is_not(make_model, missing, tmp_path, nan_memory):
    model = make_model(**SETTINGS["text"], num_items=30)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(missing)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded, report = UniSRecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == weights.keys() - kept.keys()
    state = loaded.state_dict()
    equal_weights({name: state[name] for name in kept}, kept)
    for name in report["missing_keys"]:
        assert state[name].isfinite().all(), name
        assert name.startswith("text_encoder.") or is_new(name, state[name], 0.02), name


# Weights that are not those of the configuration


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **fields):
    settings = json.loads((folder / "config.json").read_text())
    text_config = fields.pop("text_config", None)
    settings |= fields
    if text_config:
        settings["text_config"] |= text_config
    (folder / "config.json").write_text(json.dumps(settings))


def set_number(weights, name, value):
    weights[name].view(-1)[-1] = value


FAULTS = {
    "missing": (
        lambda folder: change_weights(folder, lambda weights: weights.pop("adaptor.router")),
        "1 weights are missing: adaptor.router;",
    ),
    "missing in the text encoder": (
        lambda folder: change_weights(folder, lambda weights: weights.pop("text_encoder.pooler.dense.bias")),
        "1 weights are missing: text_encoder.pooler.dense.bias;",
    ),
    "unexpected": (
        lambda folder: change_weights(folder, lambda weights: weights.update({"head.weight": torch.ones(2)})),
        "1 weights are unexpected: head.weight;",
    ),
    "another shape": (
        lambda folder: change_weights(folder, lambda weights: weights.update({"adaptor.router": torch.ones(16, 4)})),
        r"adaptor.router \(16, 4\) instead of \(16, 3\)",
    ),
    "NaN": (
        lambda folder: change_weights(folder, lambda weights: set_number(weights, "adaptor.weight", torch.nan)),
        "1 weights hold NaN or infinity: adaptor.weight;",
    ),
    "infinity": (
        lambda folder: change_weights(folder, lambda weights: set_number(weights, "item_embedding.weight", torch.inf)),
        "1 weights hold NaN or infinity: item_embedding.weight;",
    ),
    "NaN in the text encoder": (
        lambda folder: change_weights(
            folder, lambda weights: set_number(weights, "text_encoder.embeddings.LayerNorm.bias", torch.nan)
        ),
        "1 weights hold NaN or infinity: text_encoder.embeddings.LayerNorm.bias;",
    ),
    "more layers": (
        lambda folder: change_config(folder, num_hidden_layers=3),
        "16 weights are missing: sequence_encoder.layers.2.mlp.fc1.bias, .* and 13 more;",
    ),
    "fewer layers": (
        lambda folder: change_config(folder, num_hidden_layers=1),
        "16 weights are unexpected: sequence_encoder.layers.1.mlp.fc1.bias",
    ),
    "more layers of text": (
        lambda folder: change_config(folder, text_config={"num_hidden_layers": 2}),
        "16 weights are missing: text_encoder.encoder.layer.1",
    ),
    "more items": (
        lambda folder: change_config(folder, num_items=7),
        r"item_embedding.weight \(7, 8\) instead of \(8, 8\)",
    ),
    "no items": (
        lambda folder: change_config(folder, num_items=None),
        "1 weights are unexpected: item_embedding.weight;",
    ),
    "another width": (
        lambda folder: change_config(folder, intermediate_size=13),
        "6 weights are of another shape: sequence_encoder.layers.0.mlp.fc1.bias",
    ),
}


@pytest.mark.parametrize("load", [UniSRecModel.from_pretrained, AutoModel.from_pretrained, load_checkpoint])
@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_do_not_fit_are_refused_by_name(make_model, fault, load, tmp_path, capfd):
    change, message = FAULTS[fault]
    make_model(**SETTINGS["text"], num_items=6).save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises((ValueError, OSError), match=message) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_a_text_encoder_without_layers_is_refused(make_model, tmp_path):
    make_model(**SETTINGS["text"]).save_pretrained(tmp_path)
    change_config(tmp_path, text_config={"num_hidden_layers": 0})
    with pytest.raises(OSError, match=r"`text_config.num_hidden_layers` \(0\) must be from 1 to") as raised:
        load_checkpoint(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_shard_that_is_not_there(make_model, tmp_path):
    make_model(**SETTINGS["text"]).save_pretrained(tmp_path, max_shard_size="2KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = index["weight_map"].pop("adaptor.router")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / shard).unlink()
    with pytest.raises(OSError, match=f"cannot be loaded .*(adaptor.router|{shard})"):
        load_checkpoint(tmp_path)


def test_what_the_caller_asks_for_is_not_missing(make_model, tmp_path):
    make_model(**SETTINGS["text"], num_items=6, item_ids_hash="of six items").save_pretrained(tmp_path)
    for load in (UniSRecModel.from_pretrained, AutoModel.from_pretrained):
        assert load(tmp_path, text_config=None).text_encoder is None
        inductive = load(tmp_path, num_items=None)
        assert (inductive.item_embedding, inductive.config.item_ids_hash) == (None, None)
        with pytest.raises(ValueError, match=r"item_embedding.weight \(7, 8\) instead of \(10, 8\)"):
            load(tmp_path, num_items=9)
        assert load(tmp_path, num_items=9, ignore_mismatched_sizes=True).item_embedding.num_embeddings == 10
        inductive.save_pretrained(tmp_path / "inductive")
        assert load(tmp_path / "inductive", num_items=4).item_embedding.weight.isfinite().all()
    _, report = UniSRecModel.from_pretrained(tmp_path / "inductive", num_items=4, output_loading_info=True)
    assert report["missing_keys"] == {"item_embedding.weight"}


def test_weights_may_be_read_by_those_who_may_read_the_configuration(make_model, tmp_path):
    for mask in (0o022, 0o027, 0o077):
        before = os.umask(mask)
        try:
            folder = tmp_path / oct(mask)
            make_model().save_pretrained(folder, max_shard_size="2KB")
        finally:
            os.umask(before)
        modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
        assert set(modes.values()) == {0o666 & ~mask}, modes


def test_model_on_the_meta_device(make_config):
    config = make_config(**SETTINGS["text"], num_items=6)
    with torch.device("meta"):
        model = UniSRecModel(config)
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}
    sizes = {name: tensor.shape for name, tensor in UniSRecModel(config).state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == sizes


# Devices


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "disk"}])
@torch.no_grad()
def test_device_map_changes_nothing(make_model, make_batch, device_map, tmp_path):
    model, batch = make_model(**SETTINGS["text"], num_items=6), make_batch("text")
    batch["id_rows"] = torch.arange(6)
    model.save_pretrained(tmp_path)
    loaded = UniSRecModel.from_pretrained(
        tmp_path, device_map=device_map, max_memory={"cpu": "1GB"}, offload_folder=tmp_path / "offload"
    )
    devices = {parameter.device.type for parameter in loaded.parameters()}
    assert devices == {"meta" if device_map == {"": "disk"} else "cpu"}
    assert torch.equal(loaded(**batch).sequence_embeds, model(**batch).sequence_embeds)


@torch.no_grad()
def test_whole_layers_that_do_not_fit_go_to_the_disk(make_model, make_batch, tmp_path):
    model, batch = make_model(num_hidden_layers=6), make_batch("inductive")
    model.save_pretrained(tmp_path)
    half = sum(parameter.nbytes for parameter in model.parameters()) // 2
    loaded = UniSRecModel.from_pretrained(
        tmp_path, device_map="auto", max_memory={"cpu": half}, offload_folder=tmp_path / "offload"
    )
    places = {name: place for name, place in loaded.hf_device_map.items() if ".layers." in name}
    assert {name.rpartition(".")[0] for name in places} == {"sequence_encoder.layers"}  # no layer is torn apart
    assert set(places.values()) == {"cpu", "disk"}
    assert torch.equal(loaded(**batch).sequence_embeds, model(**batch).sequence_embeds)


# Token embeddings


def test_resizing_the_vocabulary_resizes_the_text_encoder(make_model, make_batch, tmp_path):
    model, batch = make_model(**SETTINGS["text"]), make_batch("text")
    assert model.get_input_embeddings() is model.text_encoder.get_input_embeddings()
    expected = model(**batch).sequence_embeds
    model.resize_token_embeddings(25)
    assert model.text_encoder.get_input_embeddings().weight.shape == (25, 16)
    assert model.config.text_config.vocab_size == 25
    model.save_pretrained(tmp_path)
    loaded = UniSRecModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).sequence_embeds, expected)
    assert loaded(**{**batch, "input_ids": batch["input_ids"] + 5}).sequence_embeds.isfinite().all()


def test_model_without_text_encoder_has_no_token_embeddings(make_model):
    model = make_model(num_items=6)
    assert model.get_input_embeddings() is None
    with pytest.raises(ValueError, match="no embeddings of words"):
        model.resize_token_embeddings(25)
    with pytest.raises(ValueError, match="no embeddings of words"):
        model.set_input_embeddings(torch.nn.Embedding(3, 16))
