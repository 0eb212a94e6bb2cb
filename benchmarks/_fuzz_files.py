"""Cases of fuzz.py: files of histories and items, logs to draw, YAML files."""

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
    edit_json,
    set_field,
    take,
    write,
)
from _fuzz_data import BROKEN_TEXT
from _fuzz_world import QUICK, TRAINING


NAN, INF, HUGE = math.nan, math.inf, 10**12
OUT = ("--output", "out")


def file_cases(rng: random.Random) -> Cases:
    """All of the file."""
    yield from history_cases()
    yield from item_cases()
    yield from log_cases()
    yield from yaml_cases()


def history_cases() -> Cases:
    """Files of histories for `recommend --input`."""

    def words(file: str) -> tuple[str, ...]:
        return ("--model", "base/ind", "--input", file, "--output", "out.csv")

    good = '{"user_id":"u1","history":["0i1"]}\n'
    for file in ("histories.csv", "histories.jsonl", "histories.parquet"):
        yield Case("recommend", f"{file} as it is", words(file), TAKEN, ".", (take(file),))
        for kind in DAMAGES:
            expect = EITHER if kind == "cut short" and not file.endswith("parquet") else REFUSED
            yield Case(
                "recommend", f"{file} {kind}", words(file), expect, "histories", (take(file), damage(file, kind))
            )
        for kind, content in BROKEN_TEXT.items():
            yield Case("recommend", f"{file} of {kind}", words(file), REFUSED, "histories", (write(file, content),))
    for what, cell in {
        "an empty list": "[]", "null": "null", "a number": "5", "an object": '{"a": 1}', "a null entry": "[null]",
        "a nested list": '[["0i1"]]', "a fraction": "[1.5]", "an unknown id": '["nothing"]', "an empty string": '[""]',
        "a blank text": '[{"text": "  "}]', "an unknown key": '[{"texts": "x"}]', "a number for a text": '[{"text": 5}]',
        "two keys": '[{"text": "x y", "item_id": "0i1"}]', "a list in a string": '"[1"', "true": "[true]", "NaN": "[NaN]",
        "half a surrogate": '["\\ud800 x"]', "deep lists": "[" * 5000 + "]" * 5000, "a huge number": "[" + "9" * 5000 + "]",
    }.items():  # fmt: skip
        line = good.replace('["0i1"]', cell)
        yield Case(
            "recommend",
            f"a history that is {what}",
            words("histories.jsonl"),
            REFUSED,
            "histories|history",
            (write("histories.jsonl", good + line),),
        )
        yield Case(
            "recommend",
            f"a first history that is {what}",
            words("histories.jsonl"),
            REFUSED,
            "histories|history",
            (write("histories.jsonl", line + good),),
        )
    for what, content in {
        "no history": "user_id,history\nu1,\n", "an open list": 'user_id,history\nu1,"[1"\n', "no users": "history\n0i1\n",
        "a JSON list of nothing": 'user_id,history\nu1,"[]"\n', "an unknown id": "user_id,history\nu1,zzz\n",
        "no columns": "\n", "an empty user": "user_id,history\n,0i1\n", "a JSON list of lists": 'user_id,history\nu1,"[[1]]"\n',
    }.items():  # fmt: skip
        yield Case(
            "recommend",
            f"a CSV file of histories with {what}",
            words("histories.csv"),
            REFUSED,
            "histories|history",
            (write("histories.csv", content),),
        )
    for option, value, expect in (("--output", "out", REFUSED), ("--output", "out.txt", REFUSED), ("--output", "", REFUSED),
                                  ("--output", "base", REFUSED), ("--output", "base/shop.csv/x.csv", REFUSED), ("--output", "x" * 300 + ".csv", REFUSED),
                                  ("--batch-size", "0", REFUSED), ("--top-k", "0", REFUSED), ("--output", "out.parquet", TAKEN),
                                  ("--output", "out.jsonl", TAKEN), ("--top-k", "1000000000000", EITHER), ("--batch-size", "1000000000000", EITHER),
                                  ("--output", "/proc/x.csv", REFUSED), ("--output", "/dev/null/x.csv", REFUSED)):  # fmt: skip
        yield Case(
            "recommend",
            f"a file of histories and {option} {value[:20]!r}",
            ("--model", "base/ind", "--input", "base/histories.csv", "--output", "out.csv", option, value),
            expect,
            f"{option}|out|csv|top|batch",
        )
    for file in ("base/shop", ".", "base/ind/config.json", "base/retail.xlsx", "nowhere.csv", "-", "", "owner/name"):
        yield Case(
            "recommend", f"histories from {file!r}", words(file), REFUSED, r"input|file|column|config|\.|dataset"
        )


