"""Pushes of a training to the Hub, played by local_hub.py: what goes up while it runs and when it ends."""

import json
from pathlib import Path
from urllib.error import HTTPError

import pytest
from transformers import AutoModel

from unisrec import Recommender
from unisrec.configuration.configuration_unisrec import CODE_FILES
from unisrec.modeling_unisrec.outgoing import shared_files


pytestmark = pytest.mark.slow
TRAINING = [
    "--use_cpu",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
    "--num_train_epochs",
    2,
    "--logging_steps",
    1,
]
PICKLES = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
STATE = {*PICKLES, "trainer_state.json", "files.json"}
CODE = set(CODE_FILES)


@pytest.fixture(scope="module")
def runs(hub, make_domain, text_encoder_dir, tmp_path_factory) -> tuple[Path, list[list]]:
    """Output folders of trainings that push, and what their command lines answered."""
    root = tmp_path_factory.mktemp("runs")
    make_domain("toys").save_to_disk(root / "toys")
    pretrain = ["pretrain", "--domains", root / "toys", "--text-encoder", text_encoder_dir, *TRAINING]
    pretrain += ["--model-config", "hidden_size=8", "num_experts=2", "--save_strategy", "epoch", "--push_to_hub"]
    finetune = ["finetune", "--model", root / "end", "--domain", root / "toys", "--setting", "inductive", *TRAINING]
    finetune += ["--push_to_hub", "--save_strategy", "epoch", "--eval_strategy", "epoch", "--hub_always_push", "true"]
    finetune += ["--save_total_limit", 1, "--hub_strategy"]

    adapt = ["finetune", "--model", "shop/end@main", "--domain", root / "toys", "--setting", "transductive", *TRAINING]
    adapt += ["--lora", "text,sequence", "--learning_rate", 0.01, "--push_to_hub", "--hub_strategy", "every_save"]
    adapt_here = ["finetune", "--model", root / "end", *adapt[3:]]
    recommend = ["recommend", "--history", "toys-1", "text:red pen", "--json", "--model"]

    def into(name: str) -> list[object]:
        return ["--output_dir", root / name, "--hub_model_id", f"shop/{name}"]

    answers = hub.verbs(
        [*pretrain, *into("full-shelf")],
        [*pretrain, "--hub_strategy", "end", *into("end")],
        [*finetune, "every_save", *into("slow-shelf"), "--hub_revision", "dev", "--hub_private_repo", "true"],
        [*finetune, "checkpoint", *into("last")],
        [*finetune, "all_checkpoints", *into("all")],
        ["HF_TOKEN=", *finetune, "end", *into("nobody")],
        [*adapt, *into("adapters")],
        [*recommend, root / "adapters"],
        [*recommend, "shop/adapters"],
        [*adapt_here, *into("adapters-here")],
    )
    return root, answers


def download(hub, repo: str, revision: str, folder: Path) -> Path:
    for file in hub.files(repo, revision):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(hub.read(repo, file, revision))
    return folder


@pytest.mark.parametrize(("name", "revision"), [("end", "main"), ("slow-shelf", "dev"), ("last", "main")])
def test_the_last_push_is_what_the_folder_shares(hub, runs, name, revision):
    root, answers = runs
    assert [status for status, *_ in answers[1:5]] == [0] * 4, answers
    shared = shared_files(root / name)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", *CODE} < set(shared)
    assert ("catalogue/items.parquet" in shared) == (name != "end")
    assert {file for file in hub.files(f"shop/{name}", revision) if not file.startswith("last-")} == set(shared)
    for file in shared:
        assert hub.read(f"shop/{name}", file, revision) == (root / name / file).read_bytes(), file
    model = AutoModel.from_pretrained(root / name)
    assert model.text_encoder is not None
    assert f'from_pretrained("shop/{name}")' in (root / name / "README.md").read_text()


def test_strategies_say_when(hub, runs):
    titles = [commit["title"] for commit in hub.commits("shop/end")]
    assert titles == ["End of training", "initial commit"]
    titles = [commit["title"] for commit in hub.commits("shop/slow-shelf", "dev")]
    assert titles[0] == "End of training"
    assert [title.rstrip("0123456789") for title in titles[1:]] == ["Training in progress, step "] * 2 + [
        "initial commit"
    ]


def test_a_push_amid_the_training_recommends(hub, runs, tmp_path):
    second, first = (commit["id"] for commit in hub.commits("shop/slow-shelf", "dev")[1:3])
    folder = download(hub, "shop/slow-shelf", first, tmp_path / "first")
    recommender = Recommender.from_pretrained(folder)
    assert recommender.model.text_encoder is None
    assert len(recommender.recommend([["toys-1", "toys-2"]], top_k=5)[0]) == 5
    weights = [hub.read("shop/slow-shelf", "model.safetensors", commit) for commit in (first, second)]
    assert weights[0] != weights[1]
    assert "README.md" in hub.files("shop/slow-shelf", first)


