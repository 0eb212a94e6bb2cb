"""Domains as datasets of the Hugging Face Hub: their files, their card, and the way back."""

from dataclasses import replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import yaml
from huggingface_hub import snapshot_download

from ..modeling_unisrec.hub import create_repository, hub_errors, pin_revision, split_revision, upload_dataset
from ..modeling_unisrec.outgoing import check_outgoing
from .domain import FILES, Domain
from .markdown import code, escape


CARD = """\
---
{head}---

# {title}

A catalogue of items with texts, and the histories of users in the order of time, for sequential recommendation:
{counts}.

## Use

```python
from datasets import load_dataset

items = load_dataset("{repo_id}", "items", split="train")
sequences = load_dataset("{repo_id}", "sequences", split="train")
```

With [UniSRec](https://arxiv.org/abs/2206.05941), `pip install unisrec`:

```python
from unisrec import Domain, finetune

domain = Domain.from_hub("{repo_id}")
```

## Tables

| table | column | what it is |
|---|---|---|
| `items` | `item_id` | id of the item, unique |
| | `text` | text of the item |
{more}| `sequences` | `user_id` | id of the user, unique{numbered} |
| | `item_index` | rows of `items`, counted from 0, oldest first |
{times}
{splits}

## Preparation

```text
{report}
```
"""


def push_domain(
    domain: Domain,
    repo_id: str,
    *,
    private: bool = True,
    number_users: bool = False,
    license: str | None = None,
    revision: str | None = None,
    message: str = "Upload domain",
    token: str | None = None,
) -> str:
    """
    Upload a domain as a dataset: its tables, `domain.json`, given text vectors, and a card.

    Histories tell much about a person, and more of them can point to one even without a name: publish only what you may.

    Args:
        domain ([`Domain`]): The domain; it is not changed.
        repo_id (`str`): `owner/name`; without owner, a repository of the user.
        private (`bool`, *optional*, defaults to `True`): Whether a new repository is private.
        number_users (`bool`, *optional*, defaults to `False`):
            Whether user ids are replaced by numbers in their order. The content hash is then another one, so that
            checkpoints trained on either do not know the other.
        license (`str`, *optional*): License of the data, as the Hub names it, for the card.
        revision (`str`, *optional*): Branch, created if missing; `main` by default.
        message (`str`, *optional*, defaults to `"Upload domain"`): Commit message.
        token (`str`, *optional*): Token to use instead of the stored one.

    Returns:
        `str`: Address of the commit.

    Raises:
        OSError: If the repository cannot be created or the upload fails.
        ValueError: If the repository exists and is public where a private one is asked for, the domain is cut at a moment,
            or a file does not pass [`check_outgoing`].
    """
    if domain.cut is not None:
        raise ValueError(
            f"{domain.name}: cut at a moment, which is not stored; push the whole domain and cut it again."
        )
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "domain"
        shared = write_dataset(domain, folder, number_users)
        card = folder / "README.md"
        card.write_text(dataset_card(shared, repo_id, number_users, license), encoding="utf-8")
        check_outgoing(folder, sorted(file.name for file in folder.iterdir()))  # before anything is created
        repo_id = create_repository(repo_id, private, revision, token, repo_type="dataset")
        card.write_text(dataset_card(shared, repo_id, number_users, license), encoding="utf-8")
        return str(upload_dataset(folder, repo_id, message, revision, token).commit_url)


def write_dataset(domain: Domain, folder: Path, number_users: bool = False) -> Domain:
    """Writes a domain to a new `folder` as it is uploaded, and returns it: without the folders of this machine that it was
    read from and, with `number_users`, with numbers instead of the ids of users."""
    info, sequences = {**domain.info}, domain.sequences
    if isinstance(files := info.get("files"), list):
        info["files"] = [PurePath(file).name if Path(file).is_absolute() else file for file in map(str, files)]
    if number_users:
        sequences = sequences.with_columns(user_id=pl.int_range(sequences.height, eager=True).cast(pl.String))
    shared = replace(domain, info=info, sequences=sequences, folder=None, encoded={})
    shared.save_to_disk(folder)
    return shared


def dataset_card(domain: Domain, repo_id: str, number_users: bool = False, license: str | None = None) -> str:
    """
    Returns the card of a domain, with the head that lets `load_dataset` find its tables.

    Args:
        domain ([`Domain`]): The domain.
        repo_id (`str`): Id of the dataset in the examples.
        number_users (`bool`, *optional*, defaults to `False`): Whether user ids are numbers instead of the shop's.
        license (`str`, *optional*): License of the data.
    """
    head: dict[str, Any] = {"license": license} if license is not None else {}
    head |= {
        "tags": ["recommendation", "sequential-recommendation", "unisrec"],
        "configs": [
            {"config_name": "sequences", "data_files": "sequences.parquet", "default": True},
            {"config_name": "items", "data_files": "items.parquet"},
        ],
    }
    more = [
        f"| | {code(name).replace('|', chr(92) + '|')} | column of the shop |\n"
        for name in domain.items.columns
        if name not in ("item_id", "text")
    ]
    splits = "All interactions are for training."
    if domain.held_out:
        splits = (
            "The last interaction of each user with three or more is for testing, the one before it for validation; "
            "the files hold all of them."
        )
    return CARD.format(
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True),
        title=escape(domain.name),
        counts=f"{domain.num_users:,} users, {domain.num_items:,} items, {domain.num_interactions:,} interactions",
        repo_id=repo_id,
        more="".join(more),
        numbered=", a number instead of the id of the shop" if number_users else "",
        times="| | `time` | time of each interaction |\n" if domain.times is not None else "",
        splits=splits,
        report=domain.report().replace("```", ""),
    )


def domain_from_hub(repo_id: str, token: str | None = None) -> Domain:
    """
    Download a domain.

    Args:
        repo_id (`str`): Id of the dataset, also as `owner/name@revision`.
        token (`str`, *optional*): Token to use instead of the stored one.

    Returns:
        [`Domain`]: The domain, without a folder: text vectors are not written into the cache of the Hub.

    Raises:
        OSError: If the dataset does not exist, is not accessible, or is neither reachable nor cached.
        ValueError: If it holds no domain, or a file of it is damaged.
    """
    name, revision = split_revision(repo_id)
    options = pin_revision(name, revision, "dataset", token)
    with hub_errors(name, revision):
        folder = snapshot_download(name, repo_type="dataset", allow_patterns=[*FILES, "*.npy"], token=token, **options)
    try:
        return replace(Domain.load_from_disk(folder), folder=None)
    except FileNotFoundError as error:
        raise ValueError(
            f"{repo_id}: no domain, expected {', '.join(FILES)}; push one by `Domain.push_to_hub`"
        ) from error


__all__ = ["dataset_card", "domain_from_hub", "push_domain", "write_dataset"]
