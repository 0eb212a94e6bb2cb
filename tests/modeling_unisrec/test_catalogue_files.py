"""The catalogue's files: bound to each other, replaced at once, with readers, writers and kills in real processes."""

import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from unisrec.cli import main
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor, lock_catalogue
from unisrec.recommender import Recommender


IDS, TEXTS = ["a", "b", "c"], ["red pen", "blue pen", "lamp"]
CHANGES = ("os.remove", "os.rmdir", "os.rename", "os.mkdir", "open")
processes = multiprocessing.get_context("forkserver")  # see conftest.py


def catalogue_of(number: int, size: int = 3) -> ItemCatalogue:
    """A catalogue whose ids and vectors tell its number."""
    ids = [f"{number}-{row}" for row in range(size)]
    return ItemCatalogue(ids, TEXTS[:1] * size, torch.full((size, 4), float(number)))


def load(folder: Path) -> ItemCatalogue:
    def find(name: str) -> str | None:
        return str(folder / name) if (folder / name).is_file() else None

    return ItemCatalogue.load(find)


def number_of(catalogue: ItemCatalogue) -> int:
    """Number of a catalogue of `catalogue_of`, whose ids and vectors must agree."""
    (number,) = {int(item_id.partition("-")[0]) for item_id in catalogue.item_ids}
    assert (catalogue.item_embeddings == number).all()
    return number


def run_in_process(function, *arguments) -> int:
    """Exit code of a process, negative where a signal ended it."""
    process = processes.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


# Files that belong together


def test_vectors_of_other_items_or_of_another_order_are_refused(tmp_path):
    ItemCatalogue(IDS, TEXTS, torch.randn(3, 4)).save(tmp_path)
    items = pl.read_parquet(tmp_path / "items.parquet")
    for changed in (items.reverse(), items.with_columns(text=pl.lit("tent"))):
        changed.write_parquet(tmp_path / "items.parquet")
        with pytest.raises(ValueError, match="those of other items, or of these in another order"):
            load(tmp_path)
    items.write_parquet(tmp_path / "items.parquet")
    assert load(tmp_path).item_ids == IDS


def test_vectors_without_a_hash_are_those_of_an_earlier_version(tmp_path):
    ItemCatalogue(IDS, TEXTS).save(tmp_path)
    vectors = torch.randn(3, 4)
    save_file({"item_embeddings": vectors}, tmp_path / "item_embeddings.safetensors", {"format": "pt"})
    assert torch.equal(load(tmp_path).item_embeddings, vectors)
    catalogue_of(2).save(tmp_path)
    assert number_of(load(tmp_path)) == 2


def test_damaged_files_are_named(tmp_path):
    catalogue, file = ItemCatalogue(IDS, TEXTS, torch.randn(3, 4)), tmp_path / "item_embeddings.safetensors"
    for vectors in (
        torch.full((3, 4), torch.nan),
        torch.full((3, 4), torch.inf),
        torch.zeros(3),
        torch.zeros(3, 4).int(),
    ):
        catalogue.save(tmp_path)
        save_file({"item_embeddings": vectors}, file, {"items_sha256": catalogue.content_hash()})
        with pytest.raises(ValueError, match=r"item_embeddings\.safetensors: expected a table of finite numbers"):
            load(tmp_path)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"item_embeddings\.safetensors: not a readable file"):
        load(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"items\.parquet: not a readable parquet file"):
        load(tmp_path)
    for columns in (
        {"item_id": IDS},
        {"item_id": [1, 2, 3], "text": TEXTS},
        {"item_id": [*IDS[:2], None], "text": TEXTS},
    ):
        pl.DataFrame(columns).write_parquet(tmp_path / "items.parquet")
        with pytest.raises(ValueError, match=r"items\.parquet: expected a column '(text|item_id)' of type String"):
            load(tmp_path)


def test_name_with_the_characters_of_a_pattern_is_a_name(tmp_path):
    for name in ("shop[1]", "shop*", "{a,b}?"):
        UniSRecProcessor(catalogue=catalogue_of(1)).save_pretrained(tmp_path / name)
        assert number_of(UniSRecProcessor.from_pretrained(tmp_path / name).catalogue) == 1


