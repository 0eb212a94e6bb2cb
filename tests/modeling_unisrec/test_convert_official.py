"""Official checkpoints: what is read, what is not, that nothing in them runs, and the folder that comes out."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from unisrec import Recommender
from unisrec.cli import main
from unisrec.commands.convert import report
from unisrec.data import Domain
from unisrec.data.readers.official_items import official_item_order
from unisrec.data.text_encoding import encode_texts
from unisrec.evaluation import evaluate
from unisrec.modeling_unisrec.convert_official import convert_official_checkpoint
from unisrec.modeling_unisrec.official_pickle import parse_pickle


STAGES = {
    "pre-trained": {},
    "inductive": {"num_items": 30},
    "transductive": {"num_items": 30, "transductive": True},
}


@pytest.fixture
def convert(official_weights, save_official, tmp_path):
    """Saves official weights, changed by a function if one is given, and converts the file."""

    def save_and_convert(change=None, settings=None, entries=None, **sizes):
        weights = official_weights(**sizes)
        if change is not None:
            change(weights)
        return convert_official_checkpoint(
            save_official(tmp_path / "official.pth", weights, settings, **(entries or {}))
        )

    return save_and_convert


# What is read


@pytest.mark.parametrize("stage", STAGES)
def test_every_weight_is_used(convert, official_weights, stage):
    weights = official_weights(**STAGES[stage])
    conversion = convert(**STAGES[stage])
    assert conversion.stage == stage
    assert {name: shape for name, (shape, _) in conversion.used.items()} == {
        name: tuple(weight.shape) for name, weight in weights.items()
    }
    config = conversion.model.config
    sizes = (config.text_embedding_size, config.hidden_size, config.intermediate_size, config.num_experts)
    assert sizes == (24, 12, 16, 4)
    assert (config.max_position_embeddings, config.num_hidden_layers) == (8, 2)
    assert config.num_items == (30 if stage == "transductive" else None)
    assert not conversion.model.training

    ours = conversion.model.state_dict()
    assert torch.equal(ours["adaptor.weight"][:, 2], weights["moe_adaptor.experts.2.lin.weight"].T)
    assert torch.equal(ours["adaptor.bias"][3], weights["moe_adaptor.experts.3.bias"])
    assert {ours_name for _, ours_name in conversion.used.values()} == set(ours) | (
        {"item_embeddings"} if stage != "pre-trained" else set()
    )
    if stage == "pre-trained":
        assert conversion.item_embeddings is None
    else:
        assert torch.equal(conversion.item_embeddings, weights["plm_embedding.weight"][1:])
    if stage == "transductive":
        assert torch.equal(ours["item_embedding.weight"][1:], weights["item_embedding.weight"][1:])
        assert weights["item_embedding.weight"][0].abs().min() > 0
        assert (ours["item_embedding.weight"][0] == 0).all()


def test_settings_come_from_the_file_where_it_has_plain_ones(convert):
    settings = {"n_heads": 3, "hidden_act": "swish", "hidden_dropout_prob": 0.25, "temperature": 1}
    conversion = convert(settings=settings | {"attn_dropout_prob": None, "adaptor_dropout_prob": None})
    config = conversion.model.config
    assert (config.num_attention_heads, config.hidden_act, config.hidden_dropout) == (3, "swish", 0.25)
    assert config.temperature == 1.0
    assert (config.attention_dropout, config.adaptor_dropout) == (0.5, 0.2)
    read = {name for name, (_, is_read) in conversion.settings.items() if is_read}
    assert set(conversion.settings) - read == {"attention_dropout", "adaptor_dropout"}
    # A configuration that is not RecBole's says nothing.
    conversion = convert(entries={"config": {"n_heads": 3}})
    paper = dict.fromkeys(["hidden_dropout", "attention_dropout"], 0.5) | {"adaptor_dropout": 0.2, "temperature": 0.07}
    paper |= {"num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "initializer_range": 0.02}
    assert {name: getattr(conversion.model.config, name) for name in conversion.settings} == paper
    assert not any(is_read for _, is_read in conversion.settings.values())


def test_what_is_not_used_is_listed(convert):
    def add(weights):
        weights["decoder.weight"] = torch.ones(2, 3)
        weights["steps"] = torch.tensor(4)
        weights[7] = "seven"

    conversion = convert(
        add, entries={"cur_step": 2, "best_valid_score": 0.125, "other_parameter": None, "\x1b[2J": 1}
    )
    assert "\x1b" not in report(conversion)
    ignored = conversion.ignored
    assert ignored["7"] == "a str"
    assert ignored["decoder.weight"] == "a tensor 2 x 3"
    assert (ignored["cur_step"], ignored["best_valid_score"], ignored["epoch"]) == ("2", "0.125", "299")
    assert {"steps", "optimizer", "other_parameter", "config", "torch.device"} <= set(ignored)
    assert "recbole.config.configurator.Config" in ignored
    assert "recbole" not in sys.modules


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_of_the_file_is_kept(convert, official_weights, dtype):
    model = convert(dtype=dtype).model
    assert model.dtype == dtype
    assert torch.equal(model.adaptor.router, official_weights(dtype=dtype)["moe_adaptor.w_gate"])

    def widen(weights):
        weights["LayerNorm.bias"] = weights["LayerNorm.bias"].double() + 1e-9

    assert convert(widen).model.dtype == torch.float64


# Nothing runs


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class LatePayload(Payload):
    """Does so on the way to its state."""

    def __reduce__(self):
        return OrderedDict, (), Payload(self.marker)


@pytest.mark.parametrize("payload", [Payload, LatePayload])
def test_objects_beside_the_weights_do_not_run_and_do_not_hinder(convert, tmp_path, payload):
    marker = tmp_path / "ran"
    evil = payload(marker)

    def add(weights):
        weights["extra.weight"] = evil

    for place in (
        {"settings": {"seed": evil, "nested": [{"deep": (evil, evil)}]}},
        {"settings": {evil: 1}},
        {"entries": {"config": evil}},
        {"entries": {"optimizer": {"state": {0: evil}}, "other_parameter": evil}},
        {"change": add},
    ):
        assert "posix.system" in convert(**place).ignored
        assert not marker.exists()
    with contextlib.suppress(pickle.UnpicklingError):
        pickle.loads(pickle.dumps(evil, 2))
    assert marker.exists()  # it is a live one


def test_objects_in_the_place_of_weights_are_refused(convert, tmp_path):
    marker = tmp_path / "ran"
    for name in ("moe_adaptor.w_gate", "trm_encoder.layer.1.feed_forward.dense_2.bias", "plm_embedding.weight"):
        with pytest.raises(ValueError, match=f"{name}' in it is a pickled 'posix.system', expected a tensor"):
            convert(lambda weights, name=name: weights.update({name: Payload(marker)}), num_items=30)
    with pytest.raises(ValueError, match="its state_dict is a pickled 'posix.system', expected a dictionary"):
        convert(entries={"state_dict": Payload(marker)})
    for value, what in [(torch.ones(24, 4, dtype=torch.long), "a tensor 24 x 4"), ([1.0], "a list"), ("x", "a str")]:
        with pytest.raises(ValueError, match=f"'moe_adaptor.w_gate' in it is {what}, expected a tensor of floating"):
            convert(lambda weights, value=value: weights.update({"moe_adaptor.w_gate": value}))
    assert not marker.exists()


def archive(path, data: bytes, compression=zipfile.ZIP_STORED, **files: bytes):
    """A zip archive as torch.save makes it, around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("official/data.pkl", data)
        for name, content in files.items():
            file.writestr(f"official/{name}", content)
    return path


