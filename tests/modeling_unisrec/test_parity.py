"""The released UniSRec, written down from its formulas, against our model and trainers on the same converted weights.

The reference knows nothing of ours: every prefix is a row of its own, padded on the right to the full length, the experts
run one after the other, masks are added (-10000), and losses are quotients of exponentials.
"""

import math

import numpy as np
import pytest
import torch

from unisrec.evaluation import RankingDataset
from unisrec.modeling_unisrec.convert_official import convert_official_checkpoint, to_our_weights
from unisrec.trainer import (
    FinetuneCollator,
    PretrainCollator,
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecPretrainArguments,
    UniSRecPretrainTrainer,
    WindowDataset,
)
from unisrec.trainer.base_trainer import UniSRecTrainer
from unisrec.trainer.training_args import UniSRecTrainingArguments


LENGTH, NUM_ITEMS = 8, 64
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
STAGES = pytest.mark.parametrize("transductive", [False, True], ids=["inductive", "transductive"])


# The reference


def adapt(w, x, noise=None):
    """Text vectors (..., D) -> item vectors (..., H)."""
    logits = x @ w["moe_adaptor.w_gate"]
    if noise is not None:
        logits = logits + noise * (torch.log1p(torch.exp(x @ w["moe_adaptor.w_noise"])) + 1e-2)
    gate = logits.exp() / logits.exp().sum(-1, keepdim=True)
    experts = [
        (x - w[f"moe_adaptor.experts.{k}.bias"]) @ w[f"moe_adaptor.experts.{k}.lin.weight"].T
        for k in range(gate.shape[-1])
    ]
    return sum(gate[..., k : k + 1] * expert for k, expert in enumerate(experts))


def norm(w, name, x):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def encode(w, vectors, lengths, num_heads=2, masked=-10000.0):
    """Item vectors of padded histories (N, L, H) -> state at the last item of each, (N, H)."""
    places = torch.arange(vectors.shape[1])
    seen = (places[None, None, :] < lengths[:, None, None]) & (places[None, None, :] <= places[None, :, None])
    mask = torch.where(seen, 0.0, masked)
    hidden = norm(w, "LayerNorm", vectors + w["position_embedding.weight"])
    for layer in range(2):
        attention = f"trm_encoder.layer.{layer}.multi_head_attention"
        forward = f"trm_encoder.layer.{layer}.feed_forward"
        query, key, value = (linear(w, f"{attention}.{name}", hidden) for name in ("query", "key", "value"))
        size = query.shape[-1] // num_heads
        context = []
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(size) + mask
            context.append(scores.softmax(-1) @ value[..., part])
        hidden = norm(w, f"{attention}.LayerNorm", linear(w, f"{attention}.dense", torch.cat(context, -1)) + hidden)
        inner = linear(w, f"{forward}.dense_1", hidden)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        hidden = norm(w, f"{forward}.LayerNorm", linear(w, f"{forward}.dense_2", inner) + hidden)
    return hidden[torch.arange(len(hidden)), lengths - 1]


def unit(x):
    return x / (x * x).sum(-1, keepdim=True).sqrt()


def pad(prefixes, length=LENGTH):
    """Lists of numbers, of which 0 is padding -> matrix (N, L), lengths (N,)."""
    rows = [list(prefix) + [0] * (length - len(prefix)) for prefix in prefixes]
    return torch.tensor(rows), torch.tensor([len(prefix) for prefix in prefixes])


def catalogue_cosines(w, prefixes, length=LENGTH, noise=None, **options):
    """Cosines of histories (lists of item numbers from 1) with all items of a fine-tuned model, padding first."""
    numbers, lengths = pad(prefixes, length)
    items = adapt(w, w["plm_embedding.weight"].detach(), noise)
    if "item_embedding.weight" in w:
        items = items + w["item_embedding.weight"]
    return unit(encode(w, items[numbers], lengths, **options)) @ unit(items).T