def item_cases() -> Cases:
    """Files of items for `items add` and `items remove`."""

    def words(file: str, action: str = "add") -> tuple[str, ...]:
        return (action, "base/ind", "--input", file, *OUT)

    for file in ("new.csv", "new.jsonl", "new.parquet"):
        yield Case("items", f"{file} as it is", words(file), TAKEN, ".", (take(file),))
        for kind in DAMAGES:
            expect = EITHER if kind == "cut short" and not file.endswith("parquet") else REFUSED
            yield Case("items", f"{file} {kind}", words(file), expect, "new", (take(file), damage(file, kind)))
    head = "item_id,text\n"
    for what, content in {
        "an item of the catalogue": head + "0i1,red pen\n", "an id twice": head + "n1,red\nn1,blue\n", "no text": head + "n1,\n",
        "no id": head + ",red\n", "a blank text": head + "n1,  \n", "no columns": "a,b\n1,2\n", "the header alone": head,
    }.items():  # fmt: skip
        yield Case(
            "items", f"a file with {what}", words("new.csv"), REFUSED, r"new|0i1|item", (write("new.csv", content),)
        )
    for what, content in {"an unknown id": "item_id\nnothing\n", "an empty id": "item_id\n\n",
                          "all ids": "item_id\n" + "".join(f"0i{item}\n" for item in range(24))}.items():  # fmt: skip
        yield Case(
            "items",
            f"a file to remove with {what}",
            words("gone.csv", "remove"),
            REFUSED,
            r"gone|item|id|catalogue",
            (write("gone.csv", content),),
        )
    yield Case("items", "a sound file to remove", words("base/gone.csv", "remove"), TAKEN, ".")
    for what, line in {"a null text": '{"item_id":"n1","text":null}', "a list for a text": '{"item_id":"n1","text":["a"]}',
                       "an object for an id": '{"item_id":{},"text":"a"}', "a number for an id": '{"item_id":5,"text":"a"}',
                       "NaN for an id": '{"item_id":NaN,"text":"a"}'}.items():  # fmt: skip
        expect = EITHER if "list" in what or "number" in what else REFUSED
        yield Case(
            "items",
            f"JSON lines with {what}",
            words("new.jsonl"),
            expect,
            r"new|item",
            (write("new.jsonl", line + "\n"),),
        )
    for what, words_ in {
        "no items": ("add", "base/ind"), "an empty id": ("add", "base/ind", "--item", "", "red pen", *OUT),
        "an empty text": ("add", "base/ind", "--item", "n1", "", *OUT), "an id twice": ("add", "base/ind", "--item", "n", "a b", "--item", "n", "c d", *OUT),
        "an id without text": ("add", "base/ind", "--item", "n1", *OUT),
        "an output that exists": ("remove", "base/ind", "--id", "0i1", "--output", "base/shop"),
        "an output below a file": ("remove", "base/ind", "--id", "0i1", "--output", "base/shop.csv/x"),
        "an empty output": ("remove", "base/ind", "--id", "0i1", "--output", ""), "an unknown action": ("change", "base/ind"),
        "the checkpoint itself for output": ("remove", "base/ind", "--id", "0i1", "--output", "base/ind"),
        "a text too long for a name": ("remove", "base/ind", "--id", "x" * 5000, *OUT), "an output of a long name": ("remove", "base/ind", "--id", "0i1", "--output", "y" * 300),
    }.items():  # fmt: skip
        yield Case("items", what, words_, REFUSED, r"item|id|output|folder|exist|action|name|\[Errno|shop|'y")
    yield Case(
        "items", "a new item in place", ("add", "ind", "--item", "n1", "red pen"), TAKEN, ".", (take("ind"),), ("ind",)
    )
    yield Case("items", "an odd id", ("add", "base/ind", "--item", "急須 \x1b[31m", "red pen", *OUT), EITHER, "id")
    yield Case(
        "items",
        "an id of half a surrogate",
        ("add", "base/ind", "--item", "\udcff", "red pen", *OUT),
        EITHER,
        "id|text|character|UTF",
    )
    yield Case(
        "items",
        "a text of half a surrogate",
        ("add", "base/ind", "--item", "n", "red \udcff", *OUT),
        EITHER,
        "id|text|character|UTF",
    )


