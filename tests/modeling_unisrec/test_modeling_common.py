"""What transformers asks of every model: attention, outputs, training."""

import copy
import inspect

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unisrec.configuration import UniSRecConfig
from unisrec.modeling_unisrec import UniSRecModel


HISTORIES = torch.tensor([[1, 2, 3, 4, 5, 6], [3, 3, 6, 0, 0, 0], [5, 0, 0, 0, 0, 0], [6, 1, 2, 5, 0, 0]])
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
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}


def next_item_loss(model, batch):
    output = model(**batch)
    return F.cross_entropy(model.score(output.sequence_embeds, output.item_embeds), torch.tensor([0, 1, 2, 3]))


# Attention


@pytest.mark.parametrize(
    ("choice", "ours", "of_text"),
    [
        ("sdpa", "sdpa", "sdpa"),
        ("eager", "eager", "eager"),
        ({"": "sdpa", "text_config": "eager"}, "sdpa", "eager"),
        ({"": "eager", "text_config": "sdpa"}, "eager", "sdpa"),
    ],
)
@torch.no_grad()
def test_attention_is_chosen_for_both_encoders(make_model, make_batch, choice, ours, of_text, tmp_path):
    model, batch = make_model(**SETTINGS["text"]), make_batch("text")
    expected = model(**batch)
    model.save_pretrained(tmp_path)
    loaded = UniSRecModel.from_pretrained(tmp_path, attn_implementation=choice)
    model.set_attn_implementation(choice)
    for each in (loaded, model):
        assert each.config._attn_implementation == ours
        assert each.text_encoder.config._attn_implementation == of_text
        output = each(**batch)
        torch.testing.assert_close(output.item_embeds, expected.item_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(output.sequence_embeds, expected.sequence_embeds, rtol=0, atol=1e-5)


@torch.no_grad()
def test_attention_of_the_user_is_called(make_model, make_batch, monkeypatch):
    calls = []

    def record(module, query, key, value, attention_mask, **options):
        calls.append((type(module).__name__, tuple(query.shape), options["scaling"]))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "recorded", record)
    model = make_model()
    model.attach_text_encoder(make_model(**SETTINGS["text"]).text_encoder)
    model.set_attn_implementation("recorded")
    model(**make_batch("text"))
    ours = ("UniSRecAttention", (4, 2, 6, 4), 4**-0.5)
    assert calls == [("BertSelfAttention", (6, 2, 5, 8), 8**-0.5), ours, ours]


@torch.no_grad()
def test_heads_of_the_default_size():
    model, text_embeds = UniSRecModel(UniSRecConfig()).eval(), torch.randn(6, 768)
    assert model.sequence_encoder.layers[0].self_attn.head_dim == 150
    states = {}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        states[attention] = model(item_index=HISTORIES, text_embeds=text_embeds).sequence_embeds
    torch.testing.assert_close(states["sdpa"], states["eager"], rtol=0, atol=1e-5)


# Outputs


def test_first_argument_is_the_main_input():
    assert list(inspect.signature(UniSRecModel.forward).parameters)[:2] == ["self", UniSRecModel.main_input_name]


@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_states_and_attentions_by_config_and_by_call(make_model, make_batch, setting):
    extras = {"output_hidden_states": True, "output_attentions": True}
    by_call = make_model(**SETTINGS[setting], attn_implementation="eager")
    by_config = make_model(**SETTINGS[setting], attn_implementation="eager", **extras)
    batch = make_batch(setting)
    plain, output, other = by_call(**batch), by_call(**batch, **extras), by_config(**batch)
    assert list(plain) == ["last_hidden_state", "sequence_embeds", "item_embeds"]
    assert list(other) == list(output) == [*plain, "hidden_states", "attentions"]
    assert len(output.hidden_states) == len(other.hidden_states) == 3  # none of the text encoder among them
    assert len(output.attentions) == len(other.attentions) == 2
    flat = by_config(**batch, return_dict=False)
    for name, value in zip(output, flat, strict=True):
        for left, right, third in zip(output[name], other[name], value, strict=True):
            assert torch.equal(left, right), name
            assert torch.equal(left, third), name