HUGE = 2**31 - 1
PICKLES = {
    "memo far away": b"}" + b"r" + struct.pack("<I", HUGE) + b"0j" + struct.pack("<I", 7) + b".",
    "text longer than the file": b"X" + struct.pack("<I", HUGE) + b"abc.",
    "number longer than the file": b"\x8b" + struct.pack("<i", HUGE) + b"\x01.",
    "negative length": b"\x8b" + struct.pack("<i", -5) + b"\x01.",
    "bytes of another protocol": b"\x8e" + struct.pack("<Q", 2**63) + b"abc.",
    "import of another protocol": b"\x8c\x05posix\x8c\x06system\x93.",
    "instance": b"(iposix\nsystem\n.",
    "extension": b"\x82\x01.",
    "call of no name": b"}}R.",
    "call of a called one": b"cposix\nsystem\n)R)R.",
    "nothing to pop": b"0.",
    "no mark": b"t.",
    "three of two": b"NN\x87.",
    "odd items": b"}(Nu.",
    "no end": b"}q\x00",
    "nothing": b"",
    "no pickle": b"hello, world",
    "broken text": b"X\x02\x00\x00\x00\xff\xfe.",
    "deep": b"}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "state of a number": b"K\x01}b.",
    "endless list": b"]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_forged_pickles_get_one_line(tmp_path, name):
    path = archive(tmp_path / "forged.pth", PICKLES[name])
    with pytest.raises(
        ValueError, match="forged.pth: this is no checkpoint of the official UniSRec code: "
    ) as failure:
        convert_official_checkpoint(path)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 400


