"""Records of the training data in the configuration of a model, and the check that test data was not trained on."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration import UniSRecConfig
from .domain import Domain
from .splits import MIN_INTERACTIONS


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
        `dict`: `domain`, its `content_hash`, `trained_on` (`"all"` interactions, `"all but the last two"` of each user, or
            those `"before"` the cut of the domain, whose time is `before`), `text_encoder`.
    """
    record = {"domain": domain.name, "content_hash": domain.content_hash, "text_encoder": text_encoder}
    if domain.cut is not None:
        return record | {"trained_on": "before", "before": domain.cut.time}
    return record | {"trained_on": "all but the last two" if domain.held_out else "all"}


def merge_records(*lists: Iterable[Record] | None) -> list[Record]:
    """Returns the distinct records of several lists, in order of first appearance."""
    merged: list[Record] = []
    for records in lists:
        merged += [record for record in records or () if record not in merged]
    return merged


def has_seen(config: UniSRecConfig, domain: Domain) -> bool:
    """Returns whether a model was trained on interactions that a domain holds out for validation and test; also if the
    domain has no times that could tell."""
    return any(
        record.get("content_hash") == domain.content_hash and _overlaps(record, domain)
        for record in config.training_data or ()
    )


def _overlaps(record: Record, domain: Domain) -> bool:
    """Returns whether a record of training on a domain includes interactions that the domain holds out."""
    trained_on, before = record.get("trained_on"), record.get("before")
    if trained_on == "all":
        return True
    if trained_on == "before" and (domain.times is None or not isinstance(before, int | float)):
        return True
    if trained_on != "before" and domain.cut is None:
        return False  # both hold out the last two
    lengths = np.diff(domain.offsets)
    from_end = np.repeat(domain.offsets[1:], lengths) - np.arange(domain.num_interactions)
    last_two = (from_end <= 2) & np.repeat(lengths >= MIN_INTERACTIONS, lengths)
    trained = domain.times < before if trained_on == "before" else ~last_two
    held_out = last_two if domain.cut is None else domain.times >= domain.cut.time
    return bool((trained & held_out).any())


def check_unseen(name: str | os.PathLike, config: UniSRecConfig, domain: Domain, advice: str) -> None:
    """Raises [`SeenInTraining`] if a model [`has_seen`] the interactions that a domain holds out; `name` is in the message."""
    if not has_seen(config, domain):
        return
    if any(
        record.get("content_hash") == domain.content_hash and record.get("trained_on") == "all"
        for record in config.training_data or ()
    ):
        what = f"all interactions of {domain.name!r}, those held out for validation and test included"
    else:
        by = "for validation and test" if domain.cut is None else f"from {domain.cut.shown} on"
        what = f"interactions of {domain.name!r} that are held out {by}"
        if domain.cut is not None:
            advice += f"; finetune and pretrain hold them out with --split {domain.cut.name}"
    raise SeenInTraining(f"{name} was trained on {what}: metrics there say nothing about new interactions; {advice}.")


def check_same_data(checkpoint: Path, config: UniSRecConfig) -> None:
    r"""
    Checks that a run which is resumed goes on with the interactions that it began with.

    Args:
        checkpoint (`Path`): Checkpoint folder of the run. One without a readable record is not judged.
        config ([`UniSRecConfig`]): Configuration of the model that goes on, with its record.

    Raises:
        ValueError: If both were trained on a domain, and not on the same part of it.
    """
    try:
        found = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["training_data"]
        then = _parts(found)
    except (OSError, ValueError, KeyError, TypeError):
        return
    now = _parts(config.training_data or ())
    for (name, content_hash), parts in now.items():
        if (before := then.get((name, content_hash), parts)) != parts:
            raise ValueError(
                f"it learned from {' and '.join(sorted(before))} of {name!r}, and this run would learn from "
                f"{' and '.join(sorted(parts))}: give the same --split and --hold_out"
            )


def _parts(records: Iterable[Record]) -> dict[tuple[str, str], set[str]]:
    """Returns the parts of each domain that records name, in words."""
    parts: dict[tuple[str, str], set[str]] = {}
    for record in records:
        before, trained_on = record.get("before"), record["trained_on"]
        part = f"{trained_on} interactions" if before is None else f"the interactions before {before}"
        parts.setdefault((record["domain"], record["content_hash"]), set()).add(part)
    return parts


__all__ = [
    "SeenInTraining",
    "check_same_data",
    "check_unseen",
    "has_seen",
    "merge_records",
    "training_record",
]
