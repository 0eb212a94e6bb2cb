"""Cases of fuzz.py: machines without room, rights, open files or characters."""

import random

from _fuzz_arguments import CLICKS, FINETUNE, PRETRAIN, QUICKSTART
from _fuzz_case import EITHER, REFUSED, TAKEN, Case, Cases, take, unreadable, write
from _fuzz_checkpoints import uses
from _fuzz_data import KEEP, OUT, domain_uses


def machine_cases(rng: random.Random) -> Cases:
    """Disks that are full, files that may not be read, terminals that cannot show a text. `fuzz.py` says what each means."""
    writers = {
        "prepare": (*CLICKS, *KEEP, *OUT), "convert": ("--official", "base/official.pth", *OUT), "index": ("base/ind", *OUT), "items": ("add", "base/ind", "--item", "n", "red pen", *OUT),
        "demo": ("base/ind", "--export-space", "out"), "plot": ("curves", "base/long", "--output", "out.png"), "evaluate": (*uses("base/ind")["evaluate"], "--json", "out.json"),
        "finetune": FINETUNE, "pretrain": PRETRAIN, "recommend": ("--model", "base/ind", "--input", "base/histories.csv", "--output", "out.csv"),
        "quickstart": (*QUICKSTART, "--output", "out"),
    }  # fmt: skip
    for verb, words in writers.items():
        for size in (0, 300, 2000) if verb != "quickstart" else (0, 2000):
            expect = (
                EITHER if size == 2000 and verb in ("plot", "evaluate", "index", "recommend", "prepare") else REFUSED
            )
            if verb == "evaluate" and size == 300:
                expect = EITHER
            yield Case(
                verb,
                f"no room beyond {size} bytes",
                words,
                expect,
                r"large|space|room|\[Errno|written",
                machine=f"room {size}",
            )
    for format in ("out.parquet", "out.jsonl"):
        yield Case(
            "recommend",
            f"no room for {format}",
            ("--model", "base/ind", "--input", "base/histories.csv", "--output", format),
            REFUSED,
            r"large|space|room|\[Errno",
            machine="room 300",
        )
    yield Case(
        "items",
        "no room in place",
        ("add", "ind", "--item", "n", "red pen"),
        REFUSED,
        r"large|space|room|\[Errno",
        (take("ind"),),
        (),
        machine="room 300",
    )
    printers = {
        "env": (),
        "evaluate": uses("base/ind")["evaluate"],
        "items": ("list", "base/ind"),
        "recommend": uses("base/ind")["recommend"],
        "prepare": (*CLICKS, *KEEP, *OUT),
        "plot": ("curves", "base/long", "--output", "out.png"),
    }
    for verb, words in printers.items():
        yield Case(verb, "standard output on a full disk", words, REFUSED, "output", machine="stdout full")
        yield Case(verb, "standard output closed", words, TAKEN, ".", machine="stdout closed")
        yield Case(verb, "a reader that has left", words, EITHER, ".", machine="stdout left")
    for code in ("cp1252", "ascii", "cp437"):
        yield Case(
            "items",
            f"a terminal of {code}",
            ("list", "out"),
            TAKEN,
            ".",
            (lambda _: _add("急須 🫖"),),
            (),
            f"code {code}",
        )
        yield Case(
            "recommend",
            f"a terminal of {code}",
            ("--model", "out", "--history", "text:急須", "--top-k", "100"),
            TAKEN,
            ".",
            (lambda _: _add("急須 🫖"),),
            (),
            f"code {code}",
        )
        yield Case(
            "prepare",
            f"a terminal of {code}",
            (*CLICKS, *KEEP, "--output", "店"),
            TAKEN,
            ".",
            (),
            ("店",),
            f"code {code}",
        )
        yield Case(
            "recommend",
            f"an unknown id on a terminal of {code}",
            ("--model", "base/ind", "--history", "急須"),
            REFUSED,
            "catalogue",
            machine=f"code {code}",
        )
    for file, verb, words, says in (
        ("clicks.csv", "prepare", ("table", "--interactions", "clicks.csv", "--items", "base/texts.csv", *KEEP, *OUT), "clicks"),
        ("clicks.parquet", "prepare", ("table", "--interactions", "clicks.parquet", "--items", "base/texts.csv", *KEEP, *OUT), "clicks"),
        ("retail.xlsx", "prepare", ("online-retail", "--input", "retail.xlsx", *KEEP, *OUT), "retail"),
        ("meta.json", "prepare", ("amazon", "--ratings", "base/ratings.csv", "--metadata", "meta.json", *KEEP, *OUT), "meta"),
        ("official.pth", "convert", ("--official", "official.pth", *OUT), "official"),
        ("histories.csv", "recommend", ("--model", "base/ind", "--input", "histories.csv", "--output", "out.csv"), "histories"),
        ("new.csv", "items", ("add", "base/ind", "--input", "new.csv", *OUT), "new"),
    ):  # fmt: skip
        yield Case(
            verb,
            f"{file} that may not be read",
            words,
            REFUSED,
            says,
            (take(file), unreadable(file)),
            machine="nobody",
        )
    for file in (
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "catalogue/items.parquet",
        "catalogue/item_embeddings.safetensors",
        "catalogue",
        ".",
    ):
        yield Case(
            "recommend",
            f"{file} that may not be read",
            uses("ind")["recommend"],
            REFUSED,
            "ermission|denied|read",
            (take("ind"), unreadable(f"ind/{file}")),
            machine="nobody",
        )
        yield Case(
            "items",
            f"{file} that may not be read",
            ("list", "ind"),
            EITHER if file == "model.safetensors" or "embeddings" in file else REFUSED,
            "ermission|denied|read",
            (take("ind"), unreadable(f"ind/{file}")),
            machine="nobody",
        )
    for file in ("domain.json", "items.parquet", "sequences.parquet", "."):
        yield Case(
            "evaluate",
            f"{file} that may not be read",
            domain_uses("shop")["evaluate"],
            REFUSED,
            "ermission|denied|read",
            (take("shop"), unreadable(f"shop/{file}")),
            machine="nobody",
        )
    for file in ("index.faiss", "index.json", "sample.safetensors", "."):
        yield Case(
            "recommend",
            f"index/{file} that may not be read",
            ("--model", "base/ind", "--history", "0i1", "--index", "index"),
            REFUSED,
            "ermission|denied|read",
            (take("index"), unreadable(f"index/{file}")),
            machine="nobody",
        )
    yield Case(
        "plot",
        "a log that may not be read",
        ("curves", "long", "--output", "out.png"),
        REFUSED,
        "ermission|denied",
        (take("long"), unreadable("long/trainer_state.json")),
        machine="nobody",
    )
    yield Case(
        "finetune",
        "YAML that may not be read",
        ("--config", "run.yaml", *FINETUNE),
        REFUSED,
        "ermission|denied",
        (write("run.yaml", "seed: 1\n"), unreadable("run.yaml")),
        machine="nobody",
    )
    yield Case(
        "push",
        "config.json that may not be read",
        ("ind", "owner/name"),
        REFUSED,
        "ermission|denied|read",
        (take("ind"), unreadable("ind/config.json")),
        machine="nobody",
    )
    for verb, words in {
        **{verb: uses("base/ind")[verb] for verb in ("recommend", "evaluate", "items", "index")},
        "prepare": (*CLICKS, *KEEP, *OUT),
        "plot": ("curves", "base/long", "--output", "out.png"),
    }.items():
        for number in (8, 10, 13):
            yield Case(
                verb,
                f"{number} open files at most",
                words,
                EITHER,
                r"open files|\[Errno 24",
                machine=f"files {number}",
            )
    for verb in ("evaluate", "finetune", "prepare"):
        words = {"evaluate": uses("base/ind")["evaluate"], "finetune": FINETUNE, "prepare": (*CLICKS, *KEEP, *OUT)}[
            verb
        ]
        yield Case(verb, "Ctrl-C", words, EITHER, "interrupted", machine="interrupt")


def _add(text: str) -> None:
    """A checkpoint `out` with an item of a text."""
    from _fuzz_world import run

    run("items", "add", "base/ind", "--item", "急須", text, "--output", "out")


__all__ = ["machine_cases"]