def test_pickles_of_torch_come_out_as_plain_data():
    shared = [1, -2, 3.5, None, True, False, "text", 10**12, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    value = {"a": shared, "b": {"shared": shared, 3: OrderedDict(x=1)}, "c": [[]]}
    parsed, imported = parse_pickle(pickle.dumps(value, 2))
    assert parsed == value
    assert parsed["a"] is parsed["b"]["shared"]
    assert imported == {"collections.OrderedDict"}


def forged(size, stride, offset=0, count=96, storage="FloatStorage", key="0") -> bytes:
    """A pickle with a weight of forged sizes."""

    class Storage:
        def __init__(self):
            self.id = ("storage", getattr(torch, storage), key, "cpu", count)

    class Weight:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict())

    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 2)
    pickler.persistent_id = lambda value: value.id if isinstance(value, Storage) else None
    pickler.dump({"state_dict": {"moe_adaptor.w_gate": Weight()}})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (forged((2**40, 2**40), (2**40, 1)), "claims more numbers than the file holds"),
        (forged((10**5, 10**5), (0, 0)), "claims more numbers than the file holds"),
        (forged((24, 4), (0, 0)), "view with gaps"),
        (forged((24, 4), (1, 24)), "view with gaps"),
        (forged((24, 4), (4, 1), offset=1), "claims more numbers than its storage holds"),
        (forged((24, 4), (4, 1), offset=-1), "claims more numbers than its storage holds"),
        (forged((-24, -4), (4, 1)), "expected a tensor"),
        (forged((24.0, 4), (4, 1)), "expected a tensor"),
        (forged("24", (4, 1)), "expected a tensor"),
        (forged((24, 4), (4, 1), storage="LongStorage"), "expected a tensor of floating point"),
        (forged((24, 4), (4, 1), key="../data.pkl"), "cannot be read"),
        (forged((24, 4), (4, 1), key="1"), "cannot be read"),
        (forged((24, 4), (4, 1)), "lacks 'position_embedding.weight'"),  # the honest one
    ],
)
def test_forged_sizes_are_refused_before_anything_is_allocated(tmp_path, weight, message):
    path = archive(tmp_path / "forged.pth", weight, **{"data/0": bytes(96 * 4)})
    with pytest.raises(ValueError, match=message):
        convert_official_checkpoint(path)


# Files that are no checkpoint


