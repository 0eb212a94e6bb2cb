"""Cases of fuzz.py: edited checkpoints."""

import math
import random
from collections.abc import Sequence
from typing import Any

from _fuzz_case import (
    DAMAGES,
    EITHER,
    REFUSED,
    Case,
    Cases,
    Change,
    damage,
    drop_field,
    edit_json,
    edit_table,
    edit_tensors,
    flip_bits,
    set_field,
    take,
    write,
)
from _fuzz_world import QUICK, TRAINING


NAN, INF, HUGE = math.nan, math.inf, 10**12
LOADED = ("config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
          "catalogue/items.parquet", "catalogue/item_embeddings.safetensors")  # fmt: skip
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
         "num_experts", "text_embedding_size")  # fmt: skip
RATIOS = ("hidden_dropout", "attention_dropout", "adaptor_dropout", "layer_norm_eps", "temperature",
          "initializer_range", "router_noise")  # fmt: skip


def uses(name: str) -> dict[str, tuple[str, ...]]:
    """Commands that read a checkpoint whole, by their verb."""
    return {
        "recommend": ("--model", name, "--history", "0i1", "text:red pen"),
        "evaluate": ("--model", name, "--domain", "base/shop", "--use-cpu"),
        "items": ("add", name, "--item", "new", "red pen", "--output", "out"),
        "index": (name, "--kind", "hnsw", "--output", "out"),
        "demo": (name, "--export-space", "out"),
        "plot": ("gates", name, "--domains", "base/shop", "--use-cpu", "--output", "out.png"),
        "finetune": ("--model", name, "--domain", "base/shop", "--setting", "inductive", "--output_dir", "out",
                     *TRAINING, *QUICK),
        "export": (name, "--output", "out"),
    }  # fmt: skip


# How often a verb is drawn; those that take seconds are rare.
SHARES = {"recommend": 6, "evaluate": 4, "items": 3, "index": 2, "demo": 1, "plot": 2, "finetune": 2, "export": 0.3}


def edited(
    what: str, changes: Sequence[Change], says: str, expect: str = REFUSED, name: str = "ind", verb: str | None = None
) -> Case:
    """A use of an edited copy of a checkpoint, by a verb that is drawn from the name of the case."""
    verb = verb or random.Random(what).choices(list(SHARES), list(SHARES.values()))[0]
    return Case(verb, f"{name} with {what}", uses(name)[verb], expect, says, (take(name), *changes))


def checkpoint_cases(rng: random.Random) -> Cases:
    """All of the file."""
    yield from config_cases()
    yield from file_cases(rng)
    yield from weight_cases()
    yield from processor_cases()
    yield from catalogue_cases()


def config_cases() -> Cases:
    """Fields of config.json."""
    file = "ind/config.json"

    def case(field: str, value: Any, expect: str = REFUSED, *path: str) -> Case:
        shown = repr(value)[:40]
        where = ".".join([*path, field])
        return edited(
            f"{where} = {shown}",
            [set_field(file, *path, field, value=value)],
            rf"{field}|\bind\b|no text encoder",
            expect,
        )

    for field in SIZES:
        for value in ("x", [], None, NAN, INF, -1, 0, HUGE, 1.5, {}):
            if (field, value) != ("text_embedding_size", None):  # then it is that of the encoder
                yield case(field, value)
        yield edited(f"no {field}", [drop_field(file, field)], rf"{field}|\bind\b", EITHER)
    for field in ("hidden_size", "num_hidden_layers", "max_position_embeddings", "num_experts", "intermediate_size"):
        for value in (1, 3, 4, 16):
            yield case(field, value)
    for field in RATIOS:
        for value in ("x", [], NAN, INF, -INF, -1.0):
            yield case(field, value)
        yield case(field, None, EITHER)
        yield edited(f"no {field}", [drop_field(file, field)], field, EITHER)
    for field in ("hidden_dropout", "adaptor_dropout", "temperature"):
        yield case(field, 1.0, EITHER)
        yield case(field, 0, EITHER)
    for field in ("item_text", "whitening_bias"):
        for value in ("false", 5, [], None):
            yield case(field, value)
    yield case("item_text", False)
    yield case("whitening_bias", False)
    for value in ("x", 5, None, [], "cosine "):
        yield case("similarity", value)
        yield case("text_pooling", value)
    for value in (0, -1, 1, 23, "x", 1.5, NAN, HUGE, [], True):
        yield case("num_items", value)
    for value in ("no-such", 5, [], None, ""):
        yield case("hidden_act", value)
        yield case("model_type", value)
    for value in ("float16", "float99", 5, [], "int64", "bfloat16"):
        yield case("dtype", value, EITHER)
    for value in ({}, [], "bert", 5, {"model_type": "no-such"}, {"model_type": 5}, {"model_type": "bert"}, None):
        yield case("text_config", value)
    for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size",
                  "max_position_embeddings"):  # fmt: skip
        for value in ("x", -1, 0, HUGE, 3, None):
            yield case(field, value, REFUSED, "text_config")
    for value in (5, [], "x", {"a": 1}):
        yield case("architectures", value, EITHER)
        yield case("auto_map", value, EITHER)
        yield case("custom_pipelines", value, EITHER)
    for field, value in {"unknown_field": 5, "quantization_config": {"quant_method": "x"}, "tie_word_embeddings": "x",
                         "id2label": 5, "pad_token_id": "x", "return_dict": "x", "output_attentions": "yes",
                         "_attn_implementation": "x", "attn_implementation": "x", "transformers_version": 5}.items():  # fmt: skip
        yield case(field, value, EITHER)
    for what, content in {"a list": [], "a string": "x", "nothing in it": {}}.items():
        yield edited(f"config.json that is {what}", [edit_json(file, lambda _, c=content: c)], r"config\.json|\bind\b")
    # JSON that says null is null for `edit_json` too.
    yield edited("config.json that is the word null", [write(file, "null")], r"config\.json|\bind\b")