@torch.no_grad()
def test_text_encoder_that_prefers_tuples(make_model, make_batch):
    batch = make_batch("text")
    expected = make_model(**SETTINGS["text"])(**batch).sequence_embeds
    model = make_model(text_config={**TEXT_CONFIG, "return_dict": False})
    assert torch.equal(model(**batch).sequence_embeds, expected)


def test_gradients_reach_states_and_attentions(make_model, make_batch):
    model = make_model(attn_implementation="eager")
    output = model(**make_batch("inductive"), output_hidden_states=True, output_attentions=True)
    inside = [*output.hidden_states, *output.attentions]
    for tensor in inside:
        tensor.retain_grad()
    output.sequence_embeds.square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in inside)


@torch.no_grad()
def test_items_that_no_history_holds_change_no_state(make_model, make_batch):
    model, batch = make_model().double(), make_batch("inductive")
    text_embeds = batch["text_embeds"].double()
    longer = torch.cat([text_embeds, torch.randn(3, 16).double()])
    few, many = (model(item_index=HISTORIES, text_embeds=items) for items in (text_embeds, longer))
    torch.testing.assert_close(many.sequence_embeds, few.sequence_embeds, rtol=0, atol=1e-13)


# Training


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_weight_of_a_new_model_gets_a_gradient(make_config, make_batch, setting):
    model = UniSRecModel(make_config(**SETTINGS[setting])).train()
    next_item_loss(model, make_batch(setting)).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # BERT's pooler is not asked; a bias of the keys shifts all scores of a query alike, which a softmax does not see.
    assert all(name.startswith("text_encoder.pooler.") for name in unused)
    for name, parameter in model.named_parameters():
        if name not in unused and not name.endswith(("k_proj.bias", "key.bias")):
            assert parameter.grad.abs().max() > 1e-8, name


@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_evaluation_repeats_itself_and_training_repeats_with_its_seed(make_model, make_batch, setting):
    model, batch = make_model(**SETTINGS[setting]), make_batch(setting)
    assert torch.equal(model(**batch).sequence_embeds, model(**batch).sequence_embeds)
    model.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(**batch).sequence_embeds)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # the only name that 5.17 has
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_runs_each_layer_twice(make_model, make_batch, use_reentrant):
    text_config = {**TEXT_CONFIG, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain = make_model(text_config=text_config, **NO_DROPOUT).train()
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    batch, results = make_batch("text"), []
    for model in (plain, saving):
        calls = []
        (text_layer,), layers = model.text_encoder.encoder.layer, model.sequence_encoder.layers
        for part in (text_layer.intermediate, *(layer.mlp for layer in layers)):
            part.register_forward_hook(lambda part, inputs, output, calls=calls: calls.append(type(part).__name__))
        loss = next_item_loss(model, batch)
        loss.backward()
        results.append((loss, {name: parameter.grad for name, parameter in model.named_parameters()}, calls))
    (loss, gradients, once), (other_loss, other_gradients, twice) = results
    assert once == ["BertIntermediate", "UniSRecMLP", "UniSRecMLP"]
    assert sorted(twice) == sorted(2 * once)
    torch.testing.assert_close(other_loss, loss)
    for name, gradient in gradients.items():
        if gradient is None:
            assert other_gradients[name] is None
        else:
            torch.testing.assert_close(other_gradients[name], gradient, msg=name)


# Text vectors


@torch.no_grad()
def test_text_features_are_an_output_of_the_text_encoder(make_model):
    model = make_model(**SETTINGS["text"], text_pooling="mean", attn_implementation="eager")
    input_ids = torch.randint(1, 20, (3, 5))
    output = model.get_text_features(input_ids, output_hidden_states=True, output_attentions=True)
    assert (output.pooler_output.shape, output.last_hidden_state.shape) == ((3, 16), (3, 5, 16))
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(dim=1))
    assert (len(output.hidden_states), len(output.attentions)) == (2, 1)
    last, pooled = model.get_text_features(input_ids, return_dict=False)
    assert torch.equal(last, output.last_hidden_state)
    assert torch.equal(pooled, output.pooler_output)
    masked = model.get_text_features(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    assert torch.equal(masked.pooler_output, output.pooler_output)
    with pytest.raises(ValueError, match="has no text encoder"):
        make_model().get_text_features(input_ids)
