"""Two gloo processes against one with the joined batch."""

import multiprocessing
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel, BertTokenizer

from unisrec.configuration import UniSRecConfig
from unisrec.data import Domain, Split
from unisrec.data.domain_features import domain_features
from unisrec.evaluation import RankingDataset
from unisrec.modeling_unisrec import TextHead, UniSRecModel
from unisrec.trainer import (
    PretrainCollator,
    RowGatherer,
    TextFinetuneCollator,
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecPretrainArguments,
    UniSRecPretrainTrainer,
    WindowDataset,
)
from unisrec.trainer.batches.datasets import DomainTexts
from unisrec.trainer.batches.window_batches import StaticShapes
from unisrec.trainer.distributed import layers_to_shard
from unisrec.trainer.encoding import encoding_options
from unisrec.trainer.ensemble import Ensemble


pytestmark = [pytest.mark.slow, pytest.mark.distributed]
NUM_PROCESSES = 2
NUM_ITEMS = 12
TABLE = np.random.default_rng(0).normal(size=(2 * NUM_ITEMS, 16)).astype(np.float32)
TEXTS = [f"{number} {number * 7 % 24}" for number in range(2 * NUM_ITEMS)]  # two tokens each
CASES = [
    "pretrain-augmented",
    "pretrain-original",
    "pretrain-texts",
    "pretrain-cached",
    "pretrain-negatives",
    "pretrain-static",
    "finetune-inductive",
    "finetune-transductive",
    "finetune-texts",
    "finetune-sampled",
    "finetune-static",
    "finetune-taught",
]
# Whose gradients alone are compared: batches and loop are those of another case.
NOT_TRAINED = {"pretrain-original", "finetune-inductive", "finetune-taught"}
SPARSE_CASE = "finetune-sparse"  # whose gradients meet in the optimizer
TRAINED = [*(case for case in CASES if case not in NOT_TRAINED), SPARSE_CASE]

SHARDED_CASES = ["pretrain-augmented", "pretrain-texts", "finetune-inductive", "finetune-transductive"]


def tokenize(texts):
    input_ids = torch.tensor([[int(word) for word in text.split()] for text in texts])
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def make_text_config():
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {"model_type": "bert", "vocab_size": 24, "max_position_embeddings": 4, **sizes, **dropouts}


def make_model(dtype, num_items=None, text_config=None):
    config = UniSRecConfig(
        text_config=text_config,
        text_embedding_size=16,
        hidden_size=8,
        intermediate_size=12,
        max_position_embeddings=10,
        num_experts=3,
        num_items=num_items,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        adaptor_dropout=0.0,
        router_noise=None,
    )
    torch.manual_seed(0)
    model = UniSRecModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    if text_config is not None:
        model.text_encoder.pooler.requires_grad_(False)  # nothing passes through it
    return model.to(dtype)


def make_teachers(dtype):
    models = [make_model(dtype).eval() for _ in range(2)]
    items = torch.from_numpy(TABLE[:NUM_ITEMS]).to(dtype)
    with torch.no_grad():
        return Ensemble(models, [model.get_item_features(items) * (1 + place) for place, model in enumerate(models)])


def make_split(num_histories, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, size=num_histories)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    targets = rng.integers(NUM_ITEMS, size=num_histories)
    return Split(rng.integers(NUM_ITEMS, size=offsets[-1]), offsets, np.arange(num_histories), targets)


