"""The model under `torch.compile` and `torch.export`, and attention that compiles its own kernel."""

import shutil

import pytest
import torch
from torch import nn
from torch.export import Dim


TEXT_CONFIG = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
SETTINGS = {"inductive": {}, "transductive": {"num_items": 40}, "text": {"text_config": TEXT_CONFIG}}
# Histories, their length, items, tokens. No two sizes of the first are equal, or a compiler would take them for one.
SIZES = [(4, 6, 7, 5), (3, 9, 5, 8), (2, 2, 11, 3), (5, 10, 5, 9)]
BATCH, LENGTH, ITEMS, TOKENS = Dim("batch"), Dim("length", max=10), Dim("items"), Dim("tokens", max=32)
DYNAMIC = {
    "item_index": {0: BATCH, 1: LENGTH},
    "text_embeds": {0: ITEMS},
    "id_rows": {0: ITEMS},
    "input_ids": {0: ITEMS, 1: TOKENS},
    "attention_mask": {0: ITEMS, 1: TOKENS},
}
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="kernels for the CPU need a C++ compiler")


@pytest.fixture
def make_batch():
    """Makes the arguments of `forward` for one of `SETTINGS` and one of `SIZES`."""

    def make(setting, size):
        histories, length, items, tokens = size
        real = torch.arange(length) < torch.randint(1, length + 1, (histories, 1))
        batch = {"item_index": torch.randint(1, items + 1, (histories, length)) * real}
        if setting == "text":
            batch["input_ids"] = torch.randint(1, 20, (items, tokens))
            batch["attention_mask"] = (torch.arange(tokens) < torch.randint(1, tokens, (items, 1))).long()
        else:
            batch["text_embeds"] = torch.randn(items, 16)
        if setting == "transductive":
            batch["id_rows"] = torch.randint(0, 41, (items,))
        return batch

    return make


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def equal_outputs(output, expected):
    assert list(output) == list(expected) == ["last_hidden_state", "sequence_embeds", "item_embeds"]
    for name in expected:
        torch.testing.assert_close(output[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "attention"), [("inductive", "eager"), ("transductive", "sdpa"), ("text", "sdpa")]
)
@torch.no_grad()
def test_one_graph_serves_all_sizes(make_model, make_batch, setting, attention):
    model = make_model(**SETTINGS[setting], attn_implementation=attention)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    first, *others = SIZES
    equal_outputs(compiled(**(batch := make_batch(setting, first))), model(**batch))
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in others:
            equal_outputs(compiled(**(batch := make_batch(setting, size))), model(**batch))


def test_one_graph_serves_training(make_model, make_batch):
    no_dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "adaptor_dropout": 0.0, "router_noise": None}
    model = make_model(num_hidden_layers=1, **no_dropout).train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for size, stance in zip(SIZES[:2], ["default", "fail_on_recompile"], strict=True):
        batch, gradients = make_batch("inductive", size), []
        with torch.compiler.set_stance(stance):
            for each in (model, compiled):
                loss = each(**batch).sequence_embeds.square().sum()
                gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        for gradient, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.rare
@needs_compiler
@torch.no_grad()
def test_inductor_gives_equal_outputs(make_model, make_batch):
    model = make_model(**SETTINGS["text"])
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for size in SIZES:
        equal_outputs(compiled(**(batch := make_batch("text", size))), model(**batch))


@pytest.mark.rare
@needs_compiler
@torch.no_grad()
def test_flex_attention_equals_sdpa(make_model, make_batch):
    model, batch = make_model(**SETTINGS["text"]), make_batch("text", SIZES[0])
    expected = model(**batch)
    model.set_attn_implementation("flex_attention")
    output = model(**batch)
    torch.testing.assert_close(output.item_embeds, expected.item_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.sequence_embeds, expected.sequence_embeds, rtol=0, atol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_export_of_the_model(make_model, make_batch, setting):
    model, batch = make_model(**SETTINGS[setting]), make_batch(setting, SIZES[0])
    shapes = {name: DYNAMIC[name] for name in batch}
    exported = torch.export.export(model, (), batch, dynamic_shapes=shapes, strict=False).module()
    for size in [*SIZES, (1, 1, 1, 4)]:
        equal_outputs(exported(**(batch := make_batch(setting, size))), model(**batch))


class Items(nn.Module):
    """The first stage alone, as a service for new products would run it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, text_embeds, id_rows):
        return self.model.get_item_features(text_embeds, id_rows=id_rows)


class Histories(nn.Module):
    """The second stage alone, over ready item vectors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, item_index, item_embeds):
        return self.model.get_sequence_features(item_index, item_embeds)


@torch.no_grad()
def test_export_of_the_two_stages(make_model, make_batch):
    model, batch = make_model(**SETTINGS["transductive"]), make_batch("transductive", SIZES[0])
    shapes = {"text_embeds": DYNAMIC["text_embeds"], "id_rows": DYNAMIC["id_rows"]}
    arguments = tuple(batch[name] for name in shapes)
    items = torch.export.export(Items(model), arguments, dynamic_shapes=shapes, strict=False).module()
    shapes = {"item_index": DYNAMIC["item_index"], "item_embeds": {0: ITEMS}}
    arguments = (batch["item_index"], items(*arguments))
    histories = torch.export.export(Histories(model), arguments, dynamic_shapes=shapes, strict=False).module()
    for size in [*SIZES, (1, 1, 1, 4)]:
        batch = make_batch("transductive", size)
        expected = model(**batch)
        item_embeds = items(batch["text_embeds"], batch["id_rows"])
        torch.testing.assert_close(item_embeds, expected.item_embeds, rtol=0, atol=1e-5)
        sequence_embeds = histories(batch["item_index"], item_embeds)
        torch.testing.assert_close(sequence_embeds, expected.sequence_embeds, rtol=0, atol=1e-5)