def test_branch_and_privacy(hub, runs):
    assert hub.files("shop/slow-shelf") == set()
    assert hub.info("shop/slow-shelf")["private"]
    assert not hub.info("shop/end")["private"]


def test_states_of_the_training_go_up_where_they_are_asked_for(hub, runs):
    root, _ = runs
    model = {"config.json", "model.safetensors", *CODE}
    last = {file.removeprefix("last-checkpoint/") for file in hub.files("shop/last") if file.startswith("last-")}
    assert last == model | STATE
    (kept,) = (root / "all").glob("checkpoint-*")
    folders = {file.split("/")[0] for file in hub.files("shop/all") if file.startswith("checkpoint-")}
    assert kept.name in folders
    assert len(folders) == 2  # one of them is gone here
    for folder in folders:
        assert {f"{folder}/{file}" for file in model | STATE} <= hub.files("shop/all")


def test_nothing_is_a_pickle_but_the_state_of_the_training(hub, runs):
    for name, revision in (("end", "main"), ("slow-shelf", "dev"), ("last", "main"), ("all", "main")):
        for commit in hub.commits(f"shop/{name}", revision):
            for file in hub.files(f"shop/{name}", commit["id"]):
                content = hub.read(f"shop/{name}", file, commit["id"])
                is_pickle = content[:1] == b"\x80" or content[:4] == b"PK\x03\x04"  # bare, or in a zip of torch
                assert is_pickle == (Path(file).name in PICKLES), file
                assert "/" in file or not is_pickle


def test_a_push_that_fails_leaves_the_training_whole(hub, runs):
    root, answers = runs
    status, _, err, _ = answers[0]
    assert status == 2
    line = err.splitlines()[-1]
    refused = "the Hub refuses shop/full-shelf (Storage limit reached): check the owner and the rights of your token"
    assert f"a checkpoint was not pushed: {refused}" in err
    complete = f"the checkpoint is complete: unisrec push {root / 'full-shelf'} shop/full-shelf"
    assert line == f"unisrec pretrain: error: {refused}; {complete}"
    assert AutoModel.from_pretrained(root / "full-shelf").text_encoder is not None


def test_a_training_that_may_not_push_does_not_begin(runs):
    root, answers = runs
    status, _, err, _ = answers[5]
    assert status == 2
    assert "the Hub wants a valid token for shop/nobody: log in by `hf auth login`" in err.splitlines()[-1]
    assert not list((root / "nobody").glob("*"))


def test_adapters_go_up_and_are_loaded_on_the_base_that_they_name(hub, runs):
    _, answers = runs
    adapt, local, pushed = answers[6:9]
    assert adapt[0] == 0, adapt[2]
    settings = json.loads(hub.read("shop/adapters", "adapter_config.json"))
    assert settings["base_model_name_or_path"] == "shop/end"
    assert settings["revision"] == hub.commits("shop/end")[0]["id"]
    files = hub.files("shop/adapters")
    assert {"adapter_model.safetensors", "catalogue/items.parquet", "tokenizer.json", "README.md"} <= files
    assert files.isdisjoint({"config.json", "model.safetensors"})
    assert local[0] == 0, local[2]
    assert local[1].count("toys-") == 10
    assert pushed[:2] == local[:2], pushed[2]


def test_adapters_on_a_folder_of_this_machine_are_not_trained_to_be_pushed(hub, runs):
    root, answers = runs
    status, _, err, _ = answers[9]
    assert status == 2
    assert f"its adapters are for the folder {root / 'end'}, which nobody else has: push that" in err.splitlines()[-1]
    assert not list((root / "adapters-here").glob("*"))
    with pytest.raises(HTTPError):
        hub.info("shop/adapters-here")


def test_no_push_tells_where_it_was_made(hub, runs):
    root, _ = runs
    for name, revision in (
        ("end", "main"),
        ("slow-shelf", "dev"),
        ("last", "main"),
        ("all", "main"),
        ("adapters", "main"),
    ):
        for commit in hub.commits(f"shop/{name}", revision):
            for file in hub.files(f"shop/{name}", commit["id"]):
                content = hub.read(f"shop/{name}", file, commit["id"])
                assert str(root).encode() not in content, (name, file)
                assert str(Path.home()).encode() not in content or file.endswith((".pt", ".pth")), (name, file)
