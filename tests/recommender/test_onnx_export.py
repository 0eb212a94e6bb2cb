"""ONNX files: equal to the model at sizes they were not traced at, complete, portable; the verb and what it refuses."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from unisrec.cli import main
from unisrec.commands.export import report
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from unisrec.recommender import Recommender, onnx_export
from unisrec.recommender.onnx_export import check_export_packages, export_onnx, onnx_differences


try:
    check_export_packages()
    MISSING = None
except ImportError as error:
    MISSING = str(error)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # torch copies its own trees
]
needs_onnx = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

DOC = Path(__file__).parents[2] / "docs" / "export.md"
TEXTS = ["red pen", "blue pen", "red tent", "steel kettle", "wood lamp", "kids chair"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_model, text_encoder_dir) -> Path:
    """Folder with the checkpoint `runs/office`: inductive, with text encoder and catalogue."""
    root = tmp_path_factory.mktemp("shop")
    model = make_model(text_pooling="mean")
    model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir))
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        vectors = model.get_text_features(encoded["input_ids"], encoded["attention_mask"]).pooler_output
    catalogue = ItemCatalogue([f"i{row}" for row in range(len(TEXTS))], TEXTS, vectors)
    model.save_pretrained(root / "runs" / "office")
    UniSRecProcessor(tokenizer, catalogue, max_history_length=10).save_pretrained(root / "runs" / "office")
    return root


@pytest.fixture(scope="module")
def exported_by_verb(shop) -> tuple[int, str, str]:
    """`onnx/office`, written by the first command of the docs: exit status, what it printed, what it said on stderr."""
    command = re.search(r"```bash\nunisrec (.*)\n", DOC.read_text()).group(1).split()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(shop), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(command)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def exports(shop, exported_by_verb, make_model) -> dict[str, tuple[UniSRecModel, Path]]:
    """Model and folder of an inductive model with a text encoder, and of a transductive one of which the item tower alone is
    exported: sequences are encoded as in the other."""
    inductive, transductive = UniSRecModel.from_pretrained(shop / "runs/office").eval(), make_model(num_items=6)
    towers = onnx_export._towers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_towers", lambda model: {"item_tower": towers(model)["item_tower"]})
        export_onnx(transductive, shop / "onnx/transductive")
    return {
        "inductive": (inductive, shop / "onnx/office"),
        "transductive": (transductive, shop / "onnx/transductive"),
    }


def run(folder: Path, name: str, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of one file by name."""
    from onnxruntime import InferenceSession

    session = InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    return {each.name: torch.from_numpy(value) for each, value in zip(session.get_outputs(), outputs, strict=True)}


def assert_equal(outputs: dict[str, torch.Tensor], **expected: torch.Tensor) -> None:
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, atol=1e-5, rtol=0)


@needs_onnx
@pytest.mark.parametrize("variant", ["inductive", "transductive"])
@pytest.mark.parametrize("num_items", [1, 2, 13])
@torch.no_grad()
def test_item_tower_equals_the_model(exports, variant, num_items):
    model, folder = exports[variant]
    inputs = {"text_embeds": torch.randn(num_items, 16)}
    if variant == "transductive":
        inputs["id_rows"] = torch.arange(num_items) % 7  # 0 is an item without an ID
    expected = model.get_item_features(**inputs)
    outputs = run(folder, "item_tower", **inputs)
    assert_equal(outputs, item_embeds=expected, normalized_item_embeds=F.normalize(expected, dim=-1))


@needs_onnx
@pytest.mark.parametrize(
    "lengths",
    [[1], [2], [10], [1, 1, 1], [3, 1, 2], [10, 10], [4, 10, 1, 7, 10, 2]],
    ids=lambda lengths: "-".join(map(str, lengths)),
)
@torch.no_grad()
def test_sequence_tower_equals_the_model(exports, lengths):
    model, folder = exports["inductive"]
    item_embeds = torch.randn(9, 8)
    real = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    item_index = torch.randint(1, 10, real.shape) * real
    expected = F.normalize(model.get_sequence_features(item_index, item_embeds), dim=-1)
    outputs = run(folder, "sequence_tower", item_index=item_index, item_embeds=item_embeds)
    assert_equal(outputs, normalized_sequence_embeds=expected)


@needs_onnx
@pytest.mark.parametrize("lengths", [[1], [32], [2, 9, 1, 5]], ids=lambda lengths: "-".join(map(str, lengths)))
@torch.no_grad()
def test_text_encoder_equals_the_model(exports, lengths):
    model, folder = exports["inductive"]
    attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    tokens = {"input_ids": torch.randint(5, 40, attention_mask.shape), "attention_mask": attention_mask}
    assert_equal(run(folder, "text_encoder", **tokens), text_embeds=model.get_text_features(**tokens).pooler_output)


@needs_onnx
@torch.no_grad()
def test_dot_product_over_temperature_is_the_score(exports):
    model, folder = exports["inductive"]
    items = {"text_embeds": torch.randn(6, 16)}
    item_index = torch.tensor([[6, 2, 0], [1, 1, 3]])
    output = model(item_index=item_index, **items)
    towers = run(folder, "item_tower", **items)
    sequences = run(folder, "sequence_tower", item_index=item_index, item_embeds=towers["item_embeds"])
    temperature = json.loads((folder / "config.json").read_text())["temperature"]
    scores = sequences["normalized_sequence_embeds"] @ towers["normalized_item_embeds"].T / temperature
    torch.testing.assert_close(scores, model.score(output.sequence_embeds, output.item_embeds), atol=1e-4, rtol=0)


