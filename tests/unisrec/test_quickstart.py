"""The whole story through the command line: on a tiny checkpoint, and on the released one."""

import json
import re

import pytest

from unisrec import UniSRecProcessor
from unisrec.cli import main


TINY = ["--users", "30", "--finetune-epochs", "1", "--use-cpu", "--output", "out"]


@pytest.fixture
def quickstart(tmp_path, monkeypatch, capsys):
    """Runs it in a new folder: what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        assert main(["quickstart", *words]) == 0
        return capsys.readouterr().out

    return run


def rows_of(printed: str) -> dict[str, list[float]]:
    found = [re.fullmatch(r"(\S.*?)\s+((?:0\.\d{4}\s*){8})", line.rstrip()) for line in printed.splitlines()]
    return {match[1]: [float(cell) for cell in match[2].split()] for match in found if match}


@pytest.mark.slow
def test_quickstart_on_another_checkpoint(quickstart, tmp_path, make_model, text_encoder, tokenizer):
    model = make_model(text_pooling="mean")
    model.attach_text_encoder(text_encoder)
    model.save_pretrained(tmp_path / "tiny")
    UniSRecProcessor(tokenizer, max_history_length=10, max_text_length=32).save_pretrained(tmp_path / "tiny")
    printed = quickstart("--model", "tiny", *TINY, "--json", "out.json")
    rows = rows_of(printed)
    settings = [f"{setting}, {start}" for setting in ("inductive", "transductive") for start in STARTS]
    assert list(rows) == ["random", "popularity", "zero-shot", *settings]
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["metrics"]["zero-shot"]["recall@10"] == pytest.approx(rows["zero-shot"][0], abs=1e-4)
    assert printed.count("\n1.  ") == 2  # zero-shot and fine-tuned
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "inductive-fine-tuned" / "catalogue" / "items.parquet").is_file()


STARTS = ("from scratch", "fine-tuned")


@pytest.mark.slow
def test_quickstart_tells_the_whole_story(quickstart):
    rows = rows_of(quickstart("--output", "out", "--use-cpu", "--users", "600", "--finetune-epochs", "4"))
    recall = {name: cells[0] for name, cells in rows.items()}
    assert recall["zero-shot"] > 2 * max(recall["popularity"], recall["random"])
    assert {f"{setting}, {start}" for setting in ("inductive", "transductive") for start in STARTS} < set(rows)
    assert (
        recall["inductive, fine-tuned"] > 1.2 * recall["zero-shot"]
    )  # 1.5 times here; 2.4 times at the size of the demo
    for cells in rows.values():
        assert cells[4] >= cells[0]  # R@10 with seen items masked is no worse than with them kept