def file_cases(rng: random.Random) -> Cases:
    """Files that are damaged, swapped or of another checkpoint."""
    for file in LOADED:
        for kind in DAMAGES:
            expect = REFUSED
            if file.startswith("tokenizer_config") or (file == "processor_config.json" and kind == "missing"):
                expect = EITHER  # the tokenizer knows most by itself
            if kind == "missing" and file == "catalogue/item_embeddings.safetensors":
                expect = EITHER  # they are encoded again
            for verb in ("recommend", "items"):
                says = r"\bind\b|no catalogue|no text encoder"  # what is missing with a file that is missing
                yield edited(f"{file} {kind}", [damage(f"ind/{file}", kind)], says, expect, verb=verb)
        for number in range(6):
            verb = ("recommend", "evaluate", "items")[number % 3]
            yield edited(
                f"bits flipped in {file} ({number})", [flip_bits(f"ind/{file}")], r"\bind\b|.", EITHER, verb=verb
            )
    for first in LOADED:
        second = rng.choice([file for file in LOADED if file != first])
        swap = lambda _, a=f"ind/{first}", b=f"ind/{second}": _copy(b, a)  # noqa: E731
        yield edited(f"{second} for {first}", [swap], r"\bind\b", EITHER if "tokenizer_c" in first else REFUSED)
    for other in ("pre", "tra"):
        for file in ("config.json", "model.safetensors"):
            expect = EITHER if other == "pre" else REFUSED
            swap = lambda _, a=f"ind/{file}", b=f"base/{other}/{file}": _copy(b, a)  # noqa: E731
            yield edited(f"{file} of {other}", [swap], r"\bind\b", expect)
    yield edited("no catalogue", [_remove("ind/catalogue")], r"catalogue", verb="recommend")
    yield edited("no catalogue", [_remove("ind/catalogue")], r"catalogue", verb="items")
    yield edited("no catalogue", [_remove("ind/catalogue")], r"catalogue", verb="index")
    for name in ("base/encoder", "base/shop", "base/index", "base/official.pth", "nowhere", "", "-", "a/b/c/d",
                 "owner/name@", "@", "owner/name@v1", "..", "base/ind/config.json"):  # fmt: skip
        for verb in ("recommend", "evaluate", "items", "finetune"):
            says = "model|text" if name in ("", "-") else r"model|checkpoint|catalogue|processor|Hub"
            yield Case(verb, f"model is {name!r}", uses(name)[verb], REFUSED, says)


