"""The Hub, played by local_hub.py: what a push shares, what loads it again, and one line for what goes wrong."""

import json
import shutil
from pathlib import Path
from urllib.error import HTTPError

import pytest
import torch
from transformers import AutoModel, AutoProcessor, AutoTokenizer, pipeline

from unisrec.configuration.configuration_unisrec import CODE_FILES
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.modeling_unisrec.hub import split_revision
from unisrec.modeling_unisrec.outgoing import shared_files
from unisrec.recommender import Recommender


CODE = set(CODE_FILES)
MODEL = {"config.json", "model.safetensors", *CODE}
PROCESSOR = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
CATALOGUE = {"catalogue/items.parquet", "catalogue/item_embeddings.safetensors", "handler.py", "requirements.txt"}
PAGE = {"README.md", "curves.png"}
IDS = ["SKU-1001", "SKU-1002", "SKU-1003"]
TEXTS = ["red pen, 5 pack", "small steel kettle", "garden lamp for kids"]
CARD = """\
---
library_name: transformers
---

# Office

Pens by "office", adapted from `office`; --model office is what its owner types.

<!-- unisrec/use -->

## Use

    Recommender.from_pretrained("office")
<!-- /unisrec/use -->

Made at the office.
"""


@pytest.fixture(scope="module")
def office(tmp_path_factory, make_model, text_encoder_dir) -> Path:
    """A checkpoint folder as a training leaves it, with what must not be shared."""
    folder = tmp_path_factory.mktemp("runs") / "office"
    model = make_model()
    model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir).eval())
    processor = UniSRecProcessor(AutoTokenizer.from_pretrained(text_encoder_dir), ItemCatalogue(IDS, TEXTS), 10, 32)
    with torch.no_grad():
        processor.catalogue.item_embeddings = model.get_text_features(**processor.tokenize(TEXTS)).pooler_output
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "curves.png").write_bytes(b"\x89PNG")
    private = "training_args.bin optimizer.pt scheduler.pt rng_state.pth trainer_state.json test_results.json run.log"
    for name in [*private.split(), "checkpoint-2/model.safetensors", "checkpoint-2/optimizer.pt", "runs/events.1"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("SKU-1001")
    return folder


@pytest.fixture(scope="module")
def home(hub) -> Path:
    """The cache of the machine on which all runs that name none."""
    return hub.home


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, office) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sharded"
    AutoModel.from_pretrained(office).save_pretrained(folder, max_shard_size="4KB")
    return folder


@pytest.fixture(scope="module")
def refused(home, office, text_encoder_dir, tmp_path_factory) -> dict[str, list[object]]:
    """Pushes that are refused, by what is said of each."""
    root = tmp_path_factory.mktemp("refused")
    (root / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(office)}))
    (root / "adapter_model.safetensors").touch()
    linked, told = (shutil.copytree(office, root / name) for name in ("linked", "told"))
    (linked / "photo.png").symlink_to(root / "adapter_config.json")
    (told / "README.md").write_text("trained on /home/alice/orders")
    return {
        f"its adapters are for the folder {office}, which nobody else has: push that": ["push", root, "shop/x"],
        "linked/photo.png: a symbolic link, which is not followed": ["push", linked, "shop/refused"],
        "told/README.md: it holds the path '/home/alice' of a machine (text)": ["push", told, "shop/refused"],
        "no checkpoint; expected a folder with config.json": ["push", text_encoder_dir, "shop/x"],
        "none: no checkpoint": ["push", home / "none", "shop/x"],
        "'sh op/x' is not an id of the Hub, which is owner/name": ["push", office, "sh op/x"],
        "the Hub wants a valid token for shop/x: log in by `hf auth login`": ["HF_TOKEN=", "push", office, "shop/x"],
        "the Hub wants a valid token for shop/y": ["HF_TOKEN=hf_wrong", "push", office, "shop/y"],
        "the Hub refuses rival/x (You don't have the rights": ["push", office, "rival/x"],
        "shop/office is there already and public": ["push", office, "shop/office", "--private"],
        "the Hub refuses shop/full-x (Storage limit reached)": ["push", office, "shop/full-x"],
    }


