import json

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoModel, BertConfig

from unisrec.configuration import UniSRecConfig
from unisrec.modeling_unisrec import UniSRecModel


DENSE = {"type": "dense", "in_features": 16, "out_features": 8, "bias": True, "activation": "Tanh"}


def test_defaults_are_those_of_the_paper():
    config = UniSRecConfig()
    expected = {
        "text_config": None,
        "text_embedding_size": 768,
        "text_pooling": "cls",
        "hidden_size": 300,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 256,
        "hidden_act": "gelu",
        "hidden_dropout": 0.5,
        "attention_dropout": 0.5,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 50,
        "num_experts": 8,
        "adaptor_dropout": 0.2,
        "router_noise": 0.01,
        "temperature": 0.07,
        "num_items": None,
        "initializer_range": 0.02,
        "text_neighbours": 0.0,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_default_model_has_the_size_of_the_official_one():
    # Position, LayerNorms, Transformer and adaptor of `UniSRec-FHCKM-300.pth`.
    assert sum(parameter.numel() for parameter in UniSRecModel(UniSRecConfig()).parameters()) == 2_910_344


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "300"},
        {"hidden_size": 300.0},
        {"num_experts": None},
        {"text_pooling": 3},
        {"text_layers": "normalize"},
        {"temperature": "0.07"},
        {"text_config": "bert-base-uncased"},
        {"num_items": 10.5},
    ],
)
def test_wrong_types_are_refused_by_name(fields):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(fields))):
        UniSRecConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 301}, r"`hidden_size` \(301\) must be a multiple of `num_attention_heads` \(2\)"),
        ({"hidden_size": 0}, r"`hidden_size` \(0\) must be at least 1"),
        ({"intermediate_size": 0}, r"`intermediate_size` \(0\) must be at least 1"),
        ({"text_embedding_size": 0}, r"`text_embedding_size` \(0\) must be at least 1"),
        ({"num_attention_heads": 0}, r"`num_attention_heads` \(0\) must be at least 1"),
        ({"num_hidden_layers": 0}, r"`num_hidden_layers` \(0\) must be at least 1"),
        ({"max_position_embeddings": -1}, r"`max_position_embeddings` \(-1\) must be at least 1"),
        ({"num_experts": 0}, r"`num_experts` \(0\) must be at least 1"),
        ({"num_items": 0}, r"`num_items` \(0\) must be at least 1, or None"),
        ({"hidden_dropout": 1}, r"`hidden_dropout` \(1\) must be in \[0, 1\)"),
        ({"attention_dropout": -0.1}, r"`attention_dropout` \(-0.1\) must be in \[0, 1\)"),
        ({"adaptor_dropout": 1.5}, r"`adaptor_dropout` \(1.5\) must be in \[0, 1\)"),
        ({"temperature": 0}, r"`temperature` \(0\) must be positive"),
        ({"router_noise": -0.1}, r"`router_noise` \(-0.1\) must not be negative"),
        ({"layer_norm_eps": 0.0}, r"`layer_norm_eps` \(0.0\) must be in \(0, 1\)"),
        ({"initializer_range": 0.0}, r"`initializer_range` \(0.0\) must be positive"),
        ({"text_neighbours": 1.5}, "the share of text neighbours is 1.5, expected a number from 0 to 1"),
        ({"text_neighbours": float("nan")}, "the share of text neighbours is nan"),
        ({"text_neighbours": 0.5, "similarity": "dot"}, "plain product"),
        ({"text_neighbours": 0.5, "item_text": False, "num_items": 3}, "need texts"),
    ],
)
def test_values_out_of_range_are_refused_by_name(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        UniSRecConfig(**fields)


NUMBERS = [
    "hidden_dropout",
    "attention_dropout",
    "adaptor_dropout",
    "layer_norm_eps",
    "initializer_range",
    "temperature",
    "router_noise",
]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1e-3])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_compute_nothing_are_refused_by_name(name, value):
    with pytest.raises(StrictDataclassClassValidationError, match=f"`{name}` "):
        UniSRecConfig(**{name: value})


