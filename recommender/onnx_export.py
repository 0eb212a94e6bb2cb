"""Export of text encoder, item tower and sequence tower to ONNX files, by the exporter of transformers."""

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.version import Version
from torch import nn

from ..data.domain import new_folder, writing
from ..modeling_unisrec import UniSRecModel, UniSRecProcessor
from ..modeling_unisrec.pipeline_unisrec import check_finite


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Earlier exporters of transformers return graphs that cannot be saved together; this one requires that torch.
MIN_VERSIONS = {"transformers": "5.23", "torch": "2.11"}


class _Tower(nn.Module):
    """One stage of a model, the names of the free axes of its inputs, and random inputs of any size."""

    axes: dict[str, tuple[str, ...]]
    longest = 16

    def __init__(self, model: UniSRecModel):
        super().__init__()
        self.model = model

    def example(self, rows: int, length: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Returns inputs with `rows` rows; inputs with a length are padded to `length`, at most `longest`."""
        raise NotImplementedError


class _TextEncoder(_Tower):
    """Text encoder: pooled text vectors from tokens."""

    axes = {"input_ids": ("num_items", "num_tokens"), "attention_mask": ("num_items", "num_tokens")}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"text_embeds": self.model.get_text_features(input_ids, attention_mask).pooler_output}

    def example(self, rows: int, length: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        mask = _padding_mask(rows, length, generator)
        vocabulary = self.model.config.text_config.vocab_size
        return {
            "input_ids": torch.randint(vocabulary, mask.shape, generator=generator),
            "attention_mask": mask,
        }


class _ItemTower(_Tower):
    """Item tower: raw and unit-length item vectors from text vectors and, if transductive, rows of the ID
    embedding."""

    axes = {"text_embeds": ("num_items",), "id_rows": ("num_items",)}

    def forward(self, text_embeds: torch.Tensor, id_rows: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        item_embeds = self.model.get_item_features(text_embeds, id_rows=id_rows)
        return {"item_embeds": item_embeds, "normalized_item_embeds": self.model.project_items(item_embeds)}

    def example(self, rows: int, length: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        config = self.model.config
        inputs = {"text_embeds": torch.randn(rows, config.text_embedding_size, generator=generator)}
        if config.num_items is not None:
            inputs["id_rows"] = torch.randint(config.num_items + 1, (rows,), generator=generator)
        return inputs


class _SequenceTower(_Tower):
    """Sequence tower: unit-length sequence vectors from histories over item vectors."""

    axes = {"item_index": ("batch_size", "sequence_length"), "item_embeds": ("num_items",)}

    def __init__(self, model: UniSRecModel):
        super().__init__(model)
        self.longest = model.config.max_position_embeddings

    def forward(self, item_index: torch.Tensor, item_embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        sequence_embeds = self.model.get_sequence_features(item_index, item_embeds)
        return {"normalized_sequence_embeds": self.model.project_sequences(sequence_embeds)}

    def example(self, rows: int, length: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        num_items = 2 * rows + length
        mask = _padding_mask(rows, length, generator)
        return {
            "item_index": torch.randint(1, num_items + 1, mask.shape, generator=generator) * mask,
            "item_embeds": torch.randn(num_items, self.model.config.hidden_size, generator=generator),
        }


def _padding_mask(rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Returns a mask, 1 for real positions and 0 for right padding; one full row, the others of random lengths."""
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    lengths[0] = length
    return (torch.arange(length) < lengths).long()


def _towers(model: UniSRecModel) -> dict[str, _Tower]:
    """Returns the stages of a model in evaluation mode, by file name."""
    model.eval()
    towers = {} if model.text_encoder is None else {"text_encoder": _TextEncoder(model)}
    return towers | {"item_tower": _ItemTower(model), "sequence_tower": _SequenceTower(model)}


def check_export_packages() -> None:
    r"""
    Checks that the packages required for an export are installed.

    Raises:
        ImportError: If a package of `pip install unisrec[onnx]` is missing, or transformers or torch is too old.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ImportError(f"ONNX files need {', '.join(missing)}: pip install unisrec[onnx]")
    for package, minimum in MIN_VERSIONS.items():
        if Version(version(package)) < Version(minimum):
            raise ImportError(
                f"ONNX files need {package}>={minimum}, found {version(package)}: pip install -U {package}"
            )


def export_onnx(
    model: UniSRecModel, output_dir: str | os.PathLike, processor: UniSRecProcessor | None = None
) -> list[Path]:
    r"""
    Exports the stages of a model to ONNX files, which run without torch and without this package.

    | file | inputs | outputs |
    |---|---|---|
    | `text_encoder.onnx`, if the model has one | `input_ids`, `attention_mask` `[num_items, num_tokens]` | `text_embeds` `[num_items, text_embedding_size]` |
    | `item_tower.onnx` | `text_embeds`; `id_rows` `[num_items]` if the model is transductive | `item_embeds`, `normalized_item_embeds` `[num_items, hidden_size]` |
    | `sequence_tower.onnx` | `item_index` `[batch_size, sequence_length]`, `item_embeds` | `normalized_sequence_embeds` `[batch_size, hidden_size]` |

    Inputs are those of [`UniSRecModel.forward`]; all axes except the widths are dynamic. `item_embeds` are the input of
    the sequence tower, and `normalized_item_embeds` belong into the search index. Both normalised outputs have unit
    length, so their dot product is the cosine, which divided by `temperature` is [`UniSRecModel.score`]. The settings are
    in `config.json`, as in a checkpoint. The weights of each file are stored next to it as `NAME.onnx.data`.

    Args:
        model ([`UniSRecModel`]): Model in float32 on the CPU; it is set to evaluation mode.
        output_dir (`str` or `os.PathLike`): New or empty folder; it appears when it is complete.
        processor ([`UniSRecProcessor`], *optional*): Processor to save with the files (tokenizer and catalogue).

    Returns:
        `list[Path]`: The `.onnx` files, in the order of the table.

    Raises:
        FileExistsError: If the folder holds something.
        ImportError: If a package of `pip install unisrec[onnx]` is missing, or transformers or torch is too old.
        ValueError: If the model is not in float32 on the CPU, does not score by the cosine, has yet to enter a catalogue
            (`config.text_space`), or a weight is not finite.
    """
    check_export_packages()
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(f"the model is in {model.dtype} on {model.device}; export `model.float().cpu()`.")
    if model.config.similarity != "cosine":
        raise ValueError(
            "the exported towers return vectors of unit length, but this model scores by the dot product (similarity='dot')."
        )
    if model.config.text_space == "catalogue" and (processor is None or processor.catalogue is None):
        raise ValueError(
            "the model reads texts in the text space of a catalogue, and has none yet: export a shop that is saved from it "
            "(unisrec items add unisrec-base --input products.csv --output runs/shop)."
        )
    for name, weight in model.named_parameters():
        check_finite(weight, f"numbers of the weight {name}")
    from torch.export import Dim
    from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

    with new_folder(output_dir) as draft:
        if processor is not None:
            with writing(output_dir):
                processor.save_pretrained(draft)
        exporter, components = OnnxExporter(), {}
        for name, tower in _towers(model).items():
            inputs = tower.example(5, min(4, tower.longest), torch.Generator().manual_seed(0))
            free_axes = {key: dict.fromkeys(range(len(tower.axes[key])), Dim.DYNAMIC) for key in inputs}
            components[name] = exporter.export(tower, inputs, OnnxConfig(dynamic_shapes=free_axes)).components["model"]
            _clean(components[name].program, tower.axes)
        with writing(output_dir):
            ExportedModel(components, exporter.export_format, config=model.config).save_pretrained(draft)
    return [Path(output_dir) / f"{name}.onnx" for name in components]


def _clean(program, axes: dict[str, tuple[str, ...]]) -> None:
    """Names the dynamic axes of an `onnx_ir.Model`, and removes stack traces, which contain local paths."""
    from onnx_ir import Shape
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program)
    graph = program.graph
    names = {
        str(size): name for value in graph.inputs for size, name in zip(value.shape, axes[value.name], strict=False)
    }
    for value in (*graph.inputs, *graph.outputs):
        value.shape = Shape([names.get(str(size), size) for size in value.shape])


@torch.inference_mode()
def onnx_differences(model: UniSRecModel, folder: str | os.PathLike) -> dict[str, float]:
    r"""
    Compares exported files, run by ONNX Runtime, with the model, on one row of length 1 and on several long padded
    rows.

    Args:
        model ([`UniSRecModel`]): Exported model.
        folder (`str` or `os.PathLike`): Folder written by [`export_onnx`].

    Returns:
        `dict[str, float]`: Largest absolute difference for each file, relative to the largest number if that is above
        1; infinity if any number is not finite, even in both.
    """
    from onnxruntime import InferenceSession

    differences = {}
    generator = torch.Generator().manual_seed(1)
    for name, tower in _towers(model).items():
        session = InferenceSession(Path(folder) / f"{name}.onnx", providers=["CPUExecutionProvider"])
        differences[f"{name}.onnx"] = 0.0
        for rows, length in ((1, 1), (5, tower.longest)):
            inputs = tower.example(rows, length, generator)
            outputs = session.run(None, {key: value.numpy() for key, value in inputs.items()})
            for output, expected in zip(outputs, tower(**inputs).values(), strict=True):
                difference = (torch.from_numpy(output) - expected).abs().max() / expected.abs().max().clamp(min=1)
                # Python's `max` returns its first argument if one of two is NaN.
                difference = difference.nan_to_num(nan=torch.inf, posinf=torch.inf).item()
                differences[f"{name}.onnx"] = max(differences[f"{name}.onnx"], difference)
    return differences


__all__ = ["check_export_packages", "export_onnx", "onnx_differences"]
