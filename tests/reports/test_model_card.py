"""The card that every run writes: what it says, that it is valid, that its examples run, that it never stops a run."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from math import sqrt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers.utils import logging

from unisrec.cli import main
from unisrec.data import Domain, leave_one_out
from unisrec.evaluation import RankingDataset
from unisrec.reports import model_card
from unisrec.reports.card_tables import candidates
from unisrec.reports.card_use import END, START, UseFacts, replace_use
from unisrec.reports.model_card import UniSRecModelCardData
from unisrec.reports.plots import plot_run
from unisrec.reports.training_log import thin_rows, training_rows
from unisrec.trainer import (
    UniSRecFinetuneArguments,
    UniSRecFinetuneTrainer,
    UniSRecPretrainArguments,
    WindowDataset,
    finetune,
    pretrain,
)


DOCS = Path(__file__).parents[2] / "docs"
MODEL = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 2, "hidden_dropout": 0.1, "attention_dropout": 0.1}
METRICS = ["recall@10", "ndcg@10", "recall@50", "ndcg@50"]
ODD_NAME = 'Büro | "office"\n*bold* <b>[x](y)</b> `code` $a$ 商店: {{ 1 }}'


@pytest.fixture(scope="module")
def options(training_options):
    return training_options | {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "per_device_train_batch_size": 60,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_domain, text_encoder_dir, options):
    """Two domains, and the folders of a pre-training, a transfer from scratch and one that is compared with it."""
    root = tmp_path_factory.mktemp("card")
    make_domain("toys").save_to_disk(root / "toys")
    make_domain("books", seed=1, num_items=20).save_to_disk(root / "books")
    args = UniSRecPretrainArguments(str(root / "pretrained"), num_train_epochs=2, **options)
    pretrain(str(text_encoder_dir), [root / "toys", root / "books"], args, model_config=MODEL)
    args = UniSRecFinetuneArguments(str(root / "scratch"), num_train_epochs=1, seed=7, **options)
    finetune(root / "pretrained", root / "books", "transductive", args, from_scratch=True)
    args = UniSRecFinetuneArguments(
        str(root / "adapted"), num_train_epochs=4, learning_rate=2e-3, freeze_sequence_encoder=True, **options
    )
    finetune(root / "pretrained", root / "books", "inductive", args, compare_with=root / "scratch")
    return root


@pytest.fixture
def make_trainer(make_model, make_domain, options, tmp_path):
    """Makes trainers as one does without the one-call functions: no domain, no processor."""

    def make(card_data: UniSRecModelCardData | None = None, name: str = "run", **arguments) -> UniSRecFinetuneTrainer:
        domain = make_domain()
        table = np.random.default_rng(0).normal(size=(domain.num_items, 16)).astype(np.float32)
        return UniSRecFinetuneTrainer(
            make_model(),
            UniSRecFinetuneArguments(str(tmp_path / name), **(options | {"num_train_epochs": 2} | arguments)),
            train_dataset=WindowDataset([leave_one_out(domain, "train")], [domain.num_items], 10),
            eval_dataset=RankingDataset(leave_one_out(domain, "valid"), table),
            text_embeds=table,
            card_data=card_data,
        )

    return make


@pytest.fixture
def warnings_of_ours(caplog):
    """Warnings of the package, whatever transformers makes of its own."""
    logging.enable_propagation()
    yield lambda: [record.getMessage() for record in caplog.records if record.name.startswith("unisrec")]
    logging.disable_propagation()


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def head_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def section(card: str, title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)[1]


def tables_of(text: str) -> list[list[list[str]]]:
    """Rows of cells of each table, the line under the header left out."""
    tables = re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)
    split = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()] for table in tables]
    return [[[cell.strip() for cell in row] for row in [table[0], *table[2:]]] for table in split]


def results_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "test_results.json").read_text())


# What it says


def test_numbers_of_both_runs_stand_side_by_side(root):
    (table,) = tables_of(section(card_of(root / "adapted"), "Results"))
    ours, theirs = results_of(root / "adapted"), results_of(root / "scratch")
    expected = [["items of the history", "model", "Recall@10", "NDCG@10", "Recall@50", "NDCG@50"]]
    for protocol, suffix in (("kept", ""), ("masked", "_seen_masked")):
        for name, results in (("this model", ours), ("`scratch` (transductive, from scratch, seed 7)", theirs)):
            expected.append([protocol, name, *(f"{results[f'test_{metric}{suffix}']:.4f}" for metric in METRICS)])
    assert table == expected
    assert ours["test_ndcg@10"] != theirs["test_ndcg@10"]


def test_teachers_are_named_without_their_paths(root, options, tmp_path):
    teachers = [str(root / "scratch"), str(root / "adapted")]
    args = UniSRecFinetuneArguments(
        str(tmp_path / "taught"), num_train_epochs=1, teachers=teachers, distillation_weight=0.7, **options
    )
    finetune(root / "pretrained", root / "books", "inductive", args)
    card = card_of(tmp_path / "taught")
    assert "adapted from `pretrained`, taught by `scratch` and `adapted`." in card
    assert ["`distillation_weight`", "`0.7`", "`0.5`"] in [row for table in tables_of(card) for row in table]
    assert str(root) not in card


def test_protocol_users_and_standard_error(root):
    text = section(card_of(root / "adapted"), "Results")
    recall = results_of(root / "adapted")["test_recall@10"]
    assert "last interaction of each of 40 users" in text
    assert "among all 20 items" in text
    assert f"standard error of {sqrt(recall * (1 - recall) / 40):.4f}." in text


def test_data_has_counts_and_hashes(root):
    (table,) = tables_of(section(card_of(root / "pretrained"), "Data"))
    for row, name in zip(table[1:], ("toys", "books"), strict=True):
        domain = Domain.load_from_disk(root / name)
        counts = [str(domain.num_users), str(domain.num_items), str(domain.num_interactions)]
        assert row == [name, *counts, f"`{domain.content_hash[:12]}`"]


def test_weights_add_up_to_the_file(root):
    for name in ("pretrained", "adapted", "scratch"):
        table = tables_of(card_of(root / name))[0]
        with safe_open(root / name / "model.safetensors", "pt") as file:
            sizes = {key: int(np.prod(file.get_slice(key).get_shape())) for key in file.keys()}  # noqa: SIM118
        numbers = {row[0]: [int(cell.replace(",", "")) for cell in row[2:]] for row in table[1:]}
        assert numbers["all"][0] == sum(sizes.values())
        assert numbers["text encoder"] == [sum(sizes[key] for key in sizes if key.startswith("text_encoder.")), 0]
        if name == "adapted":
            assert numbers["sequence encoder"][1] == 2 * MODEL["hidden_size"]  # the input normalisation
        else:
            assert numbers["sequence encoder"][0] == numbers["sequence encoder"][1]
        assert ("item-ID embedding" in numbers) == (name == "scratch")


def test_training_table_holds_mean_losses_and_validation_metrics(root):
    log = json.loads((root / "pretrained" / "trainer_state.json").read_text())["log_history"]
    header, *rows = tables_of(section(card_of(root / "pretrained"), "Training"))[1]
    assert header == ["epoch", "step", "loss", "sequence-item loss", "sequence-sequence loss", "toys", "books"]
    for epoch, row in enumerate(rows, start=1):
        lines = [entry for entry in log if "loss" in entry and epoch - 1 < entry["epoch"] <= epoch]
        assert row[:2] == [str(epoch), str(lines[-1]["step"])]
        for place, name in enumerate(("loss", "sequence_item_loss", "sequence_sequence_loss"), start=2):
            assert row[place] == f"{sum(line[name] for line in lines) / len(lines):.3f}"
        for place, name in ((5, "toys"), (6, "books")):
            (found,) = (entry for entry in log if f"eval_{name}_ndcg@10" in entry and entry["epoch"] == epoch)
            values = [found[f"eval_{name}_ndcg@10{suffix}"] for suffix in ("", "_seen_masked")]
            assert row[place] == " / ".join(f"{value:.4f}" for value in values)
    assert len(rows) == 2


def test_best_epoch_is_named_and_in_bold(root):
    state = json.loads((root / "adapted" / "trainer_state.json").read_text())
    values = [entry["eval_ndcg@10"] for entry in state["log_history"] if "eval_ndcg@10" in entry]
    best = 1 + int(np.argmax(values))
    text = section(card_of(root / "adapted"), "Training")
    assert f"the model of epoch {best}, best by `ndcg@10` on validation, is kept" in text
    rows = tables_of(text)[1][1:]
    assert [row[0] for row in rows if "**" in row[0]] == [f"**{best}**"]
    assert f"**{values[best - 1]:.4f} / " in rows[best - 1][3]


def test_settings_are_those_that_were_changed(root):
    rows = tables_of(section(card_of(root / "adapted"), "Training"))[0]
    assert rows[0] == ["setting", "value", "default"]
    assert {name.strip("`"): value.strip("`") for name, value, _ in rows[1:]} == {
        "num_train_epochs": "4",
        "per_device_train_batch_size": "60",
        "learning_rate": "0.002",
        "freeze_sequence_encoder": "True",
        "text_embedding_size": "16",
        **{name: str(value) for name, value in MODEL.items()},
    }
    scratch = section(card_of(root / "scratch"), "Training")
    assert "| `seed` | `7` | `42` |" in scratch
    assert "| `num_items` | `20` | `None` |" in scratch


def test_origin_is_told(root):
    assert "model for books, inductive (text only), adapted from `pretrained`." in card_of(root / "adapted")
    assert "model for books, transductive (text and item ID), trained from scratch." in card_of(root / "scratch")
    assert "pre-trained on toys and books." in card_of(root / "pretrained")
    assert "The text encoder is `tiny-bert`, frozen." in card_of(root / "pretrained")
    assert "The two stand side by side above." in card_of(root / "adapted")
    assert "always beat" not in card_of(root / "scratch")


FREE_OF_TEXT = (
    "by its text",
    "text encoder",
    "whitening",
    "cosine",
    "tokens of a text",
    '{"text"',
    "languages",
    "minilm",
)


def test_a_model_of_ids_alone_by_inner_product_is_described_as_one(root, options, tmp_path):
    args = UniSRecFinetuneArguments(str(tmp_path / "id"), num_train_epochs=1, **options)
    fields = {"item_text": False, "similarity": "dot"}
    finetune(root / "pretrained", root / "books", "transductive", args, from_scratch=True, model_config=fields)
    card = card_of(tmp_path / "id")
    assert "\nA sequential model for books, ID only (no text), trained from scratch.\n" in card
    assert "represents each item by a vector of its ID alone and reads no text" in card
    assert "the items with the largest inner product to it are recommended." in card
    assert "among all 20 items, by inner product\n" in card
    assert "An item that is not in the catalogue cannot be ranked." in card
    shown = section(card, "Training").split("| setting |")[1]
    assert not any(name in shown for name in ("num_experts", "text_", "adaptor", "router"))
    for words in FREE_OF_TEXT:
        assert words not in card.replace("| `cosine` |", ""), words  # the default beside what was set
    assert [row[0] for row in tables_of(card)[0][1:]] == ["sequence encoder", "item-ID embedding", "all"]


@pytest.mark.parametrize(
    ("setting", "arguments", "sentences"),
    [
        (
            "transductive",
            {"num_negatives": 5, "min_id_interactions": 3},
            [
                "transductive (text and item ID)",
                "to which a vector of the item's ID is added",
                "The text encoder is frozen.",
                "among the items of its step and 5 drawn from the catalogue (sampled softmax), by cosine similarity",
                "Items with fewer than 3 interactions in training have no ID embedding",
            ],
        ),
        (
            "inductive",
            {"train_text_encoder": True},
            [
                "The text encoder is trained with the other parts.",
                "of each target among the items of its step, by cosine",
            ],
        ),
        (
            "inductive",
            {"lora": "text"},
            ["The text encoder is frozen but for low-rank adapters.", "among the items of its step"],
        ),
        (
            "inductive",
            {"hold_out": False},
            ["All interactions were trained on, so none is left to measure the model with.", "among all 20 items"],
        ),
        ("inductive", {"teachers": ["scratch"]}, ["; the scores of the teachers are 0.5 of the target\n"]),
    ],
)
def test_a_card_states_how_the_model_was_trained(root, options, tmp_path, setting, arguments, sentences):
    if "lora" in arguments:
        pytest.importorskip("peft")
    if "teachers" in arguments:
        arguments = {"teachers": [str(root / name) for name in arguments["teachers"]]}
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), **(options | {"num_train_epochs": 1} | arguments))
    finetune(root / "pretrained", root / "books", setting, args)
    card = card_of(tmp_path / "run")
    for sentence in sentences:
        assert sentence in card, sentence
    assert ("evaluations included" in card) == ("hold_out" not in arguments)
    assert ("## Results" in card) == ("hold_out" not in arguments)
    assert "ID only" not in card


def test_pretraining_states_its_loss(root):
    text = section(card_of(root / "pretrained"), "Training")
    assert (
        "among the items of its step, by cosine similarity over a temperature of 0.07; plus 0.001 times that of"
        in text
    )
    assert "among the augmented views of its step\n" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "the items of its step"),
        ({"batch_domains": "one"}, "the items of its step, which are of one domain"),
        (
            {"batch_domains": "one", "num_negatives": 70},
            "the items of its step, which are of one domain, and 70 drawn from the catalogue of that domain",
        ),
    ],
)
def test_candidates_of_pretraining(options, tmp_path, arguments, expected):
    assert candidates("pretraining", UniSRecPretrainArguments(str(tmp_path), **options, **arguments), []) == expected


def test_users_are_those_that_were_ranked(root, options, tmp_path, monkeypatch):
    domain = Domain.load_from_disk(root / "books")
    shorter = domain.sequences.with_columns(
        pl.when(pl.int_range(pl.len()) < 15).then(pl.col("item_index").list.head(2)).otherwise(pl.col("item_index"))
    )
    Domain("books", domain.items, shorter).save_to_disk(tmp_path / "books")
    args = UniSRecFinetuneArguments(str(tmp_path / "run"), num_train_epochs=1, **options)
    trainer = finetune(root / "pretrained", tmp_path / "books", "inductive", args).trainer
    ranked = len(leave_one_out(Domain.load_from_disk(tmp_path / "books"), "test"))
    assert ranked < 40
    assert trainer.card_data.num_test_users == ranked
    assert f"of each of {ranked} users is" in card_of(tmp_path / "run")


def test_card_gives_away_neither_the_machine_nor_the_catalogue(root):
    catalogue = Domain.load_from_disk(root / "books").items
    for name in ("pretrained", "adapted", "scratch"):
        card = card_of(root / name)
        assert str(root) not in card
        assert not any(f"{item_id}" in card for item_id in catalogue["item_id"])
        assert not any(text in card for text in catalogue["text"] if len(text.split()) > 2)


# Form


@pytest.mark.parametrize("name", ["pretrained", "adapted", "scratch"])
def test_markdown_is_well_formed(root, name):
    card = card_of(root / name)
    assert "\n\n\n" not in card
    assert card.endswith("```\n")
    assert not re.search(r"[ \t]$", card, flags=re.MULTILINE)
    for table in tables_of(card):
        assert len({len(row) for row in table}) == 1
    for line in re.findall(r"^\|.*", card, flags=re.MULTILINE):
        assert line.endswith(" |")
    for heading in re.finditer(r"^#+ .*$", card.split("```")[0], flags=re.MULTILINE):
        assert card[heading.start() - 2 : heading.start()] in ("\n\n", "-\n")
    assert card.count("```") % 2 == 0
    assert ("curves.png" in card) == (root / name / "curves.png").is_file()


def test_head_goes_to_the_hub_and_back(root):
    card = card_of(root / "adapted")
    data = ModelCard(card).data
    results = results_of(root / "adapted")
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        f"{metric}{suffix}": round(results[f"test_{metric}{suffix}"], 6)
        for metric in METRICS
        for suffix in ("", "_seen_masked")
    }
    first = data.eval_results[0]
    assert (first.task_type, first.dataset_name, first.dataset_type, first.dataset_split) == (
        "sequential-recommendation",
        "books",
        "books",
        "test",
    )
    assert {result.metric_name for result in data.eval_results} >= {
        "NDCG@10, seen items kept",
        "NDCG@10, seen items masked",
    }
    assert head_of(card) == {
        "library_name": "transformers",
        "tags": ["unisrec", "recommendation", "sequential-recommendation"],
        "model-index": head_of(card)["model-index"],
    }
    assert set(head_of(card_of(root / "pretrained"))) == {"library_name", "tags"}


@pytest.mark.parametrize(
    "name",
    [
        'a"b',
        "it's",
        "a`b``c",
        "a|b",
        "{{ x }}",
        "a\nb\n```\nc",
        "$(id)",
        "-x",
        "n\u2028m",
        "\udcff",
        "no",
        "office: v2",
    ],
)
def test_names_break_no_example(make_trainer, name):
    trainer = make_trainer(UniSRecModelCardData(base_model="/x/" + name))
    trainer.hub_model_id = name
    trainer.create_model_card()
    card = card_of(Path(trainer.args.output_dir))
    blocks = re.findall(r"^```python\n(.*?)^```$", section(card, "Use"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        (call,) = [
            node
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained"
        ]
        assert call.args[0].value == name
    (block,) = re.findall(r"^```bash\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    shown = subprocess.run(
        ["bash", "-c", f"unisrec() {{ printf '%s' \"$3\"; }}\n{block}"], capture_output=True, check=True
    )
    assert os.fsdecode(shown.stdout) == (f"./{name}" if name.startswith("-") else name)
    assert len(re.findall("^```", card, flags=re.MULTILINE)) == 8
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"


def test_odd_names_break_neither_table_nor_head(make_trainer, make_domain):
    domain = make_domain()
    odd = Domain(ODD_NAME, domain.items, domain.sequences, {"source": "/home/someone/a|b.csv"})
    trainer = make_trainer(UniSRecModelCardData([odd], test_metrics={"recall@10": 0.5, "recall@10_seen_masked": 0.75}))
    trainer.create_model_card(model_name='a: "b" | #c')
    card = card_of(Path(trainer.args.output_dir))
    one_line = " ".join(ODD_NAME.split())
    results = ModelCard(card).data.eval_results
    assert [result.dataset_name for result in results] == [one_line, one_line]
    assert re.fullmatch(r"[\w-]+", results[0].dataset_type)
    ((_, row),) = tables_of(section(card, "Data"))
    assert re.sub(r"\\(.)", r"\1", row[0]) == one_line
    assert re.sub(r"\\(.)", r"\1", row[4]) == "a|b.csv"
    assert "/home" not in card
    assert r"\*bold\*" in row[0]
    assert head_of(card)["model-index"][0]["name"] == 'a: "b" | #c'
    assert r'# a: "b" | \#c' in card
    assert "\n\n\n" not in card


# Its examples


@pytest.fixture(scope="module")
def documented() -> str:
    return (DOCS / "example_model_card.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documented_name(documented) -> str:
    (name,) = set(re.findall(r'(?:from_pretrained\(|model=)"([^"]+)"', documented))
    return name


@pytest.fixture(scope="module")
def printed(root, documented, documented_name, tmp_path_factory) -> list[list[str]]:
    """What the examples of the documented card and those of a pre-training print: those without the package first, in one
    process with those that import it."""
    cwd = tmp_path_factory.mktemp("examples")
    shutil.copytree(root / "adapted", cwd / documented_name)
    shutil.copytree(root / "pretrained", cwd / "pretrained")
    remote, ours = ["import sys"], ["assert 'unisrec' not in sys.modules"]
    for card in (documented, card_of(root / "pretrained")):
        blocks = re.findall(r"```python\n(.*?)```", section(card, "Use"), flags=re.DOTALL)
        without = [block for block in blocks if "trust_remote_code" in block]
        others = [block for block in blocks if "import unisrec" in block or "from unisrec" in block]
        assert len(without) + len(others) == len(blocks) >= 2
        remote += [*without, "print('---')"]
        ours += [*others, "print('---')"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(cwd / ".modules")}
    environment.pop("PYTHONPATH", None)
    code = "\n".join([*remote, *ours])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    parts = [part.splitlines() for part in done.stdout.removesuffix("---\n").split("---\n")]
    return [parts[0] + parts[2], parts[1] + parts[3]]


def test_examples_of_a_transfer_run_as_printed(root, documented, documented_name, printed):
    use = section(card_of(root / "adapted"), "Use")
    assert use.replace('"adapted"', f'"{documented_name}"') == section(documented, "Use")
    without_package, *items, as_pipeline = printed[0]
    assert [item.split()[1] for item in items] == re.findall(r"'item_id': '(books-\d+)'", as_pipeline)
    assert without_package == as_pipeline
    assert len(items) == 5


def test_documented_card_is_complete(root, documented):
    headings = re.findall(r"^## .*", card_of(root / "adapted"), flags=re.MULTILINE)
    assert re.findall(r"^## .*", documented, flags=re.MULTILINE) == headings
    assert len(ModelCard(documented).data.eval_results) == 8
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", documented)
    assert (DOCS / picture).is_file()
    assert "/work" not in documented


def test_examples_of_a_pretraining_run_as_printed(root, printed):
    assert printed[1] == 2 * ["torch.Size([1, 8]) torch.Size([2, 8])"]
    assert "unisrec finetune --model pretrained --domain DOMAIN" in card_of(root / "pretrained")


def test_examples_load_the_repository_once_there_is_one(make_trainer):
    trainer = make_trainer()
    trainer.hub_model_id = "shop/unisrec-office"
    trainer.create_model_card(model_name="unisrec-office")
    card = card_of(Path(trainer.args.output_dir))
    assert 'AutoModel.from_pretrained("shop/unisrec-office")' in card
    assert "\n# unisrec-office\n" in card


@pytest.mark.parametrize("name", ["pretrained", "adapted", "scratch"])
def test_a_folder_says_of_its_examples_what_the_training_said(root, name):
    card = card_of(root / name)
    assert replace_use(card, UseFacts.of_folder(root / name, name)) == card
    pushed = replace_use(card, UseFacts.of_folder(root / name, f"shop/{name}", catalogue=False))
    assert f'from_pretrained("shop/{name}")' in pushed
    assert ("The catalogue is not shared here" in pushed) == (name != "pretrained")
    assert ("must stand in the order of the training" in pushed) == (name == "scratch")
    assert pushed.split(START)[0] == card.split(START)[0]
    assert pushed.split(END)[1] == card.split(END)[1]


@pytest.mark.parametrize("card", ["# Office\n", START, END, END + START, START + END + START + END])
def test_a_card_without_the_two_lines_has_no_part_to_replace(card):
    assert replace_use(card, UseFacts("shop/office", False, True, True, True)) is None


# Known and unknown


def test_trainer_alone_leaves_out_what_it_does_not_know(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=4, learning_rate=0.3)
    trainer.train()
    last = [line["eval_ndcg@10"] for line in trainer.state.log_history if "eval_ndcg@10" in line][-1]
    assert trainer.evaluate()["eval_ndcg@10"] > last  # of the best model: no line of the training
    trainer.save_model(str(tmp_path / "final"))
    card = card_of(tmp_path / "final")
    assert re.findall(r"^## (.*)", card, flags=re.MULTILINE) == [
        "Use",
        "Training",
        "Environment",
        "Limits",
        "Citation",
    ]
    assert "\nA UniSRec model, inductive (text only).\n" in card
    assert "There is no text encoder in the checkpoint" in card
    rows = tables_of(section(card, "Training"))[1][1:]
    assert len(rows) == 4
    assert rows[-1][3].startswith(f"{last:.4f} / ")
    assert "model-index" not in card
    assert "from scratch" not in card
    assert "None" not in card.replace("`None`", "")
    assert "\n\n\n" not in card
    assert 'AutoModel.from_pretrained("final")' in card


def test_checkpoint_that_goes_up_has_a_card(make_trainer, tmp_path, warnings_of_ours):
    trainer = make_trainer(num_train_epochs=1)
    trainer.args.push_to_hub = True
    trainer._push_from_checkpoint = lambda folder: None
    trainer.train()
    card = card_of(tmp_path / "run")
    assert "- 3 steps, 1 epoch\n" in card
    assert "is kept" not in card  # which checkpoint that will be is not known yet
    assert "Its training has not ended: these are the weights after step 3." in card
    trainer._write_model_card(tmp_path / "run")
    assert "has not ended" not in card_of(tmp_path / "run")
    assert (tmp_path / "run" / "curves.png").is_file()
    assert warnings_of_ours() == []


def test_card_before_any_training(make_trainer):
    trainer = make_trainer()
    trainer.create_model_card()
    training = section(card_of(Path(trainer.args.output_dir)), "Training")
    assert "epochs" not in training.split("\n\n")[1]
    assert "curves.png" not in training


def test_what_the_user_knows_goes_into_the_head(make_trainer):
    data = UniSRecModelCardData(base_model="shop/base@v2", text_encoder="minilm", from_scratch=False)
    trainer = make_trainer(data, card_license="cc-by-4.0")
    trainer.create_model_card(language="de", tags="garden", dataset_tags=["shop/clicks"])
    card = card_of(Path(trainer.args.output_dir))
    assert head_of(card) == {
        "base_model": "shop/base",
        "datasets": ["shop/clicks"],
        "language": "de",
        "library_name": "transformers",
        "license": "cc-by-4.0",
        "tags": ["unisrec", "recommendation", "sequential-recommendation", "garden"],
    }
    assert "adapted from [shop/base](https://huggingface.co/shop/base)." in card
    assert "[sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/" in card
    trainer.create_model_card(license="mit", finetuned_from="other/base")
    assert head_of(card_of(Path(trainer.args.output_dir)))["license"] == "mit"
    assert head_of(card_of(Path(trainer.args.output_dir)))["base_model"] == "other/base"


def test_local_folder_is_no_repository(make_trainer, monkeypatch, tmp_path):
    (tmp_path / "runs" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(UniSRecModelCardData(base_model="runs/base"))
    trainer.create_model_card()
    card = card_of(Path(trainer.args.output_dir))
    assert "base_model" not in head_of(card)
    assert "adapted from `base`." in card


def test_datasets_are_those_of_the_hub(make_trainer, make_domain):
    domain = make_domain()
    files = ["shop/clicks@main:2024[train]", "shop/items.parquet", "data/clicks.csv.gz", "clicks", "/tmp/a/b.csv"]
    known = Domain("known", domain.items, domain.sequences, {"source": "table", "files": files})
    trainer = make_trainer(UniSRecModelCardData([known]))
    trainer.create_model_card()
    assert head_of(card_of(Path(trainer.args.output_dir)))["datasets"] == ["shop/clicks"]


def test_resumed_run_tells_all_of_its_epochs(make_trainer, tmp_path):
    make_trainer(num_train_epochs=2).train()
    trainer = make_trainer(num_train_epochs=4)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    text = section(card_of(tmp_path / "run"), "Training")
    assert [row[0].strip("*") for row in tables_of(text)[1][1:]] == ["1", "2", "3", "4"]
    assert "h:mm:ss" not in text  # of the first half it is not known


def test_card_of_adapters(root, options):
    pytest.importorskip("peft")
    args = UniSRecFinetuneArguments(str(root / "adapters"), num_train_epochs=1, lora="sequence", **options)
    finetune(root / "pretrained", root / "books", "inductive", args)
    card = card_of(root / "adapters")
    assert head_of(card)["library_name"] == "peft"
    assert "holds low-rank adapters" in card
    assert "Recommender.from_pretrained" in section(card, "Use")
    assert "pipeline(" not in card
    numbers = {row[0]: [int(cell.replace(",", "")) for cell in row[2:]] for row in tables_of(card)[0][1:]}
    plain = {row[0]: row[2] for row in tables_of(card_of(root / "adapted"))[0][1:]}
    assert numbers["adaptor"][0] == numbers["adaptor"][1] == int(plain["adaptor"])
    assert 0 < numbers["sequence encoder"][1] < numbers["sequence encoder"][0]


# A card never stops a run


def test_broken_template_is_one_warning(root, tmp_path, options, monkeypatch, warnings_of_ours):
    broken = tmp_path / "model_card.md"
    broken.write_text("---\n{{ metadata }}\n---\n{{ no_such_thing }}\n")
    monkeypatch.setattr(model_card, "TEMPLATE", broken)
    args = UniSRecFinetuneArguments(str(tmp_path / "out"), num_train_epochs=1, freeze_sequence_encoder=True, **options)
    metrics = finetune(root / "pretrained", root / "books", "inductive", args).metrics
    assert metrics["ndcg@10"] > 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "README.md").exists()
    (warning,) = warnings_of_ours()
    assert "no model card could be written (UndefinedError: 'no_such_thing' is undefined)" in warning


def test_without_matplotlib_there_is_no_picture(make_trainer, monkeypatch, tmp_path):
    trainer = make_trainer()
    trainer.train()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trainer.save_model()
    assert not (tmp_path / "run" / "curves.png").exists()
    assert "curves.png" not in card_of(tmp_path / "run")
    monkeypatch.undo()
    trainer.save_model()
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    assert "![Losses and validation metrics](curves.png)" in card_of(tmp_path / "run")


# The run to compare with


def test_bad_run_to_compare_with_is_one_line_before_training(root, tmp_path, capsys):
    words = ["finetune", "--model", root / "pretrained", "--domain", root / "toys", "--setting", "inductive"]
    words += ["--use_cpu", "--output_dir", tmp_path / "out", "--compare-with"]
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "test_results.json").write_text('{"test_ndcg@10": 0.1}')
    for place, change in enumerate(
        ({"setting": "| <b>"}, {"seed": "1"}, {"from_scratch": "no"}, {"test_ndcg@10": "x"})
    ):
        (tmp_path / f"odd{place}").mkdir()
        found = results_of(root / "scratch") | change
        (tmp_path / f"odd{place}" / "test_results.json").write_text(json.dumps(found))
    for folder, message in (
        (tmp_path / "none", "no such file to compare with"),
        (tmp_path / "junk", "not a results file of unisrec finetune"),
        *((tmp_path / f"odd{place}", "not a results file of unisrec finetune") for place in range(4)),
        (root / "scratch", "only runs on the same domain can be compared"),
    ):
        assert main([str(word) for word in [*words, folder]]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert "test_results.json" in error
        assert not (tmp_path / "out").exists()


# The log as rows


def entry(step: int, **values: float) -> dict[str, float]:
    return {"step": step, "epoch": step / 4, **values}


def test_rows_close_at_evaluations():
    log = [
        entry(0, **{"eval_ndcg@10": 0.1}),
        entry(1, loss=4.0),
        entry(3, loss=2.0, part_loss=1.0, grad_norm=9.0),
        entry(4, **{"eval_a_b_ndcg@10": 0.2, "eval_a_b_ndcg@10_seen_masked": 0.3, "eval_runtime": 1.0}),
        entry(4, **{"eval_c\nd_recall@50": 0.4}),
        entry(6, loss=1.0),
        entry(6, train_runtime=3.0, train_loss=2.0),
    ]
    start, first, last = training_rows(log)
    assert (start.step, start.losses, start.metrics) == (0, {}, {"": {"ndcg@10": 0.1}})
    assert (first.step, first.epoch, first.losses) == (4, 1.0, {"loss": 3.0, "part_loss": 1.0})
    assert first.metrics == {"a_b": {"ndcg@10": 0.2, "ndcg@10_seen_masked": 0.3}, "c\nd": {"recall@50": 0.4}}
    assert (last.step, last.losses, last.metrics) == (6, {"loss": 1.0}, {})


def test_rows_close_at_epochs_where_nothing_is_evaluated():
    rows = training_rows([entry(step, loss=float(step)) for step in range(1, 11)])
    assert [(row.step, row.epoch, row.losses["loss"]) for row in rows] == [
        (4, 1.0, 2.5),
        (8, 2.0, 6.5),
        (10, 2.5, 9.5),
    ]
    assert training_rows([]) == []


@pytest.mark.parametrize("number", [1, 19, 20, 21, 22, 60, 300])
def test_thinned_rows_keep_first_last_and_best(number):
    rows = training_rows([entry(step, **{"eval_ndcg@10": 0.1}) for step in range(1, number + 1)])
    best = rows[min(1, number - 1)].step
    thin = [row.step for row in thin_rows(rows, 20, best)]
    assert len(thin) == min(number, len(thin)) <= 20
    assert len(thin) >= min(number, 19)
    assert thin == sorted(set(thin))
    assert {1, best, number} <= set(thin)


def test_nothing_to_draw_is_no_picture(tmp_path):
    assert not plot_run([], None, tmp_path / "none.png")
    assert not plot_run([entry(1, loss=1.0), entry(2, **{"eval_ndcg@10": 0.1})], None, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    name = r"_$\frac{$"
    ranked = [entry(step, **{f"eval_{name}_ndcg@10": 0.1, "eval_b_ndcg@10": 0.2}) for step in (1, 2)]
    assert plot_run(ranked, 2, tmp_path / "one.png")
