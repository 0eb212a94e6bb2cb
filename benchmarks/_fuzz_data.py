"""Cases of fuzz.py: raw files and domains."""

import math
import random
from typing import Any

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
    edit_table,
    flip_bits,
    set_field,
    take,
    write,
)
from _fuzz_world import QUICK, TRAINING


NAN, INF, HUGE = math.nan, math.inf, 10**12
OUT = ("--output", "out")
KEEP = ("--user-k", "1", "--item-k", "1")
BROKEN_TEXT = {
    "not UTF-8": b"\xff\xfe\x00x",
    "zero bytes": b"\x00" * 64,
    "one long line": b"x" * 100_000,
    "blank lines": b"\n\n\n",
    "half a gzip file": b"\x1f\x8b\x08\x00",
    "a byte order mark alone": b"\xef\xbb\xbf",
}


def data_cases(rng: random.Random) -> Cases:
    """All of the file."""
    yield from raw_file_cases()
    yield from table_cases()
    yield from record_cases()
    yield from domain_cases(rng)


def raw_file_cases() -> Cases:
    """Each input of each source of `prepare`, spoilt."""
    sources = {
        "clicks.csv": ("table", "--interactions", "clicks.csv", "--items", "base/texts.csv"),
        "texts.csv": ("table", "--interactions", "base/clicks.csv", "--items", "texts.csv"),
        "clicks.tsv": ("table", "--interactions", "clicks.tsv", "--items", "base/texts.tsv"),
        "clicks.csv.gz": ("table", "--interactions", "clicks.csv.gz", "--items", "base/texts.csv"),
        "clicks.jsonl": ("table", "--interactions", "clicks.jsonl", "--items", "base/texts.jsonl"),
        "texts.jsonl": ("table", "--interactions", "base/clicks.jsonl", "--items", "texts.jsonl"),
        "clicks.parquet": ("table", "--interactions", "clicks.parquet", "--items", "base/texts.parquet"),
        "texts.parquet": ("table", "--interactions", "base/clicks.parquet", "--items", "texts.parquet"),
        "ratings.csv": ("amazon", "--ratings", "ratings.csv", "--metadata", "base/meta.json"),
        "reviews.json": ("amazon", "--ratings", "reviews.json", "--metadata", "base/meta.json"),
        "meta.json": ("amazon", "--ratings", "base/ratings.csv", "--metadata", "meta.json"),
        "retail.csv": ("online-retail", "--input", "retail.csv"),
        "retail.parquet": ("online-retail", "--input", "retail.parquet"),
        "retail.xlsx": ("online-retail", "--input", "retail.xlsx"),
    }
    for file, words in sources.items():
        words = (*words, *KEEP, *OUT)
        says = file.partition(".")[0] + "|items without text"
        yield Case("prepare", f"{file} as it is", words, TAKEN, ".", (take(file),))
        for kind in DAMAGES:
            expect = EITHER if kind == "cut short" and not file.endswith((".parquet", ".xlsx", ".gz")) else REFUSED
            yield Case("prepare", f"{file} {kind}", words, expect, says, (take(file), damage(file, kind)))
        for kind, content in BROKEN_TEXT.items():
            yield Case("prepare", f"{file} of {kind}", words, REFUSED, says, (write(file, content),))
        for number in range(2):
            yield Case(
                "prepare", f"bits flipped in {file} ({number})", words, EITHER, ".", (take(file), flip_bits(file))
            )
    for folder, files in {"atomic": ("atomic.inter", "atomic.item"),
                          "Toys": ("Toys.train.inter", "Toys.valid.inter", "Toys.text", "Toys.item2index", "Toys.feat1CLS",
                                   "Toys.user2index")}.items():  # fmt: skip
        keep = KEEP if folder == "atomic" else ()
        words = ("recbole", "--input", folder, *keep, *OUT)
        yield Case("prepare", f"{folder} as it is", words, TAKEN, ".", (take(folder),))
        for file in files:
            for kind in DAMAGES:
                expect = EITHER if kind == "cut short" or (kind == "missing" and "user2" in file) else REFUSED
                if file == "Toys.feat1CLS" and kind == "missing":
                    expect = EITHER  # the texts can be encoded
                yield Case(
                    "prepare",
                    f"{folder}/{file} {kind}",
                    words,
                    expect,
                    f"{folder}|items without text",
                    (take(folder), damage(f"{folder}/{file}", kind)),
                )
            for kind in ("not UTF-8", "zero bytes", "blank lines"):
                yield Case(
                    "prepare",
                    f"{folder}/{file} of {kind}",
                    words,
                    REFUSED,
                    folder,
                    (take(folder), write(f"{folder}/{file}", BROKEN_TEXT[kind])),
                )