def weight_cases() -> Cases:
    """Tensors of model.safetensors."""
    import torch

    file = "ind/model.safetensors"

    def set_tensor(name: str, edit) -> Change:
        def change(tensors: dict) -> None:
            tensors[name] = edit(tensors[name])

        return edit_tensors(file, change)

    def fill(value: float):
        return lambda tensor: torch.full_like(tensor, value)

    def one(value: float):
        def edit(tensor):
            tensor = tensor.clone()
            tensor.view(-1)[0] = value
            return tensor

        return edit

    names = ("adaptor.weight", "adaptor.router", "sequence_encoder.position_embedding.weight",
             "sequence_encoder.layers.0.self_attn.q_proj.weight", "sequence_encoder.layer_norm.weight",
             "text_encoder.embeddings.word_embeddings.weight")  # fmt: skip
    for name in names:
        says = rf"{name}|\bind\b"
        yield edited(f"{name} all NaN", [set_tensor(name, fill(NAN))], says)
        yield edited(f"{name} with one NaN", [set_tensor(name, one(NAN))], says)
        yield edited(f"{name} with one inf", [set_tensor(name, one(INF))], says)
        yield edited(
            f"{name} missing", [edit_tensors(file, lambda tensors, n=name: tensors.pop(n) is None or None)], says
        )
        yield edited(f"{name} of int64", [set_tensor(name, lambda tensor: tensor.long())], says, EITHER)
        yield edited(f"{name} of float16", [set_tensor(name, lambda tensor: tensor.half())], says, EITHER)
        yield edited(f"{name} one row short", [set_tensor(name, lambda tensor: tensor[:-1].clone())], says)
        yield edited(f"{name} with an axis more", [set_tensor(name, lambda tensor: tensor[None].clone())], says)
        yield edited(f"{name} of bool", [set_tensor(name, lambda tensor: tensor > 0)], says, EITHER)
    yield edited(
        "one tensor more", [edit_tensors(file, lambda tensors: tensors | {"extra": torch.ones(2)})], r"extra|\bind\b"
    )
    yield edited("no tensors", [edit_tensors(file, lambda tensors: {})], r"\bind\b")
    prefix = lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()}  # noqa: E731
    yield edited("other names of tensors", [edit_tensors(file, prefix)], r"\bind\b", EITHER)
    yield edited(
        "all weights NaN",
        [edit_tensors(file, lambda t: {n: torch.full_like(x, NAN) for n, x in t.items()})],
        r"\bind\b",
    )


def processor_cases() -> Cases:
    """Fields of processor_config.json and of the tokenizer's files."""
    file = "ind/processor_config.json"
    for field in ("max_history_length", "max_text_length"):
        for value in ("x", None, 0, -1, NAN, 1.5, [], True):
            yield edited(f"{field} = {value!r}", [set_field(file, field, value=value)], rf"{field}|\bind\b")
        yield edited(f"no {field}", [drop_field(file, field)], rf"{field}|\bind\b", EITHER)
        yield edited(f"{field} = huge", [set_field(file, field, value=HUGE)], rf"{field}|\bind\b", EITHER)
    yield edited(
        "max_history_length = 11", [set_field(file, "max_history_length", value=11)], r"max_history|\bind\b", EITHER
    )
    yield edited(
        "max_text_length = 4000", [set_field(file, "max_text_length", value=4000)], r"max_text|\bind\b", EITHER
    )
    yield edited("an unknown field of the processor", [set_field(file, "x", value=5)], r".", EITHER)
    for value in ([], "x", 5):
        yield edited(
            f"processor_config.json that is {value!r}", [edit_json(file, lambda _, v=value: v)], r"processor|\bind\b"
        )
    file = "ind/tokenizer_config.json"
    for field, value in {"tokenizer_class": "NoSuch", "model_max_length": "x", "pad_token": 5, "padding_side": "up",
                         "do_lower_case": "x", "cls_token": None, "auto_map": {"AutoTokenizer": ["x.Y", None]},
                         "truncation_side": 5}.items():  # fmt: skip
        yield edited(f"{field} = {value!r}", [set_field(file, field, value=value)], rf"token|{field}|\bind\b", EITHER)
    file = "ind/tokenizer.json"
    for what, edit in {
        "an empty vocabulary": lambda t: t["model"].update(vocab={}),
        "tokens beyond the encoder": lambda t: t["model"]["vocab"].update(red=10**6),
        "negative tokens": lambda t: t["model"]["vocab"].update(red=-5),
        "no model": lambda t: t.pop("model") and None,
        "another version": lambda t: t.update(version="9.9"),
        "no unknown token": lambda t: t["model"].update(unk_token="nothing"),
        "an unknown normalizer": lambda t: t.update(normalizer={"type": "NoSuch"}),
    }.items():
        yield edited(f"a tokenizer with {what}", [edit_json(file, edit)], r"token|\bind\b", EITHER, verb="recommend")


