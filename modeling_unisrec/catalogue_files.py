"""The files of an item catalogue: how they are read while another process replaces them, and the lock of writers."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open


ITEMS_FILE = "items.parquet"
EMBEDDINGS_FILE = "item_embeddings.safetensors"
NEW_EMBEDDINGS_FILE = "item_embeddings.new.safetensors"  # for the moment in which `ITEMS_FILE` is replaced
TABLES_FILE = "tables.json"
READ_ATTEMPTS = 1000  # an attempt only fails if another process replaces the catalogue meanwhile
LOCK_SECONDS = 60


def load_tables(find: Callable[[str], str | None]) -> dict[str, Any]:
    """Returns how the tables of the shop are read, empty where that is not known; `find` is as for
    [`~ItemCatalogue.load`]. Raises `ValueError` if the file is damaged."""
    if (file := find(TABLES_FILE)) is None:
        return {}
    try:
        tables = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a readable JSON file ({error}).") from error
    if not isinstance(tables, dict):
        raise ValueError(f"{file}: expected an object with arguments by name.")
    return tables


def read_embeddings(file: str, expected: str) -> dict[str | None, torch.Tensor | None]:
    """Returns text vectors by the hash of the items they belong to (`None` if no hash is stored); they are read only if
    the hash may be `expected`. Raises `ValueError` if the file is damaged."""
    before = os.stat(file)
    try:
        with safe_open(file, "pt") as stored:
            digest = (stored.metadata() or {}).get("items_sha256")
            vectors = stored.get_tensor("item_embeddings") if digest in (expected, None) else None
    except (SafetensorError, RuntimeError) as error:  # torch raises the latter
        raise ValueError(f"{file}: not a readable file of text vectors ({error}).") from error
    after = os.stat(file)
    # safetensors opens it twice, for the header and, by torch, for the numbers.
    if (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):
        raise ValueError(f"{file}: replaced while it was read.")
    if vectors is not None and not (vectors.dim() == 2 and vectors.is_floating_point() and vectors.isfinite().all()):
        raise ValueError(f"{file}: expected a table of finite numbers, one row for each item.")
    return {digest: vectors}


def file_states(find: Callable[[str], str | None]) -> list[tuple[int, int] | None]:
    """Returns a state that changes whenever a file of a catalogue is replaced."""
    states = []
    for name in (ITEMS_FILE, EMBEDDINGS_FILE, NEW_EMBEDDINGS_FILE):
        try:
            file = find(name)
            state = None if file is None else os.stat(file)
        except FileNotFoundError:
            state = None
        states.append(None if state is None else (state.st_ino, state.st_mtime_ns))
    return states


@contextmanager
def lock_catalogue(directory: str | os.PathLike) -> Iterator[None]:
    r"""
    Returns a context manager that keeps other processes from changing a catalogue. Readers need no lock.

    Args:
        directory (`str` or `os.PathLike`): Folder of the catalogue. The lock is reentrant.

    Raises:
        OSError: If another process has held the lock for a minute. The lock of a dead process is released.
    """
    directory = Path(directory).absolute()
    lock = FileLock(directory.with_name(f".{directory.name}.lock"), timeout=LOCK_SECONDS, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise OSError(f"{directory}: another process is changing the items; try again when it has ended.") from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            Path(lock.lock_file).unlink(missing_ok=True)  # waiting processes notice the removal and create a new file
        lock.release()


def flush(file: Path) -> None:
    """Flushes a file to disk, so that its content survives a crash after a rename."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


__all__ = [
    "EMBEDDINGS_FILE",
    "ITEMS_FILE",
    "NEW_EMBEDDINGS_FILE",
    "READ_ATTEMPTS",
    "TABLES_FILE",
    "file_states",
    "flush",
    "load_tables",
    "lock_catalogue",
    "read_embeddings",
]