def test_files_of_another_kind(tmp_path, official_weights, save_official):
    def refused(path, message, error=ValueError):
        with pytest.raises(error, match=message) as failure:
            convert_official_checkpoint(path)
        assert str(path) in str(failure.value)
        assert "\n" not in str(failure.value)

    path = tmp_path / "a.pth"
    refused(path, "no such file", FileNotFoundError)
    refused(tmp_path, "no such file", FileNotFoundError)
    for content in (b"", b"hello", b"\x80\x02}.", bytes(1000)):
        path.write_bytes(content)
        refused(path, "no zip archive of torch.save")
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    refused(path, "format before PyTorch 1.6; load it where it was made and save it again")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    refused(path, "without the data.pkl")
    refused(archive(path, bytes(10**6), zipfile.ZIP_DEFLATED), "'data.pkl' in it cannot be read .it is compressed")
    refused(archive(path, b"}.", byteorder=b"big"), "big-endian")
    torch.save([1, 2], path)
    refused(path, "its state_dict is None, expected a dictionary")
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, path)
    refused(path, "lacks 'moe_adaptor.w_gate'")

    data = save_official(path, official_weights()).read_bytes()
    for size in (100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refused(path, "it is cut short")


def test_damaged_files_get_one_line_or_are_read(tmp_path, official_weights, save_official):
    path = save_official(tmp_path / "a.pth", official_weights())
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    messages = []
    for place in rng.integers(0, len(data), size=150).tolist() + list(range(len(data) - 60, len(data))):
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            convert_official_checkpoint(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 50  # what is left is padding
    assert all(message.startswith(f"{path}: ") for message in messages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("moe_adaptor.w_noise"), "lacks 1 weights, the first is 'moe_adaptor.w_noise'"),
        (lambda w: w.pop("position_embedding.weight"), "lacks 'position_embedding.weight'"),
        (lambda w: w.pop("moe_adaptor.experts.3.bias"), "lacks 1 weights, the first is 'moe_adaptor.experts.3.bias'"),
        (lambda w: [w.pop(n) for n in list(w) if "layer.0.multi" in n], "lacks 10 weights"),
        (lambda w: w.pop("plm_embedding.weight"), "lacks 1 weights, the first is 'plm_embedding.weight'"),
        (
            lambda w: w.update({"LayerNorm.bias": torch.ones(13)}),
            r"'LayerNorm.bias' in it is of shape \(13,\), expected \(12,\)",
        ),
        (lambda w: w.update({"plm_embedding.weight": torch.ones(30, 24)}), r"shape \(30, 24\), expected \(31, 24\)"),
        (lambda w: w.update({"moe_adaptor.w_gate": torch.ones(24)}), "has 1 axes, expected 2"),
        (lambda w: w.update({"item_embedding.weight": torch.ones(1, 12)}), "`num_items` .0. must be at least 1"),
    ],
)
def test_incomplete_or_misshapen_weights_are_named(convert, change, message):
    with pytest.raises(ValueError, match=message):
        convert(change, num_items=30, transductive=True)


def test_settings_that_do_not_fit_are_named(convert):
    with pytest.raises(ValueError, match="`hidden_size` .12. must be a multiple of `num_attention_heads` .5."):
        convert(settings={"n_heads": 5})
    with pytest.raises(ValueError, match="`hidden_dropout`"):
        convert(settings={"hidden_dropout_prob": 10})


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_dropout_prob": "often"},
        {"adaptor_dropout_prob": float("nan")},
        {"temperature": float("inf")},
        {"n_heads": True},
        {"n_heads": 2.0},
        {"hidden_act": "leaky"},
        {"layer_norm_eps": -1e-12},
    ],
)
def test_settings_that_cannot_be_taken_are_refused_by_name(convert, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"'{name}'|`{name}`"):
        convert(settings=settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name",
    ["moe_adaptor.w_gate", "trm_encoder.layer.0.LayerNorm.bias", "item_embedding.weight", "plm_embedding.weight"],
)
def test_weights_that_are_no_numbers_are_refused(convert, name, value):
    def spoil(weights):
        name_there = next(key for key in weights if key == name or key.endswith(name.split(".", 3)[-1]))
        weights[name_there].view(-1)[-1] = value

    with pytest.raises(ValueError, match="in it holds NaN or infinity"):
        convert(spoil, num_items=30, transductive=True)


# The command line


@pytest.fixture
def official(official_weights, save_official, tmp_path):
    """Saves an official file for the width of the tiny text encoder."""
    return lambda **sizes: save_official(tmp_path / "official.pth", official_weights(text=16, **sizes))


def run(*words) -> int:
    return main(["convert", *map(str, words)])


def test_pretrained_checkpoint_with_text_encoder(official, text_encoder_dir, tmp_path, capsys):
    path, output = official(), tmp_path / "out" / "converted"
    assert run("--official", path, "--output", output, "--text-encoder", text_encoder_dir) == 0
    out = capsys.readouterr().out
    assert "pre-trained checkpoint" in out
    assert "moe_adaptor.experts.3.lin.weight" in out
    assert "24 x" not in out
    assert "12 x 16" in out
    assert "recbole.config.configurator.Config: what the pickle would import; not run" in out
    assert "num_attention_heads = 2 (of the checkpoint)" in out
    assert "catalogue" not in out
    assert [entry.name for entry in output.parent.iterdir()] == ["converted"]

    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    expected = convert_official_checkpoint(path).model
    batch = processor([[{"text": "red pen"}, {"text": "blue kettle"}]])
    with torch.no_grad():
        x = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
        assert torch.equal(
            model(**batch).sequence_embeds, expected(item_index=batch["item_index"], text_embeds=x).sequence_embeds
        )
    assert model.config.text_pooling == "cls"
    assert (processor.max_history_length, processor.max_text_length) == (8, 32)
    assert processor.catalogue is None


