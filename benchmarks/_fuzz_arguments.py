"""Cases of fuzz.py: odd arguments."""

import random

from _fuzz_case import EITHER, REFUSED, TAKEN, Case, Cases, damage, set_field, take, write
from _fuzz_checkpoints import uses
from _fuzz_data import KEEP, OUT
from _fuzz_world import QUICK, TRAINING


LONG = "x" * 5000
NUMBERS = ("", "x", "nan", "inf", "1.5", "-1", "1e3", "9" * 400, "0x10", "१", " ", "1,000", "--1")
CLICKS = ("table", "--interactions", "base/clicks.csv", "--items", "base/texts.csv")
FINETUNE = (
    "--model",
    "base/pre",
    "--domain",
    "base/shop",
    "--setting",
    "inductive",
    "--output_dir",
    "out",
    *TRAINING,
    *QUICK,
)
PRETRAIN = ("--domains", "base/shop", "--text-encoder", "base/encoder", "--output_dir", "out", *TRAINING, *QUICK)
QUICKSTART = (
    "--model",
    "base/ind",
    "--users",
    "12",
    "--finetune-epochs",
    "1",
    "--use-cpu",
)


def argument_cases(rng: random.Random) -> Cases:
    """All of the file."""
    yield from usage_cases()
    yield from number_cases()
    yield from training_cases()
    yield from path_cases()
    yield from history_cases()
    yield from small_verb_cases()


def usage_cases() -> Cases:
    """Words that no verb knows, and values that are missing."""
    verbs = {
        "prepare": (*CLICKS, *KEEP, *OUT), "pretrain": PRETRAIN, "finetune": FINETUNE, **{verb: uses("base/ind")[verb] for verb in ("recommend", "evaluate", "items", "index", "demo", "plot", "export")},
        "convert": ("--official", "base/official.pth", *OUT), "push": ("base/ind", "owner/name"), "quickstart": QUICKSTART, "env": (),
    }  # fmt: skip
    for verb, words in verbs.items():
        for odd in (
            "--no-such-option",
            "--no-such=5",
            "-x",
            "--",
            "stray",
            "",
            "急須",
            LONG,
            "--outpu",
            "a\nb",
            "\udcff",
            "--=",
            "-",
        ):
            # What stands behind an option of several values is one of them.
            many = words[-1:] and verb in ("recommend",) and not odd.startswith("-")
            expect = EITHER if many or odd in ("--", "-") else REFUSED
            yield Case(verb, f"the word {odd[:20]!r} at the end", (*words, odd), expect, ".")
        if words:
            yield Case(
                verb,
                "no words at all",
                (),
                REFUSED if verb != "quickstart" else EITHER,
                ".",
                machine="" if verb != "quickstart" else "skip",
            )
            if verb != "quickstart":  # which would go to work
                yield Case(verb, "the last value missing", words[:-1], EITHER, ".")
        yield Case(verb, "--help", (*words, "--help"), TAKEN, ".")