@pytest.fixture(scope="module")
def pushed(hub, office, sharded, refused) -> list[list]:
    """Answers to pushes of the checkpoint, each to a place of its own, and to those that are refused."""
    return hub.verbs(
        ["push", office, "shop/office"],
        ["push", office, "shop/office", "--revision", "partners", "--no-catalogue", "--message", "For partners"],
        ["push", office, "secret", "--private"],
        ["push", office, "shop/gated-office"],
        ["push", office, "shop/again"],
        ["push", sharded, "shop/again"],
        *refused.values(),
    )


def test_push_uploads_what_is_shared_and_nothing_else(hub, pushed):
    status, out, err, _ = pushed[0]
    assert (status, out, err) == (0, f"{hub.url}/shop/office\n", "")
    assert hub.files("shop/office") == MODEL | PROCESSOR | CATALOGUE | PAGE
    assert [commit["title"] for commit in hub.commits("shop/office")] == ["Upload checkpoint", "initial commit"]


def test_examples_of_the_card_load_the_repository_and_nothing_else_is_changed(hub, pushed):
    card = hub.read("shop/office", "README.md").decode()
    before, after = CARD.split("<!-- unisrec/use -->")[0], CARD.split("<!-- /unisrec/use -->")[1]
    assert card.startswith(before)
    assert card.endswith(after)
    examples = card.removeprefix(before).removesuffix(after)
    assert 'Recommender.from_pretrained("shop/office")' in examples
    assert examples.count('model="shop/office"') == 2
    assert '"office"' not in examples
    assert '{"text": "..."} is an item that has no id' in examples


def test_push_to_a_branch_without_catalogue_tells_nothing_of_the_items(hub, pushed):
    status, out, _, _ = pushed[1]
    assert status == 0
    assert out.splitlines()[-1] == f"{hub.url}/shop/office/tree/partners"
    assert "stays in the history" in out
    assert hub.files("shop/office", "partners") == MODEL | PROCESSOR | PAGE
    assert hub.commits("shop/office", "partners")[0]["title"] == "For partners"
    for file in hub.files("shop/office", "partners"):
        content = hub.read("shop/office", file, "partners")
        assert not any(word.encode() in content for word in [*IDS, *TEXTS]), file
    assert "The catalogue is not shared" in hub.read("shop/office", "README.md", "partners").decode()


def test_a_later_push_leaves_no_weights_and_no_catalogue_of_an_earlier_one(hub, pushed, sharded):
    assert [status for status, *_ in pushed[:6]] == [0] * 6
    files = hub.files("shop/again")
    assert files == set(shared_files(sharded)) | PROCESSOR | PAGE
    assert "model.safetensors" not in files
    assert "model.safetensors.index.json" in files


def test_push_says_in_one_line_why_it_cannot(hub, pushed, refused):
    for answer, message in zip(pushed[6:], refused, strict=True):
        assert_refused(answer, message)
        assert answer[2].startswith("unisrec push: error: ")
    with pytest.raises(HTTPError):  # nothing is made on the Hub for what does not pass
        hub.info("shop/refused")


LOAD = """
import importlib.util, json, sys
import torch
from transformers import AutoModel, AutoProcessor, AutoTokenizer

assert importlib.util.find_spec("unisrec") is None
states = []
for name, revision in (("shop/office", None), ("shop/office", "partners"), ("shop/again", None)):
    options = {"trust_remote_code": True, "revision": revision}
    model = AutoModel.from_pretrained(name, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    processor = AutoProcessor.from_pretrained(name, **options)
    batch = processor([[{"text": "red pen"}, {"text": "garden lamp"}], [{"text": "small steel kettle"}]])
    assert tokenizer(["red pen"])["input_ids"][0] == batch["input_ids"][0, :4].tolist()
    with torch.no_grad():
        states.append(model(**batch).sequence_embeds.tolist())
print(json.dumps(states))
"""


