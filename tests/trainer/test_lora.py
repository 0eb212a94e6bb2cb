"""Low-rank adapters: what is trained, what is saved, and that peft, transformers and we load the same model."""

import json
import shutil
import sys

import pytest
import torch
import transformers
from packaging.version import Version
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from unisrec.cli import main
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec import UniSRecModel
from unisrec.modeling_unisrec.adapters import add_lora, parse_lora_parts
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.recommender import Recommender
from unisrec.trainer import (
    UniSRecFinetuneArguments,
    UniSRecPretrainArguments,
    finetune,
    pretrain,
)


MODEL = {"hidden_size": 8, "intermediate_size": 12, "num_experts": 3, "max_position_embeddings": 10}
RUNS = {
    "text": ("inductive", "text"),
    "sequence": ("transductive", "sequence"),
    "both": ("transductive", "text,sequence"),
}


@pytest.fixture(scope="module")
def root(text_encoder_dir, make_domain, training_options, tmp_path_factory):
    """A domain and a checkpoint that was pre-trained on another."""
    root = tmp_path_factory.mktemp("runs")
    make_domain("books", seed=1).save_to_disk(root / "books")
    make_domain("toys", num_users=30, num_items=25).save_to_disk(root / "toys")
    arguments = UniSRecPretrainArguments(
        str(root / "pretrained"), num_train_epochs=1, item_drop_probability=1.0, **training_options
    )
    pretrain(str(text_encoder_dir), [root / "books"], arguments, text_pooling="mean", model_config=MODEL)
    return root


@pytest.fixture(scope="module")
def transfer(root, training_options):
    """Runs a transfer once: `(trainer, metrics, folder)`."""
    done = {}

    def run(name: str, **more):
        if name not in done:
            setting, lora = RUNS[name]
            options = training_options | {"eval_strategy": "epoch", "save_strategy": "epoch"} | more
            arguments = UniSRecFinetuneArguments(
                str(root / name), num_train_epochs=2, learning_rate=2e-2, lora=lora, lora_rank=2, **options
            )
            result = finetune(root / "pretrained", root / "toys", setting, arguments)
            done[name] = (result.trainer, result.metrics, root / name)
        return done[name]

    return run


@pytest.mark.parametrize(("parts", "trained"), [("text", 6), ("sequence", 12), ("text,sequence", 18)])
def test_what_is_trained(make_model, text_encoder, parts, trained):
    model = make_model(num_items=7)
    model.name_or_path = "shop/base"
    model.attach_text_encoder(text_encoder)
    items = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones(1, 3).long()}
    before = model.get_item_features(**items, id_rows=torch.tensor([4]))
    adapted = add_lora(model, parse_lora_parts(parts), rank=2).eval()
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    of_adapters = [name for name in names if ".lora_" in name]
    assert len(of_adapters) == 2 * trained  # a pair for each linear layer
    assert not any("pooler" in name for name in names)
    wanted = tuple(
        {"text": "text_encoder.", "sequence": "sequence_encoder.layers."}[part] for part in parts.split(",")
    )
    assert all(name.removeprefix("base_model.model.").startswith(wanted) for name in of_adapters)
    in_full = {name.split(".modules_to_save")[0] for name in names if ".modules_to_save" in name}
    assert in_full == {f"base_model.model.{m}" for m in ("adaptor", "item_embedding", "sequence_encoder.layer_norm")}
    assert len(names) == len(of_adapters) + 4 + 1 + 2
    assert torch.equal(adapted.get_item_features(**items, id_rows=torch.tensor([4])), before)


