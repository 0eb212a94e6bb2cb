"""From names to files: released checkpoints, folders and the Hugging Face Hub; uploads, and one-line errors."""

import difflib
import json
import logging
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants, is_offline_mode
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from .outgoing import ENDPOINT_FILES, check_outgoing, shared_files


# Checkpoints that come with the package, without text encoder, and the encoder that each was trained with.
RELEASED = {"unisrec-base": "minilm"}
RELEASED_FOLDER = Path(__file__).parents[1] / "checkpoints"  # in the root of a checkout, or in the installed package
# Files of an earlier push that would be loaded together with those of the next one.
REPLACED_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "training_data.json",
    "catalogue/*",
    *ENDPOINT_FILES,
)

warnings.filterwarnings("ignore", message=r".*about to commit a data file \(catalogue/")  # it belongs to the model
logger = logging.getLogger(__name__)
api = HfApi(library_name="unisrec")


def split_revision(name_or_path: str | os.PathLike) -> tuple[str, str | None]:
    """Splits `"owner/name@revision"` into name and revision; the revision of other names and of folders is `None`."""
    name, at, revision = str(name_or_path).partition("@")
    return (str(name_or_path), None) if not at or Path(name_or_path).is_dir() else (name, revision)


def find_model(name_or_path: str | os.PathLike) -> tuple[str, dict[str, Any]]:
    r"""
    Returns the arguments for `from_pretrained`, after one request to the Hub for all files.

    Args:
        name_or_path (`str` or `os.PathLike`):
            Folder, name of a checkpoint that comes with the package (see [`released_folder`]), or id of a repository,
            also as `owner/name@revision`.

    Returns:
        `tuple[str, dict[str, Any]]`: Folder or id, and for an id the options `revision` and `local_files_only`.

    Raises:
        OSError: If the repository or revision does not exist, is not accessible, or is neither reachable nor cached;
            or if a file of a folder cannot be read.
        ValueError: If the name is empty, or a released checkpoint is given a revision.
    """
    if not os.fspath(name_or_path):
        raise ValueError("the name is empty; name a folder or a repository of the Hub")
    name, revision = split_revision(name_or_path)
    if (folder := released_folder(name)) is not None:
        if revision is not None:
            raise ValueError(f"{name} comes with the package and has no revisions; name it without @{revision}")
        name = str(folder)
    if not Path(name).is_dir():
        try:
            return name, pin_revision(name, revision)
        except OSError as error:
            raise OSError(f"{error}{_released_hint(name)}") from error
    _check_readable(Path(name))
    return name, {}


def released_folder(name: str | os.PathLike) -> Path | None:
    r"""
    Returns the folder of a checkpoint that comes with the package.

    A folder of that name in the current directory is taken instead, as everywhere in transformers, with a warning.

    Args:
        name (`str` or `os.PathLike`): For example `"unisrec-base"`.

    Returns:
        `Path` or `None`: `None` for every other name.

    Raises:
        FileNotFoundError: If the files are missing from the installation.
    """
    if os.fspath(name) not in RELEASED:
        return None
    folder = RELEASED_FOLDER / name
    if Path(name).is_dir() and not (folder.is_dir() and folder.samefile(name)):
        logger.warning(
            "%s: the folder of that name in the current directory is loaded, not the checkpoint of the package; run in "
            "another directory or rename the folder to load that one",
            name,
        )
        return None
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} is missing from this installation of unisrec; install it again")
    return folder


def released_name(folder: str | os.PathLike) -> str | None:
    """Returns the name of the released checkpoint that a folder is, `None` for any other folder."""
    path = Path(folder)
    is_released = path.name in RELEASED and path.is_dir() and path.resolve() == (RELEASED_FOLDER / path.name).resolve()
    return path.name if is_released else None


def _released_hint(name: str) -> str:
    """Returns a suggestion for a name that resembles the one of a released checkpoint."""
    last = name.rstrip("/").rpartition("/")[2].casefold().replace("_", "-")
    near = difflib.get_close_matches(last, RELEASED, n=1, cutoff=0.75)
    return f"; did you mean {near[0]!r}, which comes with the package?" if near else ""


def _check_readable(folder: Path) -> None:
    """Raises `OSError` if a file of a folder exists but cannot be read, which transformers would treat as missing."""
    for place in (folder, folder / "catalogue"):
        for file in place.iterdir() if os.path.lexists(place) else ():
            if file.suffix not in (".json", ".safetensors", ".parquet", ".txt", ".model"):
                continue
            if stat.S_ISDIR(file.stat().st_mode):
                raise IsADirectoryError(f"{file}: a folder, expected a file")
            if not os.access(file, os.R_OK):
                raise PermissionError(f"{file}: you may not read this file")