@needs_onnx
def test_files_are_those_of_the_model_and_say_nothing_of_this_machine(exports):
    for variant, (_, folder) in exports.items():
        names = {file.name for file in folder.glob("*.onnx*")}
        stages = ["item_tower", *["sequence_tower", "text_encoder"] * (variant == "inductive")]
        assert names == {f"{stage}.onnx{ending}" for stage in stages for ending in ("", ".data")}
        for file in folder.glob("*.onnx"):
            assert b".py" not in file.read_bytes()
    assert not [path for path in exports["inductive"][1].parent.iterdir() if path.name.startswith(".")]


@needs_onnx
def test_free_axes_have_names(exports):
    from onnxruntime import InferenceSession

    session = InferenceSession(exports["transductive"][1] / "item_tower.onnx")
    assert [each.shape for each in session.get_inputs()] == [["num_items", 16], ["num_items"]]
    assert [each.shape for each in session.get_outputs()] == [["num_items", 8]] * 2
    session = InferenceSession(exports["inductive"][1] / "sequence_tower.onnx")
    assert [each.shape for each in session.get_inputs()] == [["batch_size", "sequence_length"], ["num_items", 8]]
    assert [each.shape for each in session.get_outputs()] == [["batch_size", 8]]


@needs_onnx
def test_a_history_that_is_too_long_is_refused(exports):
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        run(
            exports["inductive"][1],
            "sequence_tower",
            item_index=torch.ones(2, 11, dtype=torch.long),
            item_embeds=torch.randn(3, 8),
        )


@needs_onnx
@torch.no_grad()
def test_transformers_loads_the_folder(exports):
    from transformers.exporters import ExportedModel

    model, folder = exports["inductive"]
    exported = ExportedModel.from_pretrained(folder)
    assert exported.config.temperature == model.config.temperature
    text_embeds = torch.randn(3, 16)
    outputs = exported.runners["item_tower"](text_embeds=text_embeds)
    torch.testing.assert_close(outputs["item_embeds"], model.get_item_features(text_embeds), atol=1e-5, rtol=0)


@needs_onnx
def test_check_tells_the_model_from_another(shop, exports, capsys):
    model, folder = exports["inductive"]
    assert max(onnx_differences(model, folder).values()) < 1e-5
    data = json.loads(json.dumps(report(model, folder).data))  # as `--json` writes it
    assert data["files"].keys() == onnx_differences(model, folder).keys()
    other = UniSRecModel.from_pretrained(shop / "runs/office")
    with torch.no_grad():
        other.sequence_encoder.layer_norm.weight += 0.01
    differences = onnx_differences(other, folder)
    assert differences["item_tower.onnx"] < 1e-5 < 1e-4 < differences["sequence_tower.onnx"]
    capsys.readouterr()
    assert report(other, folder) == 1
    assert re.search(r"sequence_tower.onnx differs from the model by \d\.\de-0\d, more than", capsys.readouterr().err)


@needs_onnx
def test_verb(shop, exported_by_verb):
    status, out, err = exported_by_verb
    assert (status, err) == (0, "")
    header, *rows, blank, last = out.splitlines()
    assert "largest difference from torch" in header
    assert [row.split()[0] for row in rows] == ["text_encoder.onnx", "item_tower.onnx", "sequence_tower.onnx"]
    assert all(float(row.split()[2]) < 1e-5 for row in rows)
    assert (blank, last) == ("", "written to onnx/office")


@needs_onnx
def test_python_of_the_docs_gives_what_the_recommender_gives(shop, exported_by_verb, monkeypatch, capsys):
    monkeypatch.chdir(shop)
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.S)
    names: dict = {}
    exec(compile("\n".join(blocks), DOC.name, "exec"), names)
    assert "label maker tape" not in capsys.readouterr().out.splitlines()[0]  # it is in the history
    rows, new_text = names["history"], names["texts"][-1]
    history = [{"text": new_text} if row == len(TEXTS) else f"i{row}" for row in rows]
    (items,) = Recommender.from_pretrained("runs/office").recommend([history], exclude_seen=False)
    for item in items:
        row = int(item.item_id[1:])
        if row not in rows:
            assert names["scores"][row] == pytest.approx(item.score, abs=1e-5)
    assert np.isneginf(names["scores"][rows]).all()


def error_line(capsys, *words: object) -> str:
    """The one line with which `unisrec export` refuses."""
    assert main(["export", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@needs_onnx
def test_bad_input(shop, tmp_path, make_model, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "not an empty folder" in error_line(capsys, shop / "runs/office", "--output", tmp_path / "full")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export_onnx(make_model(), tmp_path / "full")
    assert "cannot be loaded" in error_line(capsys, tmp_path / "full", "--output", tmp_path / "new")
    with pytest.raises(ValueError, match=r"in torch.float16 on cpu; export `model.float\(\).cpu\(\)`"):
        export_onnx(make_model().half(), tmp_path / "new")
    broken = UniSRecProcessor(catalogue=ItemCatalogue(["a"], ["red pen"], [[0.0] * 16]))
    with pytest.raises(AttributeError):
        export_onnx(make_model(), tmp_path / "new", broken)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_missing_package_is_one_line(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = error_line(capsys, shop / "runs/office", "--output", tmp_path / "new")
    assert "onnxscript" in line
    assert "pip install unisrec[onnx]" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(MISSING is None, reason="all that an export needs is installed")
def test_what_is_missing_here_is_one_line(shop, tmp_path, capsys):
    line = error_line(capsys, shop / "runs/office", "--output", tmp_path / "new")
    assert MISSING in line
