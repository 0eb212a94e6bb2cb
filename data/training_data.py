"""Records of the training data in the configuration of a model, and the check that test data was not trained on."""

import os
from collections.abc import Iterable
from typing import Any

from ..configuration import UniSRecConfig
from .domain import Domain


Record = dict[str, Any]


class SeenInTraining(ValueError):
    """Raised if a model is about to be tested on interactions that it was trained on."""


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
    """Returns the distinct records of several lists, in order of first appearance."""
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
    """Raises [`SeenInTraining`] if a model [`has_seen`] the interactions that a domain holds out; `name` is in the message."""
    if has_seen(config, domain):
        raise SeenInTraining(
            f"{name} was trained on all interactions of {domain.name!r}, those held out for validation and test included: "
            f"metrics there say nothing about new interactions; {advice}."
        )


__all__ = [
    "SeenInTraining",
    "check_unseen",
    "has_seen",
    "merge_records",
    "training_record",
]