def catalogue_cases() -> Cases:
    """The catalogue: its table, its vectors, its ID rows."""
    import polars as pl
    import torch

    table, vectors = "catalogue/items.parquet", "catalogue/item_embeddings.safetensors"
    texts = {
        "no item_id": lambda t: t.drop("item_id"),
        "no text": lambda t: t.drop("text"),
        "no rows": lambda t: t.clear(),
        "a row less": lambda t: t.head(t.height - 1),
        "a row twice": lambda t: pl.concat([t, t.head(1)]),
        "an id twice": lambda t: t.with_columns(item_id=pl.lit("same")),
        "ids null": lambda t: t.with_columns(item_id=pl.lit(None, pl.String)),
        "ids of numbers": lambda t: t.with_columns(item_id=pl.int_range(pl.len())),
        "texts null": lambda t: t.with_columns(text=pl.lit(None, pl.String)),
        "texts of numbers": lambda t: t.with_columns(text=pl.lit(1.5)),
        "texts as lists": lambda t: t.with_columns(text=pl.concat_list("text")),
        "rows the other way round": lambda t: t.reverse(),
        "other texts": lambda t: t.with_columns(text=pl.lit("red pen")),
        "columns of bytes": lambda t: t.with_columns(pl.all().cast(pl.Binary)),
    }
    for what, edit in texts.items():
        for name in ("ind", "tra"):
            yield edited(
                f"a catalogue with {what}",
                [edit_table(f"{name}/{table}", edit)],
                rf"\b{name}\b|catalogue|item_id|text",
                REFUSED,
                name,
                "recommend",
            )
        yield edited(
            f"a catalogue with {what}",
            [edit_table(f"ind/{table}", edit)],
            r"\bind\b|catalogue|item_id|text",
            verb="items",
        )
    tensors = {
        "a row less": lambda t: {"item_embeddings": t["item_embeddings"][:-1].clone()},
        "NaN": lambda t: {"item_embeddings": torch.full_like(t["item_embeddings"], NAN)},
        "one inf": lambda t: t["item_embeddings"].view(-1)[:1].fill_(INF) is None or None,
        "another name": lambda t: {"vectors": t["item_embeddings"]},
        "another width": lambda t: {"item_embeddings": t["item_embeddings"][:, :5].clone()},
        "one axis": lambda t: {"item_embeddings": t["item_embeddings"][:, 0].clone()},
        "int64": lambda t: {"item_embeddings": t["item_embeddings"].long()},
        "nothing": lambda t: {},
    }
    for what, edit in tensors.items():
        for verb in ("recommend", "index"):
            yield edited(
                f"catalogue vectors of {what}",
                [edit_tensors(f"ind/{vectors}", edit)],
                r"\bind\b|catalogue|vector|embedding",
                verb=verb,
            )
    for what, edit in {
        "of text": lambda t: t.with_columns(id_row=pl.lit("x")),
        "beyond the embedding": lambda t: t.with_columns(id_row=pl.lit(10**6)),
        "negative": lambda t: t.with_columns(id_row=pl.lit(-5)),
        "null": lambda t: t.with_columns(id_row=pl.lit(None, pl.Int64)),
        "of fractions": lambda t: t.with_columns(id_row=pl.lit(1.5)),
        "huge": lambda t: t.with_columns(id_row=pl.lit(2**63, pl.UInt64)),
    }.items():
        yield edited(
            f"ID rows {what}",
            [edit_table(f"tra/{table}", edit)],
            r"\btra\b|catalogue|id_row|item",
            REFUSED,
            "tra",
            "recommend",
        )
    for verb, words in {
        "recommend": ("--model", "base/tra", "--domain", "base/garden", "--history", "1i3"),
        "index": ("base/tra", "--domain", "base/garden", "--output", "out"),
        "evaluate": ("--model", "base/tra", "--domain", "base/garden", "--use-cpu"),
    }.items():
        yield Case(
            verb, "a transductive model on another shop", words, REFUSED, r"garden|items|catalogue|transductive"
        )


def _copy(source: str, target: str) -> None:
    import shutil

    shutil.copy(source, target)


def _remove(folder: str) -> Change:
    import shutil

    return lambda _: shutil.rmtree(folder)


__all__ = ["checkpoint_cases", "edited", "uses"]
