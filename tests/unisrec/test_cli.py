"""The command line: verbs end to end on a tiny checkpoint, help without torch, one line and status 2 for bad input."""

import argparse
import gzip
import io
import json
import re
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertModel

from unisrec.cli import VERBS, OneLineParser, _write_json, build_parser, main
from unisrec.data import Domain


TRAINING = ["--use_cpu", "--report_to", "none", "--disable_tqdm", "true", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_domain, text_encoder_dir):
    """Two domains, a checkpoint pre-trained on one and one adapted to the other, all made by the command line."""
    root = tmp_path_factory.mktemp("cli")
    make_domain("toys").save_to_disk(root / "toys")
    make_domain("books", seed=1, num_items=20).save_to_disk(root / "books")
    pretrain = ["pretrain", "--domains", root / "toys", "--text-encoder", text_encoder_dir, *TRAINING]
    pretrain += ["--model-config", "hidden_size=8", "num_experts=2", "--num_train_epochs", 2]
    assert main([str(word) for word in [*pretrain, "--output_dir", root / "pretrained"]]) == 0
    for setting in ("inductive", "transductive"):
        finetune = ["finetune", "--model", root / "pretrained", "--domain", root / "books", "--setting", setting]
        finetune += ["--output_dir", root / setting, "--num_train_epochs", 2, *TRAINING]
        assert main([str(word) for word in finetune]) == 0
    return root


def test_help_of_every_verb_is_quick_and_shows_an_example():
    code = (
        "import sys; sys.argv = ['unisrec']\n"
        "from unisrec.cli import build_parser\n"
        "verbs = build_parser()._subparsers._group_actions[0].choices\n"
        "assert not {'torch', 'transformers', 'polars'} & set(sys.modules), sys.modules.keys()\n"
        "for verb, parser in verbs.items():\n"
        "    print(verb, '|', ' '.join(parser.format_help().split()), '|', parser.epilog is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" | ", 1) for line in done.stdout.splitlines())
    assert set(lines) == set(VERBS)
    for verb, text in lines.items():
        assert f"unisrec {verb}" in text
        assert f"example: unisrec {verb}" in text


def test_every_verb_answers_help(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert verb in capsys.readouterr().out


def test_help_of_training_shows_our_arguments_first_and_the_others_only_when_asked(capsys):
    texts = {}
    for option in ("--help", "--help_all", "--help-all"):
        with pytest.raises(SystemExit) as stop:
            main(["pretrain", option])
        assert stop.value.code == 0
        texts[option] = capsys.readouterr().out
    ours, everything = texts["--help"], texts["--help_all"]
    assert texts["--help-all"] == everything
    assert re.findall(r"^  (--text_encoder|--sequence_loss_weight|--learning_rate) ", ours, re.MULTILINE) == [
        "--text_encoder",
        "--sequence_loss_weight",
    ]
    assert "transformers.TrainingArguments are taken too" in ours
    places = [
        everything.index(f"\n  {name} ") for name in ("--text_encoder", "--sequence_loss_weight", "--learning_rate")
    ]
    assert places == sorted(places)
    assert "\n  unisrec pretrain --domains domains/beauty domains/toys --text_encoder bert-base-uncased \\\n" in ours


def test_without_words_the_help_is_shown(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: unisrec")
    shown = " ".join(captured.err.split())
    assert all(f" {verb} {what}" in shown for verb, what in VERBS.items())
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert re.fullmatch(r"unisrec \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evaluates"], "unisrec: error: unknown command 'evaluates' (did you mean evaluate?); see unisrec --help"),
        (["plot", "pie"], "unisrec plot: error: unknown command 'pie' (expected curves, map, gates, popularity); see"),
        (["recommend", "--topk", "3"], "unknown option --topk (did you mean --top-k?)"),
        (["recommend", "--top_n=3"], "unknown option --top_n (did you mean --top-k?)"),
        (["evaluate", "--mod", "x"], "unknown option --mod (did you mean --model?)"),
        (["items", "add", "x", "--inptu", "y"], "unknown option --inptu (did you mean --input?)"),
        (["env", "--no-such-thing"], "unisrec env: error: unknown option --no-such-thing; see unisrec env --help"),
        (["finetune", "--domian", "x"], "unknown option --domian (did you mean --domain?)"),
        (["finetune", "--num-train", "1"], "unknown option --num-train (did you mean --num_train_epochs?)"),
        (["pretrain", "--text_encodr", "x"], "unknown option --text_encodr (did you mean --text_encoder?)"),
        (
            ["items", "list", "--json", "runs/x"],
            "NAME_OR_PATH ('runs/x' was taken as the file of --json; put --json last)",
        ),
    ],
)
def test_misspelled_words_are_refused_with_the_nearest(words, line, capsys):
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert line in error


