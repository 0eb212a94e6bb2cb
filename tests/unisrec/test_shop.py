"""docs/shop.md is true: its files, its commands and its Python run, on a shop of the same form."""

import json
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest

import unisrec
from unisrec.cli import main
from unisrec.serving.endpoint import EndpointHandler
from unisrec.serving.server import create_app


pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "shop.md").read_text(encoding="utf-8")
SERVING = (DOCS / "serving.md").read_text(encoding="utf-8").partition("## Over HTTP")[2]


def blocks(language, page=PAGE):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def files(make_domain, tmp_path, monkeypatch):
    """The files of the page, with some more rows."""
    monkeypatch.chdir(tmp_path)
    clicks, products = blocks("text")[:2]
    domain = make_domain(num_items=40, num_users=60)
    for user, history in enumerate(domain.sequences["item_index"].to_list()):
        clicks += "".join(
            f"{user:04};{item + 1:05};{place + 1:02}.02.2025 12:00\n" for place, item in enumerate(history)
        )
    known = re.findall(r"^\d{5}", products, re.MULTILINE)
    rows = zip((f"{row + 1:05}" for row in range(42)), [*domain.items["text"], "red tent", "tea"], strict=True)
    products += "".join(f"{sku};{text};;9,90\n" for sku, text in rows if sku not in known)
    Path("clicks.csv").write_bytes(clicks.encode("cp1252"))
    Path("products.csv").write_bytes(products.encode("cp1252"))
    Path("histories.csv").write_text("user_id,history\n0017,00042 00007\n")
    header = clicks.partition("\n")[0]
    Path("new.csv").write_text(f"{header}\n0017;00003;03.03.2025 12:00\n0018;00004;03.03.2025 12:00\n", "cp1252")


def test_commands(files, text_encoder_dir, fork, capsys):
    commands, endpoint, tomorrow = blocks("bash")
    fit, *others = (shlex.split(line)[1:] for line in commands.splitlines())
    assert main([*fit, "--text-encoder", str(text_encoder_dir), "--budget", "0.05", "--use-cpu"]) == 0
    said = capsys.readouterr().err
    expected = blocks("text")[2]
    assert said.startswith(expected)
    assert re.search(r"no user, item or time +1 ", said)
    for words in others:
        assert main(words) == 0
    titles = pl.read_parquet("model/catalogue/items.parquet")["text"].to_list()
    assert {"Müslischale, 0,5 l. Acme", "Teekanne & Stövchen"} <= set(titles)
    assert "00099" not in capsys.readouterr().out
    tonight = pl.read_csv("tonight.csv", infer_schema=False)
    assert tonight["user_id"].unique().to_list() == ["0017"]
    assert not {"00042", "00007"} & set(tonight["item_id"])
    if shutil.which("curl"):
        check_endpoint(endpoint, fork)
    sync, update, recommend = (shlex.split(line, comments=True)[1:] for line in tomorrow.splitlines())
    assert main(sync) == 0
    assert main([*update, "--budget", "0.05", "--use-cpu"]) == 0
    assert main(recommend) == 0
    assert {"0017", "0018"} <= set(pl.read_parquet("tonight.parquet")["user_id"])


def check_endpoint(commands, fork):
    """Serves the model as both pages do, and sends the requests of both."""
    serve, curl = commands.splitlines()
    assert blocks("bash", SERVING)[0] == f"{serve} --port 8000\n"
    module, *words = shlex.split(serve)
    assert module == "unisrec"
    server = fork(*words, "--port", "0")
    server.wait_for("\n", server.out)
    (line,) = server.out.read_text().splitlines(keepends=True)
    (address,) = re.findall(r"http://\S+", line)
    assert line == blocks("text", SERVING)[0].replace("http://127.0.0.1:8000", address)
    requests = blocks("bash", SERVING)[1].replace("\\\n", " ").splitlines()
    answers = blocks("json", SERVING)[0].splitlines()
    five, *found = (ask(request, address) for request in [curl, *requests])
    assert len(five["items"]) == 5
    for answer, shown in zip(found, map(json.loads, answers), strict=True):
        assert answer.keys() == shown.keys()
        assert len(answer.get("items", ())) == len(shown.get("items", ()))
        assert [item.keys() for item in answer.get("items", ())] == [item.keys() for item in shown.get("items", ())]
    assert found[2:] == [json.loads(shown) for shown in answers[2:]]
    assert server.end(signal.SIGTERM) == 0


def ask(command, address):
    words = shlex.split(command.replace("http://127.0.0.1:8000", address))
    return json.loads(subprocess.run([*words, "--silent", "--show-error"], capture_output=True, check=True).stdout)


def test_python(files, text_encoder_dir, monkeypatch, capsys):
    code, further, tomorrow = blocks("python")
    assert len(code.replace("\n\n", "\n").splitlines()) == 6
    fit = unisrec.fit
    options = {"text_encoder": str(text_encoder_dir), "budget": 0.05, "use_cpu": True}
    monkeypatch.setattr(unisrec, "fit", lambda *tables, **names: fit(*tables, **names, **options))
    served = []
    monkeypatch.setattr(unisrec, "serve", served.append)
    names = {}
    exec(code, names)
    app = create_app(EndpointHandler(recommender=served[0]))  # what `unisrec.serve` runs, see tests/serving
    assert app.state.num_items == 42
    exec(further, names)
    assert "Recommendation(" in capsys.readouterr().out
    update = unisrec.update
    monkeypatch.setattr(unisrec, "update", lambda *tables: update(*tables, budget=0.05, use_cpu=True))
    names["new_clicks"] = pl.read_csv("new.csv", separator=";", infer_schema=False)
    exec(tomorrow, names)
    assert names["result"].num_interactions == 2