def test_files_are_readable_by_whoever_may_read_their_neighbours(tmp_path):
    catalogue_of(1).save(tmp_path)
    modes = {file.name: oct(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(set(modes.values())) == 1, modes


# One catalogue follows the other at once


def test_catalogue_that_cannot_be_written_leaves_the_old_one(tmp_path):
    catalogue_of(1).save(tmp_path / "catalogue")
    broken = ItemCatalogue(["a"], ["red pen"], torch.randn(1, 4).to_sparse())
    with pytest.raises(RuntimeError, match="memory format"):  # no such tensor can be saved
        broken.save(tmp_path / "catalogue")
    assert number_of(load(tmp_path / "catalogue")) == 1
    ItemCatalogue(["c"], ["lamp"]).save(tmp_path / "catalogue")
    assert [path.name for path in (tmp_path / "catalogue").iterdir()] == ["items.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]


def save_and_die(folder: Path, moment: int) -> None:
    """Saves catalogue 2 and is killed at the n-th change of the file system."""
    catalogue, left = catalogue_of(2, size=4), moment

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in CHANGES and str(folder.parent) in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    catalogue.save(folder)


def test_kill_at_any_change_of_a_file_leaves_the_old_catalogue_or_the_new_one(tmp_path):
    found = []
    for moment in itertools.count():
        folder = tmp_path / str(moment) / "catalogue"
        catalogue_of(1).save(folder)
        code = run_in_process(save_and_die, folder, moment)
        found.append(number_of(load(folder)))
        catalogue_of(3).save(folder)  # also clears what the killed process left
        assert number_of(load(folder)) == 3
        assert [path.name for path in folder.parent.iterdir()] == ["catalogue"]
        assert sorted(path.name for path in folder.iterdir()) == ["item_embeddings.safetensors", "items.parquet"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert found == sorted(found)
    assert found.count(1) > 5
    assert found.count(2) > 2


def replace_for_ever(folder: Path, first: int) -> None:
    for number in itertools.count(first, 2):
        catalogue_of(number, size=3 + number % 2).save(folder)


@pytest.mark.parametrize(("loads", "writers"), [(150, 1), (150, 2), pytest.param(1000, 2, marks=pytest.mark.rare)])
def test_readers_beside_writers_see_one_catalogue(tmp_path, loads, writers):
    catalogue_of(0).save(tmp_path / "catalogue")
    running = [
        processes.Process(target=replace_for_ever, args=(tmp_path / "catalogue", first), daemon=True)
        for first in range(writers)
    ]
    for process in running:
        process.start()
    seen: set[int] = set()
    try:
        for count in itertools.count(1):
            seen.add(number_of(load(tmp_path / "catalogue")))
            if count >= loads and len(seen) >= loads / 10:
                break
        assert all(process.is_alive() for process in running)
    finally:
        for process in running:
            process.kill()
            process.join()
    catalogue_of(5).save(tmp_path / "catalogue")  # a dead process holds no lock
    assert number_of(load(tmp_path / "catalogue")) == 5


# The command line


@pytest.fixture
def shop(make_model, text_encoder, tokenizer, tmp_path):
    """A checkpoint folder."""
    model = make_model(text_pooling="mean")
    model.attach_text_encoder(text_encoder)
    Recommender(model, UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS), 10, 32)).save_pretrained(
        tmp_path / "shop"
    )
    return tmp_path / "shop"


def add_item(shop: Path, name: str) -> None:
    sys.exit(main(["items", "add", str(shop), "--item", name, f"{name} lamp"]))


def test_two_writers_at_once_lose_no_item(shop):
    names = [f"new-{number}" for number in range(4)]
    writers = [processes.Process(target=add_item, args=(shop, name)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    catalogue = UniSRecProcessor.from_pretrained(shop).catalogue
    assert sorted(catalogue.item_ids) == sorted([*IDS, *names])
    assert catalogue.item_embeddings.shape == (7, 16)
    assert not [path.name for path in shop.iterdir() if path.name.startswith(".")]


def hold_lock(folder: Path, is_held) -> None:
    with lock_catalogue(folder):
        is_held.set()
        time.sleep(3600)


def test_second_writer_is_told_and_a_dead_one_holds_nothing(shop, capsys, monkeypatch):
    monkeypatch.setattr("unisrec.modeling_unisrec.catalogue_files.LOCK_SECONDS", 0.2)
    is_held = processes.Event()
    holder = processes.Process(target=hold_lock, args=(shop / "catalogue", is_held))
    holder.start()
    assert is_held.wait(600)
    add = ["items", "add", str(shop), "--item", "new", "green lamp"]
    assert main(add) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "another process is changing the items; try again when it has ended" in captured.err
    holder.kill()
    holder.join()
    assert main(add) == 0
    assert main(["items", "remove", str(shop), "--id", "a"]) == 0
    assert UniSRecProcessor.from_pretrained(shop).catalogue.item_ids == ["b", "c", "new"]


def test_vectors_carry_the_hash_of_their_items(shop):
    file = shop / "catalogue" / "item_embeddings.safetensors"
    header = file.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert metadata == {"items_sha256": ItemCatalogue(IDS, TEXTS).content_hash()}
    assert load_file(file)["item_embeddings"].shape == (3, 16)