def table_cases() -> Cases:
    """Tables whose values are odd, in parquet, where a column can have any type."""
    import datetime as dt

    import polars as pl

    words = ("table", "--interactions", "clicks.parquet", "--items", "base/texts.parquet", *KEEP, *OUT)

    def column(name: str, value: Any, dtype: Any = None) -> Change:
        return edit_table("clicks.parquet", lambda t: t.with_columns(pl.Series(name, [value] * t.height, dtype=dtype)))

    odd = {
        "null": (None, pl.String),
        "null of no type": (None, pl.Null),
        "empty": ("", None),
        "blank": ("  ", None),
        "a list": (["a"], None),
        "an empty list": ([], pl.List(pl.String)),
        "a struct": ({"a": 1}, None),
        "NaN": (NAN, None),
        "inf": (INF, None),
        "bytes": (b"\xff", None),
        "a duration": (dt.timedelta(seconds=1), None),
        "a time of day": (dt.time(1), None),
        "huge": (2**64 - 1, pl.UInt64),
        "a large fraction": (1e300, None),
        "an array": ([1.0], pl.Array(pl.Float64, 1)),
        "an object of a category": ("a", pl.Categorical),
        "a decimal": ("1.5", pl.Decimal(10, 2)),
        "bool": (True, None),
    }
    fine = {
        ("timestamp", "huge"),
        ("timestamp", "a large fraction"),
        ("timestamp", "a decimal"),
        ("timestamp", "bool"),
    }
    for name in ("user_id", "item_id", "timestamp"):
        for what, (value, dtype) in odd.items():
            expect = (
                EITHER
                if what in ("an object of a category", "a decimal", "bool", "huge", "a large fraction")
                or (name, what) in fine
                else REFUSED
            )
            yield Case(
                "prepare",
                f"{name} is {what}",
                words,
                expect,
                rf"{name}|clicks|items|interaction",
                (take("clicks.parquet"), column(name, value, dtype)),
            )
    words = ("table", "--interactions", "base/clicks.parquet", "--items", "texts.parquet", *KEEP, *OUT)
    for what, (value, dtype) in odd.items():
        for name in ("title", "item_id"):
            edit = edit_table(
                "texts.parquet",
                lambda t, n=name, v=value, d=dtype: t.with_columns(pl.Series(n, [v] * t.height, dtype=d)),
            )
            expect = (
                REFUSED
                if name == "item_id" or what in ("null", "null of no type", "empty", "blank", "an empty list", "NaN")
                else EITHER
            )
            yield Case(
                "prepare",
                f"{name} of the items is {what}",
                words,
                expect,
                r"item|text|title",
                (take("texts.parquet"), edit),
            )

    csv = ("table", "--interactions", "clicks.csv", "--items", "base/texts.csv", *KEEP, *OUT)
    head = "user_id,item_id,timestamp\n"
    for what, content in {
        "no user": head + ",i1,1\n",
        "no time": head + "u1,i1,\n",
        "a word for a time": head + "u1,i1,noon\n",
        "NaN for a time": head + "u1,i1,nan\n",
        "inf for a time": head + "u1,i1,inf\n",
        "a field more": head + "u1,i1,1,2\n",
        "a field less": head + "u1,i1\n",
        "an open quote": head + 'u1,"i1,1\n',
        "the header alone": head,
        "no header": "u1,i1,1\nu2,i2,2\n",
        "a column twice": "user_id,item_id,item_id,timestamp\nu,i1,i1,1\n",
        "an unknown item": head + "u1,nothing,1\n",
        "semicolons": head.replace(",", ";") + "u1;i1;1\n",
        "tabs": head.replace(",", "\t") + "u1\ti1\t1\n",
        "a date that is none": head + "u1,i1,2021-02-30\n",
        "two kinds of times": head + "u1,i1,2021-02-03\nu1,i2,5\n",
        "a time beyond all numbers": head + "u1,i1,1e400\n",
        "HTML": "<html><body>not found</body></html>\n",
    }.items():
        yield Case("prepare", f"a CSV file with {what}", csv, REFUSED, r"clicks|item", (write("clicks.csv", content),))
    yield Case(
        "prepare",
        "a CSV file in capitals",
        (*csv[:2], "CLICKS.CSV", *csv[3:]),
        EITHER,
        "CLICKS",
        (take("clicks.csv"), lambda _: _rename("clicks.csv", "CLICKS.CSV")),
    )
    for name in (
        "a*b.csv",
        "a[1].csv",
        "line\nbreak.csv",
        " blank .csv",
        "-dash.csv",
        "急須.csv",
        "a?b.csv",
        "a{1,2}.csv",
        "%s.csv",
        "${HOME}.csv",
    ):
        option = f"--interactions={name}"
        words = ("table", option, "--items", "base/texts.csv", *KEEP, *OUT)
        yield Case(
            "prepare",
            f"a file called {name!r}",
            words,
            TAKEN,
            ".",
            (take("clicks.csv"), lambda _, n=name: _rename("clicks.csv", n)),
        )
        name = name.replace(".csv", ".parquet")
        words = ("table", f"--interactions={name}", "--items", "base/texts.csv", *KEEP, *OUT)
        yield Case(
            "prepare",
            f"a file called {name!r}",
            words,
            TAKEN,
            ".",
            (take("clicks.parquet"), lambda _, n=name: _rename("clicks.parquet", n)),
        )
        yield Case(
            "prepare",
            f"an output called {name!r}",
            ("table", "--interactions", "base/clicks.csv", "--items", "base/texts.csv", *KEEP, f"--output={name}"),
            TAKEN,
            ".",
            (),
            (name,),
        )