def log_cases() -> Cases:
    """trainer_state.json for `plot curves`."""
    words = ("curves", "long", "--output", "out.png")
    file = "long/trainer_state.json"

    def case(what: str, change: Change, expect: str = REFUSED) -> Case:
        return Case("plot", f"a log {what}", words, expect, r"trainer_state|long", (take("long"), change))

    yield case("as it is", lambda _: None, TAKEN)
    for kind in DAMAGES:
        yield case(kind, damage(file, kind))
    for value in ("x", None, [], {}, 5, [5], [{}], [{"loss": 1}], [{"loss": "x", "step": 1, "epoch": 1}] * 2,
                  [{"loss": 1, "step": NAN, "epoch": 1}] * 2, [{"loss": 1, "step": 1, "epoch": INF}] * 2,
                  [{"loss": 1, "step": 1, "epoch": 1}]):  # fmt: skip
        yield case(f"with log_history {str(value)[:60]}", set_field(file, "log_history", value=value))
    yield case(
        "of NaN",
        set_field(file, "log_history", value=[{"loss": NAN, "step": step, "epoch": step} for step in (1, 2)]),
        EITHER,
    )
    yield case(
        "of huge numbers",
        set_field(file, "log_history", value=[{"loss": 10**400, "step": step, "epoch": step} for step in (1, 2)]),
        EITHER,
    )
    yield case(
        "with dollar signs",
        set_field(
            file, "log_history", value=[{"eval_$x^_ndcg@10": 0.1, "step": step, "epoch": step} for step in (1, 2)]
        ),
        EITHER,
    )
    for value in ("x", [], NAN, -1, {}):
        yield case(
            f"with best_global_step {value!r}",
            set_field(file, "best_global_step", value=value),
            EITHER if value == -1 else REFUSED,
        )
    yield case("without log_history", drop_field(file, "log_history"))
    yield case("that is a list", edit_json(file, lambda _: [1]))
    for output in ("", "base", "nowhere/x.png", "base/shop.csv/x.png", "x" * 300, "/dev/null/x", "/proc/x.png"):
        yield Case(
            "plot",
            f"curves to {output[:20]!r}",
            ("curves", "base/long", "--output", output),
            REFUSED,
            "output|folder|file|File|png",
        )