def test_finetuned_checkpoint_alone_says_that_it_has_no_catalogue(official, tmp_path, capsys):
    file = official(num_items=30)
    assert run("--official", file, "--output", tmp_path / "out") == 0
    note = "no catalogue: the file has the vectors of 30 items but no ids; --domain adds them"
    assert note in capsys.readouterr().out
    assert run("--official", file, "--output", tmp_path / "again", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["stage"], data["checkpoint"]) == ("inductive", str(tmp_path / "again"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"] is None


@pytest.fixture
def official_folder(make_domain, tmp_path):
    """A downstream folder of the official code, without text vectors."""
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 28, size=size).tolist() for size in rng.integers(4, 13, size=23)]
    histories[2].insert(0, 28)  # an item that is no target
    histories[1] = [29, 3, 4]  # and one of a user without training rows
    histories[5] += set(range(30)).difference(*histories)
    rows = {"train": [], "valid": [], "test": []}
    for user, history in enumerate(histories):
        rows["train"] += [(user, history[:-place], history[-place]) for place in range(3, len(history))]
        rows["valid"].append((user, history[:-2], history[-2]))
        rows["test"].append((user, history[:-1], history[-1]))
    folder = tmp_path / "Scientific"
    folder.mkdir()
    for split in rows:
        lines = [f"{user}\t{' '.join(map(str, items))}\t{target}\n" for user, items, target in rows[split]]
        header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
        (folder / f"Scientific.{split}.inter").write_text(header + "".join(lines))
    texts = make_domain(num_items=30).items["text"]
    lines = [f"B{row}\t{text}\n" for row, text in enumerate(texts)]
    (folder / "Scientific.text").write_text("item_id:token\ttext:token_seq\n" + "".join(lines))
    (folder / "Scientific.item2index").write_text("".join(f"B{row}\t{row}\n" for row in range(30)))
    return folder


def recbole_order(folder):
    """Item numbers of a folder in the order in which RecBole comes across them: all targets, then all histories."""
    files = [folder / f"Scientific.{split}.inter" for split in ("train", "valid", "test")]
    rows = [line.split("\t") for file in files for line in file.read_text().splitlines()[1:]]
    numbers = [target for _, _, target in rows] + [number for _, items, _ in rows for number in items.split()]
    return list(map(int, dict.fromkeys(numbers)))


@pytest.fixture
def finetuned(official_weights, save_official, official_folder, text_encoder, tokenizer, tmp_path):
    """Saves a fine-tuned official file of that folder, and its domain; with `given`, text vectors come with the data."""

    def save(transductive=False, given=False):
        domain = tmp_path / "domain"
        if given:
            vectors = np.random.default_rng(1).normal(size=(30, 768)).astype(np.float32)
            vectors.tofile(official_folder / "Scientific.feat1CLS")
        assert main(["prepare", "recbole", "--input", str(official_folder), "--output", str(domain)]) == 0
        if not given:
            texts = Domain.load_from_disk(domain).items["text"].to_list()
            vectors = encode_texts(texts, text_encoder, tokenizer, pooling="cls", progress=False)
        weights = official_weights(text=vectors.shape[1], num_items=30, transductive=transductive)
        weights["plm_embedding.weight"][1:] = torch.from_numpy(vectors)[recbole_order(official_folder)]
        return save_official(tmp_path / "official.pth", weights), domain, weights

    return save


def test_items_are_in_the_order_of_recbole(finetuned, official_folder):
    path, domain, _ = finetuned()
    order = recbole_order(official_folder)
    assert sorted(order) == list(range(30)) != order
    conversion = convert_official_checkpoint(path)
    assert official_item_order(conversion, Domain.load_from_disk(domain)).tolist() == order


