"""Gradients where dropout or an empty text leaves nothing of a vector."""

import torch
from torch.nn import functional as F

from unisrec.modeling_unisrec import UniSRecModel
from unisrec.modeling_unisrec.text_neighbours import unit_vectors


def test_unit_vectors_are_those_of_normalize_with_a_finite_gradient_at_zero():
    vectors = torch.randn(5, 8)
    vectors[2] = 0
    assert torch.equal(unit_vectors(vectors), F.normalize(vectors, dim=-1))
    vectors.requires_grad_()
    unit_vectors(vectors).sum().backward()
    assert torch.equal(vectors.grad[2], torch.ones(8))


def test_state_that_dropout_leaves_nothing_of_gets_no_exploding_gradient(make_config):
    torch.manual_seed(0)
    model = UniSRecModel(make_config(hidden_size=4)).train()  # each state vanishes once in 16 times
    items = torch.randn(40, 16)
    histories = torch.randint(1, 41, (400, 10))
    output = model(item_index=histories, text_embeds=items)
    unit_vectors(output.last_hidden_state).square().sum(-1).sum().backward()
    (unit_vectors(model(item_index=histories, text_embeds=items).last_hidden_state)[..., 0]).sum().backward()
    assert max(weight.grad.abs().max() for weight in model.parameters() if weight.grad is not None) < 1e6