def test_loads_without_the_package_and_then_without_a_network(hub, pushed, office, bare_python, tmp_path):
    model, processor = AutoModel.from_pretrained(office).eval(), AutoProcessor.from_pretrained(office)
    batch = processor([[{"text": "red pen"}, {"text": "garden lamp"}], [{"text": "small steel kettle"}]])
    with torch.no_grad():
        expected = model(**batch).sequence_embeds.tolist()
    for offline in ("0", "1"):
        states = hub.run(LOAD, home=tmp_path, python=bare_python, HF_HUB_OFFLINE=offline)
        assert states == [expected] * 3


PIPELINE = """
import json, sys
from transformers import pipeline

answers = []
for name in ("shop/office", sys.argv[1]):
    recommend = pipeline(model=name, trust_remote_code=True)
    assert type(recommend).__module__.startswith("transformers_modules."), type(recommend)
    answers.append(recommend(["SKU-1002", {"text": "red lamp"}]))
assert "unisrec" not in sys.modules
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_the_pipeline_of_the_repository_itself_and_of_a_folder(hub, pushed, office, tmp_path):
    """The code of either, in a process that does not know the package, gives what the registered pipeline and a recommender
    give; the model of the folder is mixed with text neighbours."""
    folder = shutil.copytree(office, tmp_path / "mixed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"text_neighbours": 0.5}))
    found = hub.run(PIPELINE, folder, home=tmp_path)
    history = ["SKU-1002", {"text": "red lamp"}]
    assert found == [pipeline("sequential-recommendation", model=str(each))(history) for each in (office, folder)]
    (expected,) = Recommender.from_pretrained(folder).recommend([history])
    assert [item["item_id"] for item in found[1]] == [item.item_id for item in expected]
    assert [item["score"] for item in found[1]] == pytest.approx([item.score for item in expected], abs=1e-5)
    (alone,) = Recommender.from_pretrained(folder, text_neighbours=0).recommend([history])
    assert {item.score for item in alone}.isdisjoint(item.score for item in expected)


METHODS = """
import json, sys
import unisrec
import torch
from huggingface_hub import HfApi
from transformers import AutoModel, AutoProcessor, AutoTokenizer, pipeline
from unisrec.modeling_unisrec.text_encoders import find_text_pooling, load_text_encoder

office, encoder = sys.argv[1:]
model, processor = AutoModel.from_pretrained(office), AutoProcessor.from_pretrained(office)
model.push_to_hub("shop/methods", private=True)
processor.push_to_hub("shop/methods")
for part in (model, processor):
    part.save_pretrained("saved", push_to_hub=True, repo_id="shop/saved")
model.config.push_to_hub("shop/config", revision="next")
pipeline("sequential-recommendation", model=office).push_to_hub("shop/pipeline")

model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
model.push_to_hub("shop/encoder")
tokenizer.push_to_hub("shop/encoder")
HfApi().create_branch("shop/encoder", branch="mean")
first = [weight.detach().clone() for weight in model.parameters()]
model.get_input_embeddings().weight.data += 1
model.push_to_hub("shop/encoder")
pooling = json.dumps({"pooling_mode_mean_tokens": True}).encode()
place = {"path_in_repo": "1_Pooling/config.json", "revision": "mean"}
HfApi().upload_file(repo_id="shop/encoder", path_or_fileobj=pooling, **place)
equal = [
    all(map(torch.equal, load_text_encoder(name)[0].parameters(), weights))
    for name, weights in (("shop/encoder@mean", first), ("shop/encoder", [*model.parameters()]))
]
errors = []
for name in ("shop/encoder@v9", "shop/no-encoder"):
    try:
        load_text_encoder(name)
    except OSError as error:
        errors.append(str(error))
