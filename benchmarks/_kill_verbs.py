"""Kills of the verbs that write: what each is asked for, and what must be there after a kill."""

import csv
import filecmp
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np


CHANGES = ("os.remove", "os.rmdir", "os.rename", "os.mkdir", "open")
HUB = Path(__file__).parents[1] / "tests" / "local_hub.py"
WORDS = "red blue green steel wood pen lamp tent kettle chair garden travel kids case".split()


class Verb(NamedTuple):
    """A command line, and a check of what it writes: whether that is there, whole; `ValueError` or so if it is broken."""

    name: str
    words: list[object]
    check: Callable[[], bool]
    reads: bool = False  # whether it is also killed where it opens a file for reading


class Hub:
    """A stand-in for the Hugging Face Hub on this machine, which `restart` empties."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._server: subprocess.Popen | None = None
        self.restart()

    def restart(self) -> None:
        """Starts an empty Hub at the same address."""
        self.stop()
        command = [sys.executable, str(HUB), str(self.port)]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("the stand-in for the Hub does not answer")

    def stop(self) -> None:
        """Ends the server."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def files(self, repo_id: str) -> set[str]:
        """Returns the names of the files of a model repository; an empty set if there is no such repository."""
        try:
            with urlopen(f"{self.address}/api/models/{repo_id}/tree/main?recursive=true") as answer:
                return {entry["path"] for entry in json.load(answer) if entry["type"] == "file"}
        except HTTPError as error:
            if error.code in (401, 404):  # as the Hub answers those who may not know
                return set()
            raise


