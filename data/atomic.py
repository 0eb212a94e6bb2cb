"""Atomic writing of files: written under a temporary name, then renamed."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


_CURRENT_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def check_output_file(path: str | os.PathLike) -> None:
    r"""
    Checks that a file can be written, before the work whose result it will hold.

    Args:
        path (`str` or `os.PathLike`): File to be written; one that exists may be replaced.

    Raises:
        FileNotFoundError: If the folder of the file does not exist.
        IsADirectoryError: If `path` is a folder.
        NotADirectoryError: If a parent of `path` is a file.
        PermissionError: If the file cannot be created or replaced there.
        ValueError: If `path` is empty.
    """
    if not os.fspath(path):
        raise ValueError("the name of the output file is empty; name a file.")
    path = Path(path)
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path}: this is a folder; name a file to write.")
        os.stat(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write to.") from error
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{path}: {path.parent} is not a folder; name a file in a folder.") from error
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: {path.parent} is not a folder; name a file in a folder.")
    target = folder if _is_replaceable(path) else path
    if not os.access(target, os.W_OK):
        raise PermissionError(f"{path}: {target} cannot be written to; name another file.")
    if len(os.fsencode(path.name)) > os.pathconf(folder, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))


def check_apart(written: Mapping[str, str | os.PathLike], used: Sequence[str | os.PathLike]) -> None:
    r"""
    Checks that the files which a command writes replace neither what it uses nor one another.

    Args:
        written (`Mapping[str, str]`): Files to be written, by the option that names each.
        used (`Sequence[str]`): Files and folders that are read or written as well; names of anything else are ignored.

    Raises:
        ValueError: If a file is one of them, or lies in a folder among them, or two files are the same.
    """
    names = dict(written)
    while names:
        option, file = names.popitem()
        if not _is_replaceable(Path(file)):
            continue  # a pipe or a device
        target = Path(os.path.realpath(file))
        for other in (*names.values(), *used):
            place = Path(os.path.realpath(other))
            if target == place or (place.is_dir() and place in target.parents):
                inside = "is" if target == place else "lies in"
                raise ValueError(f"{option} {file} {inside} {other}, which this command uses too; name another file.")


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    r"""
    Writes a file atomically: it replaces `path` when it is complete or, after an error, leaves it unchanged.

    Args:
        path (`str` or `os.PathLike`):
            File to be written, as for [`check_output_file`]. Pipes and devices such as `/dev/stdout` cannot be
            replaced and receive the complete content instead.

    Yields:
        `Path`: Temporary file name with the suffix of `path`; the file does not exist yet.

    Raises:
        OSError: As [`check_output_file`], or if the disk is full.
    """
    path = Path(path)
    check_output_file(path)
    replaceable = _is_replaceable(path)
    target = Path(os.path.realpath(path)) if replaceable else path  # keep a symbolic link and replace its target
    place = tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=target.parent if replaceable else None)
    draft = Path(place) / target.name
    try:
        yield draft
        if replaceable:
            with open(draft, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(draft, target)
        else:
            with open(draft, "rb") as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
            os.rmdir(place)  # `rmtree` fails when too many files are open


def replace_folder(draft: Path, target: Path) -> None:
    r"""
    Puts a folder in the place of another one, which is removed. On Linux both change places in one step, so that the name
    always leads to a complete folder; elsewhere, it leads nowhere for the moment between two renames.

    Args:
        draft (`Path`): New folder, beside the other one.
        target (`Path`): Folder to be replaced.

    Raises:
        OSError: If it cannot be replaced; it is then as it was.
    """
    old = draft.with_name(f"{draft.name}.old")
    if _exchange(draft, target):
        os.replace(draft, old)
    else:
        os.replace(target, old)
        try:
            os.replace(draft, target)
        except OSError:
            os.replace(old, target)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two paths change places by one system call; returns whether the system can."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _EXCHANGE) == 0


def _is_replaceable(path: Path) -> bool:
    """Returns whether a rename can replace the path: false for pipes, devices and anything below `/dev`."""
    return path.absolute().parts[:2] != ("/", "dev") and (path.is_file() or not path.exists())


__all__ = ["check_apart", "check_output_file", "replace_folder", "whole_file"]