print(json.dumps([equal, find_text_pooling("shop/encoder"), find_text_pooling("shop/encoder@mean"), errors]))
"""


@pytest.mark.slow
def test_methods_push_a_whole_checkpoint_and_a_text_encoder_has_revisions(hub, office, text_encoder_dir):
    equal, pooling, pooling_of_branch, errors = hub.run(
        METHODS,
        office,
        text_encoder_dir,
        HF_TOKEN="hf_shop",
    )
    for repo in ("shop/methods", "shop/saved", "shop/pipeline"):
        assert hub.files(repo) - {"README.md"} == MODEL | PROCESSOR | CATALOGUE
        for file in hub.files(repo):
            content = hub.read(repo, file)
            assert not any(str(path).encode() in content for path in (office, text_encoder_dir, hub.home)), (
                repo,
                file,
            )
        for file in ("model.safetensors", "catalogue/item_embeddings.safetensors", "modeling_unisrec.py"):
            assert hub.read(repo, file) == (office / file).read_bytes()
    assert hub.info("shop/methods")["private"]
    assert not hub.info("shop/saved")["private"]
    assert hub.files("shop/config", "next") == CODE | {"config.json", "README.md"}
    assert equal == [True, True]
    assert (pooling, pooling_of_branch) == ("cls", "mean")
    assert "text encoder 'shop/encoder@v9' cannot be loaded (shop/encoder has no revision 'v9'" in errors[0]
    assert "the Hub shows no repository shop/no-encoder" in errors[1]


def test_a_folder_wins_over_a_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/office@2").mkdir(parents=True)
    assert split_revision("runs/office@2") == ("runs/office@2", None)
    assert split_revision(Path("runs/office@2")) == ("runs/office@2", None)
    assert split_revision("runs/office@3") == ("runs/office", "3")
    assert split_revision("shop/office@refs/pr/1") == ("shop/office", "refs/pr/1")
    assert split_revision("shop/office") == ("shop/office", None)


CLICKS = """
import sys
from huggingface_hub import HfApi

