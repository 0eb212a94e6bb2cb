import copy
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, BertConfig, BertModel

from unisrec.modeling_unisrec import UniSRecModel
from unisrec.modeling_unisrec.modeling_unisrec import UniSRecAdaptor
from unisrec.modeling_unisrec.text_pooling import pool_tokens


HISTORIES = torch.tensor([[1, 2, 3, 4, 5, 6], [3, 3, 6, 0, 0, 0], [5, 0, 0, 0, 0, 0], [6, 1, 2, 5, 0, 0]])
LENGTHS = [6, 3, 1, 4]


@pytest.fixture
def text_embeds():
    return torch.randn(6, 16)


def equal_states(left, right, atol):
    """States at all real positions of `HISTORIES`."""
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(left[row, :length], right[row, :length], rtol=0, atol=atol)


# Pooling


def test_cls_pooling_takes_the_first_token():
    states = torch.randn(3, 5, 4)
    assert torch.equal(pool_tokens(states, torch.ones(3, 5, dtype=torch.long), "cls"), states[:, 0])


def test_mean_pooling_takes_the_real_tokens():
    states = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    expected = [sum(states[row, place] for place in range(count)) / count for row, count in enumerate([5, 2, 1])]
    torch.testing.assert_close(pool_tokens(states, mask, "mean"), torch.stack(expected))


# Adaptor


def loop_adaptor(adaptor, text_embeds, gate, dropped):
    """`v = sum_k g_k (x - b_k) W_k`, text by text and expert by expert."""
    rows = []
    for x, g in zip(dropped, gate, strict=True):
        row = 0
        for k in range(adaptor.bias.shape[0]):
            row = row + g[k] * ((x - adaptor.bias[k]) @ adaptor.weight[:, k])
        rows.append(row)
    return torch.stack(rows)


def loop_gate(logits):
    """Softmax row by row."""
    return torch.stack([torch.exp(row) / torch.exp(row).sum() for row in logits])


@pytest.fixture
def make_adaptor(make_model):
    def make(**fields) -> UniSRecAdaptor:
        return make_model(**fields).adaptor.double()

    return make


@pytest.mark.parametrize("training", [False, True])
def test_adaptor_and_its_gradients_equal_a_loop_over_experts(make_adaptor, text_embeds, training):
    adaptor = make_adaptor(adaptor_dropout=0.0, router_noise=None).train(training)
    x = text_embeds.double().requires_grad_()
    expected = loop_adaptor(adaptor, x, loop_gate(x @ adaptor.router), x)
    output = adaptor(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)

    weights = torch.randn(output.shape, dtype=torch.float64)
    inputs = [x, *adaptor.parameters()]
    slow = torch.autograd.grad((weights * expected).sum(), inputs)
    for gradient, expected in zip(torch.autograd.grad((weights * output).sum(), inputs), slow, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)
        assert gradient.any()


def test_adaptor_in_training_drops_parts_of_the_text_and_routes_with_noise(make_adaptor, text_embeds):
    adaptor = make_adaptor(adaptor_dropout=0.4, router_noise=0.3).train()
    x = text_embeds.double()
    torch.manual_seed(1)
    output = adaptor(x)
    torch.manual_seed(1)
    noise = torch.randn(6, 3, dtype=torch.float64)
    dropped = F.dropout(x, 0.4)
    scale = torch.log(1 + torch.exp(x @ adaptor.router_noise)) + 0.3
    gate = loop_gate(x @ adaptor.router + noise * scale)  # the router sees the whole text
    torch.testing.assert_close(output, loop_adaptor(adaptor, x, gate, dropped), rtol=0, atol=1e-12)
    assert not torch.equal(adaptor(x), output)


def test_router_has_no_noise_in_evaluation(make_adaptor, text_embeds):
    adaptor = make_adaptor(router_noise=0.3)
    x = text_embeds.double()
    torch.testing.assert_close(adaptor.gate(x), loop_gate(x @ adaptor.router), rtol=0, atol=1e-12)
    assert torch.equal(adaptor(x), adaptor(x))