def contrastive(queries, positives, candidates, duplicates, mask):
    """One of the two contrastive losses: duplicates get a logit of 0 (official code) or are left out."""
    positive = torch.exp((queries * positives).sum(1) / 0.07)
    logits = queries @ candidates.T / 0.07
    if mask == "official":
        terms = torch.where(duplicates, torch.zeros_like(logits), logits).exp()
    else:
        terms = logits.exp() * ~duplicates
    return -torch.log(positive / terms.sum(1)).mean()


# Ours beside it


@pytest.fixture
def make_pair(official_weights, save_official, tmp_path):
    """Makes official weights that record gradients, and our model converted from the file that holds them."""

    def make(settings=None, **sizes):
        weights = official_weights(**sizes)
        conversion = convert_official_checkpoint(save_official(tmp_path / "official.pth", weights, settings))
        assert conversion.model.dtype == weights["LayerNorm.weight"].dtype
        return {name: weight.clone().requires_grad_() for name, weight in weights.items()}, conversion.model

    return make


@pytest.fixture
def histories():
    """Histories of a few items, so that many have the same next one; none is longer than eight inputs and a target."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 12, size=size).tolist() for size in (9, 2, 5, 9, 3, 7, 4, 8)]


@pytest.fixture
def long_history():
    """Of which a row of the official code sees the latest eight inputs."""
    return np.random.default_rng(5).integers(0, 12, size=13).tolist()


def prefix_rows(histories):
    """The training rows of the official code: every prefix with its next item, the longest ones first."""
    return [(history[:end][-LENGTH:], history[end]) for history in histories for end in range(len(history) - 1, 0, -1)]


def catalogue(w):
    """Text vectors of a fine-tuned model as ours takes them, without padding."""
    return w["plm_embedding.weight"][1:].detach()


def assert_close(ours, official, dtype):
    torch.testing.assert_close(ours.detach(), official.detach().to(ours.dtype), rtol=0, atol=TOLERANCES[dtype])


def assert_equal_gradients(model, w, dtype):
    """Of every weight of the model, none of them missing or zero."""
    official = to_our_weights({name: weight.grad for name, weight in w.items()}, model.config)
    assert set(official) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        difference = (parameter.grad - official[name]).abs().max().item()
        assert difference <= TOLERANCES[dtype], (name, difference)


@DTYPES
@STAGES
def test_scores_of_prefix_rows(make_pair, make_split, histories, transductive, dtype):
    w, model = make_pair(num_items=NUM_ITEMS, transductive=transductive, dtype=dtype)
    windows = WindowDataset([make_split(histories)], [NUM_ITEMS], LENGTH)
    batch = FinetuneCollator()([windows[place] for place in range(len(histories))])
    id_rows = torch.arange(1, NUM_ITEMS + 1)
    output = model(item_index=batch["item_index"], text_embeds=catalogue(w), id_rows=id_rows)

    # The last position of each history: what both rank by.
    whole = [[item + 1 for item in history[:-1]] for history in histories]
    scores = model.score(output.sequence_embeds, output.item_embeds)
    assert_close(scores * 0.07, catalogue_cosines(w, whole)[:, 1:], dtype)
    # Every position of one pass: every prefix as a row of its own.
    prefixes = [prefix[:end] for prefix in whole for end in range(1, len(prefix) + 1)]
    states = output.last_hidden_state.flatten(0, 1)[batch["query_index"]]
    assert_close(model.score(states, output.item_embeds), catalogue_cosines(w, prefixes)[:, 1:] / 0.07, dtype)


def test_added_mask_is_that_of_infinity(make_pair, histories):
    w, _ = make_pair(num_items=NUM_ITEMS)
    rows = [[item + 1 for item in history[:LENGTH]] for history in histories]
    assert torch.equal(catalogue_cosines(w, rows), catalogue_cosines(w, rows, masked=-math.inf))


def test_scores_at_the_official_sizes(make_pair):
    sizes = {"text": 768, "hidden": 300, "inner": 256, "experts": 8, "length": 50}
    w, model = make_pair(num_items=100, transductive=True, **sizes)
    assert model.num_parameters() == 2_910_344 + 101 * 300
    rows = [torch.randint(1, 101, (length,)).tolist() for length in (50, 7)]
    item_index, _ = pad(rows, 50)
    with torch.no_grad():
        output = model(item_index=item_index, text_embeds=catalogue(w), id_rows=torch.arange(1, 101))
        scores = model.score(output.sequence_embeds, output.item_embeds)
        assert_close(scores * 0.07, catalogue_cosines(w, rows, 50)[:, 1:], torch.float32)
        prefixes = [row[:end] for row in rows for end in range(1, len(row) + 1)]
        states = torch.cat([output.last_hidden_state[0], output.last_hidden_state[1, :7]])
        logits = catalogue_cosines(w, prefixes, 50)[:, 1:] / 0.07
        assert_close(model.score(states, output.item_embeds), logits, torch.float32)


@DTYPES
@pytest.mark.parametrize("negatives", ["augmented", "original"])
@pytest.mark.parametrize("duplicate_mask", ["exclude", "official"])
@pytest.mark.parametrize("rows", ["official", "ours"])
def test_pretraining_loss_and_gradients(
    make_pair,
    make_split,
    histories,
    long_history,
    training_options,
    tmp_path,
    rows,
    duplicate_mask,
    negatives,
    dtype,
):
    w, model = make_pair(dtype=dtype)
    if rows == "official":
        histories.append(long_history)
    table = np.random.default_rng(1).normal(size=(12, 24)).astype(np.float32)
    trainer = UniSRecPretrainTrainer(
        model,
        UniSRecPretrainArguments(
            str(tmp_path),
            **training_options,
            duplicate_mask=duplicate_mask,
            sequence_negatives=negatives,
            sequence_loss_weight=0.5,
        ),
        data_collator=PretrainCollator(lambda items: table[items], lambda items: table[items] + 0.3, 0.5),
        train_dataset=WindowDataset([make_split(histories)], [12], LENGTH, rows == "official"),
    )
    (batch,) = trainer.get_train_dataloader()
    model.train()  # with dropouts of 0, what is left is the noise of the router
    torch.manual_seed(3)
    loss = trainer.compute_loss(model, batch)
    loss.backward()

    # The same pairs as rows of the official code, in the order of the batch; views are those that were drawn.
    if rows == "official":
        all_rows = prefix_rows(histories)
        pairs = [(row, *all_rows[row]) for row in batch["target_sequences"].tolist()]
    else:
        owners = dict.fromkeys(batch["target_sequences"].tolist())
        pairs = [(owner, *row) for owner in owners for row in reversed(prefix_rows([histories[owner]]))]
    known = sorted({item for history in histories for item in history})
    assert np.array_equal(batch["text_embeds"][: len(known)], table[known])
    assert len(batch["text_embeds"]) > len(known)  # there are views by word drop
    prefixes = [[known.index(item) + 1 for item in prefix] for _, prefix, _ in pairs]
    targets = torch.tensor([known.index(target) + 1 for _, _, target in pairs])
    views = batch["item_index"].chunk(2)[1]
    ends = [divmod(place, views.shape[1]) for place in batch["view_index"].tolist()]
    augmented = [views[row, : place + 1].tolist() for row, place in ends]
    assert [len(view) for view in augmented] != [len(prefix) for prefix in prefixes]  # and by item drop

    torch.manual_seed(3)
    noise = torch.randn(len(batch["text_embeds"]), 4, dtype=dtype)
    x, noise = (torch.cat([torch.zeros_like(part[:1]), part]) for part in (batch["text_embeds"].to(dtype), noise))
    items = adapt(w, x, noise)
    next_items = unit(items[targets])
    queries, view_states = (
        unit(encode(w, items[numbers], lengths)) for numbers, lengths in (pad(prefixes), pad(augmented))
    )
    others = ~torch.eye(len(targets), dtype=torch.bool)
    same_item = (targets[:, None] == targets) & others
    owners = torch.tensor([owner for owner, _, _ in pairs])
    # Where a history is one row, ours keeps its prefixes apart in the second loss, too.
    apart = same_item | (owners[:, None] == owners) & others
    assert same_item.any()
    assert (apart != same_item).any() == (rows == "ours")
    sequence_item = contrastive(queries, next_items, next_items, same_item, duplicate_mask)
    candidates = view_states if negatives == "augmented" else queries
    sequence_sequence = contrastive(queries, view_states, candidates, apart, duplicate_mask)
    official = sequence_item + 0.5 * sequence_sequence
    official.backward()

    assert_close(trainer._loss_parts["sequence_item_loss"][0], sequence_item, dtype)
    assert_close(trainer._loss_parts["sequence_sequence_loss"][0], sequence_sequence, dtype)
    assert_close(loss, official, dtype)
    assert_equal_gradients(model, w, dtype)


@DTYPES
@STAGES
@pytest.mark.parametrize("rows", ["official", "ours"])
def test_transfer_loss_and_gradients(
    make_pair, make_split, histories, long_history, training_options, tmp_path, rows, transductive, dtype
):
    w, model = make_pair(num_items=NUM_ITEMS, transductive=transductive, dtype=dtype)
    if rows == "official":
        histories.append(long_history)
    arguments = {"freeze_sequence_encoder": False, "load_best_model_at_end": False}
    trainer = UniSRecFinetuneTrainer(
        model,
        UniSRecFinetuneArguments(str(tmp_path), **training_options, **arguments),
        train_dataset=WindowDataset([make_split(histories)], [NUM_ITEMS], LENGTH, rows == "official"),
        text_embeds=catalogue(w).numpy(),
    )
    (batch,) = trainer.get_train_dataloader()
    model.train()
    torch.manual_seed(3)
    loss = trainer.compute_loss(model, batch)
    loss.backward()

    torch.manual_seed(3)
    noise = torch.cat([torch.zeros(1, 4, dtype=dtype), torch.randn(NUM_ITEMS, 4, dtype=dtype)])
    pairs = prefix_rows(histories)
    targets = torch.tensor([target for _, target in pairs])
    cosines = catalogue_cosines(w, [[item + 1 for item in prefix] for prefix, _ in pairs], noise=noise)
    logits = cosines[:, 1:] / 0.07  # the official loss has the padding row among its candidates, ours has not
    official = (torch.log(logits.exp().sum(1)) - logits[torch.arange(len(targets)), targets]).mean()
    official.backward()

    assert_close(loss, official, dtype)
    assert_equal_gradients(model, w, dtype)


@STAGES
def test_full_ranking_metrics(make_pair, make_split, training_options, tmp_path, transductive):
    w, model = make_pair(num_items=NUM_ITEMS, transductive=transductive)
    rng = np.random.default_rng(2)
    histories = [rng.integers(0, NUM_ITEMS, size=size).tolist() for size in rng.integers(1, 14, size=60)]
    targets = rng.integers(0, NUM_ITEMS, size=60)
    trainer = UniSRecTrainer(model, UniSRecTrainingArguments(str(tmp_path), **training_options))
    metrics = trainer.predict(RankingDataset(make_split(histories, targets), catalogue(w).numpy())).metrics

    # Hits among the best k, padding never among them; a history is its latest items.
    with torch.no_grad():
        scores = catalogue_cosines(w, [[item + 1 for item in history[-LENGTH:]] for history in histories])
    scores[:, 0] = -math.inf
    hits = scores.topk(50).indices == torch.tensor(targets)[:, None] + 1
    gains = 1 / torch.log2(torch.arange(50) + 2.0)
    for k in (10, 50):
        assert 0 < metrics[f"test_recall@{k}"] < 1
        assert metrics[f"test_recall@{k}"] == pytest.approx(hits[:, :k].any(1).double().mean().item(), abs=1e-12)
        assert metrics[f"test_ndcg@{k}"] == pytest.approx((hits * gains)[:, :k].sum(1).mean().item(), abs=1e-6)
