"""One process at a time writes into the output folder of a run: a lock of the operating system, which dies with it."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout


LOCK_FILE = "lock"  # in the folder of drafts
_held: dict[Path, FileLock] = {}  # by this process


def lock_run(drafts: Path) -> None:
    r"""
    Takes the lock of a run for this process, which may have it already.

    Args:
        drafts (`Path`): The folder of drafts in the output folder; it exists.

    Raises:
        BlockingIOError: If another process has it.
    """
    file = drafts.resolve() / LOCK_FILE
    if file in _held and file.exists():
        return
    unlock_run(drafts)
    try:
        holder = file.read_text(encoding="utf-8")
    except OSError:
        holder = ""
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{drafts.parent}: another run is writing into this output folder ({holder or 'process unknown'}); wait until "
            "it has ended, or name another --output_dir."
        ) from error
    file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    _held[file] = lock


def unlock_run(drafts: Path) -> None:
    """Gives the lock of a run back, if this process has it."""
    lock = _held.pop(drafts.resolve() / LOCK_FILE, None)
    if lock is not None:
        lock.release(force=True)


__all__ = ["LOCK_FILE", "lock_run", "unlock_run"]