# What a row may lack: it is left out and counted.
ABSENT = {
    "null",
    "no user",
    "a null user",
    "an empty user",
    "a user that is an object",
    "a NaN time",
    "a time that is an object",
}


def record_cases() -> Cases:
    """JSON lines whose values are odd."""
    words = ("table", "--interactions", "clicks.jsonl", "--items", "base/texts.jsonl", *KEEP, *OUT)
    good = '{"user_id":"u1","item_id":"i1","timestamp":1}\n'
    lines = {
        "a list": "[1]\n", "a number": "5\n", "a string": '"x"\n', "null": "null\n", "an open bracket": '{"user_id":\n',
        "no user": '{"item_id":"i1","timestamp":1}\n', "a null user": good.replace('"u1"', "null"),
        "a user that is a list": good.replace('"u1"', "[1]"), "a user that is an object": good.replace('"u1"', "{}"),
        "an empty user": good.replace('"u1"', '""'), "a time that is an object": good.replace(":1}", ":{}}"),
        "a time that is a word": good.replace(":1}", ':"noon"}'), "a NaN time": good.replace(":1}", ":NaN}"),
        "an infinite time": good.replace(":1}", ":Infinity}"), "half a surrogate": good.replace("u1", "\\ud800"),
        "deep lists": good.replace('"u1"', "[" * 5000 + "]" * 5000),
        "a long number": good.replace(":1}", ":" + "9" * 5000 + "}"),
        "two objects in a line": good.strip() + good,
    }  # fmt: skip
    for what, line in lines.items():
        yield Case(
            "prepare",
            f"JSON lines with {what} first",
            words,
            EITHER if what in ABSENT else REFUSED,
            r"clicks|line|user",
            (write("clicks.jsonl", line + good),),
        )
        yield Case(
            "prepare",
            f"JSON lines with {what} second",
            words,
            EITHER if what in ABSENT else REFUSED,
            r"clicks|line|user",
            (write("clicks.jsonl", good + line),),
        )
    words = ("amazon", "--ratings", "base/ratings.csv", "--metadata", "meta.json", *KEEP, *OUT)
    good = '{"asin":"i1","title":"red pen"}\n'
    for what, line in {
        "no asin": '{"title":"x"}\n', "a list for asin": '{"asin":[1],"title":"x"}\n',
        "a list": "[1]\n", "a Python literal cut short": "{'asin': 'i1'\n", "a call": "{'asin': print(1)}\n",
        "deep lists": '{"asin":"i1","category":' + "[" * 5000 + "]" * 5000 + "}\n",
        "a deep literal": "{'asin': " + "(" * 5000 + ")" * 5000 + "}\n",
    }.items():  # fmt: skip
        yield Case(
            "prepare", f"metadata with {what}", words, REFUSED, r"meta|line|record", (write("meta.json", good + line),)
        )
    for what, value in {
        "a list of texts": '["red", ["pen"]]',
        "a number": "5",
        "an object": '{"a": "pen"}',
        "NaN": "NaN",
    }.items():
        yield Case(
            "prepare",
            f"metadata with {what} for a title",
            words,
            REFUSED,
            "text|item",
            (write("meta.json", good.replace('"red pen"', value)),),
        )