@pytest.mark.parametrize("training", [False, True])
def test_gate_sums_to_one(make_adaptor, text_embeds, training):
    gate = make_adaptor().train(training).gate(text_embeds.double())
    torch.testing.assert_close(gate.sum(-1), torch.ones(6, dtype=torch.float64))
    assert (gate > 0).all()


def test_new_router_is_uniform(make_config, text_embeds):
    model = UniSRecModel(make_config())
    assert torch.equal(model.adaptor.eval().gate(text_embeds), torch.full((6, 3), 1 / 3))
    assert not model.adaptor.bias.any()
    assert not model.adaptor.router_noise.any()


def test_new_weights_have_the_spread_of_the_config(make_config):
    model = UniSRecModel(make_config(text_embedding_size=400, hidden_size=32, initializer_range=0.1))
    assert model.adaptor.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert model.sequence_encoder.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(0.1, rel=0.1)


# Sequence encoder


def loop_layer(layer, states, num_heads):
    """One post-norm layer in plain tensors for one history without padding."""
    length, size = states.shape
    head_size = size // num_heads

    def norm(values, module):
        centred = values - values.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-12) * module.weight + module.bias

    def linear(values, module):
        return values @ module.weight.T + module.bias

    attention = layer.self_attn
    query, key, value = (linear(states, part) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    mixed = torch.zeros_like(states)
    for head in range(num_heads):
        part = slice(head * head_size, (head + 1) * head_size)
        for place in range(length):
            weights = torch.stack(
                [
                    torch.exp(query[place, part] @ key[earlier, part] / math.sqrt(head_size))
                    for earlier in range(place + 1)
                ]
            )
            weights = weights / weights.sum()
            mixed[place, part] = sum(weights[earlier] * value[earlier, part] for earlier in range(place + 1))
    states = norm(states + linear(mixed, attention.o_proj), layer.self_attn_norm)
    hidden = linear(states, layer.mlp.fc1)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return norm(states + linear(hidden, layer.mlp.fc2), layer.mlp_norm)


@torch.no_grad()
def test_sequence_encoder_equals_hand_written_post_norm_layers(make_model, text_embeds):
    model = make_model().double()
    encoder = model.sequence_encoder
    output = model(item_index=HISTORIES, text_embeds=text_embeds.double())
    items = model.adaptor(text_embeds.double())
    for row, length in enumerate(LENGTHS):
        states = torch.stack(
            [items[HISTORIES[row, place] - 1] + encoder.position_embedding.weight[place] for place in range(length)]
        )
        states = F.layer_norm(states, (8,), encoder.layer_norm.weight, encoder.layer_norm.bias, 1e-12)
        for layer in encoder.layers:
            states = loop_layer(layer, states, num_heads=2)
        torch.testing.assert_close(output.last_hidden_state[row, :length], states, rtol=0, atol=1e-12)
        torch.testing.assert_close(output.sequence_embeds[row], states[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_one_causal_pass_equals_every_prefix_on_its_own(make_model, text_embeds, dtype, atol):
    model = make_model().to(dtype)
    text_embeds = text_embeds.to(dtype)
    states = model(item_index=HISTORIES, text_embeds=text_embeds).last_hidden_state
    for row, length in enumerate(LENGTHS):
        for end in range(1, length + 1):
            prefix = model(item_index=HISTORIES[row : row + 1, :end], text_embeds=text_embeds).sequence_embeds[0]
            torch.testing.assert_close(states[row, end - 1], prefix, rtol=0, atol=atol)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_longer_padding_changes_nothing(make_model, text_embeds, attention):
    model = make_model().double()
    model.set_attn_implementation(attention)
    short = model(item_index=HISTORIES, text_embeds=text_embeds.double())
    long = model(item_index=F.pad(HISTORIES, (0, 4)), text_embeds=text_embeds.double())
    assert long.last_hidden_state.shape == (4, 10, 8)
    atol = 1e-6 if attention == "eager" else 1e-14  # its softmax is in float32, rounded differently by different CPUs
    equal_states(long.last_hidden_state, short.last_hidden_state, atol)
    torch.testing.assert_close(long.sequence_embeds, short.sequence_embeds, rtol=0, atol=atol)


def test_no_position_sees_a_later_item(make_model, text_embeds):
    model = make_model().double()
    items = model.adaptor(text_embeds.double()).detach().requires_grad_()
    states = model._encode_histories(torch.arange(1, 7)[None], items)
    for place in range(6):
        (gradient,) = torch.autograd.grad(states[0, place].square().sum(), items, retain_graph=True)
        assert not gradient[place + 1 :].any()
        assert gradient[: place + 1].any(-1).all()


@torch.no_grad()
def test_eager_attention_equals_sdpa_and_shows_its_probabilities(make_model, text_embeds):
    model = make_model()
    sdpa = model(item_index=HISTORIES, text_embeds=text_embeds)
    model.set_attn_implementation("eager")
    eager = model(item_index=HISTORIES, text_embeds=text_embeds, output_attentions=True, output_hidden_states=True)
    equal_states(eager.last_hidden_state, sdpa.last_hidden_state, 1e-5)
    assert [states.shape for states in eager.hidden_states] == [(4, 6, 8)] * 3
    assert torch.equal(eager.hidden_states[-1], eager.last_hidden_state)
    assert [probabilities.shape for probabilities in eager.attentions] == [(4, 2, 6, 6)] * 2
    for probabilities in eager.attentions:
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(4, 2, 6))
        assert not probabilities.triu(1).any()
    assert sdpa.attentions is None
    assert sdpa.hidden_states is None


@torch.no_grad()
def test_hidden_states_begin_with_the_input_of_the_first_layer(make_model, text_embeds):
    model = make_model()
    output = model(item_index=HISTORIES, text_embeds=text_embeds, output_hidden_states=True)
    states = output.hidden_states[0]
    for layer, expected in zip(model.sequence_encoder.layers, output.hidden_states[1:], strict=True):
        states = layer(states, None)
        torch.testing.assert_close(states, expected)


@torch.no_grad()
def test_output_as_tuple(make_model, text_embeds):
    model = make_model()
    output = model(item_index=HISTORIES, text_embeds=text_embeds)
    states, sequences, items = model(item_index=HISTORIES, text_embeds=text_embeds, return_dict=False)
    assert torch.equal(states, output.last_hidden_state)
    assert torch.equal(sequences, output.sequence_embeds)
    assert torch.equal(items, output.item_embeds)


def test_history_longer_than_the_model_is_refused(make_model, text_embeds):
    with pytest.raises(ValueError, match=r"history of 11 items is longer than `max_position_embeddings` \(10\)"):
        make_model()(item_index=torch.ones(1, 11, dtype=torch.long), text_embeds=text_embeds)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_gives_equal_gradients(make_model, text_embeds):
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()  # the oldest transformers we support knows no other name
        torch.manual_seed(1)
        model(item_index=HISTORIES, text_embeds=text_embeds).last_hidden_state.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(layer.gradient_checkpointing for layer in model.sequence_encoder.layers)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# Batches: distinct items + index matrix


@torch.no_grad()
def test_order_of_the_distinct_items_does_not_matter(make_model, text_embeds):
    model = make_model(num_items=6).double()
    text_embeds, id_rows = text_embeds.double(), torch.tensor([3, 1, 0, 6, 2, 5])
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    new_place = torch.zeros(7, dtype=torch.long)
    new_place[order + 1] = torch.arange(1, 7)
    output = model(item_index=HISTORIES, text_embeds=text_embeds, id_rows=id_rows)
    other = model(item_index=new_place[HISTORIES], text_embeds=text_embeds[order], id_rows=id_rows[order])
    torch.testing.assert_close(other.sequence_embeds, output.sequence_embeds, rtol=0, atol=1e-13)
    torch.testing.assert_close(other.item_embeds, output.item_embeds[order], rtol=0, atol=1e-13)


@torch.no_grad()
def test_stages_alone_equal_forward(make_model, text_embeds):
    model = make_model(num_items=6)
    id_rows = torch.arange(6)
    output = model(item_index=HISTORIES, text_embeds=text_embeds, id_rows=id_rows)
    items = model.get_item_features(text_embeds, id_rows=id_rows)
    assert torch.equal(items, output.item_embeds)
    assert torch.equal(model.get_sequence_features(HISTORIES, items), output.sequence_embeds)


@torch.no_grad()
def test_score_is_cosine_over_temperature(make_model):
    model = make_model(temperature=0.2)
    sequences, items = torch.randn(3, 8), torch.randn(5, 8)
    scores = model.score(sequences, items)
    for row, sequence in enumerate(sequences):
        for column, item in enumerate(items):
            cosine = (sequence @ item) / (sequence.norm() * item.norm())
            assert scores[row, column].item() == pytest.approx(cosine.item() / 0.2, abs=1e-5)


def test_missing_items_are_named(make_model):
    with pytest.raises(ValueError, match="Items are missing: give `text_embeds`, or `input_ids`"):
        make_model()(item_index=HISTORIES)


# Text encoder


@pytest.fixture
def text_model(text_encoder_dir):
    return UniSRecModel.from_text_encoder(str(text_encoder_dir), hidden_size=8, text_pooling="mean").eval()


@pytest.fixture
def tokens(tokenizer):
    texts = ["red pen", "blue steel kettle 2 l", "tent", "large camping tent for kids", "lamp", "pens"]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


@torch.no_grad()
def test_tokens_equal_their_text_vectors(text_model, text_encoder, tokens):
    features = text_model.get_text_features(**tokens).pooler_output
    states = text_encoder(**tokens).last_hidden_state  # the encoder has kept its weights
    torch.testing.assert_close(features, pool_tokens(states, tokens["attention_mask"], "mean"))
    by_tokens = text_model(item_index=HISTORIES, **tokens)
    by_vectors = text_model(item_index=HISTORIES, text_embeds=features)
    assert torch.equal(by_tokens.item_embeds, by_vectors.item_embeds)
    assert torch.equal(by_tokens.sequence_embeds, by_vectors.sequence_embeds)


@torch.no_grad()
def test_text_vectors_come_before_tokens(text_model, tokens):
    features = text_model.get_text_features(**tokens).pooler_output
    rest = {name: tensor[2:] for name, tensor in tokens.items()}
    mixed = text_model(item_index=HISTORIES, text_embeds=features[:2], **rest)
    alone = text_model(item_index=HISTORIES, text_embeds=features)
    torch.testing.assert_close(mixed.item_embeds, alone.item_embeds)
    torch.testing.assert_close(mixed.sequence_embeds, alone.sequence_embeds)


def test_tokens_without_text_encoder_are_refused(make_model, tokens):
    with pytest.raises(ValueError, match=r"no text encoder .* give items as `text_embeds`, or .*attach_text_encoder"):
        make_model()(item_index=HISTORIES, **tokens)


def test_attached_text_encoder_is_frozen_and_the_rest_is_not(text_model):
    frozen = {name for name, parameter in text_model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in text_model.named_parameters() if name.startswith("text_encoder.")}


def test_text_encoder_of_another_width_is_refused(make_model):
    model = make_model()
    encoder = BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=9))
    with pytest.raises(ValueError, match="gives vectors of 24 numbers, the model takes 16"):
        model.attach_text_encoder(encoder)
    assert model.text_encoder is None
    assert model.config.text_config is None