def make_trainer(case, folder, targets_per_batch, dtype=torch.float64, **arguments):
    task, kind = case.split("-")
    options = {
        "output_dir": str(folder / case),
        "per_device_train_batch_size": targets_per_batch,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 3,
        "learning_rate": 0.05,
        "optim": "sgd",
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    } | arguments
    on_texts = kind == "texts"
    static = kind == "static"
    sampled = kind in ("sampled", "taught", "sparse") or (static and task == "finetune")
    model = make_model(
        dtype, NUM_ITEMS if sampled or kind == "transductive" else None, make_text_config() if on_texts else None
    )
    if task == "pretrain":
        views = [lambda items: TABLE[items].astype(np.float64), lambda items: TABLE[items].astype(np.float64) + 0.5]
        if on_texts:
            texts = DomainTexts([TEXTS])
            views = [texts, lambda items: [text.split()[0] + " 3" for text in texts(items)]]
        histories = WindowDataset([make_split(14, 0), make_split(9, 1)], [NUM_ITEMS] * 2, max_length=10)
        vectors = None
        if static:
            vectors = torch.from_numpy(np.concatenate([TABLE, TABLE + 0.5])).to(dtype)
            views = [None, len(TABLE)]
        collator = PretrainCollator(
            *views,
            item_drop_probability=0.5,
            word_drop_item_ratio=0.5,
            tokenize=tokenize if on_texts else None,
            shapes=StaticShapes.of(histories.lengths, targets_per_batch) if static else None,
        )
        negatives = "original" if kind == "original" else "augmented"
        return UniSRecPretrainTrainer(
            model,
            UniSRecPretrainArguments(
                sequence_negatives=negatives,
                sequence_loss_weight=0.5,
                cache_chunk_size=5 if kind == "cached" else None,
                batch_domains="one" if kind in ("negatives", "static") else "mixed",
                num_negatives=5 if kind in ("negatives", "static") else 0,
                static_batches=static,
                **options,
            ),
            data_collator=collator,
            train_dataset=histories,
            text_vectors=vectors,
        )
    trainer = UniSRecFinetuneTrainer(
        model,
        UniSRecFinetuneArguments(
            load_best_model_at_end=False,
            early_stopping_patience=0,
            num_negatives=4 if sampled else None,
            sparse_item_embedding=kind == "sparse",
            static_batches=static,
            **options,
        ),
        train_dataset=WindowDataset([make_split(23, 0)], [NUM_ITEMS], max_length=10),
        eval_dataset=RankingDataset(make_split(21, 2), TABLE[:NUM_ITEMS]),
        data_collator=TextFinetuneCollator(TEXTS, tokenize) if on_texts else None,
        text_embeds=None if on_texts else TABLE[:NUM_ITEMS],
        teachers=make_teachers(dtype) if kind == "taught" else None,
    )
    if not on_texts:
        trainer.candidates.text_embeds = trainer.candidates.text_embeds.to(dtype)
    return trainer


def gather_rows(rank, world):
    """Value and gradients of a mean over all rows in which every row meets every other one."""
    results = {}
    torch.manual_seed(1)
    for name, sizes in {"equal": [4, 4], "unequal": [6, 2]}.items():
        rows, others = torch.randn(2, 8, 5, dtype=torch.float64)
        if world > 1:
            own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
            rows, others = rows[own], others[own]
        rows, others = rows.clone().requires_grad_(), others.clone().requires_grad_()
        gather = RowGatherer(len(rows), rows.device)
        numbers = torch.arange(8)[gather.offset : gather.offset + len(rows)]
        gathered = gather(rows)
        # A sum hands one and the same gradient to both of its terms: neither may change it.
        both = (gather(rows) + gather(others))[numbers].square().sum(1)
        loss = gather.mean(((others @ gathered.T).logsumexp(1) + both).sum())
        loss.backward()
        results |= {
            f"{name}.numbers": gather(numbers),
            f"{name}.loss": loss.detach(),
            f"{name}.rows": rows.grad / world,  # DDP's mean
            f"{name}.others": others.grad / world,
            f"{name}.gathered": gathered.detach(),
        }
    return results


def loss_and_gradients(case, rank, world, folder, wrap=DistributedDataParallel):
    """One batch, of which two processes have 7 and 2 windows."""
    trainer = make_trainer(case, folder, targets_per_batch=100)
    windows = [trainer.train_dataset[index] for index in range(9)]
    if world > 1:
        windows = windows[:7] if rank == 0 else windows[7:]
    wrapped = wrap(trainer.model) if world > 1 else trainer.model
    loss = trainer.compute_loss(wrapped, trainer.data_collator(windows))
    loss.backward()
    trained = {name: parameter for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad for name, parameter in trained.items()}
    if world > 1 and wrap is shard:
        gradients = {name: gradient.full_tensor() for name, gradient in gradients.items()}
    assert all(gradient.any() for gradient in gradients.values())
    return {"loss": loss.detach()} | gradients