def number_cases() -> Cases:
    """Options that take whole numbers."""
    options = {
        ("prepare", "--user-k"): (*CLICKS, *OUT), ("prepare", "--item-k"): (*CLICKS, *OUT),
        ("evaluate", "--batch-size"): uses("base/ind")["evaluate"], ("recommend", "--top-k"): uses("base/ind")["recommend"],
        ("recommend", "--batch-size"): uses("base/ind")["recommend"], ("demo", "--port"): ("base/ind",),
        **{("serve", f"--{name}"): ("base/ind",) for name in ("port", "max-history", "max-body", "max-batch", "workers")},
        ("quickstart", "--users"): (*QUICKSTART, "--output", "out"), ("quickstart", "--seed"): (*QUICKSTART, "--output", "out"),
        ("quickstart", "--finetune-epochs"): (*QUICKSTART, "--output", "out"),
    }  # fmt: skip
    for (verb, option), words in options.items():
        for value in NUMBERS:
            if value == "१" and verb in ("demo", "quickstart", "serve"):
                continue  # Python reads it as 1, and these would go to work
            yield Case(
                verb,
                f"{option} {value[:10]!r}",
                (*words, f"{option}={value}"),
                EITHER if value == "१" or (verb == "recommend" and value == "9" * 400) else REFUSED,
                rf"{option}|{option[2:].replace('-', '.')}",
            )
    for verb, option, words in (("evaluate", "--batch-size", uses("base/ind")["evaluate"]), ("quickstart", "--users", (*QUICKSTART, "--output", "out")),
                                ("quickstart", "--finetune-epochs", (*QUICKSTART, "--output", "out"))):  # fmt: skip
        yield Case(verb, f"{option} 0", (*words, f"{option}=0"), REFUSED, rf"{option}|{option[2:].replace('-', '.')}")
    for value in (str(2**63), str(-(2**63)), str(2**32), str(2**64)):
        yield Case("prepare", f"--user-k {value}", (*CLICKS, *OUT, f"--user-k={value}"), REFUSED, "user.k")
        yield Case(
            "recommend", f"--top-k {value}", (*uses("base/ind")["recommend"], f"--top-k={value}"), EITHER, "top.k"
        )
        yield Case(
            "quickstart",
            f"--seed {value}",
            (*QUICKSTART, "--output", "base/shop", f"--seed={value}"),
            REFUSED,
            "seed|output",
        )
        yield Case("finetune", f"--seed {value}", (*FINETUNE, f"--seed={value}"), EITHER, "seed")
    yield Case("demo", "--port 0 to 65536", ("base/ind", "--port", "65536"), REFUSED, "port|65536")
    yield Case("serve", "--port 0 to 65536", ("base/ind", "--port", "65536"), REFUSED, "port|65536")
    for option in ("--max-history", "--max-body", "--max-batch", "--workers", "--token"):
        value = "" if option == "--token" else "0"
        yield Case("serve", f"{option} {value!r}", ("base/ind", f"{option}={value}"), REFUSED, option)
    for value in ("-1", "nan", "inf", "1e9", "x", ""):
        yield Case("serve", f"--max-wait {value!r}", ("base/ind", f"--max-wait={value}"), REFUSED, "--max-wait")
    for words in (
        ("nowhere",),
        ("",),
        ("base/shop",),
        ("base/pre",),
        ("base/ind", "--domain", "nowhere"),
        ("base/ind", "stray"),
    ):
        yield Case("serve", f"{words}", (*words, "--port", "0"), REFUSED, "model|catalogue|domain|stray")
    for model in ("nowhere", "", "base/clicks.csv", "base/shop", "base/encoder"):
        yield Case("update", f"{model!r}", (model, "--interactions", "base/clicks.csv", *OUT), REFUSED, "model")
    for option in ("--budget=0", "--budget=nan", "--budget=-1", "--interactions=nowhere.csv", "--items=nowhere.csv"):
        words = ("base/ind", "--interactions", "base/clicks.csv", *OUT)
        name, _, value = option.partition("=")
        words = with_option(words, (name, value)) if name == "--interactions" else (*words, option)
        yield Case("update", option, words, REFUSED, "budget|nowhere")
    yield Case("demo", "--host nowhere", ("base/ind", "--host", "no.such.host.invalid"), REFUSED, "host")
    yield Case("demo", "--host empty", ("base/nowhere", "--host", "", "--port", "99999"), REFUSED, "host|port")


def with_option(words: tuple[str, ...], option: tuple[str, ...]) -> tuple[str, ...]:
    """Adds an option and its value to a command line, in place of the same option if it is there."""
    kept, is_kept = [], True
    for word in words:
        if word.startswith("--"):
            is_kept = word.replace("_", "-") != option[0].replace("_", "-")
        kept += [word] * is_kept
    return (*kept, *option)