@pytest.mark.parametrize("name", RUNS)
def test_transfer_leaves_adapters_that_measure_the_same(transfer, root, training_options, name):
    trainer, metrics, folder = transfer(name)
    files = {file.name for file in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "catalogue", "README.md"} <= files
    assert files.isdisjoint({"config.json", "model.safetensors", "training_args.bin"})
    trained, total = trainer.count_parameters()
    assert 0 < trained < total
    again = evaluate(folder, root / "toys", "test", use_cpu=True)
    assert {name: again[name] for name in metrics} == pytest.approx(metrics, abs=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_peft_and_transformers_load_the_same_model(transfer, root, name):
    _, _, folder = transfer(name)
    model, processor = load_checkpoint(folder)
    assert type(model) is UniSRecModel
    assert not any("lora" in key for key in model.state_dict())
    fields = {} if model.config.num_items is None else {"num_items": model.config.num_items}
    base = AutoModel.from_pretrained(root / "pretrained", **fields)
    others = [PeftModel.from_pretrained(base, folder).eval()]
    if Version(transformers.__version__) >= Version("5.23"):  # before, it leaves out what is trained in full
        others.append(AutoModel.from_pretrained(folder, **fields).eval())
        assert (others[-1].config.text_neighbours, base.config.text_neighbours) == (0, 0.5)  # as after any fine-tuning
    untouched = UniSRecModel.from_pretrained(root / "pretrained", **fields).eval()
    batch = processor([["toys-3", {"text": "red pen"}], ["toys-1", "toys-2", "toys-3"]])
    with torch.no_grad():
        states = model.eval()(**batch).sequence_embeds
        for other in others:
            torch.testing.assert_close(other(**batch).sequence_embeds, states, rtol=0, atol=1e-5)
        assert (untouched(**batch).sequence_embeds - states).abs().max() > 1e-3


def test_vectors_are_those_of_the_adapters_that_are_switched_on(transfer, root):
    _, _, folder = transfer("sequence")
    _, processor = load_checkpoint(folder)
    model = AutoModel.from_pretrained(root / "pretrained", num_items=25)
    model = PeftModel.from_pretrained(model, folder).eval()
    model.config.item_ids_hash = processor.catalogue.item_ids_hash
    recommender = Recommender(model, processor)
    adapted = recommender.item_embeds
    with model.disable_adapter():
        plain = recommender.item_embeds
        assert (plain == Recommender(model, processor).item_embeds).all()
    assert abs(plain - adapted).max() > 1e-3
    assert (recommender.item_embeds == adapted).all()


def test_the_catalogue_is_that_of_the_adapted_encoder(transfer):
    _, _, folder = transfer("both")
    model, processor = load_checkpoint(folder)
    with torch.no_grad():
        vectors = model.get_text_features(**processor.tokenize(processor.catalogue.texts)).pooler_output
    torch.testing.assert_close(processor.catalogue.item_embeddings, vectors, rtol=0, atol=1e-5)
    ((first, *_),) = Recommender.from_pretrained(folder).recommend([["toys-3"]])
    assert first.item_id in processor.catalogue


def test_a_merged_model_is_an_ordinary_checkpoint(transfer, tmp_path):
    _, _, folder = transfer("both")
    model, processor = load_checkpoint(folder)
    model.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    again, _ = load_checkpoint(tmp_path / "merged")
    batch = processor([["toys-3", "toys-1"]])
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).sequence_embeds, model.eval()(**batch).sequence_embeds)


def test_resume_goes_on_where_it_was(transfer, root, training_options, tmp_path):
    trainer, _, folder = transfer("text")
    options = training_options | {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": None}
    options |= {"learning_rate": 2e-2, "lora": "text", "lora_rank": 2, "num_train_epochs": 2}
    checkpoint = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[0]
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), resume_from_checkpoint=str(checkpoint), **options)
    resumed = finetune(root / "pretrained", root / "toys", "inductive", arguments).trainer
    assert resumed.state.log_history[-1]["epoch"] == 2
    expected = dict(trainer.model.named_parameters())
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("parts", ["txt", "text sequence", "", "text,,sequence"])
def test_unknown_part(parts):
    with pytest.raises(ValueError, match="--lora takes text and sequence, separated by a comma"):
        parse_lora_parts(parts)


def test_what_excludes_each_other(tmp_path, root, training_options):
    with pytest.raises(ValueError, match="--lora text and --train_text_encoder exclude each other"):
        UniSRecFinetuneArguments(str(tmp_path), lora="text", train_text_encoder=True, use_cpu=True)
    options = training_options | {"load_best_model_at_end": False}
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), lora="sequence", **options)
    with pytest.raises(ValueError, match="`from_scratch` has none"):
        finetune(root / "pretrained", root / "toys", "inductive", arguments, from_scratch=True)


def test_adapters_need_a_whole_checkpoint_for_a_base(transfer, root, training_options, text_encoder_dir, tmp_path):
    _, _, folder = transfer("text")
    options = training_options | {"load_best_model_at_end": False}
    arguments = UniSRecFinetuneArguments(str(tmp_path / "run"), lora="sequence", **options)
    with pytest.raises(ValueError, match="needs a full checkpoint as its base"):
        finetune(folder, root / "toys", "inductive", arguments)
    with pytest.raises(ValueError, match="save the checkpoint together with its encoder first"):
        finetune(root / "pretrained", root / "toys", "inductive", arguments, text_encoder=str(text_encoder_dir))
    assert not (tmp_path / "run").exists()


# The base, wherever one stands