def train(case, rank, world, folder, **arguments):
    """A whole training run: its log and its last weights."""
    trainer = make_trainer(case, folder / f"trained-by-{world}", 24 // world, **arguments)
    trainer.train()
    results = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    for part in ("loss", "sequence_item_loss", "sequence_sequence_loss"):
        if values := [line[part] for line in trainer.state.log_history if part in line]:
            results[f"log.{part}"] = torch.tensor(values, dtype=torch.float64)
    return results | {"next_draw": torch.rand(2)}


def evaluate(rank, world, folder, sharded=False):
    """Ranking metrics over 21 users, which two processes cannot share equally."""
    trainer = make_trainer("finetune-inductive", folder, 24, dtype=torch.float32)
    if sharded and world > 1:
        shard(trainer.model)
    metrics = trainer.evaluate()
    return {name: torch.tensor(value) for name, value in metrics.items() if "@" in name}


def shard(model):
    """FSDP2 as accelerate prepares a model for it. Its `Accelerator` takes no FSDP on CPUs; this holds what is read of it."""
    mesh = init_device_mesh("cpu", (NUM_PROCESSES,), mesh_dim_names=("fsdp",))
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        transformer_cls_names_to_wrap=layers_to_shard(model),
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=["fsdp"]),
        mixed_precision="no",
        is_main_process=dist.get_rank() == 0,
        device=torch.device("cpu"),
    )
    prepared = fsdp2_prepare_model(accelerator, model)
    assert all(isinstance(layer, FSDPModule) for layer in prepared.sequence_encoder.layers)
    return prepared


def train_with_checkpoints(rank, world, folder):
    """Each process believes in an output folder of its own."""
    trainer = make_trainer(
        "pretrain-augmented",
        folder / f"saved-{world}-{rank}",
        24 // world,
        save_strategy="epoch",
        num_train_epochs=2,
        save_total_limit=None,
    )
    trainer.train()
    trainer.save_state()
    trainer.save_model()
    return {}


def encode(rank, world, folder):
    """Text vectors of a domain that all processes ask for, from its folder, from a folder for each process and in memory, and
    how many texts this one encoded."""
    texts = [" ".join([f"word{number % 7}"] * (1 + number % 5)) for number in range(NUM_ITEMS)]
    domain = Domain(
        "toys",
        pl.DataFrame({"item_id": [str(number) for number in range(NUM_ITEMS)], "text": texts}),
        pl.DataFrame({"user_id": ["u"], "item_index": [[0, 1]]}, schema_overrides={"item_index": pl.List(pl.UInt32)}),
    )
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(**(make_text_config() | {"max_position_embeddings": 8})))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(7))]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)}, model_max_length=8)
    encoder.text_head = TextHead()
    encoded = []
    encoder.register_forward_hook(lambda *call: encoded.append(len(call[2]["input_ids"])), with_kwargs=True)
    shared_dir, own_dir = folder / f"domain-{world}", folder / f"domain-{world}-{rank}"
    args = UniSRecPretrainArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True)
    found = {}
    for case, domain_dir in (("shared", shared_dir), ("again", shared_dir), ("own", own_dir), ("memory", None)):
        if domain_dir is not None:
            domain_dir.mkdir(exist_ok=True)
        encoded.clear()
        vectors = domain_features(
            replace(domain, folder=domain_dir),
            encoder,
            tokenizer,
            make_model(torch.float32).config,
            **encoding_options(args),
        )
        found |= {f"{case}.vectors": torch.from_numpy(np.array(vectors)), f"{case}.texts": torch.tensor(sum(encoded))}
    return found


def measure(rank, world, folder):
    """All that is compared, by name."""
    torch.set_num_threads(1)
    results = {
        "gather": gather_rows(rank, world),
        "evaluate": evaluate(rank, world, folder),
        "evaluate-sharded": evaluate(rank, world, folder, sharded=True),
        "encode": encode(rank, world, folder),
        "save": train_with_checkpoints(rank, world, folder),
    }
    for case in SHARDED_CASES:
        results[f"sharded-{case}"] = loss_and_gradients(case, rank, world, folder, shard)
    for case in CASES:
        results[f"gradients-{case}"] = loss_and_gradients(case, rank, world, folder)
        if case in TRAINED:
            results[f"train-{case}"] = train(case, rank, world, folder)
    results[f"train-{SPARSE_CASE}"] = train(SPARSE_CASE, rank, world, folder, optim="adamw_torch")
    return {f"{group}/{name}": value for group, values in results.items() for name, value in values.items()}