def training_cases() -> Cases:
    """Arguments of the training verbs."""
    for words in (
        ("--learning_rate", "x"), ("--learning_rate", ""), ("--learning_rate", "nan"), ("--learning_rate", "inf"), ("--learning_rate", "1,5"),
        ("--max_steps", "x"), ("--max_steps", "1.5"), ("--num_train_epochs", "nan"), ("--num_train_epochs", "-1"), ("--per_device_train_batch_size", "0"),
        ("--per_device_train_batch_size", "-5"), ("--per_device_eval_batch_size", "0"), ("--gradient_accumulation_steps", "0"), ("--optim", "no-such"),
        ("--lr_scheduler_type", "no-such"), ("--eval_strategy", "no-such"), ("--save_strategy", "no-such"), ("--report_to", "no-such"), ("--report_to", "wandb"),
        ("--bf16", "maybe"), ("--use_cpu", "maybe"), ("--fsdp", "no-such"), ("--deepspeed", "nowhere.json"), ("--deepspeed", "base/ind/config.json"),
        ("--accelerator_config", "nowhere.json"), ("--accelerator_config", "{"), ("--lr_scheduler_kwargs", "{"), ("--lr_scheduler_kwargs", '{"no_such": 1}'),
        ("--optim_args", "no_such=1"), ("--model-config", "hidden_size"), ("--model-config", "hidden_size=9"), ("--model-config", "hidden_size=x"),
        ("--model-config", "no_such=5"), ("--model-config", "=5"), ("--model-config", "hidden_size=[1"), ("--model-config", "hidden_size=-8"),
        ("--model-config", "temperature=.nan"), ("--model-config", "num_experts=0"), ("--model-config", "text_config={}"), ("--model-config", "hidden_size=!!python/name:os.system"),
        ("--text-encoder", "nowhere"), ("--text-encoder", ""), ("--text-encoder", "base/shop"), ("--text-encoder", "base/ind"), ("--text-encoder", "base/clicks.csv"),
        ("--output_dir", ""), ("--output_dir", "base/shop"), ("--output_dir", "base/shop.csv"), ("--output_dir", "base/shop.csv/x"), ("--output_dir", "/proc/x"),
        ("--output_dir", "y" * 300), ("--resume_from_checkpoint", "nowhere"), ("--resume_from_checkpoint", "base/shop"), ("--logging_steps", "x"),
        ("--warmup_steps", "x"), ("--dataloader_num_workers", "-1"), ("--dataloader_num_workers", "x"), ("--neftune_noise_alpha", "x"), ("--torch_compile_backend", "no-such"),
        ("--sequence_loss_weight", "x"), ("--sequence_loss_weight", "nan"), ("--item_drop_ratio", "2"), ("--item_drop_ratio", "nan"), ("--word_drop_ratio", "-1"),
        ("--augmentation_draw", "no-such"), ("--liger_kernel_config", "{"), ("--fsdp_config", "{"), ("--hub_strategy", "no-such"), ("--push_to_hub",),
        ("--max_grad_norm", "nan"), ("--max_grad_norm", "x"), ("--weight_decay", "nan"), ("--label_smoothing_factor", "0.1"), ("--ddp_timeout", "x"), ("--tf32", "true"),
        ("--fp16",), ("--gradient_checkpointing_kwargs", "{"), ("--metric_for_best_model", "no-such", "--load_best_model_at_end", "true", "--eval_strategy", "epoch", "--save_strategy", "epoch"),
    ):  # fmt: skip
        name = words[0].lstrip("-")
        says = rf"{name}|{name.replace('_', '.').replace('-', '.')}|{(words[1:] or ('',))[0][:20] or name}"
        says = says + "|Hub" if name == "push_to_hub" else says
        says = says + "|" + words[1].partition("=")[0] if name == "model-config" and words[1][0] != "=" else says
        for verb, rest in (("pretrain", PRETRAIN), ("finetune", FINETUNE)):
            if verb == "finetune" and name in (
                "sequence_loss_weight",
                "item_drop_ratio",
                "word_drop_ratio",
                "augmentation_draw",
            ):
                says = name
            yield Case(
                verb,
                " ".join(words)[:60],
                with_option(rest, words),
                EITHER if words[0] in PERHAPS else REFUSED,
                says if "(" not in says and "[" not in says and "{" not in says else name,
            )
    for words in (
        ("--setting", "both"), ("--setting", ""), ("--model", "nowhere"), ("--model", ""), ("--num_negatives", "-1"), ("--num_negatives", "x"), ("--num_negatives", "10000000"),
        ("--lora", "no-such"), ("--lora", ""), ("--teachers", "nowhere"), ("--teachers", "base/shop"), ("--teachers", "base/tra"), ("--early_stopping_patience", "-1"),
        ("--early_stopping_patience", "x"), ("--compare-with", "nowhere"), ("--compare-with", "base/shop"), ("--compare-with", "base/shop.csv"),
        ("--model-config", "num_experts=1"), ("--freeze_sequence_encoder", "maybe"), ("--train_text_encoder", "maybe"), ("--lora_rank", "0"), ("--lora_rank", "x"),
        ("--hold_out", "maybe"),
    ):  # fmt: skip
        name = words[0].lstrip("-")
        expect = EITHER if words[1] in ("10000000", "base/tra", "-1") or words == ("--lora", "") else REFUSED
        yield Case(
            "finetune",
            " ".join(words),
            with_option(FINETUNE, words),
            expect,
            rf"{name}|{name.replace('_', '.').replace('-', '.')}|{words[1] or 'empty'}",
        )
    for names in (
        ("nowhere",),
        ("base/shop", "nowhere"),
        ("base/shop", "base/shop"),
        ("base/ind",),
        ("",),
        ("base/shop", "base/clicks.csv"),
    ):
        yield Case("pretrain", f"domains {names}", ("--domains", *names, *PRETRAIN[2:]), REFUSED, "domain|folder")
    yield Case(
        "pretrain",
        "domains with vectors of another encoder",
        ("--domains", "base/shop", "--output_dir", "out", *TRAINING, *QUICK),
        REFUSED,
        "text",
    )
    for line in ('{"a": 1}', "[]", "5", "x", '{"no_such": 5}'):
        yield Case(
            "finetune",
            f"an accelerator file of {line}",
            (*FINETUNE, "--accelerator_config", "a.json"),
            REFUSED,
            "accelerator|a.json|JSON|no_such",
            (write("a.json", line),),
        )


