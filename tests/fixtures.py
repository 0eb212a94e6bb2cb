"""Fixtures of what all tests share: one thread, a tiny text encoder, tiny models, tiny domains; see pytest_configure in
conftest.py."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer, PreTrainedModel
from transformers.utils import logging

from unisrec.configuration import UniSRecConfig
from unisrec.data import Domain, Split
from unisrec.modeling_unisrec import UniSRecModel


torch.set_num_threads(1)
logging.disable_progress_bar()

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# fmt: off
WORDS = [
    "red", "blue", "green", "black", "white", "small", "large", "steel", "wood", "cotton", "pen", "kettle", "tent", "lamp",
    "chair", "cable", "case", "refill", "filter", "brush", "travel", "garden", "kitchen", "camping", "office", "kids",
    "set", "pack", "of", "for", "with", "and", "1", "2", "3", "5", "10", "l", "m", "cm",
]
# fmt: on


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def text_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a one-layer BERT with vectors of 16 numbers and a WordPiece tokenizer, as one gets from the Hub."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    vocabulary = [*SPECIAL_TOKENS, *WORDS, "##s"]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={token: place for place, token in enumerate(vocabulary)}, model_max_length=32)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def text_encoder(text_encoder_dir: Path) -> PreTrainedModel:
    return AutoModel.from_pretrained(text_encoder_dir).eval()


@pytest.fixture
def tokenizer(text_encoder_dir: Path):
    return AutoTokenizer.from_pretrained(text_encoder_dir)


@pytest.fixture(scope="session")
def make_config() -> Callable[..., UniSRecConfig]:
    """Makes tiny configurations: text vectors of 16 numbers, 8 hidden ones, histories of up to 10 items."""

    def make(**fields) -> UniSRecConfig:
        sizes = {
            "text_embedding_size": 16,
            "hidden_size": 8,
            "intermediate_size": 12,
            "max_position_embeddings": 10,
            "num_experts": 3,
        }
        return UniSRecConfig(**(sizes | fields))

    return make


@pytest.fixture(scope="session")
def make_model(make_config) -> Callable[..., UniSRecModel]:
    """Makes tiny models whose every weight is random, so that no test passes because something is zero."""

    def make(seed: int = 0, **fields) -> UniSRecModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = UniSRecModel(make_config(**fields)).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
                if model.item_embedding is not None:
                    model.item_embedding.weight[0] = 0
        return model

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[[str], dict[str, torch.Tensor]]:
    """Makes arguments of `forward`, four histories of six items, for a model that is "inductive", "transductive" or reads
    "text"."""

    def make(setting: str) -> dict[str, torch.Tensor]:
        if setting == "text":
            attention_mask = (torch.arange(5) < torch.tensor([5, 3, 1, 4, 5, 2])[:, None]).long()
            items = {"input_ids": torch.randint(1, 20, (6, 5)), "attention_mask": attention_mask}
        else:
            items = {"text_embeds": torch.randn(6, 16)}
        if setting == "transductive":
            items["id_rows"] = torch.tensor([3, 1, 0, 6, 2, 5])
        histories = [[1, 2, 3, 4, 5, 6], [3, 3, 6, 0, 0, 0], [5, 0, 0, 0, 0, 0], [6, 1, 2, 5, 0, 0]]
        return {"item_index": torch.tensor(histories), **items}

    return make


@pytest.fixture(scope="session")
def make_split() -> Callable[..., Split]:
    """Makes splits from lists of item rows."""

    def make(histories: Sequence[Sequence[int]], targets: Sequence[int] | None = None) -> Split:
        return Split(
            flat=np.array([row for history in histories for row in history], dtype=np.int64),
            offsets=np.cumsum([0] + [len(history) for history in histories]),
            users=np.arange(len(histories)),
            targets=None if targets is None else np.array(targets, dtype=np.int64),
        )

    return make


@pytest.fixture(scope="session")
def make_domain() -> Callable[..., Domain]:
    """Makes domains in which the next item mostly is the next row of the catalogue, so that there is much to learn."""

    def make(name: str = "toys", num_users: int = 40, num_items: int = 30, seed: int = 0, longest: int = 9) -> Domain:
        rng = np.random.default_rng(seed)
        texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 7))) for _ in range(num_items)]
        histories = []
        for length in rng.integers(3, longest + 1, size=num_users):
            steps = rng.choice([1, 2, 5], p=[0.8, 0.1, 0.1], size=length)
            histories.append(((rng.integers(num_items) + np.cumsum(steps)) % num_items).tolist())
        return Domain(
            name,
            pl.DataFrame({"item_id": [f"{name}-{row}" for row in range(num_items)], "text": texts}),
            pl.DataFrame(
                {"user_id": [f"u{row}" for row in range(num_users)], "item_index": histories},
                schema={"user_id": pl.String, "item_index": pl.List(pl.UInt32)},
            ),
        )

    return make


@pytest.fixture(scope="session")
def slow_ranking_metrics() -> Callable[..., dict[str, float]]:
    """Recall and NDCG by the definition: user by user, candidate by candidate."""

    @torch.no_grad()
    def measure(model: UniSRecModel, split: Split, text_embeds: np.ndarray) -> dict[str, float]:
        num_items = len(text_embeds)
        sums: dict[str, float] = {}
        for user in range(len(split)):
            history = split.flat[split.offsets[user] : split.offsets[user + 1]].tolist()
            target = int(split.targets[user])
            output = model(
                item_index=torch.tensor([history[-model.config.max_position_embeddings :]]) + 1,
                text_embeds=torch.from_numpy(text_embeds),
                id_rows=torch.arange(1, num_items + 1),
            )
            sequence = output.sequence_embeds[0]
            scores = [torch.cosine_similarity(sequence, item, dim=0).item() for item in output.item_embeds]
            for suffix, hidden in (("", set()), ("_seen_masked", set(history))):
                others = [item for item in range(num_items) if item != target and item not in hidden]
                rank = sum(scores[item] > scores[target] for item in others)
                rank += sum(scores[item] == scores[target] for item in others) / 2
                for k in (10, 50):
                    gains = {"recall": float(rank < k), "ndcg": 1 / np.log2(rank + 2) if rank < k else 0.0}
                    for name, gain in gains.items():
                        name = f"{name}@{k}{suffix}"
                        sums[name] = sums.get(name, 0.0) + gain
        return {name: value / len(split) for name, value in sums.items()}

    return measure


@pytest.fixture(scope="session")
def official_weights() -> Callable[..., OrderedDict[str, torch.Tensor]]:
    """Makes random weights in the layout of the official code, none of them zero: `num_items` makes fine-tuned ones."""

    def make(
        text: int = 24,
        hidden: int = 12,
        inner: int = 16,
        experts: int = 4,
        length: int = 8,
        num_items: int | None = None,
        transductive: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> OrderedDict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        weights: OrderedDict[str, torch.Tensor] = OrderedDict()

        def add(name: str, *shape: int, scale: float = 1.0, around: float = 0.0) -> None:
            weights[name] = (around + scale * torch.randn(shape, generator=random)).to(dtype)

        if transductive:
            add("item_embedding.weight", num_items + 1, hidden, scale=0.5)  # row 0 is not zero: it is trained
        add("position_embedding.weight", length, hidden, scale=0.5)
        for layer in range(2):
            attention, forward = (
                f"trm_encoder.layer.{layer}.{part}" for part in ("multi_head_attention", "feed_forward")
            )
            for part in ("query", "key", "value", "dense"):
                add(f"{attention}.{part}.weight", hidden, hidden, scale=hidden**-0.5)
                add(f"{attention}.{part}.bias", hidden, scale=0.1)
            add(f"{forward}.dense_1.weight", inner, hidden, scale=hidden**-0.5)
            add(f"{forward}.dense_1.bias", inner, scale=0.1)
            add(f"{forward}.dense_2.weight", hidden, inner, scale=inner**-0.5)
            add(f"{forward}.dense_2.bias", hidden, scale=0.1)
            for norm in (f"{attention}.LayerNorm", f"{forward}.LayerNorm"):
                add(f"{norm}.weight", hidden, scale=0.2, around=1.0)
                add(f"{norm}.bias", hidden, scale=0.2)
        add("LayerNorm.weight", hidden, scale=0.2, around=1.0)
        add("LayerNorm.bias", hidden, scale=0.2)
        if num_items is not None:
            add("plm_embedding.weight", num_items + 1, text)
            weights["plm_embedding.weight"][0] = 0
        add("moe_adaptor.w_gate", text, experts, scale=text**-0.5)
        add("moe_adaptor.w_noise", text, experts, scale=text**-0.5)
        for expert in range(experts):
            add(f"moe_adaptor.experts.{expert}.bias", text, scale=0.3)
            add(f"moe_adaptor.experts.{expert}.lin.weight", hidden, text, scale=text**-0.5)
        return weights

    return make


@pytest.fixture(scope="session")
def save_official() -> Callable[..., Path]:
    """Saves weights as the official code does: beside a `Config` of RecBole, whose modules are gone when it is read."""
    paper = {"n_layers": 2, "n_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "initializer_range": 0.02}
    dropouts = dict.fromkeys(["hidden_dropout_prob", "attn_dropout_prob", "adaptor_dropout_prob"], 0)

    def save(path: Path, weights: OrderedDict[str, torch.Tensor], settings: dict | None = None, **entries) -> Path:
        modules = [
            "recbole",
            "recbole.config",
            "recbole.config.configurator",
            "recbole.utils",
            "recbole.utils.enum_type",
        ]
        sys.modules.update({name: ModuleType(name) for name in modules})
        try:
            kind = Enum("ModelType", {"SEQUENTIAL": 2}, module=modules[4])
            sys.modules[modules[4]].ModelType = kind
            sys.modules[modules[2]].Config = type("Config", (), {"__module__": modules[2]})
            config = sys.modules[modules[2]].Config()
            config.parameters = {"General": ["gpu_id", "seed"]}
            config.final_config_dict = {
                "device": torch.device("cpu"),
                "MODEL_TYPE": kind.SEQUENTIAL,
                "metrics": {"HIT"},
            }
            config.final_config_dict |= paper | dropouts | {"temperature": 0.07, "lambda": 1e-3} | (settings or {})
            state_dict = OrderedDict(weights)
            state_dict._metadata = OrderedDict({"": {"version": 1}})
            optimizer = {
                "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3)}},
                "param_groups": [{"lr": 1e-3}],
            }
            checkpoint = {"config": config, "epoch": 299, "state_dict": state_dict, "optimizer": optimizer}
            torch.save(checkpoint | entries, path)
        finally:
            for name in modules:
                del sys.modules[name]
        return path

    return save