def test_text_encoder_takes_the_dtype_of_the_model(make_model, text_encoder, tokens):
    model = make_model()
    model.attach_text_encoder(text_encoder.to(torch.bfloat16))
    assert model(item_index=HISTORIES, **tokens).sequence_embeds.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_detached_text_encoder_comes_back(text_model, tokens):
    before = text_model(item_index=HISTORIES, **tokens).sequence_embeds
    encoder = text_model.detach_text_encoder()
    assert text_model.text_encoder is None
    assert text_model.config.text_config is None
    assert not [name for name in text_model.state_dict() if name.startswith("text_encoder.")]
    text_model.attach_text_encoder(encoder)
    assert torch.equal(text_model(item_index=HISTORIES, **tokens).sequence_embeds, before)


# Saving and loading


@pytest.mark.parametrize("sizes", [("1GB", "4KB"), ("4KB", "1GB")])
def test_weights_of_an_earlier_save_are_not_loaded(make_model, sizes, tmp_path):
    make_model().save_pretrained(tmp_path, max_shard_size=sizes[0])
    model = make_model()
    with torch.no_grad():
        model.adaptor.weight.add_(1)
    model.save_pretrained(tmp_path, max_shard_size=sizes[1])
    assert torch.equal(UniSRecModel.from_pretrained(tmp_path).adaptor.weight, model.adaptor.weight)
    assert (tmp_path / "model.safetensors").is_file() != (tmp_path / "model.safetensors.index.json").is_file()


