"""The domain: a catalogue of items with text and the time-ordered histories of its users, in memory and on disk."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError

from .domain_checks import check_columns, check_ids, check_times
from .given_features import GIVEN_FEATURES, check_given_features, load_given_features, save_given_features
from .readers.files import read_parquet, reading
from .splits import ALL_TRAIN, LEAVE_ONE_OUT, MIN_INTERACTIONS, TimeCut


FORMAT_VERSION = 1
FILES = ("domain.json", "items.parquet", "sequences.parquet")


@dataclass(frozen=True, eq=False, repr=False)
class Domain:
    """
    A catalogue of items with text, and the interaction histories of its users.

    Args:
        name (`str`): Name for reports and model cards.
        items (`pl.DataFrame`):
            Columns `item_id` (`str`, unique) and `text` (`str`, not empty); further columns are kept.
        sequences (`pl.DataFrame`):
            Columns `user_id` (`str`, unique) and `item_index` (`list[u32]`): rows of `items`, oldest first, not empty. A
            column `time` (`list[i64]` or `list[f64]`), if there is one, holds the time of each interaction, which a time
            split needs.
        info (`dict`, *optional*):
            JSON-serialisable facts: `source`, `filters`, `steps` (rows `{"step", "dropped", "left"}` counting interactions),
            `item_steps` (the same for items), and any other facts.
        held_out (`bool`, *optional*, defaults to `True`):
            Whether the last two interactions of each user are kept for validation and test, see [`leave_one_out`].
        cut ([`TimeCut`], *optional*):
            Moment from which on interactions are held out, instead of the last two of each user; see [`cut_at`]. It is
            not written to disk.
        given_features (`dict[str, np.ndarray]`, *optional*):
            Text vectors supplied with the data, float32 `(num_items, text_embedding_size)`: `"item_embeddings"` and
            `"word_drop_embeddings"` (of the texts after word drop). See [`given_text_features`].
        folder (`Path`, *optional*): Folder that the domain was loaded from; encoded text vectors are kept there.
        encoded (`dict[str, np.ndarray]`, *optional*):
            Encoded text vectors of a domain without a folder, which are kept as long as the domain itself.

    Raises:
        ValueError: If a column is missing or has another type, an id is missing or repeated, a text or a history is
            empty, a history points outside of `items`, or the text vectors are not one float32 row for each item.
    """

    name: str
    items: pl.DataFrame
    sequences: pl.DataFrame
    info: dict[str, Any] = field(default_factory=dict)
    held_out: bool = True
    given_features: dict[str, np.ndarray] = field(default_factory=dict)
    folder: Path | None = None
    encoded: dict[str, np.ndarray] = field(default_factory=dict)
    cut: TimeCut | None = None

    def __post_init__(self) -> None:
        check_columns("items", self.items, {"item_id": pl.String, "text": pl.String})
        check_columns("sequences", self.sequences, {"user_id": pl.String, "item_index": pl.List(pl.UInt32)})
        check_ids("items", self.items["item_id"])
        check_ids("sequences", self.sequences["user_id"])
        if bad := self.items.filter(pl.col("text").fill_null("").str.strip_chars() == "").head(1)["item_id"].to_list():
            raise ValueError(f"items: {bad[0]!r} has no text, expected a text for every item")
        lengths = self.sequences["item_index"].list.len().fill_null(0)
        if lengths.min() == 0:
            user = self.sequences["user_id"][int(lengths.arg_min())]
            raise ValueError(f"sequences: user {user!r} has an empty history, expected at least one item")
        indices = self.sequences["item_index"].explode()
        if indices.null_count() or indices.max() >= self.num_items:
            position = int((indices.is_null() | (indices >= self.num_items)).fill_null(True).arg_max())
            user = self.sequences["user_id"][int(lengths.cum_sum().search_sorted(position, side="right"))]
            raise ValueError(
                f"sequences: user {user!r} has item_index {indices[position]}, expected a row of the {self.num_items} items"
            )
        check_times(self.sequences, self.offsets)
        check_given_features(self.given_features, self.num_items)

    def __repr__(self) -> str:
        return f"Domain({self.name!r}, {self._sizes()})"

    def _sizes(self) -> str:
        """Returns `2,000 users, 1 item, 9,000 interactions`."""
        numbers = (("user", self.num_users), ("item", self.num_items), ("interaction", self.num_interactions))
        return ", ".join(f"{number:,} {noun}{'s' * (number != 1)}" for noun, number in numbers)

    @property
    def num_users(self) -> int:
        """Number of users, each with one history."""
        return self.sequences.height

    @property
    def num_items(self) -> int:
        """Number of items in the catalogue."""
        return self.items.height

    @property
    def num_interactions(self) -> int:
        """Number of interactions of all users."""
        return int(self.offsets[-1])

    @cached_property
    def offsets(self) -> np.ndarray:
        """`int64 [num_users + 1]`: the history of user `n` is `flat[offsets[n] : offsets[n + 1]]`."""
        lengths = self.sequences["item_index"].list.len().to_numpy()
        return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))

    @cached_property
    def flat(self) -> np.ndarray:
        """`int32 [num_interactions]`: item rows of all histories, one user after the other; a view of `sequences`."""
        return self.sequences["item_index"].explode().to_numpy().view(np.int32)

    @cached_property
    def times(self) -> np.ndarray | None:
        """`int64` or `float64` `[num_interactions]`: times in the order of `flat`, in the unit of the source, dates in
        microseconds since 1970; `None` if the domain has none."""
        return self.sequences["time"].explode().to_numpy() if "time" in self.sequences.columns else None

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of ids, texts and histories without their times, independent of where and how the domain is stored."""
        digest = hashlib.sha256()
        for column in (self.items["item_id"], self.items["text"], self.sequences["user_id"]):
            _hash_strings(digest, column)
        digest.update(self.offsets.astype("<i8", copy=False))
        digest.update(self.flat.astype("<i4", copy=False))
        return digest.hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of users, items and interactions."""
        return {"users": self.num_users, "items": self.num_items, "interactions": self.num_interactions}

    def save_to_disk(self, path: str | os.PathLike) -> None:
        """
        Write the domain folder: `items.parquet`, `sequences.parquet`, `domain.json`, and a `.npy` file for each of
        `given_features`.

        All files appear at once or not at all.

        Args:
            path (`str` or `os.PathLike`): Folder to create; it must not exist yet or be empty.

        Raises:
            FileExistsError: If `path` exists and is not an empty folder.
            OSError: If the folder cannot be written, for example because the disk is full.
        """
        with new_folder(path) as draft, writing(path):
            self.items.write_parquet(draft / "items.parquet")
            self.sequences.write_parquet(draft / "sequences.parquet")
            save_given_features(draft, self.given_features)
            description = {
                "format_version": FORMAT_VERSION,
                "name": self.name,
                "counts": self.counts,
                "content_hash": self.content_hash,
                "splits": LEAVE_ONE_OUT if self.held_out else ALL_TRAIN,
                "given_features": list(self.given_features),
                "info": self.info,
            }
            text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
            (draft / "domain.json").write_text(text, encoding="utf-8")

    @classmethod
    def load_from_disk(cls, path: str | os.PathLike) -> "Domain":
        """
        Read a domain folder and check it against its recorded counts and content hash.

        Args:
            path (`str` or `os.PathLike`): Folder written by [`Domain.save_to_disk`].

        Returns:
            `Domain`: The same domain.

        Raises:
            FileNotFoundError: If the folder or one of its files is missing.
            OSError: If a file cannot be read, see [`check_file`].
            ValueError: If the folder has another format version or its files do not fit each other.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path}: no such folder, expected a domain folder (make one with `unisrec prepare`)"
            )
        if missing := [name for name in FILES if not (path / name).is_file()]:
            raise FileNotFoundError(
                f"{path}: not a domain folder, {', '.join(missing)} missing (make one with `unisrec prepare`)"
            )
        try:
            description = _read_description(path / "domain.json")
            items, sequences = (read_parquet(path / name) for name in FILES[1:])
            given = load_given_features(path, description.get("given_features", []))
            held_out = description["splits"]["protocol"] == LEAVE_ONE_OUT["protocol"]
            domain = cls(description["name"], items, sequences, description["info"], held_out, given, path)
            for key, count in domain.counts.items():
                if count != description["counts"].get(key):
                    raise ValueError(f"{count} {key}, expected {description['counts'].get(key)!r} (domain.json)")
            if domain.content_hash != description["content_hash"]:
                raise ValueError("content hash differs from the one in domain.json: a file was changed")
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: damaged domain folder ({reason}); prepare it again") from error
        return domain

    @classmethod
    def load(cls, source: "Domain | str | os.PathLike") -> "Domain":
        """Returns `source` if it is a domain in memory, otherwise the domain in that folder ([`Domain.load_from_disk`]).
        Raises `TypeError` if it is neither domain nor path."""
        if not isinstance(source, cls | str | os.PathLike):
            raise TypeError(
                f"the domain is a {type(source).__name__}, expected a Domain or the path of its folder; `build_domain` "
                "makes one of data frames"
            )
        return source if isinstance(source, cls) else cls.load_from_disk(source)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the domain to the dataset `repo_id` (`owner/name`), private if it is new, for [`Domain.from_hub`] and
        `datasets.load_dataset`, and returns the address of the commit. `options` and errors are those of [`push_domain`]."""
        from .domain_hub import push_domain

        return push_domain(self, repo_id, **options)

    @classmethod
    def from_hub(cls, repo_id: str, token: str | None = None) -> "Domain":
        """Returns the domain in the dataset `repo_id`, also `owner/name@revision`, after a download. `token` and errors are
        those of [`domain_from_hub`]."""
        from .domain_hub import domain_from_hub

        return domain_from_hub(repo_id, token)

    def report(self) -> str:
        """Returns a short table of the counts and of the rows dropped by each preparation step."""
        lengths = np.diff(self.offsets)
        evaluated = int((lengths >= MIN_INTERACTIONS).sum()) if self.held_out else 0
        lines = [
            f"{self.name}: {self._sizes()}",
            f"{lengths.mean():.2f} interactions per user, {self.items['text'].str.len_chars().mean():.1f} characters per "
            f"item text, {evaluated:,} user{'s' * (evaluated != 1)} can be evaluated",
        ]
        lines += [f"{name}: {len(rows):,} x {rows.shape[1]}" for name, rows in self.given_features.items()]
        for title, key in (("interactions", "steps"), ("items", "item_steps")):
            steps = self.info.get(key, [])
            if steps:
                lines += ["", f"{title:<60}{'dropped':>12}{'left':>12}"]
                lines += [f"  {row['step']:<58}{row['dropped']:>12,}{row['left']:>12,}" for row in steps]
        if notes := self.info.get("notes"):
            lines += ["", *map(str, notes)]
        return "\n".join(lines)


def check_output_folder(path: str | os.PathLike) -> None:
    """
    Check that writing an output folder overwrites nothing.

    Args:
        path (`str` or `os.PathLike`): Folder to be written.

    Raises:
        FileExistsError: If `path` exists and is not an empty folder.
    """
    path = Path(path)
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{path}: already exists and is not an empty folder; choose another one or remove it first"
        )


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    Write a folder atomically: it appears complete or, after an error, not at all.

    Args:
        path (`str` or `os.PathLike`): Folder to be written, as for [`check_output_folder`].

    Yields:
        `Path`: Empty temporary folder in the same directory, renamed to `path` at the end.

    Raises:
        FileExistsError: If `path` exists and is not an empty folder.
        OSError: If the folder cannot be created or renamed, see [`writing`]. Errors of the `with` block are passed on as
            they are; wrap in [`writing`] what only writes.
    """
    path = Path(path).absolute()
    check_output_folder(path)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    new_parents = [parent for parent in path.parents if not parent.exists()]
    try:
        with writing(path):
            draft.mkdir(parents=True)
        yield draft  # errors of the caller may concern what it reads, not this folder
        with writing(path):
            if path.exists():
                path.rmdir()
            os.replace(draft, path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):  # another process has created the folder meanwhile
            for parent in new_parents:
                parent.rmdir()
        raise


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """
    Convert errors of writing libraries, such as on a full disk, into one line that names the output and the cause.

    Args:
        path (`str` or `os.PathLike`): Output that is written inside the `with` block.

    Raises:
        OSError: If the output cannot be written.
    """
    try:
        yield
    except InterruptedError:  # SIGTERM, not a fault of the output
        raise
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error


