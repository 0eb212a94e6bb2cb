"""A small sound world for fuzz.py: raw files of every kind, domains, checkpoints, an index, an official checkpoint."""

import contextlib
import gzip
import io
import json
import random
import shutil
from pathlib import Path


WORDS = "red blue green black white small large steel wood cotton pen kettle tent lamp chair cable case brush".split()
NUM_ITEMS, NUM_USERS = 24, 30
TRAINING = "--use_cpu --disable_tqdm true --report_to none --max_steps 1 --per_device_train_batch_size 64".split()
# One step, nothing evaluated or saved on the way.
QUICK = "--eval_strategy no --save_strategy no --load_best_model_at_end false".split()


def build_world(root: Path) -> None:
    """Writes the world into a new folder. Everything is made by the command line, if it has a verb for it."""
    root.mkdir(parents=True)
    write_encoder(root / "encoder")
    write_raw_files(root)
    write_official_folder(root / "Toys")
    write_official_checkpoint(root / "official.pth")
    for name, seed in (("shop", 0), ("garden", 1)):
        write_clicks(root / f"{name}.csv", root / f"{name}-items.csv", seed)
        run("prepare", "table", "--interactions", root / f"{name}.csv", "--items", root / f"{name}-items.csv",
            "--user-k", 1, "--item-k", 1, "--output", root / name)  # fmt: skip
    run("pretrain", "--domains", root / "shop", "--text-encoder", root / "encoder", "--output_dir", root / "pre",
        "--model-config", "hidden_size=8", "intermediate_size=8", "num_experts=2", "max_position_embeddings=10",
        *TRAINING, *QUICK)  # fmt: skip
    finetune = ["finetune", "--model", root / "pre", "--domain", root / "shop", *TRAINING]
    run(*finetune, "--setting", "inductive", "--output_dir", root / "ind", *QUICK)
    run(*finetune, "--setting", "transductive", "--output_dir", root / "tra", *QUICK)
    run(*finetune, "--setting", "inductive", "--lora", "text,sequence", "--output_dir", root / "lora", *QUICK)
    run(*finetune, "--setting", "inductive", "--output_dir", root / "long", "--max_steps", 4, "--logging_steps", 1,
        "--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2)  # fmt: skip
    run("index", root / "ind", "--output", root / "index", "--kind", "hnsw")
    run("evaluate", "--model", root / "pre", "--domain", root / "garden", "--use-cpu")  # caches the text vectors
    write_serving_files(root)


def run(*words: object) -> None:
    """One command that must succeed."""
    from unisrec.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main([str(word) for word in words])
    if status:
        raise RuntimeError(f"{' '.join(map(str, words))}: status {status}\n{out.getvalue()}")


def write_encoder(folder: Path) -> None:
    """A one-layer BERT with vectors of 16 numbers."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *map(str, range(NUM_ITEMS))]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    vocab = {token: place for place, token in enumerate(vocabulary)}
    BertTokenizer(vocab=vocab, model_max_length=32).save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))


def histories(seed: int) -> list[list[int]]:
    """Items of each user; the next item mostly is the next number."""
    rng = random.Random(seed)
    starts = [(rng.randrange(NUM_ITEMS), rng.randrange(3, 9)) for _ in range(NUM_USERS)]
    return [[(start + step) % NUM_ITEMS for step in range(length)] for start, length in starts]


def title(item: int, seed: int = 0) -> str:
    """A text that no other item has."""
    return f"{' '.join(random.Random(item + 100 * seed).sample(WORDS, 3))} {item}"


def write_clicks(interactions: Path, items: Path, seed: int) -> None:
    """Tables of users and items as CSV."""
    lines = [
        f"u{user},{seed}i{item},{100 * user + step}"
        for user, row in enumerate(histories(seed))
        for step, item in enumerate(row)
    ]
    interactions.write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))
    lines = [f"{seed}i{item},{title(item, seed)}" for item in range(NUM_ITEMS)]
    items.write_text("\n".join(["item_id,title", *lines, ""]))


def write_raw_files(root: Path) -> None:
    """The same purchases in every layout that `prepare` reads."""
    import polars as pl

    rows = [(f"u{user}", f"i{item}", 100 * user + step) for user, row in enumerate(histories(0))
            for step, item in enumerate(row)]  # fmt: skip
    items = [(f"i{item}", title(item)) for item in range(NUM_ITEMS)]
    clicks = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    texts = pl.DataFrame(items, schema=["item_id", "title"], orient="row")
    for name, frame in (("clicks", clicks), ("texts", texts)):
        frame.write_csv(root / f"{name}.csv")
        frame.write_csv(root / f"{name}.tsv", separator="\t")
        frame.write_parquet(root / f"{name}.parquet")
        frame.write_ndjson(root / f"{name}.jsonl")
        (root / f"{name}.csv.gz").write_bytes(gzip.compress((root / f"{name}.csv").read_bytes(), mtime=0))

    (root / "ratings.csv").write_text("".join(f"{item},{user},5.0,{time}\n" for user, item, time in rows))
    reviews = [{"reviewerID": user, "asin": item, "unixReviewTime": time} for user, item, time in rows]
    (root / "reviews.json").write_text("".join(json.dumps(review) + "\n" for review in reviews))
    meta = [{"asin": item, "title": text, "brand": "Acme", "category": ["Office"]} for item, text in items]
    (root / "meta.json").write_text("".join(json.dumps(record) + "\n" for record in meta))

    retail = [f"{user},{item},{dict(items)[item]},2010-12-01 08:26:00,3" for user, item, _ in rows]
    (root / "retail.csv").write_text("\n".join(["Invoice,StockCode,Description,InvoiceDate,Quantity", *retail, ""]))
    pl.read_csv(root / "retail.csv").write_parquet(root / "retail.parquet")
    pl.read_csv(root / "retail.csv").write_excel(root / "retail.xlsx")

    (root / "atomic").mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows), ""]
    (root / "atomic" / "atomic.inter").write_text("\n".join(lines))
    lines = ["item_id:token\ttitle:token_seq", *("\t".join(row) for row in items), ""]
    (root / "atomic" / "atomic.item").write_text("\n".join(lines))


def write_official_folder(folder: Path) -> None:
    """A processed folder of the official code, as `prepare recbole` takes it whole."""
    import numpy as np

    folder.mkdir()
    name = folder.name
    rows = {"train": [], "valid": [], "test": []}
    for user, (*train, valid, test) in enumerate(histories(0)):
        rows["train"] += [(user, train[:-back], train[-back]) for back in range(1, len(train))]
        rows["valid"].append((user, train, valid))
        rows["test"].append((user, [*train, valid], test))
    head = "user_id:token\titem_id_list:token_seq\titem_id:token"
    for split, entries in rows.items():
        lines = [head, *(f"{user}\t{' '.join(map(str, items))}\t{target}" for user, items, target in entries), ""]
        (folder / f"{name}.{split}.inter").write_text("\n".join(lines))
    lines = ["item_id:token\ttext:token_seq", *(f"B{item}\t{title(item)}" for item in range(NUM_ITEMS)), ""]
    (folder / f"{name}.text").write_text("\n".join(lines))
    (folder / f"{name}.item2index").write_text("".join(f"B{item}\t{item}\n" for item in range(NUM_ITEMS)))
    (folder / f"{name}.user2index").write_text("".join(f"A{user}\t{user}\n" for user in range(NUM_USERS)))
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 768)).astype("<f4")
    vectors.tofile(folder / f"{name}.feat1CLS")


def write_official_checkpoint(file: Path, text: int = 16, hidden: int = 8, experts: int = 2) -> None:
    """A pre-trained checkpoint in the layout of the official code."""
    from collections import OrderedDict

    import torch

    torch.manual_seed(0)
    weights = OrderedDict()
    weights["position_embedding.weight"] = torch.randn(10, hidden)
    for layer in range(2):
        attention, forward = (f"trm_encoder.layer.{layer}.{part}" for part in ("multi_head_attention", "feed_forward"))
        places = [f"{attention}.{part}" for part in ("query", "key", "value", "dense")]
        for place in [*places, f"{forward}.dense_1", f"{forward}.dense_2"]:
            weights[f"{place}.weight"], weights[f"{place}.bias"] = torch.randn(hidden, hidden), torch.randn(hidden)
        for place in (f"{attention}.LayerNorm", f"{forward}.LayerNorm"):
            weights[f"{place}.weight"], weights[f"{place}.bias"] = torch.ones(hidden), torch.zeros(hidden)
    weights["LayerNorm.weight"], weights["LayerNorm.bias"] = torch.ones(hidden), torch.zeros(hidden)
    weights["moe_adaptor.w_gate"] = torch.randn(text, experts)
    weights["moe_adaptor.w_noise"] = torch.randn(text, experts)
    for expert in range(experts):
        weights[f"moe_adaptor.experts.{expert}.bias"] = torch.randn(text)
        weights[f"moe_adaptor.experts.{expert}.lin.weight"] = torch.randn(hidden, text)
    torch.save({"state_dict": weights, "epoch": 3}, file)


def write_serving_files(root: Path) -> None:
    """Histories and new items in the three formats."""
    import polars as pl

    rows = [{"user_id": f"u{user}", "history": [f"0i{item}" for item in row]} for user, row in enumerate(histories(0))]
    pl.DataFrame(rows).write_parquet(root / "histories.parquet")
    (root / "histories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{row['user_id']},{' '.join(row['history'])}" for row in rows]
    (root / "histories.csv").write_text("\n".join(["user_id,history", *lines, ""]))
    new = pl.DataFrame({"item_id": ["n1", "n2"], "text": ["red steel tent", "blue pen"]})
    new.write_parquet(root / "new.parquet")
    new.write_csv(root / "new.csv")
    new.write_ndjson(root / "new.jsonl")
    shutil.copy(root / "new.csv", root / "gone.csv")
    (root / "gone.csv").write_text("item_id\n0i3\n0i4\n")


__all__ = ["NUM_ITEMS", "QUICK", "TRAINING", "build_world"]
