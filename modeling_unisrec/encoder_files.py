"""Settings in the files of a text encoder, as written by all versions of sentence-transformers."""

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import cached_file

from ..configuration.text_vectors import TEXT_ACTIVATIONS, TEXT_POOLINGS


SUPPORTED_MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize")
# Earlier versions named the file after the kind of encoder.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Before version 5.4: one flag per pooling; several were concatenated in this order.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Prompts for documents, as opposed to queries.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
TEXT_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}
# Transformer settings that do not affect the vectors.
HARMLESS = {
    "attn_implementation",
    "device_map",
    "dtype",
    "low_cpu_mem_usage",
    "padding_side",
    "torch_dtype",
    "use_cache",
}


@dataclass
class EncoderFiles:
    r"""
    Settings read from the files of a text encoder.

    Args:
        stated (`bool`): Whether any file of sentence-transformers exists.
        subfolder (`str`): Subfolder of the encoder itself.
        pooling (`str` or `None`): Pooling as for [`pool_tokens`]; `None` if no file names one.
        layers (`list[dict]`): Layers behind the pooling, see `text_layers` of [`UniSRecConfig`].
        weights (`dict[str, torch.Tensor]`): Their weights, as `layers.0.linear.weight`.
        prompt (`str`): Text put before each item text.
        include_prompt (`bool`): Whether the tokens of the prompt are pooled.
        max_length (`int` or `None`): Maximum number of tokens of a text.
        lower_case (`bool`): Whether texts are lower-cased first.
        truncate_dim (`int` or `None`): Number of leading components to keep of each vector.
    """

    stated: bool = False
    subfolder: str = ""
    pooling: str | None = None
    layers: list[dict] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    prompt: str = ""
    include_prompt: bool = True
    max_length: int | None = None
    lower_case: bool = False
    truncate_dim: int | None = None


class _Reader:
    """Reads the files of one encoder; unsupported settings are refused by name."""

    def __init__(self, name: str, source: str, options: dict[str, Any]):
        self.name, self.source, self.options = name, source, options

    def find(self, file: str, folder: str = "") -> str | None:
        return cached_file(
            self.source, file, subfolder=folder, _raise_exceptions_for_missing_entries=False, **self.options
        )

    def json(self, file: str, folder: str = "") -> Any:
        """Returns the content of a JSON file, or `None` if it does not exist."""
        if (path := self.find(file, folder)) is None:
            return None
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"text encoder {self.name!r}: {_join(folder, file)} is no JSON ({error}); fetch or save it again."
            ) from error

    def refuse(self, file: str, what: str, why: str = "which is not supported") -> ValueError:
        return ValueError(
            f"text encoder {self.name!r}: {file} asks for {what}, {why}; name another encoder, or make the vectors with "
            "sentence-transformers and give them to the domain (`Domain(..., given_features=...)`)."
        )

    def check_keys(self, file: str, settings: dict[str, Any], known: set[str]) -> None:
        for key, value in settings.items():
            if key not in known and value:  # false, null and empty values request nothing
                raise self.refuse(file, f"{key}={value!r}")


def _join(folder: str, file: str) -> str:
    return (PurePosixPath(folder) / file).as_posix()


def read_encoder_files(name: str, source: str, options: dict[str, Any]) -> EncoderFiles:
    r"""
    Reads `modules.json`, the configuration of each module it names, and `config_sentence_transformers.json`.

    Args:
        name (`str`): Name of the encoder in messages.
        source (`str`): Folder or Hub id.
        options (`dict`): Download options for the Hub id.

    Raises:
        OSError: If a file cannot be fetched.
        ValueError: If a file has an unsupported setting or is damaged.
    """
    try:
        return _read_modules(_Reader(name, source, options))
    except (OSError, ValueError):
        raise
    except Exception as error:  # a field of a wrong type, or a damaged weight file
        raise ValueError(
            f"text encoder {name!r}: the files of its modules are damaged ({type(error).__name__}: {error}); fetch or save "
            "it again."
        ) from error