def domain_uses(name: str) -> dict[str, tuple[str, ...]]:
    """Commands that read a domain."""
    return {
        "evaluate": ("--model", "base/pre", "--domain", name, "--use-cpu"),
        "pretrain": ("--domains", name, "--text-encoder", "base/encoder", "--output_dir", "out", *TRAINING, *QUICK),
        "finetune": ("--model", "base/pre", "--domain", name, "--setting", "inductive", "--output_dir", "out", *TRAINING, *QUICK),
        "recommend": ("--model", "base/pre", "--domain", name, "--history", "text:red pen"),
        "index": ("base/pre", "--domain", name, "--output", "out"),
        "plot": ("map", "base/pre", "--domains", name, "--use-cpu", "--output", "out.png"),
        "demo": ("base/pre", "--domain", name, "--export-space", "out"),
        "convert": ("--official", "base/official.pth", "--domain", name, "--output", "out"),
    }  # fmt: skip


def domain_cases(rng: random.Random) -> Cases:
    """Domain folders."""
    import polars as pl

    verbs = ("evaluate", "pretrain", "finetune", "recommend", "index", "plot")

    def case(what: str, *changes: Change, expect: str = REFUSED, verb: str | None = None) -> Case:
        verb = verb or random.Random(what).choice(verbs)
        return Case(verb, f"a domain with {what}", domain_uses("shop")[verb], expect, r"\bshop\b", (take("shop"), *changes),
                    ("out", "out.png", "shop/text_features"))  # fmt: skip

    for field in ("format_version", "name", "counts", "content_hash", "splits", "info", "given_features"):
        yield case(
            f"no {field}",
            drop_field("shop/domain.json", field),
            expect=EITHER if field == "given_features" else REFUSED,
        )
        for value in ("x", None, [], {}, NAN, -1, ["../x"], True):
            yield case(
                f"{field} = {value!r}",
                set_field("shop/domain.json", field, value=value),
                expect=_plausible(field, value),
            )
    for value in ([], "x", 5, None):
        yield case(
            f"domain.json that is {value!r}",
            write("shop/domain.json", f"{value!r}".replace("'", '"').replace("None", "null")),
        )
    for file in ("domain.json", "items.parquet", "sequences.parquet"):
        for kind in DAMAGES:
            for verb in ("evaluate", "recommend"):
                yield case(f"{file} {kind}", damage(f"shop/{file}", kind), verb=verb)
        for number in range(4):
            yield case(f"bits flipped in {file} ({number})", flip_bits(f"shop/{file}"), expect=EITHER)
    for what, edit in {
        "no ids": lambda t: t.drop("item_id"), "no texts": lambda t: t.drop("text"), "no rows": lambda t: t.clear(),
        "a row less": lambda t: t.head(t.height - 1), "null texts": lambda t: t.with_columns(text=pl.lit(None, pl.String)),
        "texts of numbers": lambda t: t.with_columns(text=pl.lit(1)), "one id": lambda t: t.with_columns(item_id=pl.lit("x")),
        "other texts": lambda t: t.with_columns(text=pl.lit("red pen")), "another order": lambda t: t.reverse(),
    }.items():  # fmt: skip
        yield case(f"{what} in its items", edit_table("shop/items.parquet", edit))
    for what, edit in {
        "no users": lambda t: t.drop("user_id"), "no rows": lambda t: t.clear(), "text rows": lambda t: t.with_columns(item_index=pl.lit("x")),
        "signed rows": lambda t: t.with_columns(pl.col("item_index").cast(pl.List(pl.Int64))),
        "empty histories": lambda t: t.with_columns(item_index=pl.lit([], pl.List(pl.UInt32))),
        "rows beyond its items": lambda t: t.with_columns(item_index=pl.lit([9999], pl.List(pl.UInt32))),
        "null rows": lambda t: t.with_columns(item_index=pl.lit(None, pl.List(pl.UInt32))),
        "one user": lambda t: t.with_columns(user_id=pl.lit("u")), "another order": lambda t: t.reverse(),
    }.items():  # fmt: skip
        yield case(f"{what} in its histories", edit_table("shop/sequences.parquet", edit))
    yield case("the items of another shop", lambda _: _copy("base/garden/items.parquet", "shop/items.parquet"))
    yield case(
        "the histories of another shop", lambda _: _copy("base/garden/sequences.parquet", "shop/sequences.parquet")
    )
    for kind in ("empty", "cut short", "random bytes", "a folder"):
        yield case(
            f"cached vectors {kind}",
            lambda r, k=kind: _spoil_cache("shop", k, r),
            expect=EITHER if kind == "a folder" else TAKEN,
            verb="evaluate",
        )
    for name in ("nowhere", "", "-", "base/ind", "base/clicks.csv", "base", ".", "a\nb", "x" * 300):
        for verb in ("evaluate", "pretrain", "finetune", "recommend", "plot", "demo", "convert", "index"):
            yield Case(
                verb,
                f"domain is {name[:20]!r}",
                domain_uses(name)[verb],
                REFUSED,
                r"domain|folder|base|File name|expected a \.csv",
            )


def _plausible(field: str, value: Any) -> str:
    """Whether a field of domain.json may have a value."""
    fine = [("format_version", True), ("name", "x"), ("info", {}), ("given_features", []), ("given_features", None)]
    return EITHER if any(field == name and value == good for name, good in fine) else REFUSED


def _spoil_cache(domain: str, kind: str, rng: random.Random) -> None:
    from pathlib import Path

    for file in sorted(Path(domain, "text_features").rglob("*.npy")):
        DAMAGES[kind](file, rng)


def _rename(source: str, target: str) -> None:
    import os

    os.rename(source, target)


def _copy(source: str, target: str) -> None:
    import shutil

    shutil.copy(source, target)


__all__ = ["BROKEN_TEXT", "data_cases", "domain_uses"]