@pytest.fixture
def moved(transfer, root, tmp_path):
    """Copies of a base and of adapters beside it, which name the base as `named`."""

    def copy(named: str):
        shutil.copytree(root / "pretrained", tmp_path / "shelf" / "pretrained")
        adapters = shutil.copytree(transfer("sequence")[2], tmp_path / "shelf" / "adapters")
        file = adapters / "adapter_config.json"
        settings = json.loads(file.read_text())
        assert settings["base_model_name_or_path"] == str((root / "pretrained").resolve())
        file.write_text(json.dumps(settings | {"base_model_name_or_path": named}))
        return adapters

    return copy


def test_adapters_name_their_base_by_its_whole_path(make_model, tmp_path, monkeypatch):
    make_model().save_pretrained(tmp_path / "runs" / "base")
    monkeypatch.chdir(tmp_path)
    for name in ("runs/base", "./runs/base/", "runs/../runs/base"):
        adapted = add_lora(UniSRecModel.from_pretrained(name), ["sequence"], rank=2)
        assert adapted.peft_config["default"].base_model_name_or_path == str((tmp_path / "runs" / "base").resolve())


@pytest.mark.parametrize(
    "named", ["pretrained", "./pretrained", "../pretrained", "/gone/pretrained", "gone/pretrained"]
)
def test_adapters_that_were_moved_with_their_base_find_it(moved, transfer, named, tmp_path, monkeypatch, caplog):
    adapters = moved(named)
    monkeypatch.chdir(tmp_path)
    model, _ = load_checkpoint(adapters)
    assert f"{tmp_path / 'shelf' / 'pretrained'} is taken." in caplog.text
    expected, _ = load_checkpoint(transfer("sequence")[2])
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_a_base_of_the_hub_is_not_a_folder_of_that_name(moved, root, tmp_path, monkeypatch):
    adapters = moved("shelf/pretrained")
    file = adapters / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"revision": "0" * 40}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"is missing: shelf/pretrained \(a folder of that name hides the repository"):
        load_checkpoint(adapters)
    monkeypatch.chdir(tmp_path / "shelf")
    with pytest.raises(OSError, match="cannot be loaded .their base shelf/pretrained cannot be loaded: "):
        load_checkpoint(adapters)


@pytest.mark.parametrize("named", ["/gone/base", "./base", "~/base", "gone/base"])
def test_a_base_that_is_missing_is_what_the_message_names(moved, named, tmp_path, monkeypatch, capsys):
    adapters = moved(named)
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", "--model", str(adapters), "--history", "toys-3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the base of the adapters {adapters} is missing: {named} (" in line
    assert f"base_model_name_or_path of {adapters}/adapter_config.json" in line


def test_adapters_that_are_not_of_their_base_are_refused(moved, root):
    adapters = moved(str(root / "pretrained"))
    weights = load_file(adapters / "adapter_model.safetensors")
    gone = sorted(weights)[0]
    file, settings = adapters / "adapter_config.json", json.loads((adapters / "adapter_config.json").read_text())
    for changed, fields, message in (
        ({name: weight for name, weight in weights.items() if name != gone}, {}, f"1 weights are missing: {gone}"),
        (weights | {"strange": torch.ones(1)}, {}, "1 weights are unexpected: strange"),
        (weights | {gone: torch.full_like(weights[gone], torch.nan)}, {}, f"1 weights are NaN or infinite: {gone}"),
        (weights, {"r": 3}, "weights are of another shape: .* instead of"),
        (weights, {"lora_alpha": float("nan")}, "base and adapters together are NaN"),
        (weights, {"target_modules": ["nothing"]}, "cannot be loaded"),
        (weights, {"peft_type": "NONE"}, "cannot be (loaded|read)"),
    ):
        save_file(changed, adapters / "adapter_model.safetensors", metadata={"format": "pt"})
        file.write_text(json.dumps(settings | fields))
        with pytest.raises(OSError, match=message) as raised:
            load_checkpoint(adapters)
        assert "\n" not in str(raised.value)


def test_adapters_may_be_read_by_those_who_may_read_their_configuration(transfer):
    _, _, folder = transfer("sequence")
    modes = {(folder / name).stat().st_mode for name in ("adapter_config.json", "adapter_model.safetensors")}
    assert len(modes) == 1


def test_peft_that_is_not_installed(make_model, transfer, monkeypatch):
    _, _, folder = transfer("text")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'unisrec\[peft\]'"):
        add_lora(make_model(), ["sequence"], rank=2)
    with pytest.raises(OSError, match=r"pip install 'unisrec\[peft\]'"):
        load_checkpoint(folder)