@pytest.mark.parametrize("name", [*NUMBERS, "hidden_size", "num_experts", "num_items"])
def test_truth_values_are_no_numbers(name):
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        UniSRecConfig(**{name: True})


def test_text_config_of_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"`model_type` that transformers knows.*got 'no-such-model'"):
        UniSRecConfig(text_config={"model_type": "no-such-model", "hidden_size": 16})
    with pytest.raises(ValueError, match=r"`model_type` that transformers knows.*got None"):
        UniSRecConfig(text_config={"hidden_size": 16})


def test_text_embedding_size_follows_the_text_encoder():
    assert UniSRecConfig(text_config=BertConfig(hidden_size=24)).text_embedding_size == 24
    assert UniSRecConfig(text_config={"model_type": "bert", "hidden_size": 24}).text_embedding_size == 24
    with pytest.raises(
        StrictDataclassClassValidationError, match=r"`text_embedding_size` \(32\).*text encoder \(24\)"
    ):
        UniSRecConfig(text_config=BertConfig(hidden_size=24), text_embedding_size=32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_pooling": "middle"}, r"unknown text pooling 'middle'; expected one of cls, mean"),
        ({"text_pooling": "cls+"}, "unknown text pooling ''"),
        ({"text_layers": [{"type": "conv"}]}, "unknown text layer"),
        ({"text_layers": [{"type": "normalize", "p": 2}]}, "unknown text layer"),
        ({"text_layers": [DENSE | {"activation": "Module"}]}, "unknown activation 'Module'"),
        ({"text_layers": [DENSE | {"in_features": 24}]}, "does not take vectors of 16 numbers"),
        ({"text_layers": [{"type": "layer_norm", "size": 8}]}, "does not take vectors of 16 numbers"),
        ({"text_layers": [{"type": "truncate", "size": 17}]}, "does not take vectors of 16 numbers"),
        ({"text_prompt_tokens": -1}, "`text_prompt_tokens`"),
        ({"text_max_length": 0}, "`text_max_length`"),
    ],
)
def test_text_fields_that_mean_nothing_are_refused(fields, message):
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=message):
        UniSRecConfig(text_config=BertConfig(hidden_size=16), **fields)


def test_text_embedding_size_follows_pooling_and_layers():
    def size(**fields) -> int:
        return UniSRecConfig(text_config=BertConfig(hidden_size=16), **fields).text_embedding_size

    assert size(text_pooling="mean+max+cls") == 48
    assert size(text_layers=[DENSE, {"type": "normalize"}]) == 8
    assert size(text_layers=[DENSE, {"type": "truncate", "size": 4}]) == 4


def test_round_trip_without_text_encoder(make_config, tmp_path):
    config = make_config(text_pooling="mean", router_noise=None, num_items=7, temperature=0.1)
    config.save_pretrained(tmp_path)
    loaded = UniSRecConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.text_config is None
    assert loaded.router_noise is None


def test_round_trip_with_text_encoder(make_config, tmp_path):
    config = make_config(text_config=BertConfig(hidden_size=16, num_hidden_layers=1, vocab_size=50))
    config.save_pretrained(tmp_path)
    loaded = UniSRecConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.text_config, BertConfig)
    assert loaded.text_config.vocab_size == 50


def test_dict_of_text_config_is_left_as_it_was():
    text_config = {"model_type": "bert", "hidden_size": 16}
    UniSRecConfig(text_config=text_config)
    assert text_config == {"model_type": "bert", "hidden_size": 16}


@pytest.mark.parametrize("way", ["from_text_encoder", "attach", "config"])
def test_no_path_of_this_machine_in_config_json(text_encoder_dir, make_config, way, tmp_path):
    if way == "from_text_encoder":
        model = UniSRecModel.from_text_encoder(str(text_encoder_dir), hidden_size=8)
    elif way == "attach":
        model = UniSRecModel(make_config())
        model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir))
    else:
        text_config = AutoModel.from_pretrained(text_encoder_dir).config
        model = UniSRecModel(make_config(text_config=text_config))
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert json.loads(text)["text_config"]["model_type"] == "bert"
    assert str(text_encoder_dir.parent) not in text
