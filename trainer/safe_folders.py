"""Folders of a run that is killed at any moment: drafts moved into place, checkpoints known to be complete."""

import json
import os
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint, sort_checkpoints
from transformers.utils import logging


logger = logging.get_logger(__name__)

DRAFTS = ".saving"  # in the output folder until the run has ended: what is being written
FILE_LIST = "files.json"  # written last into a checkpoint: the bytes of each of its files
LAST_FILES = ("config.json", "adapter_config.json")  # without them nothing is loaded from a folder


def publish_checkpoint(draft: Path, checkpoint: Path) -> None:
    """Moves the complete folder of a checkpoint to its name, in place of one that is there."""
    sizes = {}
    for file in sorted(file for file in draft.rglob("*") if file.is_file()):
        _flush(file)
        sizes[file.relative_to(draft).as_posix()] = file.stat().st_size
    (draft / FILE_LIST).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
    _flush(draft / FILE_LIST)
    _replace_folder(draft, checkpoint)


def publish_files(draft: Path, folder: Path) -> None:
    """Moves the files of a complete model into the output folder, the one without which it is none as the last."""
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


def delete_checkpoints(folder: Path, limit: int | None, keep: set[Path]) -> None:
    """Deletes the oldest checkpoints but `limit`, none of `keep`; each is gone at once."""
    others = [Path(name) for name in sort_checkpoints(str(folder)) if Path(name) not in keep]
    for checkpoint in others[: max(0, len(others) + len(keep) - limit)] if limit else []:
        os.replace(checkpoint, folder / DRAFTS / f"old-{checkpoint.name}")
        shutil.rmtree(folder / DRAFTS / f"old-{checkpoint.name}")


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; `None` if each file is there in full."""
    try:
        sizes = json.loads((checkpoint / FILE_LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"no {FILE_LIST}, which is written last"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"no {name}"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} of {size:,} bytes"
    return None


def clear_drafts(folder: Path) -> None:
    """Ends what a killed run has left half done in its output folder: drafts and damaged checkpoints are removed, each of
    the latter said in one line; a draft that was complete takes its place."""
    for draft in sorted((folder / DRAFTS).iterdir()):
        if draft.name.startswith("checkpoint-") and find_damage(draft) is None:
            _replace_folder(draft, folder / draft.name)
        else:
            shutil.rmtree(draft)
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        if (damage := find_damage(checkpoint)) is not None:
            shutil.rmtree(checkpoint)
            before = get_last_checkpoint(folder)
            logger.warning(
                f"{checkpoint} was incomplete ({damage}) and is removed; "
                + ("there is none before it." if before is None else f"the run goes on from {Path(before).name}.")
            )


def has_ended(folder: Path) -> bool:
    """Whether the run of an output folder has come to its end, with the model in place."""
    return (folder / TRAINER_STATE_NAME).is_file() and not is_under_way(folder)


def is_under_way(folder: Path) -> bool:
    """Whether the run of an output folder goes on, or was killed."""
    return (folder / DRAFTS).is_dir()


def _replace_folder(source: Path, target: Path) -> None:
    # Killed between the two steps, the source is still whole; see `clear_drafts`.
    if target.exists():
        shutil.rmtree(target)
    os.replace(source, target)


def _flush(file: Path) -> None:
    """Waits until a file is on the disk, so that a machine that dies after a rename keeps what was renamed."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


__all__ = [
    "DRAFTS",
    "clear_drafts",
    "delete_checkpoints",
    "find_damage",
    "has_ended",
    "is_under_way",
    "publish_checkpoint",
    "publish_files",
]
