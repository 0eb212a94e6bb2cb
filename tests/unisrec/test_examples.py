"""The scripts in `examples/` that bring their requirements along (PEP 723), and the notebooks."""

import importlib.util
import json
import re
import shutil
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement


ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(file.stem for file in (ROOT / "examples").glob("*.ipynb"))
JOBS = sorted(file.stem for file in (ROOT / "examples").glob("*_job.py"))
BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # as in the specification


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", JOBS)
def test_requirements_are_declared(name):
    (block,) = BLOCK.finditer((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
    declared = tomllib.loads("".join(line[2:] for line in block["content"].splitlines(keepends=True)))
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert declared["requires-python"] == setup["options"]["python_requires"]
    (requirement,) = map(Requirement, declared["dependencies"])
    assert requirement.name == "unisrec"
    assert requirement.extras <= set(setup["options.extras_require"])


@pytest.mark.parametrize(("name", "words"), [("fit_job", ["a.csv"]), ("recommend_job", ["model", "domain"])])
def test_a_job_without_a_place_for_its_result_is_refused(name, words, capsys):
    with pytest.raises(SystemExit) as ended:
        load(name).main(words)
    assert ended.value.code == 2
    assert "nowhere: add --output or --push" in capsys.readouterr().err


def test_both_jobs_run(make_domain, make_model, text_encoder, tokenizer, tmp_path, monkeypatch, capsys):
    asked = []
    job = load("fit_job")
    monkeypatch.setattr(job, "unisrec", lambda words: asked.append(words) or 0)
    assert job.main(["clicks.csv", "--items", "products.csv", "--push", "shop/x", "--private", "--budget", "1"]) == 0
    fit, push = asked
    assert fit[:5] == ["fit", "clicks.csv", "--items", "products.csv", "--output"]
    assert fit[-2:] == ["--budget", "1"]
    assert push == ["push", fit[5], "shop/x", "--private"]

    from unisrec.modeling_unisrec import UniSRecProcessor
    from unisrec.recommender import Recommender
    from unisrec.recommender.catalogue import make_catalogue

    domain = make_domain()
    domain.save_to_disk(tmp_path / "domain")
    model = make_model()
    model.attach_text_encoder(text_encoder)
    processor = UniSRecProcessor(tokenizer, make_catalogue(domain), 10, 32)
    Recommender(model, processor).save_pretrained(tmp_path / "model")
    output = tmp_path / "found.parquet"
    load("recommend_job").main(
        [str(tmp_path / "model"), str(tmp_path / "domain"), "--output", str(output), "--top-k", "2"]
    )
    assert "80 recommendations for 40 users" in capsys.readouterr().out
    assert output.is_file()


def code_of(name: str) -> list[dict]:
    cells = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_hold_their_results(name):
    cells = code_of(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, 1 + len(cells)))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= 3
    assert not [output for output in outputs if output.get("name") == "stderr" or output["output_type"] == "error"]


@pytest.mark.rare
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name, tmp_path, monkeypatch):
    shutil.copy(ROOT / "examples" / "products.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    code = "\n".join("".join(cell["source"]) for cell in code_of(name))
    # Less of everything that takes time.
    for full, small in (
        ("budget=5,", "budget=0.05, use_cpu=True,"),
        ("num_train_epochs=6,", "num_train_epochs=1, use_cpu=True,"),
        ("num_train_epochs=4,", "num_train_epochs=1, use_cpu=True,"),
        ("num_target_users=400, num_target_items=300", "num_target_users=60, num_target_items=100"),
        ("num_target_users=300, num_target_items=300", "num_target_users=60, num_target_items=100"),
        ("num_target_users=300, num_target_items=500", "num_target_users=60, num_target_items=100"),
    ):
        code = code.replace(full, small)
    names: dict = {}
    exec(compile(code, f"{name}.ipynb", "exec"), names)
    if name == "shop":
        assert (tmp_path / "shop-model" / "report.html").is_file()
        assert all(len(each) == 3 for each in names["lists"])
        assert len(names["found"]) == 3
    if name == "own_encoder":
        torch.testing.assert_close(names["vector"], names["expected"], rtol=0, atol=1e-5)
    if name == "research_grid":
        assert names["runs"].shape == (4, 4)