# Settings that mean something or nothing, as the library below has it.
PERHAPS = {"--weight_decay", "--optim_args", "--torch_compile_backend", "--text-encoder", "--liger_kernel_config", "--tf32", "--fp16", "--push_to_hub",
           "--max_grad_norm", "--fsdp_config", "--accelerator_config", "--gradient_checkpointing_kwargs", "--model-config", "--num_train_epochs", "--label_smoothing_factor"}  # fmt: skip


def path_cases() -> Cases:
    """Outputs that cannot be, and names with odd characters."""
    makers = {
        "prepare": (*CLICKS, *KEEP), "convert": ("--official", "base/official.pth"), "index": ("base/ind",), "items": ("add", "base/ind", "--item", "n", "red pen"),
        "export": ("base/ind",), "quickstart": QUICKSTART,
    }  # fmt: skip
    for verb, words in makers.items():
        for output in (
            "base/shop",
            "base/shop.csv",
            "base/shop.csv/x",
            "y" * 300,
            "/proc/x",
            "/dev/null",
            "/dev/null/x",
            "",
        ):
            yield Case(
                verb,
                f"output {output[:20]!r}",
                (*words, "--output", output),
                REFUSED,
                r"output|exist|folder|name|director|\[Errno|/proc|/dev|y{20}|empty|shop",
            )
    for what, words in {
        "a file that is not there": ("base/none.csv", "--items", "base/shop-items.csv"),
        "items that are not there": ("base/shop.csv", "--items", "base/none.csv"),
        "no minutes": ("base/shop.csv", "--items", "base/shop-items.csv", "--budget", "-1"),
        "an output folder that is there": ("base/shop.csv", "--items", "base/shop-items.csv", "--output", "base/shop"),
    }.items():
        output = () if "--output" in words else ("--output", "out")
        yield Case("fit", what, (*words, *output, "--use-cpu"), REFUSED, r"none|shop|nobody|budget")
    for output in ("line\nbreak", " blank ", "a*b[1]?", "急須", "-dash", "a'b\"c", "%s{0}", "$(id)", "a\tb"):
        yield Case(
            "prepare",
            f"an output folder {output!r}",
            (*CLICKS, *KEEP, f"--output={output}"),
            TAKEN,
            ".",
            (),
            (output,),
        )
        yield Case(
            "index", f"an output folder {output!r}", ("base/ind", f"--output={output}"), TAKEN, ".", (), (output,)
        )
        yield Case(
            "evaluate",
            f"a JSON file {output!r}",
            (*uses("base/ind")["evaluate"], f"--json={output}"),
            TAKEN,
            ".",
            (),
            (output,),
        )
        yield Case(
            "plot", f"a picture {output!r}", ("curves", "base/long", f"--output={output}"), TAKEN, ".", (), (output,)
        )

        def called(_: random.Random, name: str = output) -> None:
            import os

            os.rename("ind", name)

        yield Case(
            "recommend",
            f"a checkpoint {output!r}",
            (f"--model={output}", "--history", "0i1"),
            TAKEN,
            ".",
            (take("ind"), called),
        )
        yield Case("items", f"a checkpoint {output!r}", ("list", f"./{output}"), TAKEN, ".", (take("ind"), called))
        yield Case(
            "demo",
            f"a checkpoint {output!r}",
            (f"./{output}", "--export-space", "out"),
            TAKEN,
            ".",
            (take("ind"), called),
        )
    for value in ("", "base", "base/shop.csv/x", "nowhere/x", "y" * 300, "/proc/x", "/dev/null/x"):
        yield Case(
            "evaluate",
            f"--json {value[:20]!r}",
            (*uses("base/ind")["evaluate"], f"--json={value}"),
            REFUSED,
            r"json|file|folder|File|\[Errno",
        )
    yield Case("evaluate", "--json to nothing", (*uses("base/ind")["evaluate"], "--json=/dev/null"), TAKEN, ".")
    for text in ("nowhere", "", "base/shop", "base/clicks.csv"):
        yield Case(
            "evaluate",
            f"--text-encoder {text!r}",
            (*uses("base/ind")["evaluate"], f"--text-encoder={text}"),
            REFUSED,
            "encoder",
        )
    for value in ("train", "", "TEST", "valid "):
        yield Case(
            "evaluate", f"--split {value!r}", (*uses("base/ind")["evaluate"], f"--split={value}"), REFUSED, "split"
        )
    for words in (("popularity", "--models", "x", "--domain", "base/shop"), ("popularity", "--models", "=base/ind", "--domain", "base/shop"),
                  ("popularity", "--models", "a=", "--domain", "base/shop"), ("popularity", "--models", "a=base/ind", "a=base/tra", "--domain", "base/shop"),
                  ("popularity", "--models", "a=nowhere", "--domain", "base/shop"), ("popularity", "--models", "a=base/ind", "--domain", "nowhere"),
                  ("gates", "base/ind", "--domains", "base/shop", "base/shop"), ("map", "nowhere", "--domains", "base/shop"), ("curves", "base/shop"), ("curves", ""),
                  ("curves", "nowhere"), ("pie", "base/ind")):  # fmt: skip
        yield Case(
            "plot", " ".join(words)[:70], (*words, "--output", "out.png"), REFUSED, r"model|name|domain|file|KIND"
        )


