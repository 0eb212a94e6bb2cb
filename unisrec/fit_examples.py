"""Recommendations of a fitted checkpoint for test users, for its report."""

from pathlib import Path
from typing import Any

import numpy as np

from .data import Domain, domain_split
from .recommender import Recommender
from .reports.fit_report import Example


EXAMPLES, COVERAGE_USERS, SHOWN = 10, 2_000, 5


def example_histories(folder: Path, domain: Domain) -> tuple[list[Example], dict[str, Any]]:
    """
    Recommendations of a checkpoint for test users.

    Args:
        folder (`Path`): The checkpoint, with the catalogue of the domain.
        domain ([`Domain`]): The data.

    Returns:
        `tuple[list[Example], dict]`: Ten users, evenly spread; and how many items are among the ten best of up to 2,000
        users: `users`, `items`, `share` of the catalogue.
    """
    test = domain_split(domain, "test")
    ids, texts = domain.items["item_id"].to_list(), domain.items["text"].to_list()
    chosen = np.unique(np.linspace(0, len(test) - 1, min(COVERAGE_USERS, len(test))).astype(int))
    histories = [test.flat[test.offsets[user] : test.offsets[user + 1]].tolist() for user in chosen]
    found = Recommender.from_pretrained(folder).recommend([[ids[row] for row in history] for history in histories])
    items = {item.item_id for recommended in found for item in recommended}
    examples = []
    for place in np.unique(np.linspace(0, len(chosen) - 1, min(EXAMPLES, len(chosen))).astype(int)):
        user, recommended = chosen[place], found[place][:SHOWN]
        examples.append(
            Example(
                domain.sequences["user_id"][int(test.users[user])],
                [texts[row] for row in histories[place][-SHOWN:]],
                texts[test.targets[user]],
                [(item.text, item.score) for item in recommended],
            )
        )
    return examples, {"users": len(chosen), "items": len(items), "share": len(items) / domain.num_items}


__all__ = ["example_histories"]
