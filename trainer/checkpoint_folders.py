"""Crash-safe output folders: drafts are moved into place when complete, damage is detected, a lock keeps out other runs."""

import json
import os
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint, sort_checkpoints
from transformers.utils import logging

from .callbacks import LOG_FILE
from .training_args import UniSRecTrainingArguments


logger = logging.get_logger(__name__)

DRAFTS = ".saving"  # in the output folder while a run is under way: files that are being written
FILE_LIST = "files.json"  # written last into a checkpoint: bytes and CRC-32 of each of its files
LOCK_FILE = "lock"  # in the folder of drafts
LAST_FILES = ("config.json", "adapter_config.json")  # a folder without these files cannot be loaded
_held: dict[Path, FileLock] = {}  # locks of this process


def lock_run(drafts: Path) -> None:
    r"""
    Acquires the lock of an output folder. The operating system releases it when the process ends.

    Args:
        drafts (`Path`): Existing folder of drafts in the output folder.

    Raises:
        BlockingIOError: If another process holds the lock.
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
    """Releases the lock of an output folder if this process holds it."""
    lock = _held.pop(drafts.resolve() / LOCK_FILE, None)
    if lock is not None:
        lock.release(force=True)


def publish_checkpoint(draft: Path, checkpoint: Path) -> None:
    """Renames the complete draft of a checkpoint to its final name, replacing an existing folder."""
    _share_weights(draft)
    files = {}
    for file in sorted(file for file in draft.rglob("*") if file.is_file()):
        _flush(file)
        files[file.relative_to(draft).as_posix()] = {"bytes": file.stat().st_size, "crc32": _checksum(file)}
    (draft / FILE_LIST).write_text(json.dumps(files, indent=2) + "\n", encoding="utf-8")
    _flush(draft / FILE_LIST)
    _replace_folder(draft, checkpoint)


def publish_files(draft: Path, folder: Path) -> None:
    """Moves the files of a complete model into the output folder, the configuration last: no other process loads half of it."""
    _share_weights(draft)
    for file in draft.rglob("*"):
        if file.is_file():
            _flush(file)
    for name in LAST_FILES:
        (folder / name).unlink(missing_ok=True)
    for path in sorted(draft.iterdir(), key=lambda path: (path.name in LAST_FILES, path.name)):
        if path.is_dir():
            _replace_folder(path, folder / path.name)
        else:
            os.replace(path, folder / path.name)
    draft.rmdir()


def delete_checkpoints(folder: Path, limit: int | None, keep: set[str]) -> None:
    """Deletes the oldest checkpoints of an output folder until `limit` are left, except those named in `keep`. Each disappears
    at once, not file by file."""
    others = [Path(path) for path in sort_checkpoints(str(folder)) if Path(path).name not in keep]
    for checkpoint in others[: max(0, len(others) + len(keep) - limit)] if limit else []:
        os.replace(checkpoint, folder / DRAFTS / f"old-{checkpoint.name}")
        shutil.rmtree(folder / DRAFTS / f"old-{checkpoint.name}")


def find_damage(checkpoint: Path, contents: bool = False) -> str | None:
    """Returns a short description of the damage of a checkpoint, or `None` if all files are complete and, with `contents`,
    unchanged."""
    try:
        files = json.loads((checkpoint / FILE_LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"no {FILE_LIST}, which is written last"
    if not isinstance(files, dict):
        return f"{FILE_LIST} is no list of files"
    for name, facts in files.items():
        file = checkpoint / name
        facts = facts if isinstance(facts, dict) else {"bytes": facts}  # bytes alone: from before there were checksums
        if not file.is_file():
            return f"no {name}"
        if (size := file.stat().st_size) != facts.get("bytes"):
            return f"{name} has {size:,} of {facts.get('bytes')} bytes"
        if contents and "crc32" in facts and facts["crc32"] != _checksum(file):
            return f"{name} has changed since it was written"
    return None


def adopt_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """Copies a checkpoint of another output folder into this one and returns its new path."""
    draft, target = folder / DRAFTS / checkpoint.name, folder / checkpoint.name
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(checkpoint, draft)
    _replace_folder(draft, target)
    return target


def leave_no_trace(folder: Path) -> None:
    """Removes the output folder of a run that failed before it wrote anything."""
    drafts = folder / DRAFTS
    if [path.name for path in folder.iterdir()] == [DRAFTS] and {path.name for path in drafts.iterdir()} <= {
        LOCK_FILE
    }:
        shutil.rmtree(folder)


@contextmanager
def tidy_failure(folder: Path) -> Iterator[None]:
    r"""
    Context manager that leaves nothing half-written in an output folder when the run inside raises an exception.

    Incomplete drafts are removed, and the folder as well if the run created it and saved no checkpoint. Everything is kept
    after Ctrl-C and SIGTERM, and if the folder already held an unfinished run.

    Args:
        folder (`Path`): Output folder of the run.
    """
    if (folder / DRAFTS).exists():
        yield
        return
    existed = folder.is_dir()
    is_new = not existed or not any(folder.iterdir())
    before = set(folder.glob("checkpoint-*"))
    try:
        yield
    except (InterruptedError, BlockingIOError):  # SIGTERM; a run in another process
        raise
    except Exception:
        drafts = folder / DRAFTS
        for draft in drafts.iterdir() if drafts.is_dir() else ():
            if draft.is_dir() and find_damage(draft) is not None:
                shutil.rmtree(draft)
        is_complete = drafts.is_dir() and any(draft.is_dir() for draft in drafts.iterdir())
        if set(folder.glob("checkpoint-*")) == before and not is_complete:  # nothing new to resume from
            shutil.rmtree(drafts, ignore_errors=True)
            if is_new:
                for name in (LOG_FILE, TRAINER_STATE_NAME, "test_results.json"):
                    (folder / name).unlink(missing_ok=True)
                if not existed and folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        raise


def clear_drafts(folder: Path) -> None:
    """Cleans up after a killed run: complete drafts are moved into place, incomplete drafts and damaged checkpoints are
    removed. Each removed checkpoint is logged."""
    for draft in sorted((folder / DRAFTS).iterdir()):
        if draft.name == LOCK_FILE:
            continue
        if draft.name.startswith("checkpoint-") and find_damage(draft) is None:
            _replace_folder(draft, folder / draft.name)
        else:
            shutil.rmtree(draft)
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        if (damage := find_damage(checkpoint)) is not None:
            shutil.rmtree(checkpoint)
            before = get_last_checkpoint(folder)
            logger.warning(
                f"{checkpoint} was incomplete ({damage}) and has been removed; "
                + ("there is no earlier one." if before is None else f"the run resumes from {Path(before).name}.")
            )


def has_ended(folder: Path) -> bool:
    """Returns whether the run of an output folder has ended and its model is in place."""
    return (folder / TRAINER_STATE_NAME).is_file() and not is_under_way(folder)


def is_under_way(folder: Path) -> bool:
    """Returns whether the run of an output folder is still running or was killed."""
    return (folder / DRAFTS).is_dir()


def how_to_resume(folder: str | os.PathLike) -> str:
    """Returns the sentence of an error message that tells how to resume the run of an output folder."""
    last = get_last_checkpoint(folder) if os.path.isdir(folder) else None
    if last is None:
        return "There is no checkpoint yet; --resume_from_checkpoint auto starts again."
    return f"Resume from {last} with --resume_from_checkpoint auto."


def _replace_folder(source: Path, target: Path) -> None:
    # If the process is killed between the two steps, `clear_drafts` moves the source.
    if target.exists():
        shutil.rmtree(target)
    os.replace(source, target)


def _share_weights(draft: Path) -> None:
    """Gives weight files the permissions of their configuration file; safetensors makes them readable by the owner only."""
    for name in LAST_FILES:
        for file in draft.glob("*.safetensors") if (draft / name).is_file() else ():
            shutil.copymode(draft / name, file)


def _checksum(file: Path) -> str:
    value = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def _flush(file: Path) -> None:
    """Flushes a file to disk, so that its content survives a crash after a rename."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def check_output_dir(args: UniSRecTrainingArguments) -> None:
    """
    Checks the output folder of a run, and resolves `args.resume_from_checkpoint`.

    `"auto"` is replaced by the last complete checkpoint or `None`, `"true"` by the last one, after [`clear_drafts`].

    Args:
        args ([`UniSRecTrainingArguments`]): Arguments of the run. `resume_from_checkpoint` is changed in place.

    Raises:
        OSError: If the folder cannot be written to, another process is writing to it, it is not empty and not that of a
            resumed run, or the checkpoint is missing or incomplete.
    """
    folder = Path(args.output_dir)
    if args.should_save:
        _check_writable(folder)
    resume = None if args.resume_from_checkpoint is None else str(args.resume_from_checkpoint)
    if resume is None:
        if args.should_save and folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(
                f"{folder}: the output folder is not empty; name a new one with --output_dir, or resume its run "
                "with --resume_from_checkpoint auto."
            )
        return
    if args.process_index == 0 and is_under_way(folder):  # killed, or still running in another process
        lock_run(folder / DRAFTS)
    if resume.lower() in ("auto", "true"):
        with args.main_process_first(local=False, desc="clearing up"):
            if args.should_save and is_under_way(folder):
                clear_drafts(folder)
        args.resume_from_checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
        if args.resume_from_checkpoint is None:
            if resume.lower() == "true":
                raise FileNotFoundError(f"{folder}: no checkpoint to resume from; use --resume_from_checkpoint auto.")
            if folder.is_dir() and any(folder.iterdir()) and not is_under_way(folder):
                raise FileExistsError(
                    f"{folder}: the output folder is neither empty nor that of a run; name a new one with --output_dir."
                )
            return
    else:
        args.resume_from_checkpoint = os.path.expanduser(resume)
        checkpoint = Path(args.resume_from_checkpoint)
        if not checkpoint.is_dir():
            raise FileNotFoundError(f"{resume}: no such checkpoint folder to resume from.")
        is_own = folder.is_dir() and checkpoint.resolve().parent == folder.resolve()
        if args.should_save and folder.is_dir() and any(folder.iterdir()) and not is_own:
            raise FileExistsError(
                f"{folder}: the output folder is not empty, and {resume} is not a checkpoint of it; name a new one with "
                "--output_dir."
            )
    if (damage := find_damage(Path(args.resume_from_checkpoint), contents=True)) is not None:
        raise OSError(f"{args.resume_from_checkpoint}: this checkpoint is incomplete ({damage}); resume from another.")


def _check_writable(folder: Path) -> None:
    """Raises `PermissionError` if a folder cannot be written to, before hours of training are lost."""
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: {existing} cannot be written to; name another --output_dir.")


__all__ = [
    "DRAFTS",
    "adopt_checkpoint",
    "clear_drafts",
    "delete_checkpoints",
    "find_damage",
    "has_ended",
    "how_to_resume",
    "is_under_way",
    "leave_no_trace",
    "lock_run",
    "publish_checkpoint",
    "publish_files",
    "tidy_failure",
    "unlock_run",
]