def history_cases() -> Cases:
    """What `recommend --history` is given."""
    for entries, expect in ((("",), REFUSED), ((" ",), REFUSED), (("text:",), REFUSED), (("id:",), REFUSED), (("id:nothing",), REFUSED), (("nothing",), REFUSED),
                            (("text: ",), REFUSED), (("-",), REFUSED), (("0i1", ""), REFUSED), ((LONG,), REFUSED), (("id:" + LONG,), REFUSED), (("text:" + LONG,), TAKEN),
                            (("text:急須 湯呑み",), TAKEN), (("急須 湯呑み",), REFUSED), (("text:\udcff x",), EITHER), (("\udcff",), REFUSED), (("0i1",) * 300, TAKEN), (("text:red\npen",), TAKEN),
                            (("id:0i1", "text:pen"), TAKEN), (("0I1",), REFUSED), ((" 0i1",), EITHER)):  # fmt: skip
        yield Case(
            "recommend",
            f"history {str(entries)[:40]}",
            ("--model", "base/ind", "--history", *entries),
            expect,
            "item|text|history|id|entry",
        )
        yield Case(
            "recommend",
            f"history {str(entries)[:40]}, unknown skipped",
            ("--model", "base/ind", "--skip-unknown", "--history", *entries),
            EITHER,
            "item|text|history|id|entry|unknown",
        )
    for kind in ("exact", "exact-bf16", "auto", "flat", "ivf", "hnsw"):
        expect = REFUSED if kind == "flat" else TAKEN
        yield Case(
            "recommend",
            f"index {kind}",
            ("--model", "base/ind", "--history", "0i1", "--index", kind),
            expect,
            "index|flat",
        )
    yield Case(
        "recommend",
        "texts without a tokenizer",
        ("--model", "ind", "--history", "text:red pen"),
        REFUSED,
        "token|encoder",
        (take("ind"), *(damage(f"ind/{name}", "missing") for name in ("tokenizer.json", "tokenizer_config.json"))),
    )
    yield Case(
        "recommend",
        "input without output",
        ("--model", "base/ind", "--input", "base/histories.csv"),
        REFUSED,
        "output",
    )
    yield Case(
        "recommend",
        "output without input",
        ("--model", "base/ind", "--history", "0i1", "--output", "out.csv"),
        REFUSED,
        "input",
    )
    yield Case(
        "recommend",
        "history and input",
        ("--model", "base/ind", "--history", "0i1", "--input", "base/histories.csv", "--output", "out.csv"),
        REFUSED,
        "input",
    )


