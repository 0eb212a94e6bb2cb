"""What may leave the machine: links, hidden files and paths of a machine do not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from unisrec.configuration.configuration_unisrec import CODE_FILES
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.modeling_unisrec.hub import check_checkpoint
from unisrec.modeling_unisrec.outgoing import check_outgoing, shared_files


@pytest.fixture(scope="module")
def saved(make_model, text_encoder_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "office"
    make_model().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    catalogue = ItemCatalogue(
        ["a", "b"], ["/home/decor: red pen", "C:\\Users\\x lamp"]
    )  # texts of items are the shop's own
    UniSRecProcessor(tokenizer, catalogue, 10, 32).save_pretrained(folder)
    (folder / "README.md").write_text(
        "# Office\n\nSee https://example.org/home/alice and `runs/office`, and/or 1/2.\n"
    )
    return folder


@pytest.fixture
def office(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "runs" / "office"))


def write_json(file: Path, **settings: object) -> None:
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(before | settings))


def test_a_checkpoint_as_it_is_saved_passes(office, monkeypatch):
    check_checkpoint(office)
    monkeypatch.chdir(office.parent)
    check_checkpoint(Path("office"))
    (office.parent / "latest").symlink_to(office)  # the folder itself may be named by a link
    check_checkpoint(Path("latest"))


def test_hidden_and_unknown_files_are_not_shared(office):
    before = shared_files(office)
    names = ".env .secret.png id_rsa key.pem tokenizer.pem tokenizer.json~ notes.txt train.py secrets.json"
    for name in [*names.split(), "catalogue/.env", "catalogue/id_rsa", ".ipynb_checkpoints/README.md", "runs/x.png"]:
        (office / name).parent.mkdir(exist_ok=True)
        (office / name).write_text("secret")
    assert shared_files(office) == before
    assert {name for name in before if name.endswith(".py")} == {*CODE_FILES, "handler.py"}


@pytest.mark.parametrize("name", ["photo.png", "tokenizer.json", "catalogue/more.parquet", "README.md"])
def test_symbolic_links_are_refused(office, tmp_path, name):
    (tmp_path / "id_rsa").write_text("secret")
    (office / name).unlink(missing_ok=True)
    (office / name).symlink_to(tmp_path / "id_rsa")
    with pytest.raises(ValueError, match=rf"{name}: a symbolic link") as refused:
        check_checkpoint(office)
    assert "\n" not in str(refused.value)


def test_a_folder_behind_a_link_is_refused(office, tmp_path):
    (office / "catalogue").rename(tmp_path / "elsewhere")
    (office / "catalogue").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"catalogue/.*: a symbolic link"):
        check_checkpoint(office)
    check_checkpoint(office, catalogue=False)


PATHS = [
    "/home/alice/models/bert",
    "/Users/alice/bert",
    "C:\\Users\\alice\\bert",
    "~/models/bert",
    "/data/x/bert",
    "/mnt/a b/c",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_paths_in_settings_are_refused(office, file, path):
    write_json(office / file, outer={"list": [{"name_or_path": path}]})
    with pytest.raises(ValueError, match=rf"{file}: it holds the path .* \(outer\.list\.name_or_path\)"):
        check_checkpoint(office)


@pytest.mark.parametrize("path", PATHS[:3])
def test_paths_in_texts_are_refused(office, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (f"trained on {path}.", f'model="{path}"', f"[x]({path})", f"file://{path}", f"in {tmp_path}"):
        (office / "README.md").write_text(f"# Office\n{text}\n")
        with pytest.raises(ValueError, match=r"README\.md: it holds the path"):
            check_checkpoint(office)
    (office / "README.md").unlink()
    write_json(office / "config.json", note=f"made by {path}")
    with pytest.raises(ValueError, match=r"config\.json: it holds the path .* \(note\)"):
        check_checkpoint(office)


def test_paths_in_the_head_of_weights_and_pictures_are_refused(office):
    (office / "curves.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\x20tEXtSource\0/home/alice/plot.py")
    with pytest.raises(ValueError, match=r"curves\.png: it holds the path '/home/alice'"):
        check_checkpoint(office)
    (office / "curves.png").unlink()
    save_file({"x": torch.zeros(1)}, office / "model.safetensors", metadata={"from": "/home/alice/run"})
    with pytest.raises(ValueError, match=r"model\.safetensors: it holds the path .* \(metadata\.from\)"):
        check_checkpoint(office)
    (office / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole file of weights"):
        check_checkpoint(office)


def test_the_text_that_goes_up_in_place_of_a_file_is_what_is_checked(office):
    (office / "README.md").write_text("/home/alice")
    check_outgoing(office, ["README.md"], {"README.md": b"# Office"})
    with pytest.raises(ValueError, match="'/home/alice'"):
        check_outgoing(office, ["README.md"], {"README.md": b"see /home/alice"})


@pytest.mark.parametrize(
    ("base", "revision", "line"),
    [
        ("{here}/pretrained", None, "nobody else has"),
        ("{here}/gone", "main", "nobody else has"),
        ("pretrained", None, "nobody else has"),
        ("pretrained", "main", "nobody else has"),
        ("runs/pretrained", None, "a stranger's repository"),
        ("../pretrained", None, "nobody else has"),
        ("./gone", "main", "nobody else has"),
        ("C:\\models\\pretrained", "main", "nobody else has"),
        (None, None, "a stranger's repository"),
        ("shop/pretrained", "main", None),
        ("shop/pretrained", "1" * 40, None),
        ("unisrec-base", None, None),  # which comes with the package
    ],
)
def test_base_of_adapters(tmp_path, monkeypatch, base, revision, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").mkdir()
    folder = tmp_path / "adapters"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    base = base and base.format(here=tmp_path)
    write_json(folder / "adapter_config.json", base_model_name_or_path=base, revision=revision)
    if line is None:
        check_checkpoint(folder)
        return
    with pytest.raises(ValueError, match=line) as refused:
        check_checkpoint(folder)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_is_saved_without_the_places_it_was_read_from(text_encoder_dir, tmp_path):
    encoder = Path(shutil.copytree(text_encoder_dir, tmp_path / "encoder"))
    write_json(
        encoder / "tokenizer_config.json",
        name_or_path="/home/alice/bert",
        special_tokens_map_file="/home/alice/.cache/x/special_tokens_map.json",
        tokenizer_file="C:\\Users\\alice\\tokenizer.json",
        model_max_length=32,
    )
    processor = UniSRecProcessor(AutoTokenizer.from_pretrained(encoder), None, 10, 32)
    processor.save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "tokenizer_config.json").read_text()
    assert not any(word in text for word in ("alice", ".cache", str(tmp_path)))
    assert json.loads(text)["model_max_length"] == 32
    again = UniSRecProcessor.from_pretrained(tmp_path / "saved")
    assert again.tokenizer("red pen")["input_ids"] == processor.tokenizer("red pen")["input_ids"]