def pin_revision(
    repo_id: str, revision: str | None = None, repo_type: str = "model", token: str | None = None
) -> dict[str, Any]:
    """Returns download options: `revision`, resolved to its current commit, and `local_files_only`, which is set if
    the Hub cannot be reached, to avoid a timeout for every file. Raises `OSError` as [`find_model`] does."""
    with hub_errors(repo_id, revision):
        reachable = not is_offline_mode() and _answers(repo_id, revision, repo_type, token)
        options = {"revision": revision, "repo_type": repo_type, "token": token}
        pinned = api.resolve_revision(repo_id, local_files_only=not reachable, **options)
    if not (reachable or is_offline_mode()):
        logger.warning("%s is taken from the cache: the Hub cannot be reached at %s", repo_id, constants.ENDPOINT)
    return {"revision": pinned, "local_files_only": not reachable}


def _answers(repo_id: str, revision: str | None, repo_type: str, token: str | None) -> bool:
    """Returns whether the Hub answers for a repository; `resolve_revision` would silently use the cache."""
    try:
        api.repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=10, token=token)
    except HTTPError as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        return False
    return True


def check_checkpoint(folder: Path, catalogue: bool = True) -> None:
    """Raises `ValueError` if a folder is no checkpoint of ours, whole or of adapters, or what is shared of it does not
    pass [`check_outgoing`]."""
    try:
        model_type = json.loads((folder / "config.json").read_bytes()).get("model_type")
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, RecursionError):
        model_type = None  # an existing but unreadable file gets its own message
    is_ours = model_type == "unisrec" or (folder / "adapter_config.json").is_file()
    if not is_ours or not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder}: no checkpoint; expected a folder with config.json of type 'unisrec' and *.safetensors, as "
            "`unisrec pretrain` and `unisrec finetune` write it."
        )
    check_outgoing(folder, shared_files(folder, catalogue))


def create_repository(
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    repo_type: str = "model",
) -> str:
    r"""
    Creates a repository and a branch in it, unless they exist.

    Args:
        repo_id (`str`): `owner/name`; without owner, a repository of the user.
        private (`bool`, *optional*): Whether a new repository is private.
        revision (`str`, *optional*): The branch.
        token (`str`, *optional*): Token to use instead of the stored one.
        repo_type (`str`, *optional*, defaults to `"model"`): Or `"dataset"`.

    Returns:
        `str`: The id, `owner/name`.

    Raises:
        OSError: If it cannot be created.
        ValueError: If a private repository is requested but a public one exists.
    """
    with hub_errors(repo_id, revision):
        url = api.create_repo(repo_id, private=private, exist_ok=True, token=token, repo_type=repo_type)
        repo_id = url.repo_id
        # The Hub ignores `private` for an existing repository.
        if private and not api.repo_info(repo_id, token=token, repo_type=repo_type).private:
            raise ValueError(
                f"{repo_id} is there already and public: make it private at {url}/settings, or name another."
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True, token=token, repo_type=repo_type)
    return repo_id


def upload_checkpoint(
    folder: Path,
    repo_id: str,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    catalogue: bool = True,
    card: str | None = None,
) -> CommitInfo:
    r"""
    Uploads the shared files of a checkpoint folder as one commit. Weights and catalogue of an earlier push that are
    not in the folder are deleted.

    Args:
        folder (`Path`): The checkpoint folder.
        repo_id (`str`): `owner/name` of an existing repository.
        message (`str`): Commit message.
        revision (`str`, *optional*): An existing branch; `main` by default.
        token (`str`, *optional*): Token to use instead of the stored one.
        catalogue (`bool`, *optional*, defaults to `True`): Whether `catalogue/` is shared.
        card (`str`, *optional*): Text of `README.md`, instead of the one in the folder.

    Returns:
        `CommitInfo`: The commit.

    Raises:
        OSError: If the upload fails.
        ValueError: If a file does not pass [`check_outgoing`]; nothing is uploaded then.
    """
    names = shared_files(folder, catalogue)
    replaced = {} if card is None else {"README.md": card.encode()}
    check_outgoing(folder, names, replaced)
    with hub_errors(repo_id, revision):
        there = api.list_repo_files(repo_id, revision=revision, token=token)
        old = [name for name in there if name not in names and _matches(name, REPLACED_FILES)]
        contents = {name: folder / name for name in names} | replaced
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        operations += [CommitOperationDelete(name) for name in old]
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision, token=token)