@pytest.mark.parametrize("shard_size", ["1GB", "4KB"])
@torch.no_grad()
def test_save_and_load_give_equal_bits(text_model, tokens, shard_size, tmp_path):
    text_model.reset_item_embedding(6)
    text_model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 3) == (shard_size == "4KB")
    loaded, report = UniSRecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert not loaded.training
    weights = loaded.state_dict()
    assert weights.keys() == text_model.state_dict().keys()
    for name, tensor in text_model.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    batch = {"item_index": HISTORIES, "id_rows": torch.arange(6), **tokens}
    assert torch.equal(loaded(**batch).sequence_embeds, text_model(**batch).sequence_embeds)


@torch.no_grad()
def test_full_checkpoint_without_its_text_encoder(text_model, text_embeds, tmp_path):
    text_model.save_pretrained(tmp_path)
    loaded, report = UniSRecModel.from_pretrained(tmp_path, text_config=None, output_loading_info=True)
    assert not any(report.values())
    assert loaded.text_encoder is None
    assert loaded.config.text_embedding_size == 16
    batch = {"item_index": HISTORIES, "text_embeds": text_embeds}
    assert torch.equal(loaded(**batch).sequence_embeds, text_model(**batch).sequence_embeds)

    loaded.save_pretrained(tmp_path / "small")
    again = UniSRecModel.from_pretrained(tmp_path / "small")
    assert torch.equal(again(**batch).sequence_embeds, text_model(**batch).sequence_embeds)