def _read_description(path: Path) -> dict[str, Any]:
    """Returns the content of `domain.json` with checked types. Raises `ValueError` naming the first wrong field."""
    with reading(path):
        text = path.read_text(encoding="utf-8")
    with reading(path, "JSON file"):
        description = json.loads(text)
    if not isinstance(description, dict):
        raise ValueError(f"domain.json is a {type(description).__name__}, expected an object")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version!r}, expected {FORMAT_VERSION}")
    for name, kind in {"name": str, "info": dict, "counts": dict, "content_hash": str, "splits": dict}.items():
        if name not in description:
            raise ValueError(f"domain.json lacks {name!r}")
        if not isinstance(description[name], kind):
            raise ValueError(f"{name!r} in domain.json is {description[name]!r}, expected a {kind.__name__}")
    protocols = [splits["protocol"] for splits in (LEAVE_ONE_OUT, ALL_TRAIN)]
    if description["splits"].get("protocol") not in protocols:
        raise ValueError(
            f"the protocol of 'splits' in domain.json is {description['splits'].get('protocol')!r}, expected one of "
            f"{protocols}"
        )
    given = description.get("given_features", [])
    if not (isinstance(given, list) and all(name in GIVEN_FEATURES for name in given)):
        raise ValueError(
            f"'given_features' in domain.json is {given!r}, expected a list of {', '.join(GIVEN_FEATURES)}"
        )
    for key in ("steps", "item_steps"):
        steps = description["info"].get(key, [])
        if not (isinstance(steps, list) and all(_is_step(step) for step in steps)):
            raise ValueError(f"{key!r} in domain.json is not a list of steps, each with 'step', 'dropped' and 'left'")
    return description


def _is_step(step: Any) -> bool:
    types = {"step": str, "dropped": int, "left": int}
    return isinstance(step, dict) and all(isinstance(step.get(name), kind) for name, kind in types.items())


def _hash_strings(digest, column: pl.Series) -> None:
    """Hashes a column of strings: first the lengths, then the bytes, so that different columns have different input."""
    digest.update(column.str.len_bytes().to_numpy().astype("<u4").tobytes())
    # In slices, so that the joined string stays small.
    for part in column.to_frame().iter_slices(100_000):
        digest.update(part.to_series().str.join("").item().encode())


__all__ = ["FORMAT_VERSION", "Domain", "check_output_folder", "new_folder", "writing"]