def write_world(root: Path) -> None:
    """A shop of 40 items, a tiny model with its text encoder, raw files, histories and an official checkpoint."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    from unisrec import ItemCatalogue, Recommender, UniSRecConfig, UniSRecModel, UniSRecProcessor

    torch.manual_seed(0)
    (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = BertModel(BertConfig(vocab_size=len(WORDS) + 5, max_position_embeddings=32, **sizes)).eval()
    model = UniSRecModel(UniSRecConfig(text_embedding_size=16, hidden_size=8, num_experts=2, intermediate_size=8))
    model.attach_text_encoder(encoder)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(40)]
    catalogue = ItemCatalogue([f"i{row}" for row in range(40)], texts)
    processor = UniSRecProcessor(BertTokenizer(str(root / "vocab.txt")), catalogue, 50, 32)
    Recommender(model, processor).save_pretrained(root / "shop")
    with open(root / "items.csv", "w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title"), *zip(catalogue.item_ids, texts, strict=True)])
    with open(root / "clicks.csv", "w", newline="") as file:
        clicks = [(f"u{row % 20}", f"i{rng.integers(40)}", row) for row in range(400)]
        csv.writer(file).writerows([("user_id", "item_id", "timestamp"), *clicks])
    with open(root / "histories.csv", "w", newline="") as file:
        csv.writer(file).writerows([("user_id", "history"), *((f"u{row}", f"i{row} i{row + 1}") for row in range(30))])
    torch.save({"state_dict": _official_weights(16, 8, 8)}, root / "official.pth")


def _official_weights(text: int, hidden: int, inner: int) -> "OrderedDict":
    """Random weights in the layout of a pre-trained checkpoint of the official code."""
    import torch

    shapes = {"position_embedding.weight": (50, hidden)}
    for layer in range(2):
        attention, forward = (f"trm_encoder.layer.{layer}.{part}" for part in ("multi_head_attention", "feed_forward"))
        for part in ("query", "key", "value", "dense"):
            shapes |= {f"{attention}.{part}.weight": (hidden, hidden), f"{attention}.{part}.bias": (hidden,)}
        shapes |= {f"{forward}.dense_1.weight": (inner, hidden), f"{forward}.dense_1.bias": (inner,)}
        shapes |= {f"{forward}.dense_2.weight": (hidden, inner), f"{forward}.dense_2.bias": (hidden,)}
        for norm in (f"{attention}.LayerNorm", f"{forward}.LayerNorm"):
            shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    shapes |= {"LayerNorm.weight": (hidden,), "LayerNorm.bias": (hidden,)}
    shapes |= {"moe_adaptor.w_gate": (text, 2), "moe_adaptor.w_noise": (text, 2)}
    for expert in range(2):
        name = f"moe_adaptor.experts.{expert}"
        shapes |= {f"{name}.bias": (text,), f"{name}.lin.weight": (hidden, text)}
    return OrderedDict((name, torch.randn(shape)) for name, shape in shapes.items())


def verbs_of(root: Path, hub: Hub) -> list[Verb]:
    """The verbs; those that change the shop in place come first."""
    from unisrec import Domain, UniSRecModel, UniSRecProcessor
    from unisrec.modeling_unisrec.hub import shared_files
    from unisrec.recommender import FaissIndex, Recommender

    shop, out = root / "shop", root / "out"

    def ids() -> list[str]:
        catalogue = UniSRecProcessor.from_pretrained(shop).catalogue
        assert catalogue.item_embeddings is not None
        return catalogue.item_ids

    before = ids()

    def added() -> bool:
        now = ids()
        assert now in (before, [*before, "new"]), now
        return now != before

    def removed() -> bool:
        now = ids()
        assert now in (before, before[2:]), now
        return now != before

    def copied() -> bool:
        return out.exists() and Recommender.from_pretrained(out).processor.catalogue.item_ids == [*before, "new"]

    def indexed() -> bool:
        return out.exists() and isinstance(Recommender.from_pretrained(shop, index=out).use_index(out), FaissIndex)

    def exported() -> bool:
        from onnxruntime import InferenceSession

        names = ("text_encoder", "item_tower", "sequence_tower")
        return out.exists() and all(InferenceSession(out / f"{name}.onnx") for name in names)

    def converted() -> bool:
        return out.exists() and UniSRecModel.from_pretrained(out).config.hidden_size == 8

    def recommended() -> bool:
        import polars

        file = out.with_suffix(".parquet")
        return file.exists() and polars.read_parquet(file).height == 30 * 5

    def prepared() -> bool:
        return out.exists() and Domain.load_from_disk(out).num_items == 40

    def pushed() -> bool:
        different = filecmp.dircmp(shop, root / "kept")
        assert not different.left_only + different.right_only + different.diff_files, "the folder was changed"
        there = hub.files("shop/killed") - {".gitattributes"}
        assert there in (set(), set(shared_files(shop))), there
        return bool(there)

    table = ["prepare", "table", "--interactions", root / "clicks.csv", "--items", root / "items.csv"]
    found = out.with_suffix(".parquet")
    verbs = [
        Verb("items add", ["items", "add", shop, "--item", "new", "red lamp"], added),
        Verb("items remove", ["items", "remove", shop, "--id", *before[:2]], removed),
        Verb("items --output", ["items", "add", shop, "--item", "new", "red lamp", "--output", out], copied),
        Verb("index", ["index", shop, "--output", out, "--kind", "hnsw"], indexed),
        Verb("export", ["export", shop, "--output", out], exported),
        Verb("convert", ["convert", "--official", root / "official.pth", "--output", out], converted),
        Verb("prepare", [*table, "--user-k", "1", "--item-k", "1", "--output", out], prepared),
    ]
    words = ["recommend", "--model", shop, "--input", root / "histories.csv", "--output", found, "--top-k", "5"]
    push = Verb("push", ["push", shop, "shop/killed"], pushed, reads=True)
    return [*verbs, Verb("recommend", words, recommended), push]


def run_verb(words: list[object], root: Path, log: Path, moment: int | None, count, reads: bool) -> None:
    """What a process does; it kills itself at the n-th change of a file below `root`, or with `reads` opening of one."""
    from unisrec.cli import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)

    def watch(event: str, arguments: tuple) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(str(root)):
            return
        if event == "open" and not reads and isinstance(arguments[1], str) and not set(arguments[1]) & set("wax+"):
            return  # for reading
        if moment is not None and count.value >= moment:
            os.kill(os.getpid(), signal.SIGKILL)
        count.value += 1

    sys.addaudithook(watch)
    sys.exit(main([str(word) for word in words]))


def kill_verbs(root: Path, kills: int, seed: int) -> dict[str, list[int]]:
    r"""
    Kills each verb in turn at random changes of files, and looks at what is there.

    Returns:
        `dict[str, list[int]]`: For each verb the kills, those after which the old was there, those after which the new was,
        and faults: what was lost or left half-written.
    """
    from transformers.utils.logging import disable_progress_bar

    rng, log, hub = np.random.default_rng(seed), root / "log.txt", Hub()
    # For the processes: this one has read its own settings of the Hub, and asks for nothing there.
    os.environ |= {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_shop", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["unisrec.cli", "unisrec.recommender", "unisrec.trainer"])
    disable_progress_bar()
    write_world(root)
    shutil.copytree(root / "shop", root / "kept")
    verbs = verbs_of(root, hub)
    counts = {verb.name: [0, 0, 0, 0] for verb in verbs}

    def reset() -> None:
        for path in root.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(root / "shop")
        shutil.copytree(root / "kept", root / "shop")
        if hub.files("shop/killed"):
            hub.restart()

    def start(verb: Verb, moment: int | None) -> tuple[int, int]:
        count = processes.Value("i", 0)
        process = processes.Process(target=run_verb, args=(verb.words, root, log, moment, count, verb.reads))
        process.start()
        process.join()
        return process.exitcode, count.value

    def is_there(verb: Verb) -> bool | None:
        try:
            return verb.check()
        except Exception as error:  # whatever a broken folder makes a library say
            print(f"{verb.name}: {type(error).__name__}: {error}", file=sys.stderr)
            return None

    for place, verb in enumerate(verbs):
        code, moments = start(verb, None)
        if code or is_there(verb) is not True:
            raise SystemExit(f"{verb.name} does not work:\n{log.read_text()}")
        for number in range(kills * (place + 1) // len(verbs) - kills * place // len(verbs)):
            reset()
            code, _ = start(verb, int(rng.integers(moments)))
            counts[verb.name][0] += code < 0
            found = is_there(verb)
            counts[verb.name][{False: 1, True: 2, None: 3}[found]] += 1
            if found is False and number % 4 == 0:  # what the kill left must not be in the way
                code, _ = start(verb, None)
                counts[verb.name][3] += code != 0 or is_there(verb) is not True
        reset()
        print(f"{verb.name:16}" + "".join(f"{count:8}" for count in counts[verb.name]), flush=True)
    hub.stop()
    return counts
