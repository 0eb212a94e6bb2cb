"""Cases of fuzz.py: edited text encoders, adapters, runs to resume, indexes and official checkpoints."""

import math
import random

from _fuzz_case import (
    DAMAGES,
    EITHER,
    REFUSED,
    TAKEN,
    Case,
    Cases,
    Change,
    damage,
    drop_field,
    flip_bits,
    set_field,
    take,
)
from _fuzz_checkpoints import edited
from _fuzz_world import QUICK, TRAINING


NAN, INF, HUGE = math.nan, math.inf, 10**12


def folder_cases(rng: random.Random) -> Cases:
    """All of the file."""
    yield from encoder_cases()
    yield from adapter_cases()
    yield from resume_cases()
    yield from index_cases(rng)
    yield from official_cases(rng)


def encoder_cases() -> Cases:
    """Folders of text encoders."""

    def case(what: str, *changes: Change, expect: str = REFUSED) -> Case:
        verb = random.Random(what).choice(["pretrain", "convert"])
        words = {
            "pretrain": (
                "--domains",
                "base/shop",
                "--text-encoder",
                "encoder",
                "--output_dir",
                "out",
                *TRAINING,
                *QUICK,
            ),
            "convert": ("--official", "base/official.pth", "--text-encoder", "encoder", "--output", "out"),
        }[verb]
        return Case(verb, f"an encoder with {what}", words, expect, r"encoder", (take("encoder"), *changes))

    for file in ("config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"):
        for kind in DAMAGES:
            expect = EITHER if file in ("modules.json", "1_Pooling/config.json") and kind == "missing" else REFUSED
            yield case(f"{file} {kind}", damage(f"encoder/{file}", kind), expect=expect)
        for number in range(3):
            yield case(f"bits flipped in {file} ({number})", flip_bits(f"encoder/{file}"), expect=EITHER)
    for field in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "max_position_embeddings"):
        for value in ("x", -1, 0, 3, HUGE, None, NAN):
            yield case(f"{field} = {value!r}", set_field("encoder/config.json", field, value=value))
    for value in ("no-such", 5, None, "unisrec", [], "t5"):
        yield case(f"model_type = {value!r}", set_field("encoder/config.json", "model_type", value=value))
    for value in ([], {}, 5, "x", [5], [{"type": "x", "path": ""}], [{"path": ""}], [{"type": 5, "path": 5}]):
        yield case(f"modules {value!r}", lambda _, v=value: _write_json("encoder/modules.json", v))
    for value in (
        [],
        5,
        "x",
        None,
        {"pooling_mode_max_tokens": "x"},
        {"pooling_mode": 5},
        {"pooling_mode": "no-such"},
    ):
        yield case(f"pooling {value!r}", lambda _, v=value: _write_json("encoder/1_Pooling/config.json", v))