def small_verb_cases() -> Cases:
    """push, env, demo, export and quickstart."""
    for folder in ("base/ind", "nowhere", "base/shop", "base/shop.csv", "", "base/lora", "base/encoder"):
        for repo in (
            "owner/name",
            "",
            "a/b/c",
            "owner/na me",
            "-x",
            "../x",
            "owner/name@v1",
            "https://huggingface.co/a/b",
            "a" * 300,
        ):
            yield Case(
                "push",
                f"{folder or 'nothing'} to {repo[:20]!r}",
                (folder, repo) if not repo.startswith("-") else (folder, "--", repo),
                REFUSED,
                r"Hub|checkpoint|folder|id|adapter|repo|REPO",
            )
    for file, kind in (("config.json", "empty"), ("config.json", "a number"), ("config.json", "deep brackets"), ("model.safetensors", "missing"), ("README.md", "random bytes"),
                       ("config.json", "a folder"), ("config.json", "a link to itself")):  # fmt: skip
        yield Case(
            "push",
            f"{file} {kind}",
            ("ind", "owner/name"),
            REFUSED,
            r"\bind\b|Hub",
            (take("ind"), damage(f"ind/{file}", kind)),
        )
    for file, kind in (
        ("adapter_config.json", "empty"),
        ("adapter_config.json", "a number"),
        ("adapter_config.json", "a link to itself"),
    ):
        yield Case(
            "push",
            f"lora/{file} {kind}",
            ("lora", "owner/name"),
            REFUSED,
            r"\blora\b",
            (take("lora"), damage(f"lora/{file}", kind)),
        )
    yield Case(
        "push",
        "an adapter of a number",
        ("lora", "owner/name"),
        REFUSED,
        r"\blora\b",
        (take("lora"), set_field("lora/adapter_config.json", "base_model_name_or_path", value=5)),
    )
    for option, value in (("--revision", ""), ("--revision", "a b"), ("--message", "")):
        yield Case(
            "push", f"{option} {value!r}", ("base/ind", "owner/name", option, value), REFUSED, "Hub|revision|message"
        )
    yield Case("env", "nothing", (), TAKEN, ".")
    for words in (("nowhere",), ("",), ("base/shop",), ("base/pre",), ("base/ind", "--compare", "nowhere"), ("base/ind", "--compare", ""), ("base/ind", "--domain", "nowhere"),
                  ("base/ind", "--domain", "")):  # fmt: skip
        yield Case(
            "demo",
            f"a Space of {words}",
            (*words, "--export-space", "out"),
            REFUSED,
            "model|catalogue|domain|folder|checkpoint",
        )
    for output in ("base/shop", "base/shop.csv", "", "base/shop.csv/x", "y" * 300, "/proc/x"):
        yield Case(
            "demo",
            f"a Space in {output[:20]!r}",
            ("base/ind", "--export-space", output),
            REFUSED,
            r"shop|name|\[Errno|empty|folder|director|y{20}|proc",
        )
    for value in ("nowhere", "", "base/shop", "base/clicks.csv", "base/encoder"):
        yield Case("quickstart", f"--model {value!r}", ("--model", value, "--output", "out"), REFUSED, "model")
    for value in ("nowhere", "", "base/shop", "base/clicks.csv", "base/ind"):
        yield Case(
            "export",
            f"--text-encoder {value!r}",
            ("base/ind", "--output", "out", "--text-encoder", value),
            REFUSED,
            "encoder",
        )
    for name in ("nowhere", "base/shop", "", "base/encoder"):
        yield Case("export", f"model {name!r}", (name, "--output", "out"), REFUSED, "model|checkpoint")


__all__ = ["CLICKS", "FINETUNE", "PRETRAIN", "QUICKSTART", "argument_cases"]