@torch.no_grad()
def test_checkpoint_with_encoder_attached_after_training(make_model, text_encoder, tokens, tmp_path):
    model = make_model()
    model.attach_text_encoder(text_encoder)
    model.save_pretrained(tmp_path)
    loaded = UniSRecModel.from_pretrained(tmp_path)
    batch = {"item_index": HISTORIES, **tokens}
    assert torch.equal(loaded(**batch).sequence_embeds, model(**batch).sequence_embeds)


def test_missing_weights_are_initialised_and_named(make_model, tmp_path):
    # A checkpoint of a router without noise, opened with it: the new weights must not be whatever memory held.
    make_model(router_noise=None).save_pretrained(tmp_path)
    loaded, report = UniSRecModel.from_pretrained(tmp_path, router_noise=0.01, output_loading_info=True)
    assert list(report["missing_keys"]) == ["adaptor.router_noise"]
    assert not loaded.adaptor.router_noise.any()


def test_auto_model_knows_the_checkpoint(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is UniSRecModel


def test_deepcopy_is_equal_and_apart(make_model, text_embeds):
    model = make_model(num_items=6)
    batch = {"item_index": HISTORIES, "text_embeds": text_embeds, "id_rows": torch.arange(1, 7)}
    twin = copy.deepcopy(model)
    before = model(**batch).sequence_embeds
    assert torch.equal(twin(**batch).sequence_embeds, before)
    twin.reset_item_embedding(None)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(**batch).sequence_embeds, before)
    assert model.config.num_items == 6


# Transfer


