"""What a case of fuzz.py is, and the ways to spoil files that the cases share."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


REFUSED, TAKEN, EITHER = "refused", "taken", "either"
Change = Callable[[random.Random], None]  # works in the current folder, which is that of the case


@dataclass(frozen=True)
class Case:
    r"""
    One command line with its input, and what must hold.

    Args:
        verb (`str`): Verb of the command line.
        name (`str`): What is odd about it; unique within the verb.
        words (`tuple` of `str`): The words behind the verb. `base/` is the sound world, which no case changes.
        expect (`str`): `REFUSED` (one line, status 2), `TAKEN` (status 0) or `EITHER`.
        says (`str`): Regular expression that the error line must match: the file, the option or the field at fault.
        changes (`tuple` of `Change`): Make the input.
        outputs (`tuple` of `str`): Files and folders that a taken command may write or change.
        machine (`str`): How the machine is spoilt, see `fuzz.py`.
    """

    verb: str
    name: str
    words: tuple[str, ...]
    expect: str
    says: str
    changes: tuple[Change, ...] = ()
    outputs: tuple[str, ...] = ("out", "out.png", "out.json", "out.csv", "out.jsonl", "out.parquet")
    machine: str = ""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.verb}: {self.name}")


Cases = Iterator[Case]


def take(name: str) -> Change:
    """A copy of a file or folder of the world."""

    def change(_: random.Random) -> None:
        source = Path("base", name)
        shutil.copytree(source, name) if source.is_dir() else shutil.copy(source, name)

    return change


def write(file: str, content: str | bytes) -> Change:
    """A file."""

    def change(_: random.Random) -> None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return change


def edit_json(file: str, edit: Callable[[Any], Any]) -> Change:
    """Another content of a JSON file; `edit` changes what it gets or returns something else."""

    def change(_: random.Random) -> None:
        content = json.loads(Path(file).read_text())
        answer = edit(content)
        Path(file).write_text(json.dumps(content if answer is None else answer))

    return change


def set_field(file: str, *path: str | int, value: Any) -> Change:
    """Another value of a field of a JSON file."""

    def edit(content: Any) -> None:
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = value

    return edit_json(file, edit)


def drop_field(file: str, *path: str | int) -> Change:
    """A JSON file without a field."""

    def edit(content: Any) -> None:
        for part in path[:-1]:
            content = content[part]
        del content[path[-1]]

    return edit_json(file, edit)


def edit_table(file: str, edit: Callable[[Any], Any]) -> Change:
    """Another content of a parquet file: `edit` takes a `polars.DataFrame` and returns one."""

    def change(_: random.Random) -> None:
        import polars as pl

        edit(pl.read_parquet(file, glob=False)).write_parquet(file)

    return change


def edit_tensors(file: str, edit: Callable[[dict[str, Any]], Any]) -> Change:
    """Other tensors in a safetensors file; `edit` changes what it gets or returns something else."""

    def change(_: random.Random) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(file)
        answer = edit(tensors)
        save_file(tensors if answer is None else answer, file, metadata={"format": "pt"})

    return change


def _cut(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(1, max(2, len(content)))])


def _flip(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 1, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def _replace(make: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    def damage(file: Path, _: random.Random) -> None:
        file.unlink()
        make(file)

    return damage


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "missing": lambda file, _: file.unlink(),
    "empty": lambda file, _: file.write_bytes(b""),
    "cut short": _cut,
    "random bytes": lambda file, rng: file.write_bytes(rng.randbytes(200)),
    "a folder": _replace(Path.mkdir),
    "a link to itself": _replace(lambda file: file.symlink_to(file.name)),
    "a number": lambda file, _: file.write_bytes(b"5"),
    "deep brackets": lambda file, _: file.write_bytes(b"[" * 100_000),
}


def damage(file: str, kind: str) -> Change:
    """A file spoilt in one of the ways of `DAMAGES`."""
    return lambda rng: DAMAGES[kind](Path(file), rng)


def flip_bits(file: str) -> Change:
    """A file with one or a few bits the other way round."""
    return lambda rng: _flip(Path(file), rng)


def unreadable(file: str) -> Change:
    """A file that its owner alone may read."""
    return lambda _: os.chmod(file, 0)


__all__ = [
    "DAMAGES",
    "EITHER",
    "REFUSED",
    "TAKEN",
    "Case",
    "Cases",
    "Change",
    "damage",
    "drop_field",
    "edit_json",
    "edit_table",
    "edit_tensors",
    "flip_bits",
    "set_field",
    "take",
    "unreadable",
    "write",
]
