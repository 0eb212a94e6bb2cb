"""Records of the training data in the configuration of a model, and the check that test data was not trained on."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..configuration import UniSRecConfig
from ..data import Domain


TRAINING_DATA_FILE = "training_data.json"  # beside adapters, whose folder has no config.json

Record = dict[str, Any]


class SeenInTraining(ValueError):
    """Raised if a model would be tested on interactions that it was trained on."""


def training_record(domain: Domain, text_encoder: bool) -> Record:
    r"""
    Returns the record of the training on one domain.

    Args:
        domain ([`Domain`]): The domain.
        text_encoder (`bool`): Whether the text encoder is trained on it too.

    Returns:
        `dict`: `domain`, its `content_hash`, `trained_on` (`"all"` interactions, or `"all but the last two"` of each user),
            `text_encoder`.
    """
    trained_on = "all but the last two" if domain.held_out else "all"
    return {
        "domain": domain.name,
        "content_hash": domain.content_hash,
        "trained_on": trained_on,
        "text_encoder": text_encoder,
    }


def merge_records(*lists: Iterable[Record] | None) -> list[Record]:
    """All records, each once, in the order given."""
    merged: list[Record] = []
    for records in lists:
        merged += [record for record in records or () if record not in merged]
    return merged


def has_seen(config: UniSRecConfig, domain: Domain) -> bool:
    """Returns whether a model was trained on the interactions that a domain holds out for validation and test."""
    return any(
        record.get("content_hash") == domain.content_hash and record.get("trained_on") == "all"
        for record in config.training_data or ()
    )


def check_unseen(name: str | os.PathLike, config: UniSRecConfig, domain: Domain, advice: str) -> None:
    """Raises [`SeenInTraining`] if the model of that name [`has_seen`] what it would be tested on."""
    if has_seen(config, domain):
        raise SeenInTraining(
            f"{name} was trained on all interactions of {domain.name!r}, those held out for validation and test included: "
            f"metrics there say nothing about new interactions; {advice}."
        )


def save_training_data(config: UniSRecConfig, folder: Path) -> None:
    """Writes the records of a model into a folder of adapters."""
    text = json.dumps(config.training_data or [], indent=2, ensure_ascii=False)
    (folder / TRAINING_DATA_FILE).write_text(text + "\n", encoding="utf-8")


def load_training_data(name: str, revision: str | None = None) -> list[Record] | None:
    """The records beside adapters in a folder or repository, `None` where there are none."""
    file = cached_file(name, TRAINING_DATA_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON file ({error}); fetch the adapters again.") from error


__all__ = [
    "TRAINING_DATA_FILE",
    "SeenInTraining",
    "check_unseen",
    "has_seen",
    "load_training_data",
    "merge_records",
    "save_training_data",
    "training_record",
]