def test_every_option_has_two_spellings():
    def parsers(parser):
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    yield from parsers(child)

    tried = 0
    for parser in parsers(build_parser()):
        for action in parser._actions:
            for name in action.option_strings:
                if not re.search(r"\w[-_]\w", name) or action.dest in ("help_all",):
                    continue
                if isinstance(action, argparse.BooleanOptionalAction) and name.startswith("--no-") != action.default:
                    continue  # it says what is the default
                value = {int: "3", float: "0.3"}.get(action.type, action.choices[-1] if action.choices else "x")
                for spelling in (name.replace("_", "-"), "--" + name[2:].replace("-", "_")):
                    word = [spelling] if action.nargs == 0 else [f"{spelling}={value}"]
                    others = OneLineParser(add_help=False)
                    others._add_action(action)
                    found = vars(others.parse_args([*word]))[action.dest]
                    assert found not in (None, action.default), spelling
                    tried += 1
    assert tried > 50


def test_both_spellings_reach_the_verb(folders, capsys):
    for option in ("--top-k", "--top_k"):
        assert main(["recommend", "--model", str(folders / "inductive"), "--history", "books-1", option, "2"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 3


def test_results_as_json(folders, tmp_path, capsys):
    """`--json` prints the result and nothing else, `--json FILE` writes it and keeps the text."""
    evaluate = ["evaluate", "--model", folders / "inductive", "--domain", folders / "books", "--use-cpu"]
    evaluate, file = [str(word) for word in evaluate], tmp_path / "metrics.json"
    assert main([*evaluate, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert main([*evaluate, "--json", str(file)]) == 0
    assert "seen items masked" in capsys.readouterr().out
    assert json.loads(file.read_text()) == metrics
    finetune = ["finetune", "--model", folders / "pretrained", "--domain", folders / "books", *TRAINING]
    finetune += ["--setting", "inductive", "--output_dir", tmp_path / "out", "--num_train_epochs", 1, "--json"]
    assert main([str(word) for word in finetune]) == 0
    result = json.loads(capsys.readouterr().out)  # the log of the training goes to standard error
    reported = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert result["metrics"]["ndcg@10"] == reported["test_ndcg@10"]
    assert result["checkpoint"] == str(tmp_path / "out")
    assert 0 < result["trained_parameters"] <= result["parameters"]


def test_json_of_the_verbs_without_a_model(tmp_path, capsys):
    (tmp_path / "c.csv").write_text(CLICKS)
    words = ["prepare", *TABLE, str(tmp_path / "c.csv"), "--output", str(tmp_path / "shop")]
    assert main([*words, "--json", "-"]) == 0
    (domain,) = json.loads(capsys.readouterr().out)["domains"]
    assert (domain["num_users"], domain["num_items"], domain["num_interactions"]) == (6, 6, 36)
    assert domain["output"] == str(tmp_path / "shop")
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"] == torch.__version__
    assert "there is no folder" in bad(capsys, "env", "--json", tmp_path / "none" / "env.json")


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", '"Müsli"'), ("ascii", '"M\\u00fcsli"')])
def test_json_keeps_what_the_output_can_encode(monkeypatch, tmp_path, encoding, printed):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", stream)
    _write_json("-", [{"text": "Müsli"}])
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == f'{{"text": {printed}}}\n'
    _write_json(str(tmp_path / "result.json"), {"text": "Müsli"})
    assert '"Müsli"' in (tmp_path / "result.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [[], ["env"]])
def test_help_is_a_word_too(capsys, words):
    shown = []
    for argv in (["help", *words], [*words, "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != ""


def test_checkpoint_folder_holds_what_the_design_says(folders):
    files = {path.relative_to(folders / "inductive").as_posix() for path in (folders / "inductive").rglob("*")}
    assert {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "README.md",
        "catalogue/items.parquet",
        "catalogue/item_embeddings.safetensors",
    } <= files
    assert not any(file.endswith((".bin", ".pkl")) for file in files)
    card = (folders / "inductive" / "README.md").read_text()
    assert "| books | 40 | 20 |" in card
    assert "model for books, inductive" in card
    assert "## Results" in card
    assert "## Results" not in (folders / "pretrained" / "README.md").read_text()


def test_evaluate_repeats_the_test_metrics_of_finetune(folders, tmp_path, capsys):
    for setting in ("inductive", "transductive"):
        file = tmp_path / f"{setting}.json"
        words = ["evaluate", "--model", folders / setting, "--domain", folders / "books", "--json", file, "--use-cpu"]
        assert main([str(word) for word in words]) == 0
        reported = json.loads((folders / setting / "test_results.json").read_text())
        metrics = json.loads(file.read_text())
        assert metrics["ndcg@10_seen_masked"] >= metrics["ndcg@10"] > 0
        assert (metrics["model"], metrics["domain"], metrics["items"]) == (str(folders / setting), "books", 20)
        for name in ("recall@10", "ndcg@10", "recall@50_seen_masked", "ndcg@50_seen_masked"):
            assert reported[f"test_{name}"] == pytest.approx(metrics[name], abs=1e-12)
    assert "seen items masked" in capsys.readouterr().out


def test_evaluate_zero_shot_and_refuses_another_catalogue(folders, capsys):
    words = ["evaluate", "--domain", str(folders / "toys"), "--use-cpu", "--model"]
    assert main([*words, str(folders / "pretrained")]) == 0
    capsys.readouterr()
    assert main([*words, str(folders / "transductive")]) == 2
    assert "belongs to a catalogue of 20 items" in capsys.readouterr().err


def test_recommend_ids_texts_and_unknown_ids(folders, capsys):
    words = ["recommend", "--model", str(folders / "transductive"), "--top-k", "3", "--json", "--history"]
    assert main([*words, "books-1", "text:large red kettle", "text:pen"]) == 0
    items = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(items) == 3
    assert items[0]["score"] >= items[1]["score"] >= items[2]["score"]
    assert "books-1" not in [item["item_id"] for item in items]
    assert main([*words, "book-1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "'book-1' is not in the catalogue of 20 items; nearest ids: books-1, " in printed.err


def test_pretrained_checkpoint_recommends_from_a_domain(folders, capsys):
    words = ["recommend", "--model", str(folders / "pretrained"), "--history", "text:red pen"]
    assert main(words) == 2
    assert "no catalogue to recommend from" in capsys.readouterr().err
    assert main([*words, "--domain", str(folders / "books"), "--top-k", "100"]) == 0
    assert capsys.readouterr().out.count("\n") == 21


def test_arguments_from_a_file_give_way_to_the_command_line(folders, tmp_path, text_encoder_dir):
    file = tmp_path / "pretrain.yaml"
    file.write_text(
        f"domains: ['{folders / 'toys'}', '{folders / 'books'}']\ntext-encoder: '{text_encoder_dir}'\n"
        "num_train_epochs: 5\nuse_cpu: true\nlearning_rate: 0.002\ndisable_tqdm: true\n"
        "model_config: [hidden_size=8, num_experts=2]\nsave_strategy: 'no'\n"
        "text_whitening: pca\ntext_whitening_size: 4\ntext_prompt: 'passage: '\n"
    )
    output = tmp_path / "out"
    words = ["--output_dir", str(output), "--num_train_epochs", "1", "--text_prompt", ""]
    assert main(["pretrain", "--config", str(file), *words]) == 0
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["epoch"] == 1
    assert {entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry} <= {0.002}
    config = json.loads((output / "config.json").read_text())
    assert (config["hidden_size"], config["text_whitening_size"], config["text_prompt"]) == (8, 4, "")
    assert any("eval_books_ndcg@10" in entry for entry in state["log_history"])


def test_env_names_the_versions(capsys):
    assert main(["env"]) == 0
    assert f"torch                {torch.__version__}" in capsys.readouterr().out


CLICKS = "user_id,item_id,timestamp,title\n" + "".join(
    f"u{user},i{item},{10 * user + item},red pen {item}\n" for user in range(6) for item in range(6)
)
META = "".join(json.dumps({"asin": f"i{item}", "title": f"red pen {item}"}) + "\n" for item in range(6))
RATINGS = "".join(f"i{item},u{user},5.0,{10 * user + item}\n" for user in range(6) for item in range(6))
TABLE = ["table", "--text-columns", "title", "--interactions"]
BAD_FILES = {
    "missing file": ([*TABLE, "none.csv"], {}, r"none\.csv.*no such file"),
    "empty file": ([*TABLE, "c.csv"], {"c.csv": ""}, r"c\.csv.*empty"),
    "missing column": (
        [*TABLE, "c.csv"],
        {"c.csv": CLICKS.replace("item_id", "item")},
        r"c\.csv: no column 'item_id'.*did you mean 'item'\?; name the column by --item-column",
    ),
    "no text for an item": (
        [*TABLE, "c.csv"],
        {"c.csv": CLICKS.replace("red pen 3", "")},
        r"without text: 1 .*'i3'.*--missing-text drop",
    ),
    "non-numeric time": (
        [*TABLE, "c.csv"],
        {"c.csv": CLICKS.replace(",12,", ",noon,")},
        r"c\.csv.*(line|row) 10.*noon",
    ),
    "too small after k-core": ([*TABLE, "c.csv", "--user-k", "9"], {"c.csv": CLICKS}, r"leaves nothing.*--user-k"),
    "separator for no CSV": (
        [*TABLE, "c.jsonl", "--separator", ";"],
        {"c.jsonl": "{}"},
        r"--separator is for \.csv, \.tsv and \.txt files",
    ),
    "wrong format of dates": (
        [*TABLE, "c.csv", "--date-format", "%H:%M"],
        {"c.csv": CLICKS},
        r"--date-format is '%H:%M', expected a format of strptime",
    ),
    "no workbook": ([*TABLE, "c.xlsx"], {"c.xlsx": "PK"}, r"c\.xlsx: not a readable workbook"),
    "broken gzip": (
        ["amazon", "--ratings", "r.csv.gz", "--metadata", "m.json"],
        {"r.csv.gz": gzip.compress(RATINGS.encode())[:-12], "m.json": META},
        r"r\.csv\.gz.*gzip",
    ),
    "broken JSON line": (
        ["amazon", "--ratings", "r.csv", "--metadata", "m.json"],
        {"r.csv": RATINGS, "m.json": META.replace('{"asin": "i3"', '{"asin": "i3')},
        r"m\.json.*line 4",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_one_line_and_leave_nothing(name, tmp_path, monkeypatch, capfd):
    words, files, expected = BAD_FILES[name]
    for file, content in files.items():
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *words, "--output", "shop"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("unisrec prepare: error: ")
    assert said.count("\n") == 1, said
    assert re.search(expected, said), said
    assert {path.name for path in tmp_path.iterdir()} == set(files)


def test_the_same_files_without_the_fault_are_taken(tmp_path, monkeypatch):
    (tmp_path / "c.csv").write_text(CLICKS)
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *TABLE, "c.csv", "--output", "shop"]) == 0
    assert Domain.load_from_disk(tmp_path / "shop").num_interactions == 36


def bad(capsys, *words: object) -> str:
    """The one line of a command that must fail with status 2."""
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_bad_input_of_the_training_verbs(folders, tmp_path, text_encoder_dir, capsys):
    pretrain = ["pretrain", "--domains", folders / "toys", "--use_cpu", "--output_dir", tmp_path / "out"]
    finetune = ["finetune", "--domain", folders / "books", "--setting", "inductive", "--use_cpu"]
    finetune += ["--output_dir", tmp_path / "out", "--model"]

    assert "text encoder 'no-such' cannot be loaded" in bad(capsys, *pretrain, "--text-encoder", "no-such")
    assert "the domain contains no text vectors: add --text_encoder" in bad(capsys, *pretrain)
    assert "did you mean --learning_rate?" in bad(
        capsys, *pretrain, "--text-encoder", text_encoder_dir, "--learnin_rate", 1
    )
    assert "got 'hidden_sizes=3' (did you mean hidden_size?)" in bad(
        capsys, *pretrain, "--text-encoder", text_encoder_dir, "--model-config", "hidden_sizes=3"
    )
    assert "invalid model configuration: " in bad(
        capsys, *pretrain, "--text-encoder", text_encoder_dir, "--model-config", "hidden_size=9"
    )
    assert "similarity is 'dot': pre-training compares by the cosine" in bad(
        capsys, *pretrain, "--text-encoder", text_encoder_dir, "--model-config", "similarity=dot"
    )
    assert "no such configuration file" in bad(capsys, *pretrain, "--config", tmp_path / "none.yaml")
    assert "model 'no-such' cannot be loaded (" in bad(capsys, *finetune, "no-such")
    assert "its config.json is of type 'bert'" in bad(capsys, *finetune, text_encoder_dir)

    wide = BertModel(BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    wide.save_pretrained(tmp_path / "wide")
    for file in text_encoder_dir.glob("tokenizer*"):
        (tmp_path / "wide" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "size.yaml").write_text("text_truncate_dim: four\n")
    assert "size.yaml: text_truncate_dim is 'four', expected a whole number" in bad(
        capsys, *pretrain, "--config", tmp_path / "size.yaml"
    )
    (tmp_path / "setting.yaml").write_text("setting: both\n")
    assert "setting is 'both', expected one of inductive, transductive" in bad(
        capsys,
        *finetune[:3],
        "--use_cpu",
        "--output_dir",
        tmp_path / "out",
        "--model",
        folders / "pretrained",
        "--config",
        tmp_path / "setting.yaml",
    )
    assert "has the text encoder that it was trained with; leave --text_encoder" in bad(
        capsys, *finetune, folders / "pretrained", "--text-encoder", tmp_path / "wide"
    )
    assert not (tmp_path / "out").exists()

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("keep me")
    assert "output folder is not empty" in bad(capsys, *pretrain, "--text-encoder", text_encoder_dir)
    assert "output folder is not empty" in bad(capsys, *finetune, folders / "pretrained")
    assert "no checkpoint to resume from" in bad(
        capsys, *finetune, folders / "pretrained", "--resume_from_checkpoint", "true"
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    assert "no such folder, expected a domain folder" in bad(
        capsys, "evaluate", "--model", folders / "pretrained", "--domain", tmp_path / "none", "--use-cpu"
    )


def test_interrupted_run_goes_on(folders, tmp_path):
    words = ["finetune", "--model", folders / "pretrained", "--domain", folders / "books", "--setting", "inductive"]
    words += ["--early_stopping_patience", 0, *TRAINING]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main([str(word) for word in [*words, "--output_dir", straight, "--num_train_epochs", 4]]) == 0
    assert main([str(word) for word in [*words, "--output_dir", broken, "--num_train_epochs", 2]]) == 0
    resumed = [*words, "--output_dir", broken, "--num_train_epochs", 4, "--resume_from_checkpoint", "true"]
    assert main([str(word) for word in resumed]) == 0
    first, second = (json.loads((folder / "test_results.json").read_text()) for folder in (straight, broken))
    assert first["test_ndcg@50"] == second["test_ndcg@50"]
    assert (straight / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()


def test_metrics_are_written_whole_or_refused_before_the_work(folders, tmp_path, capsys, monkeypatch):
    words = ["evaluate", "--model", folders / "inductive", "--domain", folders / "books", "--use-cpu"]
    for json_file, line in ((tmp_path / "none" / "x.json", "there is no folder"), (tmp_path, "this is a folder")):
        assert line in bad(capsys, *words[:1], "--model", "nowhere", *words[3:], "--json", json_file)
    assert "--batch-size is 0" in bad(capsys, *words, "--batch-size", 0)
    assert "--k is -1" in bad(capsys, *words, "--k", 10, -1)
    assert "no times, which 'time:0.1' needs: prepare it again" in bad(capsys, *words, "--split", "time:0.1")
    assert "expected 'valid' or 'test'" in bad(capsys, *words, "--split", "last")
    (tmp_path / "old.json").write_text("old")
    monkeypatch.setattr(json, "dumps", lambda *_, **__: "half\udcff")  # cannot be encoded: fails in the middle
    assert main([str(word) for word in [*words, "--json", tmp_path / "old.json"]]) == 2
    assert (tmp_path / "old.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_quickstart_checks_its_numbers_before_it_begins(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option, value in (("--users", 0), ("--finetune-epochs", -1), ("--seed", -1)):
        assert f"{option} is {value}, expected a number from" in bad(capsys, "quickstart", f"{option}={value}")
    (tmp_path / "file").write_text("x")
    assert "file: not a folder" in bad(capsys, "quickstart", "--output", "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
