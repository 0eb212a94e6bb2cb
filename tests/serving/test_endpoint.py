"""The handler of an Inference Endpoint: it answers from the folder alone, and refuses with one line."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import polars
import pytest

from unisrec.configuration import configuration_unisrec as configuration
from unisrec.recommender import Recommender


pytest.importorskip("pydantic")
from unisrec.serving.endpoint import EndpointHandler


HISTORY = ["toys-3", {"text": "small red kettle"}, {"item_id": "toys-7"}]


@pytest.fixture(scope="module")
def handler(recommender):
    return EndpointHandler(recommender=recommender, max_history=5)


def plain(items):
    return [item.to_dict() for item in items]


def close(found, expected):
    assert [item["item_id"] for item in found] == [item["item_id"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], abs=1e-5)


def test_the_file_in_the_folder_is_loaded_as_an_endpoint_loads_it(shop, recommender):
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", shop / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    endpoint = module.EndpointHandler(str(shop))
    expected = Recommender.from_pretrained(shop).recommend([HISTORY], top_k=4)[0]
    close(endpoint({"inputs": HISTORY, "parameters": {"top_k": 4}}), plain(expected))
    assert json.loads(json.dumps(endpoint({"inputs": HISTORY})))[0].keys() == {"item_id", "text", "score"}


BARE = """
import json, runpy, sys
from pathlib import Path
import importlib.util
packages = Path(sys.argv[2])
class Find:  # polars, which an endpoint installs, and nothing else of the environment of the tests
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("polars", "_polars_runtime_32") and path is None:
            return importlib.machinery.PathFinder.find_spec(name, [str(packages)])
import importlib.machinery
sys.meta_path.append(Find())
assert importlib.util.find_spec("unisrec") is None
endpoint = runpy.run_path(sys.argv[1] + "/handler.py")["EndpointHandler"](sys.argv[1])
history = json.loads(sys.argv[3])
print(json.dumps([endpoint({"inputs": history, "parameters": {"top_k": 4}}), endpoint({"inputs": [history, history]})[1]]))
"""


@pytest.mark.slow
def test_without_the_package_the_code_in_the_folder_answers(shop, recommender, bare_python, tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [bare_python, "-c", BARE, shop, Path(polars.__file__).parents[1], json.dumps(HISTORY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout.splitlines()[-1])
    close(few, plain(recommender.recommend([HISTORY], top_k=4)[0]))
    close(many, plain(recommender.recommend([HISTORY])[0]))


def test_histories_and_similar_items(handler, recommender):
    histories = [HISTORY, ["toys-1"], ["toys-2", "toys-9"]]
    options = {"top_k": 30, "exclude_seen": False, "blocked": ["toys-0"]}
    answers = handler({"inputs": histories, "parameters": options})
    for found, expected in zip(answers, recommender.recommend(histories, **options), strict=True):
        assert len(found) == 29
        close(found, plain(expected))
    data = {"inputs": "toys-4", "task": "similar", "parameters": {"top_k": 3}}
    before = json.dumps(data)
    close(handler(data), plain(recommender.similar_items("toys-4", 3)))
    assert json.dumps(data) == before


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (None, "expected an object with `inputs`"),
        ({}, "expected an object with `inputs`"),
        ({"inputs": []}, "inputs: expected a history or a list of histories, not a list"),
        ({"inputs": "toys-1"}, "inputs: expected a history or a list of histories, not 'toys-1'"),
        ({"inputs": ["toys-1"], "options": {}}, "unknown field 'options'; expected inputs, parameters, task"),
        ({"inputs": ["toys-1"], "task": "rank"}, "task: expected recommend or similar, not 'rank'"),
        (
            {"inputs": ["toys-1"], "parameters": {"topk": 1}},
            "body: unknown field 'topk'; expected top_k, exclude_seen",
        ),
        ({"inputs": ["toys-1"], "parameters": {"top_k": 0}}, "top_k: expected greater than or equal to 1, not 0"),
        ({"inputs": ["toys-1"], "parameters": {"top_k": True}}, "top_k: expected a valid integer, not true"),
        ({"inputs": ["toys-1"], "parameters": {"top_k": math.nan}}, "top_k: expected a valid integer, not nan"),
        ({"inputs": ["toys-1"], "parameters": [1]}, "body: expected an object with top_k, exclude_seen"),
        ({"inputs": ["nothing"]}, "history[0]: item id 'nothing' is not in the catalogue of 30 items"),
        ({"inputs": ["toys-1"] * 6}, "history: 6 entries; expected at most 5"),
        ({"inputs": [["toys-1"], "toys-2"]}, "inputs[1].history: expected a valid list, not 'toys-2'"),
        ({"inputs": [["toys-1"], []]}, "inputs[1].history: empty"),
        ({"inputs": [["toys-1"]] * 1001}, "inputs: 1,001 histories; expected at most 1,000"),
        ({"inputs": "x", "task": "similar"}, "item: item id 'x' is not in the catalogue"),
    ],
)
def test_one_line_says_what_is_wrong(handler, data, line):
    with pytest.raises(ValueError, match=".") as refused:
        handler(data)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_requirements_name_what_pip_can_fetch(monkeypatch, tmp_path):
    package = distribution("unisrec")

    def of(source):
        class Installed:
            version, requires = package.version, package.requires

            def read_text(self, name):
                return None if source is None else json.dumps(source)

        monkeypatch.setattr(configuration.importlib.metadata, "distribution", lambda name: Installed())
        first, *needed, own = configuration.endpoint_requirements(tmp_path).splitlines()
        assert first.startswith("#")
        assert [line.partition(">")[0] for line in needed] == ["torch", "transformers", "polars"]
        return own

    assert of(None) == f"unisrec[serve]=={package.version}"
    git = {"url": "https://example.org/u.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    assert of(git) == "unisrec[serve] @ git+https://example.org/u.git@abc"
    assert of({"url": "https://example.org/u.whl", "archive_info": {}}) == "unisrec[serve] @ https://example.org/u.whl"
    assert of({"url": "file:///home/alice/unisrec", "dir_info": {}}).startswith("# ")
    assert of({"url": "ssh://git@example.org/u.git", "vcs_info": {}}).startswith("# ")


def test_files_of_others_stay(shop, recommender, tmp_path):
    again = Path(shutil.copytree(shop, tmp_path / "again"))
    (again / "handler.py").write_text("# my own\n")
    (again / "requirements.txt").write_text((shop / "requirements.txt").read_text().splitlines()[0] + "\nold\n")
    recommender.processor.save_pretrained(again)
    assert (again / "handler.py").read_text() == "# my own\n"
    assert (again / "requirements.txt").read_bytes() == (shop / "requirements.txt").read_bytes()