def adapter_cases() -> Cases:
    """Folders of adapters."""
    file = "lora/adapter_config.json"

    def case(what: str, change: Change, expect: str = REFUSED) -> Case:
        return edited(
            what,
            [change],
            r"\blora\b|adapter|base",
            expect,
            "lora",
            random.Random(what).choice(["recommend", "evaluate", "items"]),
        )

    for value in ("nowhere", "", None, 5, [], "base/encoder", "base/shop", "owner/name"):
        yield case(f"base {value!r}", set_field(file, "base_model_name_or_path", value=value))
    for field, value in {"r": 3, "peft_type": "NO_SUCH", "target_modules": ["no-such"], "lora_alpha": "x",
                         "task_type": 5, "modules_to_save": 5, "lora_dropout": NAN}.items():  # fmt: skip
        yield case(
            f"{field} = {value!r}",
            set_field(file, field, value=value),
            REFUSED if field in ("r", "peft_type") else EITHER,
        )
    yield case("r = 'x'", set_field(file, "r", value="x"))
    yield case("r = 0", set_field(file, "r", value=0))
    yield case("no peft_type", drop_field(file, "peft_type"))
    yield case("no base", drop_field(file, "base_model_name_or_path"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        for kind in DAMAGES:
            yield case(f"{name} {kind}", damage(f"lora/{name}", kind))
        for number in range(3):
            yield case(f"bits flipped in {name} ({number})", flip_bits(f"lora/{name}"), EITHER)


def resume_cases() -> Cases:
    """Runs to go on with."""
    words = ("--model", "base/pre", "--domain", "base/shop", "--setting", "inductive", "--output_dir", "long",
             *TRAINING, "--max_steps", "6", "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2",
             "--save_strategy", "steps", "--save_steps", "2", "--resume_from_checkpoint")  # fmt: skip
    last = "long/checkpoint-4"

    def case(
        what: str, *changes: Change, value: str = "true", expect: str = REFUSED, says: str = r"checkpoint|resume|long"
    ) -> Case:
        return Case(
            "finetune",
            f"resumed from {what}",
            (*words, value),
            expect,
            says,
            (take("long"), *changes),
            ("long", "base"),
        )

    yield case("a sound run", expect=TAKEN)
    for value in ("nowhere", "", "-", "long", "base/ind", "5", "base/shop.csv"):
        yield case(f"{value!r}", value=value, expect=REFUSED)
    for file in ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json",
                 "rng_state.pth", "files.json"):  # fmt: skip
        for kind in ("missing", "empty", "cut short", "random bytes", "a folder"):
            expect = REFUSED
            yield case(f"{file} {kind}", damage(f"{last}/{file}", kind), expect=expect)
    keep_sizes = drop_field(f"{last}/files.json", "trainer_state.json")  # the edit is told by no size
    for field in ("global_step", "epoch", "log_history", "best_global_step", "best_model_checkpoint", "max_steps"):
        for value in ("x", -1, NAN, None, [], HUGE):
            yield case(
                f"{field} = {value!r}",
                set_field(f"{last}/trainer_state.json", field, value=value),
                keep_sizes,
                expect=EITHER,
            )


def index_cases(rng: random.Random) -> Cases:
    """Index folders."""
    words = ("--model", "base/ind", "--history", "0i1", "--index")

    def case(what: str, *changes: Change, expect: str = REFUSED) -> Case:
        return Case(
            "recommend", f"an index with {what}", (*words, "index"), expect, r"\bindex\b", (take("index"), *changes)
        )

    yield case("nothing wrong", expect=TAKEN)
    for file in ("index.faiss", "index.json", "sample.safetensors"):
        for kind in DAMAGES:
            yield case(f"{file} {kind}", damage(f"index/{file}", kind))
        for number in range(5):
            yield case(f"bits flipped in {file} ({number})", flip_bits(f"index/{file}"), expect=EITHER)
    for field in ("kind", "num_items", "recall@10"):
        yield case(f"no {field}", drop_field("index/index.json", field))
        for value in ("x", -1, NAN, [], HUGE, None):
            yield case(f"{field} = {value!r}", set_field("index/index.json", field, value=value))
    for value in ("nowhere", "", "flat ", "EXACT", "base/shop", "base/ind", "base/shop.csv", "-", "ivf,flat"):
        yield Case("recommend", f"index {value!r}", (*words, value), REFUSED, r"index|kind")
    for what, words in {
        "another model": ("--model", "base/tra", "--history", "0i1", "--index", "base/index"),
        "another domain": (
            "--model",
            "base/ind",
            "--domain",
            "base/garden",
            "--history",
            "1i1",
            "--index",
            "base/index",
        ),
    }.items():
        yield Case("recommend", f"the index of {what}", words, REFUSED, r"\bindex\b")


def official_cases(rng: random.Random) -> Cases:
    """Checkpoints of the official code."""
    import torch

    words = ("--official", "official.pth", "--output", "out")

    def case(what: str, change: Change, expect: str = REFUSED) -> Case:
        return Case("convert", f"a file {what}", words, expect, r"official\.pth", (take("official.pth"), change))

    def edit(make) -> Change:
        def change(_: random.Random) -> None:
            content = torch.load("official.pth")
            answer = make(content)
            torch.save(content if answer is None else answer, "official.pth")

        return change

    for kind in DAMAGES:
        yield case(kind, damage("official.pth", kind))
    for number in range(12):
        yield case(f"with bits flipped ({number})", flip_bits("official.pth"), EITHER)
    weight = "position_embedding.weight"

    def put(value) -> Change:
        return edit(lambda content: content["state_dict"].update({weight: value}))

    for what, change in {
        "with NaN weights": put(torch.full((10, 8), NAN)),
        "with inf weights": put(torch.full((10, 8), INF)),
        "with weights of int64": put(torch.ones(10, 8, dtype=torch.int64)),
        "with a weight of one axis": put(torch.ones(10)),
        "with a weight of no rows": put(torch.ones(0, 8)),
        "with another width": put(torch.ones(10, 7)),
        "with a number for a weight": put(5),
        "with a sparse weight": put(torch.ones(10, 8).to_sparse()),
        "with complex weights": put(torch.ones(10, 8, dtype=torch.complex64)),
        "without a weight": edit(lambda content: content["state_dict"].pop(weight) is None or None),
        "without state_dict": edit(lambda content: {"epoch": 3}),
        "that is a list": edit(lambda content: [1, 2]),
        "that is a tensor": edit(lambda content: torch.ones(3)),
        "with a list for state_dict": edit(lambda content: {"state_dict": [1]}),
        "with numbers for names": edit(lambda content: {"state_dict": {5: torch.ones(2)}}),
        "of the older format": lambda _: torch.save(
            torch.load("base/official.pth"), "official.pth", _use_new_zipfile_serialization=False
        ),
        "with layers that begin at 1": edit(
            lambda content: (
                content["state_dict"].pop("trm_encoder.layer.0.feed_forward.dense_1.weight") is None or None
            )
        ),
    }.items():
        yield case(what, change)
    for name in ("nowhere.pth", "", "-", "base", "base/shop.csv", "base/ind/model.safetensors", "base/retail.xlsx"):
        yield Case(
            "convert",
            f"official is {name!r}",
            ("--official", name, "--output", "out"),
            REFUSED,
            r"official|file|folder",
        )
    for option, name in (("--domain", "nowhere"), ("--domain", "base/shop"), ("--text-encoder", "nowhere"),
                         ("--text-encoder", "base/shop"), ("--text-encoder", "base/ind"), ("--domain", "")):  # fmt: skip
        yield Case(
            "convert",
            f"{option} {name!r}",
            ("--official", "base/official.pth", "--output", "out", option, name),
            REFUSED,
            f"{option}|domain|encoder",
        )
    yield Case("convert", "a sound file", ("--official", "base/official.pth", "--output", "out"), TAKEN, ".")
    yield Case(
        "convert",
        "a text encoder",
        ("--official", "base/official.pth", "--text-encoder", "base/encoder", "--output", "out"),
        TAKEN,
        ".",
    )


def _write_json(file: str, content: object) -> None:
    import json
    from pathlib import Path

    Path(file).write_text(json.dumps(content))


__all__ = ["folder_cases"]