@torch.no_grad()
def test_id_embedding_is_added_to_the_text(make_model, text_embeds):
    model = make_model(num_items=9)
    id_rows = torch.tensor([9, 1, 0, 4, 4, 2])
    items = model.get_item_features(text_embeds, id_rows=id_rows)
    text_only = model.adaptor(text_embeds)
    for row, item_id in enumerate(id_rows.tolist()):
        torch.testing.assert_close(items[row], text_only[row] + model.item_embedding.weight[item_id])
    assert torch.equal(items[2], text_only[2])  # row 0: an item of the text alone


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_projected_vectors_are_those_that_are_compared(make_model, similarity):
    model, sequences, items = make_model(similarity=similarity, temperature=0.1), torch.randn(3, 8), torch.randn(5, 8)
    projected = model.project_sequences(sequences), model.project_items(items)
    assert torch.equal(projected[0] @ projected[1].T, model.similarity(sequences, items))
    if similarity == "dot":
        assert torch.equal(model.score(sequences, items), sequences @ items.T)
    else:
        torch.testing.assert_close(projected[0].norm(dim=-1), torch.ones(3))
        expected = torch.cosine_similarity(sequences[:, None], items, dim=-1) / 0.1
        torch.testing.assert_close(model.score(sequences, items), expected)


def test_transductive_model_needs_id_rows(make_model, text_embeds):
    with pytest.raises(ValueError, match=r"transductive model .* needs `id_rows`, 0 for unknown items"):
        make_model(num_items=6)(item_index=HISTORIES, text_embeds=text_embeds)


@torch.no_grad()
def test_inductive_model_leaves_id_rows_unread(make_model, text_embeds):
    model = make_model()
    with_ids = model(item_index=HISTORIES, text_embeds=text_embeds, id_rows=torch.full((6,), 99))
    assert torch.equal(with_ids.sequence_embeds, model(item_index=HISTORIES, text_embeds=text_embeds).sequence_embeds)


@torch.no_grad()
def test_reset_item_embedding_to_ids_and_back(make_model, text_embeds, tmp_path):
    model = make_model()
    inductive = model(item_index=HISTORIES, text_embeds=text_embeds).sequence_embeds
    model.reset_item_embedding(7)
    assert model.item_embedding.weight.shape == (8, 8)
    assert model.item_embedding.weight.requires_grad
    assert not model.item_embedding.weight[0].any()
    assert model.item_embedding.weight[1:].any(-1).all()
    assert model.item_embedding.weight[1:].std().item() == pytest.approx(0.02, rel=0.3)
    batch = {"item_index": HISTORIES, "text_embeds": text_embeds, "id_rows": torch.arange(1, 7)}
    transductive = model(**batch).sequence_embeds
    assert not torch.equal(transductive, inductive)

    model.save_pretrained(tmp_path)
    loaded = UniSRecModel.from_pretrained(tmp_path)
    assert loaded.config.num_items == 7
    assert torch.equal(loaded(**batch).sequence_embeds, transductive)

    loaded.reset_item_embedding(None)
    assert loaded.config.num_items is None
    assert torch.equal(loaded(item_index=HISTORIES, text_embeds=text_embeds).sequence_embeds, inductive)
    loaded.save_pretrained(tmp_path)
    assert UniSRecModel.from_pretrained(tmp_path).item_embedding is None


def test_padding_row_of_the_id_embedding_is_never_trained(make_model, text_embeds):
    model = make_model()
    model.reset_item_embedding(7)
    batch = {"item_index": HISTORIES, "text_embeds": text_embeds, "id_rows": torch.tensor([0, 0, 1, 2, 3, 4])}
    model(**batch).last_hidden_state.square().sum().backward()
    assert not model.item_embedding.weight.grad[0].any()
    assert model.item_embedding.weight.grad[1].any()


@pytest.mark.parametrize("num_items", [0, -3])
def test_empty_catalogue_is_refused(make_model, num_items):
    with pytest.raises(ValueError, match=rf"`num_items` \({num_items}\) must be at least 1"):
        make_model().reset_item_embedding(num_items)


def test_freeze_sequence_encoder_leaves_adaptor_norm_and_ids(make_model):
    model = make_model(num_items=6)
    model.freeze_sequence_encoder()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {
        "adaptor.weight",
        "adaptor.bias",
        "adaptor.router",
        "adaptor.router_noise",
        "item_embedding.weight",
        "sequence_encoder.layer_norm.weight",
        "sequence_encoder.layer_norm.bias",
    }
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "sequence_encoder.position_embedding.weight" in frozen
    assert all(name.startswith(("sequence_encoder.position", "sequence_encoder.layers.")) for name in frozen)