def yaml_cases() -> Cases:
    """Files for `--config`."""
    words = ("--config", "run.yaml", "--model", "base/pre", "--domain", "base/shop", "--setting", "inductive",
             "--output_dir", "out", *TRAINING, *QUICK)  # fmt: skip

    def case(what: str, content: str | bytes, expect: str = REFUSED, says: str = r"run\.yaml|{}") -> Case:
        name = what.partition(":")[0].strip() or "run"
        return Case("finetune", f"YAML {what[:60]!r}", words, expect, says.format(name), (write("run.yaml", content),))

    yield case("learning_rate: 0.01", "learning_rate: 0.01\n", TAKEN)
    for line in (
        "learning_rate: x", "learning_rate: [1]", "learning_rate: -1", "learning_rate: .nan", "learning_rate: .inf", "learning_rate: true",
        "learning_rate: {a: 1}", "learning_rat: 1", "num_train_epochs: x", "num_train_epochs: []", "seed: x", "seed: 1.5", "seed: -1",
        "per_device_eval_batch_size: 0", "per_device_eval_batch_size: -1", "per_device_eval_batch_size: 1.5", "weight_decay: -1",
        "optim: no-such", "lr_scheduler_type: no-such", "logging_steps: x", "early_stopping_patience: x", "early_stopping_patience: -1",
        "num_negatives: -1", "num_negatives: x", "num_negatives: 1.5", "lora: no-such", "lora: 5", "freeze_sequence_encoder: maybe",
        "freeze_sequence_encoder: 5", "train_text_encoder: x", "teachers: nowhere", "teachers: 5", "model_config: 5", "model_config: {hidden_size: 3}",
        "model_config: [5]", "text_encoder: 5", "text_encoder: []", "text_encoder: {}", "help_all: x", "warmup_steps: -1", "warmup_steps: x", "max_grad_norm: -1",
        "max_grad_norm: x", "deepspeed: x", "fsdp: x", "accelerator_config: x", "gradient_accumulation_steps: 0", "gradient_accumulation_steps: x",
        "dataloader_num_workers: -1", "dataloader_num_workers: x", "hub_model_id: 5", "ddp_backend: x", "half_precision_backend: x",
        "1: 2", "null: 1", "true: 1", "[a]: 1", "{a: b}: 1", "from_scratch: x", "compare_with: 5", "compare_with: nowhere", "label_smoothing_factor: 2",
        "neftune_noise_alpha: x", "optim_args: x", "adam_beta1: 2", "adam_epsilon: -1", "torch_compile_backend: x", "run_name: [1]", "verb: x", "config: other.yaml",
        "push_to_hub: x", "resume_from_checkpoint: nowhere", "save_total_limit: x", "temperature: 1", "bf16: x", "use_cpu: maybe", "data_seed: x", "fp16: x",
        "torch_dtype: x", "push_to_hub: true", "hub_strategy: x", "logging_strategy: x", "save_only_model: x", "metric_for_best_model: no-such", "length_column_name: 5",
    ):  # fmt: skip
        yield case(line, line + "\n", EITHER if line in EITHER_LINES else REFUSED, says=r".")
    for what, content in {
        "nothing": "", "a list": "- a\n", "a word": "x\n", "a number": "5\n", "null": "null\n", "tabs": "a:\n\t- b\n", "an open bracket": "a: [1\n",
        "an unknown tag": "a: !!python/object:os.system {}\n", "an alias to nothing": "a: *b\n", "an alias to itself": "a: &x [*x]\n",
        "not UTF-8": b"a: \xff\n", "zero bytes": b"\x00\x00", "a key twice": "seed: 1\nseed: 2\n", "two documents": "seed: 1\n---\nseed: 2\n",
        "deep lists": "a: " + "[" * 3000 + "]" * 3000, "many aliases": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n",
        "a list of settings": "- seed: 1\n- seed: 2\n", "a key of blanks": "' ': 1\n", "an empty key": "'': 1\n", "a long key": "a" * 2000 + ": 1\n",
        "a date for a seed": "seed: 2021-01-01\n", "binary": "seed: !!binary aGVsbG8=\n", "a set": "seed: !!set {a, b}\n",
    }.items():  # fmt: skip
        yield case(
            what, content, EITHER if what in ("a key twice",) else REFUSED, says=r"yaml|seed|\ba\b|aa|argument|--"
        )
    for verb, needed in {
        "finetune": ("model", "domain", "setting", "output_dir"),
        "pretrain": ("domains", "output_dir", "text_encoder", "text_pooling"),
    }.items():
        given = {
            "model": "base/pre",
            "domain": "base/shop",
            "setting": "inductive",
            "output_dir": "out",
            "domains": "base/shop",
            "text_encoder": "base/encoder",
        }
        for field in needed:
            for value in ("5", "[]", "{}", "null", "''", "[nowhere]", "1.5", "2021-01-01", "true"):
                rest = [
                    word
                    for name in needed
                    if name != field and name in given
                    for word in (f"--{name.replace('_', '-') if name == 'text_encoder' else name}", given[name])
                ]
                content = f"{field}: {value}\n"
                is_name = field == "output_dir" and value in ("5", "1.5", "2021-01-01", "true")  # of a new folder
                expect = TAKEN if is_name else EITHER if (field, value) == ("text_pooling", "null") else REFUSED
                yield Case(
                    verb,
                    f"YAML with {field}: {value}",
                    ("--config", "run.yaml", *rest, *TRAINING, *QUICK),
                    expect,
                    r".",
                    (write("run.yaml", content),),
                    ("out", value),
                )
    for name in ("nowhere.yaml", "", "-", "base", "base/clicks.parquet", "paper ", "no-such", "x" * 300):
        yield Case(
            "finetune",
            f"--config {name[:20]!r}",
            ("--config", name, *words[2:]),
            REFUSED,
            r"config|yaml|YAML|base|file",
        )


# The library below takes these, and means something by them.
EITHER_LINES = {
    "seed: -1", "early_stopping_patience: -1", "warmup_steps: -1", "weight_decay: -1", "max_grad_norm: -1", "run_name: [1]", "data_seed: x",
    "hub_model_id: 5", "metric_for_best_model: no-such", "length_column_name: 5", "learning_rate: -1", "help_all: x", "lora: 5", "torch_compile_backend: x",
    "adam_epsilon: -1", "adam_beta1: 2", "learning_rate: true", "compare_with: 5",
}  # fmt: skip


__all__ = ["file_cases"]