def upload_dataset(
    folder: Path, repo_id: str, message: str, revision: str | None = None, token: str | None = None
) -> CommitInfo:
    r"""
    Uploads the files of a folder to a dataset repository as one commit. Tables and vectors of an earlier push that are
    not in the folder are deleted.

    Args:
        folder (`Path`): The folder.
        repo_id, message, revision, token: As for [`upload_checkpoint`].

    Returns:
        `CommitInfo`: The commit.

    Raises:
        OSError: If the upload fails.
        ValueError: If a file does not pass [`check_outgoing`]; nothing is uploaded then.
    """
    names = sorted(file.name for file in folder.iterdir())
    check_outgoing(folder, names)
    with hub_errors(repo_id, revision):
        there = api.list_repo_files(repo_id, revision=revision, token=token, repo_type="dataset")
        old = [name for name in there if name not in names and _matches(name, ("*.parquet", "*.npy"))]
        operations = [CommitOperationAdd(name, folder / name) for name in names]
        operations += [CommitOperationDelete(name) for name in old]
        options = {"commit_message": message, "revision": revision, "token": token, "repo_type": "dataset"}
        return api.create_commit(repo_id, operations, **options)


def upload_state(
    checkpoint: Path, place: str, repo_id: str, message: str, revision: str | None = None, token: str | None = None
) -> CommitInfo:
    r"""
    Uploads the state of a training, as the trainer wrote it, into a folder of a repository.

    Args:
        checkpoint (`Path`): Folder of the state.
        place (`str`): Folder in the repository.
        repo_id, message, revision, token: As for [`upload_checkpoint`].

    Returns:
        `CommitInfo`: The commit.

    Raises:
        OSError: If the upload fails.
        ValueError: If a file is a symbolic link or holds a path of this machine; nothing is uploaded then.
    """
    names = [file.relative_to(checkpoint).as_posix() for file in checkpoint.rglob("*") if not file.is_dir()]
    names = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    check_outgoing(checkpoint, names)
    operations = [CommitOperationAdd(f"{place}/{name}", checkpoint / name) for name in names]
    with hub_errors(repo_id, revision):
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision, token=token)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Matches as `fnmatch` does, but at the same folder depth, to exclude training states in subfolders."""
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


@contextmanager
def hub_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Converts errors of the Hub into a one-line `OSError` that names the repository and the next step."""
    try:
        yield
    except (HTTPError, OfflineModeIsEnabled, RevisionResolutionError, HFValidationError) as error:
        raise OSError(_explain(error, name, revision)) from error
    except RuntimeError as error:  # raised for large files
        raise OSError(_explain(error.__cause__ or error, name, revision)) from error


def _explain(error: BaseException, name: str, revision: str | None) -> str:
    offline = "HF_HUB_OFFLINE=1 keeps this machine off the Hub: unset HF_HUB_OFFLINE"
    unreachable = f"the Hub cannot be reached at {constants.ENDPOINT}: check the connection"
    match error:
        case OfflineModeIsEnabled():
            return offline
        case RevisionResolutionError():
            return f"{name} is not in the cache, and {offline if is_offline_mode() else unreachable}"
        case HFValidationError():
            return f"{name!r} is not an id of the Hub, which is owner/name"
        case RepositoryNotFoundError():
            return f"the Hub shows no repository {name}: check the name, or log in by `hf auth login` if it is private"
        case RevisionNotFoundError():
            return f"{name} has no revision {revision!r}: see its page at {constants.ENDPOINT} for the ones it has"
        case HfHubHTTPError(response=response) if response.status_code == 401:
            return f"the Hub wants a valid token for {name}: log in by `hf auth login` or set HF_TOKEN"
        case HfHubHTTPError(response=response) if response.status_code == 403:
            reason = (error.server_message or "403").rstrip(".")
            return f"the Hub refuses {name} ({reason}): check the owner and the rights of your token"
        case HfHubHTTPError():
            return f"the Hub answers {error.response.status_code} for {name}: {error.server_message}"
        case HTTPError():
            return unreachable
        case _:
            return f"the upload to {name} broke off ({' '.join(str(error).split())}): try again"


__all__ = [
    "api",
    "check_checkpoint",
    "create_repository",
    "find_model",
    "hub_errors",
    "pin_revision",
    "released_folder",
    "released_name",
    "split_revision",
    "upload_checkpoint",
    "upload_dataset",
    "upload_state",
]