api, clicks = HfApi(token="hf_shop"), "user_id,item_id,timestamp,title\\nann,A,1,red pen\\nann,B,2,blue pen\\n"
repo = {"repo_id": "shop/clicks", "repo_type": "dataset"}
api.create_repo(**repo)
api.upload_file(path_or_fileobj=clicks.encode(), path_in_repo="train.csv", **repo)
api.create_branch(branch="june", **repo)
clicks += "bob,A,4,red pen\\n"
api.upload_file(path_or_fileobj=clicks.encode(), path_in_repo="train.csv", revision="june", **repo)
print(0)
"""


def recommend(model: object) -> list[object]:
    return ["recommend", "--history", "text:red pen", "--top-k", "3", "--json", "--model", model]


def prepare(dataset: str, output: Path) -> list[object]:
    return ["prepare", "table", "--interactions", dataset, "--user-k", 1, "--item-k", 1, "--output", output]


def assert_refused(answer: list, message: str) -> None:
    """Exit status 2 and one line, without waiting to try again."""
    status, out, err, slept = answer
    assert (status, out) == (2, ""), err
    assert err.count("\n") == 1, err
    assert message in err
    assert slept < 5


@pytest.fixture(scope="module")
def online(hub, pushed, office, tmp_path_factory) -> list[list]:
    """Answers of a machine that reaches the Hub; after them its cache holds a checkpoint and a dataset."""
    hub.run(CLICKS)
    first, partners = (hub.commits("shop/office", branch)[0]["id"] for branch in ("main", "partners"))
    domains = tmp_path_factory.mktemp("domains")
    return hub.verbs(
        recommend(office),
        recommend("shop/office"),
        recommend("shop/office@main"),
        recommend(f"shop/office@{first}"),
        recommend("shop/secret@main"),
        recommend(f"shop/office@{partners}"),
        recommend("shop/none"),
        recommend("shop/office@v9"),
        ["HF_TOKEN=", *recommend("shop/secret")],
        ["HF_TOKEN=hf_rival", *recommend("shop/secret")],
        ["HF_TOKEN=hf_rival", *recommend("shop/gated-office")],
        recommend("runs/office/final"),
        prepare("shop/clicks", domains / "may"),
        prepare("shop/clicks@june", domains / "june"),
        prepare("shop/clicks@v9", domains / "none"),
    )


def test_a_model_is_named_with_its_revision(online):
    local, *others = online[:5]
    assert local[0] == 0, local[2]
    assert local[1].count("SKU-") == 3
    for answer in others:
        assert answer[:2] == local[:2], answer[2]
    assert_refused(online[5], "the checkpoint has no catalogue")  # it is that commit which was read


def test_what_cannot_be_loaded_is_said_in_one_line(online):
    messages = [
        "model 'shop/none' cannot be loaded (the Hub shows no repository shop/none: check the name, or log in by",
        "model 'shop/office@v9' cannot be loaded (shop/office has no revision 'v9': see its page at",
        "the Hub shows no repository shop/secret: check the name, or log in by `hf auth login`",
        "the Hub shows no repository shop/secret: check the name, or log in by `hf auth login`",
        "You are trying to access a gated repo. Make sure to have access to it at",
        "model 'runs/office/final' cannot be loaded ('runs/office/final' is not an id of the Hub",
    ]
    for answer, message in zip(online[6:12], messages, strict=True):
        assert_refused(answer, message)


def test_a_dataset_is_named_with_its_revision(online):
    may, june, none = online[12:]
    assert (may[0], june[0]) == (0, 0), may[2] + june[2]
    assert "2" in may[1]
    assert "3" in june[1]
    assert_refused(none, "shop/clicks@v9: cannot be loaded as a dataset of the Hub (shop/clicks has no revision 'v9'")


def test_offline_the_cache_is_enough(hub, home, online, office, tmp_path):
    local, branch, missing, push, dataset, no_dataset = hub.verbs(
        recommend("shop/office"),
        recommend("shop/office@main"),
        recommend("shop/none"),
        ["push", office, "shop/office"],
        prepare("shop/clicks", tmp_path / "clicks"),
        prepare("shop/none", tmp_path / "none"),
        home=home,
        HF_HUB_OFFLINE="1",
    )
    for answer in (local, branch):
        assert answer[:3] == [*online[0][:2], ""]
    keeps_off = "HF_HUB_OFFLINE=1 keeps this machine off the Hub: unset HF_HUB_OFFLINE"
    assert_refused(missing, f"(shop/none is not in the cache, and {keeps_off})")
    assert_refused(push, f"unisrec push: error: {keeps_off}")
    assert dataset[0] == 0, dataset[2]
    assert_refused(no_dataset, keeps_off)


@pytest.mark.slow
def test_without_a_connection_the_cache_is_taken_and_nothing_tries_again(hub, home, online, office, tmp_path):
    local, again, missing, push, no_dataset = hub.verbs(
        recommend("shop/office"),
        recommend("shop/office"),
        recommend("shop/none"),
        ["push", office, "shop/office"],
        prepare("shop/none", tmp_path / "none"),
        home=home,
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert local[:2] == again[:2] == online[0][:2], local[2]
    assert local[3] + again[3] < 5
    assert "shop/office is taken from the cache: the Hub cannot be reached at http://127.0.0.1:9" in local[2]
    unreachable = "the Hub cannot be reached at http://127.0.0.1:9: check the connection"
    assert_refused(missing, f"(shop/none is not in the cache, and {unreachable})")
    assert_refused(push, f"unisrec push: error: {unreachable}")
    assert_refused(no_dataset, unreachable)