def _read_modules(reader: _Reader) -> EncoderFiles:
    files = EncoderFiles()
    modules = reader.json("modules.json")
    if modules is None:  # a manually assembled folder may have only the two most important files
        modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
        if reader.find("config.json", "1_Pooling"):
            modules.append({"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"})
    else:
        files.stated = True
    kinds = [_kind(reader, module) for module in modules]
    if kinds[:1] != ["Transformer"] or (files.stated and kinds[1:2] != ["Pooling"]) or kinds.count("Pooling") > 1:
        raise reader.refuse("modules.json", f"the modules {', '.join(kinds)}", "expected Transformer, Pooling, ...")
    for kind, module in zip(kinds, modules, strict=True):
        READ_MODULE[kind](reader, files, module["path"])
    _read_model_settings(reader, files)
    for key, value in {"max_seq_length": files.max_length, "truncate_dim": files.truncate_dim}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"text encoder {reader.name!r}: {key} is {value!r}, expected a number of at least 1.")
    if files.truncate_dim is not None:
        files.layers.append({"type": "truncate", "size": files.truncate_dim})
    return files


def _kind(reader: _Reader, module: dict[str, Any]) -> str:
    package, _, kind = module["type"].rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or kind not in SUPPORTED_MODULES:
        raise reader.refuse(
            "modules.json", f"the module {module['type']}", f"of which {', '.join(SUPPORTED_MODULES)} are supported"
        )
    if module.get("kwargs"):
        raise reader.refuse("modules.json", f"kwargs={module['kwargs']!r} for {module['type']}")
    return kind


def _read_transformer(reader: _Reader, files: EncoderFiles, folder: str) -> None:
    files.subfolder = folder
    for file in TRANSFORMER_FILES:
        if settings := reader.json(file, folder):
            break
    else:
        return
    files.stated, where = True, _join(folder, file)
    known = {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}
    known |= {"backend", "unpad_inputs", "query_length", "query_expansion"}  # of speed, and of queries
    for key in ("model", "tokenizer", "config", "processor"):
        for group in (f"{key}_args", f"{key}_kwargs"):
            reader.check_keys(where, settings.get(group) or {}, HARMLESS)
            known.add(group)
    reader.check_keys(where, settings, known)
    for key, expected in {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}.items():
        if settings.get(key, expected) != expected:
            raise reader.refuse(where, f"{key}={settings[key]!r}", f"where {expected!r} is supported")
    modalities = settings.get("modality_config", {"text": TEXT_MODALITY})
    if "message" in modalities or modalities.get("text") != TEXT_MODALITY:
        raise reader.refuse(
            where, f"modality_config={modalities!r}", "where token states of plain texts are supported"
        )
    files.max_length, files.lower_case = settings.get("max_seq_length"), bool(settings.get("do_lower_case"))


def _read_pooling(reader: _Reader, files: EncoderFiles, folder: str) -> None:
    settings, where = reader.json("config.json", folder), _join(folder, "config.json")
    if settings is None:
        raise reader.refuse(where, "a pooling that is not stated", "for there is no such file")
    known = {"word_embedding_dimension", "embedding_dimension", "include_prompt", "pooling_mode", *POOLING_FLAGS}
    reader.check_keys(where, settings, known)
    for flag in POOLING_FLAGS:
        if not isinstance(settings.get(flag, False), bool):
            raise reader.refuse(where, f"{flag}={settings[flag]!r}", "where true and false are supported")
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in POOLING_FLAGS.items() if settings.get(flag)] or ["mean"]
    modes = [
        mode.replace("mean_sqrt_len_tokens", "mean_sqrt_len")
        for mode in ([modes] if isinstance(modes, str) else modes)
    ]
    for mode in modes or [""]:  # an empty list names no pooling
        if mode not in TEXT_POOLINGS:
            raise reader.refuse(where, f"the pooling {mode!r}", f"of which {', '.join(TEXT_POOLINGS)} are supported")
    files.pooling, files.include_prompt = "+".join(modes), settings.get("include_prompt", True)


