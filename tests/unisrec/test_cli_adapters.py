"""Adapters (LoRA) wherever a checkpoint is named."""

import json
import shutil
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest
from transformers import AutoModel, AutoTokenizer, pipeline

from unisrec.cli import main
from unisrec.modeling_unisrec import UniSRecProcessor
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.recommender import Recommender
from unisrec.recommender.catalogue import make_catalogue
from unisrec.serving.endpoint import EndpointHandler
from unisrec.trainer import UniSRecFinetuneArguments, finetune


pytest.importorskip("peft")


@pytest.fixture(scope="module")
def root(make_domain, make_model, text_encoder_dir, training_options, tmp_path_factory):
    """Folder with a `domain`, its tables, a checkpoint `base`, and `adapters` of it."""
    root = tmp_path_factory.mktemp("runs")
    domain = make_domain()
    domain.save_to_disk(root / "domain")
    model = make_model()
    model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir).eval())
    processor = UniSRecProcessor(AutoTokenizer.from_pretrained(text_encoder_dir), make_catalogue(domain), 10, 32)
    Recommender(model, processor).save_pretrained(root / "base")
    args = UniSRecFinetuneArguments(
        str(root / "adapters"),
        num_train_epochs=1,
        lora="text,sequence",
        load_best_model_at_end=False,
        early_stopping_patience=0,
        **training_options,
    )
    finetune(root / "base", root / "domain", "inductive", args)
    assert (root / "adapters" / "adapter_config.json").is_file()
    assert not (root / "adapters" / "config.json").is_file()
    rows = [
        f"u{user},{domain.items['item_id'][row]},{1_000 * user + place}"
        for user, history in enumerate(domain.sequences["item_index"].to_list())
        for place, row in enumerate(history)
    ]
    (root / "clicks.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    domain.items.rename({"text": "title"}).write_csv(root / "products.csv")
    return root


TRAINING = (
    "--domain domain --setting inductive --output_dir OUT --num_train_epochs 1 --hold_out false --use_cpu --report_to none "
    "--disable_tqdm true --eval_strategy no --save_strategy no --load_best_model_at_end false --early_stopping_patience 0"
)
SLOW = {
    "evaluate": "evaluate --model adapters --domain domain --use-cpu",
    "sync": "items sync adapters products.csv --output OUT",
    "finetune": f"finetune --model adapters {TRAINING}",
    "update": "update adapters --interactions clicks.csv --output OUT --use-cpu --budget 0.1",
}
RARE = {
    "recommend": "recommend --model adapters --domain domain --users all --output OUT.parquet",
    "products": "recommend --model adapters --items products.csv --history toys-3",
    "index": "index adapters --output OUT --kind hnsw",
    "export": "export adapters --output OUT",
    "list": "items list adapters",
    "add": "items add adapters --item new-1 pen --output OUT",
    "remove": "items remove adapters --id toys-1 --output OUT",
    "space": "demo adapters --export-space OUT",
    "teacher": f"finetune --model base --teachers adapters {TRAINING}",
    "plot": "plot map adapters --domains domain --output OUT.png --use-cpu",
    "fit": "fit clicks.csv --items products.csv --model adapters --output OUT --budget 0.02 --use-cpu",
}
CASES = [
    *(pytest.param(words, id=name, marks=pytest.mark.slow) for name, words in SLOW.items()),
    *(pytest.param(words, id=name, marks=pytest.mark.rare) for name, words in RARE.items()),
]


@pytest.mark.parametrize("words", CASES)
def test_verbs_take_adapters(words, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main([word.replace("OUT", str(tmp_path / "out")) for word in words.split()]) == 0, capsys.readouterr().err
    if (tmp_path / "out" / "model.safetensors").is_file():  # a whole checkpoint, which needs no peft
        load_checkpoint(tmp_path / "out")


@pytest.fixture
def shared(root, tmp_path):
    """Copy of the adapters whose base is on the Hub."""
    folder = shutil.copytree(root / "adapters", tmp_path / "shared")
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "shop/lora-base", "revision": "main"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_pushed_adapters_recommend_the_same_elsewhere(root, shared, hub, tmp_path):
    recommend = ["recommend", "--model", "shop/lora", "--history", "toys-1", "--top-k", 5, "--json"]
    base, adapters, found = hub.verbs(
        ["push", root / "base", "shop/lora-base"], ["push", shared, "shop/lora"], recommend, home=tmp_path
    )
    assert (base[0], adapters[:3]) == (0, [0, f"{hub.url}/shop/lora\n", ""])
    files = hub.files("shop/lora")
    assert {"adapter_config.json", "adapter_model.safetensors", "catalogue/items.parquet", "handler.py"} <= files
    assert files.isdisjoint({"config.json", "model.safetensors", "log.jsonl", "test_results.json"})
    (expected,) = Recommender.from_pretrained(root / "adapters").recommend([["toys-1"]], top_k=5)
    items = [(item["item_id"], item["score"]) for item in map(json.loads, found[1].splitlines())]
    assert items == [(item.item_id, pytest.approx(item.score, abs=1e-5)) for item in expected]


@pytest.mark.rare
def test_adapters_are_served_over_http(root):
    command = [sys.executable, "-m", "unisrec", "serve", str(root / "adapters"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split(" on ")[1].split()[0]
            assert json.load(urlopen(f"{address}/health")) == {"status": "ok"}
            body = json.dumps({"history": ["toys-1", {"text": "pen"}], "top_k": 5}).encode()
            request = Request(f"{address}/recommend", body, {"Content-Type": "application/json"})
            items = json.load(urlopen(request))["items"]
        finally:
            server.terminate()
            assert server.wait(60) == 0
    recommender = Recommender.from_pretrained(root / "adapters")
    (expected,) = recommender.recommend([["toys-1", {"text": "pen"}]], top_k=5)
    assert [(item["item_id"], item["score"]) for item in items] == [
        (item.item_id, pytest.approx(item.score, abs=1e-5)) for item in expected
    ]


@pytest.mark.slow
def test_all_that_recommends_gives_the_same(root, tmp_path):
    # Another catalogue beside the base: transformers' `pipeline` would read it instead of that of the adapters.
    shutil.copytree(root / "adapters", tmp_path / "adapters")
    shutil.copytree(root / "base", tmp_path / "base")
    assert main(["items", "remove", str(tmp_path / "base"), "--id", "toys-9"]) == 0
    config = tmp_path / "adapters" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(root), str(tmp_path)))
    history = ["toys-1", {"text": "pen"}]
    recommender = Recommender.from_pretrained(tmp_path / "adapters")
    expected = [
        (item.item_id, pytest.approx(item.score, abs=1e-5)) for item in recommender.recommend([history], 30)[0]
    ]
    assert "toys-9" in dict(expected)

    found = pipeline("sequential-recommendation", model=str(tmp_path / "adapters"))(history, top_k=30)
    assert [(item["item_id"], item["score"]) for item in found] == expected
    handler = EndpointHandler(str(tmp_path / "adapters"))
    found = handler({"inputs": history, "parameters": {"top_k": 30}})
    assert [(item["item_id"], item["score"]) for item in found] == expected
    recommender.save_pretrained(tmp_path / "whole")
    again = Recommender.from_pretrained(tmp_path / "whole").recommend([history], 30)[0]
    assert [(item.item_id, item.score) for item in again] == expected
    assert "\npeft>=" in (tmp_path / "adapters" / "requirements.txt").read_text()
    assert "peft" not in (tmp_path / "base" / "requirements.txt").read_text()
