"""Selection of the files of a checkpoint folder that may be shared, and the check before every upload."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..configuration.configuration_unisrec import CODE_FILES
from .own_code import carried_code


ENDPOINT_FILES = ("handler.py", "requirements.txt")  # of an Inference Endpoint, which needs a catalogue
# Shared files of a checkpoint folder; all others are the state of one run on one machine.
SHARED_FILES = (
    "README.md",
    "*.png",
    *CODE_FILES,
    *ENDPOINT_FILES,
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "training_data.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "catalogue/*.parquet",
    "catalogue/*.safetensors",
    "catalogue/*.json",
)
# Vocabulary files of a tokenizer, which may contain any text.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
TEXTS = (".md", ".py", ".jinja", ".png", "requirements.txt")  # pictures have texts in their metadata

# A value that is nothing but an absolute path: /a/b, ~/a, C:\a, \\server\a, file:///a.
ABSOLUTE_PATH = re.compile(r"(/[^/\n]+){2,}/?|~[/\\]\S.*|[A-Za-z]:[/\\]\S.*|\\\\\S.*|file:/\S*")
# A home folder anywhere in a text; it tells the name of its user.
HOME = re.compile(
    r"(?:(?<![\w./\\])|file:/{0,2})/(?:(?:home|Users)/[\w.-]+|root/[\w.-]+)"
    r"|(?<!\w)[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/)[\w.-]+"
)


def shared_files(folder: Path, catalogue: bool = True) -> list[str]:
    r"""
    Returns the files of a checkpoint folder that are shared; hidden files never are.

    Args:
        folder (`Path`): The checkpoint folder.
        catalogue (`bool`, *optional*, defaults to `True`): Whether `catalogue/` and what serves it are among them.

    Returns:
        `list[str]`: Relative to the folder, sorted. Symbolic links are in it; [`check_outgoing`] refuses them.
    """
    patterns = (*SHARED_FILES, *carried_code(folder))
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    names = sorted(file.relative_to(folder).as_posix() for file in found if not file.name.startswith("."))
    return [name for name in names if catalogue or not (name.startswith("catalogue/") or name in ENDPOINT_FILES)]


def check_outgoing(folder: Path, names: list[str], replaced: Mapping[str, bytes] | None = None) -> None:
    r"""
    Checks files before they are uploaded, on every way to the Hub.

    Args:
        folder (`Path`): The folder.
        names (`list[str]`): Files in it, relative to it.
        replaced (`Mapping[str, bytes]`, *optional*): Contents uploaded instead of those in the folder.

    Raises:
        ValueError: If a file is or is below a symbolic link, contains a local path, or belongs to adapters whose base
            is not available to others.
    """
    replaced = replaced or {}
    for name in names:
        file = folder / name
        links = [folder.joinpath(*file.relative_to(folder).parts[:depth]) for depth in range(1, name.count("/") + 2)]
        if name not in replaced and any(link.is_symlink() for link in links):
            raise ValueError(
                f"{file}: a symbolic link, which is not followed to files elsewhere on this machine; put the file itself "
                "into the folder, or remove the link."
            )
        content = replaced.get(name)
        if name == "adapter_config.json":
            check_adapter_base(folder, _read_json(file, content))
        for place, path in _local_paths(file, content, _own_folders(folder)):
            raise ValueError(
                f"{file}: it holds the path {path!r} of a machine ({place}), which others need not know; remove it and "
                "push again."
            )


def check_adapter_base(folder: Path, adapter_config: Mapping[str, Any]) -> None:
    r"""
    Checks that others can load the base of adapters.

    A name such as `runs/pretrained` may be a folder here and a stranger's repository on the Hub. The base is one of
    the Hub if it comes with a revision: training on a base from the Hub records the commit. A released checkpoint comes
    with the package, so others have it under the same name.

    Args:
        folder (`Path`): Folder of the adapters, for the message.
        adapter_config (`Mapping`): Content of its `adapter_config.json`, or such settings.

    Raises:
        ValueError: If the base is a folder, or a name without a revision.
    """
    if not isinstance(adapter_config, Mapping):
        raise ValueError(f"{folder}: adapter_config.json is no JSON object; save the adapters again.")
    from .hub import RELEASED  # which imports this file

    base = str(adapter_config.get("base_model_name_or_path"))
    if base in RELEASED and not Path(base).exists():
        return
    if Path(base).is_dir() or base.startswith((".", "~", "/")) or ABSOLUTE_PATH.fullmatch(base):
        raise ValueError(
            f"{folder}: its adapters are for the folder {base}, which nobody else has: push that, and write its owner/name "
            "and its revision (main) into adapter_config.json, as base_model_name_or_path and revision."
        )
    if not adapter_config.get("revision"):
        raise ValueError(
            f"{folder}: its adapters are for {base!r}, which may be a folder of this machine or a stranger's repository: "
            "write the owner/name and the revision (main) of the pushed base into adapter_config.json, as "
            "base_model_name_or_path and revision."
        )


def _own_folders(folder: Path) -> list[str]:
    """Returns local folders whose paths do not occur in a shared text by chance."""
    own = {Path.home(), Path.cwd(), folder.absolute().parent, folder.resolve().parent}
    return sorted(str(path) for path in own if len(path.parts) > 2)


def _local_paths(file: Path, content: bytes | None, own: list[str]) -> Iterator[tuple[str, str]]:
    """Yields the local paths in a file, each with its location."""
    name, suffix = file.name, file.suffix
    if name in VOCABULARIES:
        return
    if suffix == ".safetensors":
        try:
            with safe_open(file, "numpy") as weights:
                yield from _paths_in_json(weights.metadata() or {}, "metadata", own)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a whole file of weights ({error}); save the model again.") from error
    elif suffix == ".json":
        yield from _paths_in_json(_read_json(file, content), "", own)
    elif suffix in TEXTS or name in TEXTS:  # the item texts in the parquet file of a catalogue are meant to be shared
        text = (content or file.read_bytes()).decode("utf-8", "replace")
        yield from (("text", path) for path in _paths_in_text(text, own))


def _read_json(file: Path, content: bytes | None) -> Any:
    try:
        return json.loads(content or file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a JSON file ({error}); save the model again.") from error


def _paths_in_json(value: Any, place: str, own: list[str]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _paths_in_json(each, f"{place}.{key}".lstrip("."), own)
    elif isinstance(value, list):
        for each in value:
            yield from _paths_in_json(each, place, own)
    elif isinstance(value, str):
        paths = [value] if ABSOLUTE_PATH.fullmatch(value) else _paths_in_text(value, own)
        yield from ((place, path) for path in paths)


def _paths_in_text(text: str, own: list[str]) -> Iterator[str]:
    yield from (match[0] for match in HOME.finditer(text))
    yield from (folder for folder in own if folder in text)


__all__ = ["ENDPOINT_FILES", "SHARED_FILES", "check_adapter_base", "check_outgoing", "shared_files"]