@pytest.mark.parametrize("transductive", [False, True], ids=["inductive", "transductive"])
@pytest.mark.parametrize("given", [False, True], ids=["encoded", "given"])
def test_items_of_a_finetuned_checkpoint_come_in_the_order_of_the_domain(
    finetuned, official_folder, text_encoder_dir, tmp_path, training_options, transductive, given
):
    path, folder, weights = finetuned(transductive, given)
    order = recbole_order(official_folder)
    output = tmp_path / "out"
    encoder = [] if given else ["--text-encoder", text_encoder_dir]
    assert run("--official", path, "--output", output, "--domain", folder, *encoder) == 0
    recommender = Recommender.from_pretrained(output)
    catalogue = recommender.processor.catalogue
    assert catalogue.item_ids == [f"B{row}" for row in range(30)]
    for place, item in enumerate(order, start=1):
        assert torch.equal(catalogue.item_embeddings[item], weights["plm_embedding.weight"][place])
        if transductive:
            row = recommender.model.item_embedding.weight[item + 1]
            assert torch.equal(row, weights["item_embedding.weight"][place])
    # The scores of the official order, item by item.
    model = convert_official_checkpoint(path).model
    with torch.no_grad():
        output_of_file = model(
            item_index=torch.tensor([[3, 9, 1]]),
            text_embeds=weights["plm_embedding.weight"][1:],
            id_rows=torch.arange(1, 31),
        )
        scores = model.score(output_of_file.sequence_embeds, output_of_file.item_embeds)[0] * 0.07
    history = [catalogue.item_ids[order[number - 1]] for number in (3, 9, 1)]
    (items,) = recommender.recommend([history], top_k=30, exclude_seen=False)
    found = {item.item_id: item.score for item in items}
    for place, item in enumerate(order):
        assert found[catalogue.item_ids[item]] == pytest.approx(scores[place].item(), abs=1e-5)
    metrics = evaluate(output, folder, "test", use_cpu=True)
    assert 0 < metrics["recall@10"] < 1


def test_a_wrong_domain_is_refused(finetuned, official, text_encoder_dir, tmp_path, capsys):
    path, folder, _ = finetuned(transductive=True)
    domain = Domain.load_from_disk(folder)
    wanted = ["--output", tmp_path / "out", "--text-encoder", text_encoder_dir]

    def refused(message, *words):
        assert run(*words) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]  # behind the bar of the texts
        assert not (tmp_path / "out").exists()

    def other(name, **changes):
        dataclasses.replace(domain, name=name, **changes).save_to_disk(tmp_path / name)
        return ["--official", path, "--domain", tmp_path / name, *wanted]

    alone = ["--official", path, "--domain", folder, "--output", tmp_path / "out"]
    refused("domain has no text vectors, so the order of its items cannot be checked", *alone)
    texts = domain.items["text"].reverse()
    refused("have the text vector of their row", *other("texts", items=domain.items.with_columns(text=texts)))
    refused("have the text vector of their row", *other("users", sequences=domain.sequences.reverse()))
    fewer = domain.sequences.head(3)
    refused(
        "the checkpoint has 30 items, fewer has 30, 16 of them in histories; expected the domain that",
        *other("fewer", sequences=fewer),
    )
    refused("a pre-trained checkpoint has no items", "--official", official(), "--domain", folder, *wanted)


def test_bad_input_leaves_nothing_behind(
    official, official_weights, save_official, text_encoder_dir, tmp_path, capsys
):
    path, output = official(), tmp_path / "out"
    wide = save_official(tmp_path / "wide.pth", official_weights(text=20))

    def refused(message, *words):
        before = sorted(tmp_path.rglob("*"))
        assert run(*words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("unisrec convert: error: ")
        assert message in lines[0], lines
        assert sorted(tmp_path.rglob("*")) == before

    refused("no such file", "--official", tmp_path / "none.pth", "--output", output)
    refused("cannot be loaded", "--official", path, "--output", output, "--text-encoder", tmp_path / "none")
    with_encoder = ["--output", output, "--text-encoder", text_encoder_dir]
    refused("vectors of 16 numbers, the model takes 20", "--official", wide, *with_encoder)
    output.mkdir()
    assert run("--official", wide, "--output", output) == 0
    capsys.readouterr()
    refused("not an empty folder", "--official", wide, "--output", output)