def _read_dense(reader: _Reader, files: EncoderFiles, folder: str) -> None:
    settings, where = reader.json("config.json", folder) or {}, _join(folder, "config.json")
    _check_input(reader, settings, where)
    known = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
    reader.check_keys(where, settings, known | {"module_input_name", "module_output_name"})
    package, _, activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")
    if package.split(".")[0] != "torch" or activation not in TEXT_ACTIVATIONS:
        raise reader.refuse(
            where,
            f"the activation {settings['activation_function']}",
            f"of which {', '.join(TEXT_ACTIVATIONS)} of torch.nn are supported",
        )
    layer = {"type": "dense", "in_features": settings["in_features"], "out_features": settings["out_features"]}
    layer |= {"bias": settings.get("bias", True), "activation": activation}
    if settings.get("use_residual"):
        layer["residual"] = True
    _add_weights(reader, files, folder)
    files.layers.append(layer)


def _read_layer_norm(reader: _Reader, files: EncoderFiles, folder: str) -> None:
    settings = reader.json("config.json", folder) or {}
    reader.check_keys(_join(folder, "config.json"), settings, {"dimension"})
    _add_weights(reader, files, folder, prefix="norm.")
    files.layers.append({"type": "layer_norm", "size": settings["dimension"]})


def _read_dropout(reader: _Reader, files: EncoderFiles, folder: str) -> None:
    settings = reader.json("config.json", folder) or {}
    reader.check_keys(_join(folder, "config.json"), settings, {"dropout"})
    files.layers.append({"type": "dropout", "p": settings.get("dropout", 0.2)})


def _read_normalize(reader: _Reader, files: EncoderFiles, folder: str) -> None:
    settings, where = reader.json("config.json", folder) or {}, _join(folder, "config.json")
    _check_input(reader, settings, where)
    reader.check_keys(where, settings, {"module_input_name", "module_output_name"})
    files.layers.append({"type": "normalize"})


def _check_input(reader: _Reader, settings: dict[str, Any], where: str) -> None:
    """Raises `ValueError` for a layer on token states instead of text vectors."""
    for key in ("module_input_name", "module_output_name"):
        if (settings.get(key) or "sentence_embedding") != "sentence_embedding":
            raise reader.refuse(where, f"{key}={settings[key]!r}", "where 'sentence_embedding' is supported")


def _add_weights(reader: _Reader, files: EncoderFiles, folder: str, prefix: str = "") -> None:
    if path := reader.find("model.safetensors", folder):
        weights = load_file(path)
    elif path := reader.find("pytorch_model.bin", folder):
        weights = torch.load(path, map_location="cpu", weights_only=True)
    else:
        raise reader.refuse(
            folder, "a layer with weights", "but neither model.safetensors nor pytorch_model.bin is there"
        )
    place = len(files.layers)
    files.weights |= {f"layers.{place}.{name.removeprefix(prefix)}": tensor for name, tensor in weights.items()}


def _read_model_settings(reader: _Reader, files: EncoderFiles) -> None:
    file = "config_sentence_transformers.json"
    settings = reader.json(file) or {}
    known = {"__version__", "model_type", "requirements", "prompts", "default_prompt_name", "truncate_dim"}
    reader.check_keys(file, settings, known | {"similarity_fn_name"})  # ours is that of item vectors
    if (kind := settings.get("model_type") or "SentenceTransformer") != "SentenceTransformer":
        raise reader.refuse(
            file, f"a {kind}", "where a SentenceTransformer, with one vector for each text, is supported"
        )
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    for name in (*DOCUMENT_PROMPTS, *([] if default in (None, "query") else [default])):
        if prompts.get(name):
            files.prompt = prompts[name]
            break
    files.truncate_dim = settings.get("truncate_dim")


READ_MODULE = {
    "Transformer": _read_transformer,
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Dropout": _read_dropout,
    "Normalize": _read_normalize,
}


__all__ = ["EncoderFiles", "read_encoder_files"]