def main(rank, folder):
    """One of the two processes."""
    log = os.open(folder / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    sizes = {"WORLD_SIZE": NUM_PROCESSES, "LOCAL_WORLD_SIZE": NUM_PROCESSES}
    os.environ |= {name: str(value) for name, value in ({"RANK": rank, "LOCAL_RANK": rank} | sizes).items()}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=NUM_PROCESSES,
        timeout=timedelta(minutes=10),
    )
    results = measure(rank, NUM_PROCESSES, folder)
    save_file({name: value.contiguous() for name, value in results.items()}, folder / f"rank{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def results(folder):
    """What each of the two processes measured, and what this one alone did: `name -> tensor` of a group."""
    context = multiprocessing.get_context("forkserver")  # see conftest.py
    processes = [context.Process(target=main, args=(rank, folder)) for rank in range(NUM_PROCESSES)]
    try:
        for process in processes:
            process.start()
        alone = measure(0, 1, folder)
        while any(process.is_alive() for process in processes) and not any(process.exitcode for process in processes):
            time.sleep(0.1)
        exits = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that waits for one that has failed
    assert exits == [0] * NUM_PROCESSES, "".join(file.read_text() for file in sorted(folder.glob("rank*.log")))
    ranks = [load_file(folder / f"rank{rank}.safetensors") for rank in range(NUM_PROCESSES)]

    def group(name):
        return [
            {key.split("/", 1)[1]: value for key, value in found.items() if key.startswith(f"{name}/")}
            for found in (*ranks, alone)
        ]

    return group


@pytest.mark.parametrize("shards", ["equal", "unequal"])
def test_gathered_rows_and_their_gradient(results, shards):
    first, second, alone = results("gather")
    for name in ("numbers", "gathered"):
        assert torch.equal(first[f"{shards}.{name}"], alone[f"{shards}.{name}"])
        assert torch.equal(second[f"{shards}.{name}"], alone[f"{shards}.{name}"])
    mean = (first[f"{shards}.loss"] + second[f"{shards}.loss"]) / 2
    torch.testing.assert_close(mean, alone[f"{shards}.loss"], rtol=0, atol=1e-12)
    for name in ("rows", "others"):
        joined = torch.cat([first[f"{shards}.{name}"], second[f"{shards}.{name}"]])
        torch.testing.assert_close(joined, alone[f"{shards}.{name}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_equal_those_of_one_process(results, case):
    first, second, alone = results(f"gradients-{case}")
    mean = (first.pop("loss") + second.pop("loss")) / 2
    torch.testing.assert_close(mean, alone.pop("loss"), rtol=0, atol=1e-8)
    assert first.keys() == second.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(
            first[name], gradient, rtol=0, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("case", TRAINED)
def test_training_equals_that_of_one_process(results, case):
    first, second, alone = results(f"train-{case}")
    draws = [found.pop("next_draw") for found in (first, second, alone)]
    assert not torch.equal(draws[0], draws[1])  # each process has dropout masks of its own
    parts = {"log.loss"} | ({"log.sequence_item_loss", "log.sequence_sequence_loss"} if "pretrain" in case else set())
    assert {name for name in alone if name.startswith("log.")} == parts
    assert len(alone["log.loss"]) >= 12
    assert first.keys() == second.keys() == alone.keys()
    for name, value in alone.items():
        atol = 1e-5 if name == "log.loss" else 1e-8  # the trainer sums its losses in float32
        torch.testing.assert_close(
            first[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(first[name], second[name]), name


def test_ranking_metrics_equal_those_of_one_process(results):
    first, second, alone = results("evaluate")
    assert len(alone) == 8
    assert first == second == alone


@pytest.mark.parametrize("case", SHARDED_CASES)
def test_loss_and_every_gradient_of_fsdp2_equal_those_of_one_process(results, case):
    first, second, alone = results(f"sharded-{case}")
    mean = (first.pop("loss") + second.pop("loss")) / 2
    torch.testing.assert_close(mean, alone.pop("loss"), rtol=0, atol=1e-8)
    assert first.keys() == second.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(
            first[name], gradient, rtol=0, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_ranking_metrics_of_fsdp2_equal_those_of_one_process(results):
    first, second, alone = results("evaluate-sharded")
    assert len(alone) == 8
    assert first == second == alone


def test_processes_share_the_encoding_of_a_catalogue(results, folder):
    first, second, alone = results("encode")
    for case in ("shared", "own", "memory"):
        assert alone[f"{case}.texts"] == NUM_ITEMS
        assert first[f"{case}.texts"] == second[f"{case}.texts"] == NUM_ITEMS / 2
    for name, vectors in alone.items():
        if name.endswith(".vectors"):
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], vectors, rtol=0, atol=1e-6)
    assert first["again.texts"] == second["again.texts"] == 0
    for rank in range(NUM_PROCESSES):
        assert len(list((folder / f"domain-{NUM_PROCESSES}-{rank}").glob("text_features/*/features.npy"))) == 1


def test_only_the_first_process_writes(results, folder):
    results("save")
    assert not (folder / "saved-2-1").exists()
    run = folder / "saved-2-0" / "pretrain-augmented"
    assert (run / "model.safetensors").exists()
    checkpoints = list(run.glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for checkpoint in checkpoints:
        states = [torch.load(checkpoint / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in range(2)]
        assert not torch.equal(*states)
