"""Domains as datasets of the Hub."""

import json

import polars as pl
import pytest
import yaml
from datasets import load_dataset

from unisrec.data import Domain
from unisrec.data.domain_hub import dataset_card, push_domain, write_dataset


@pytest.fixture
def domain(make_domain, tmp_path):
    plain = make_domain()
    items = plain.items.with_columns(price=pl.lit(4.9), **{"a|`b`": pl.lit("x")})
    info = {"files": ["/home/ann/clicks.csv", "owner/clicks@main"], "steps": []}
    return Domain("My `toys`", items, plain.sequences, info)


def test_tables_load_as_a_dataset_and_as_a_domain(domain, tmp_path):
    folder = tmp_path / "shared"
    shared = write_dataset(domain, folder)
    (folder / "README.md").write_text(dataset_card(shared, "shop/toys", license="cc-by-4.0"), encoding="utf-8")
    for name, table in (("items", domain.items), ("sequences", domain.sequences)):
        found = load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert found.to_polars().to_dict(as_series=False) == table.to_dict(as_series=False)
    again = Domain.load_from_disk(folder)
    assert again.content_hash == domain.content_hash
    assert again.info["files"] == ["clicks.csv", "owner/clicks@main"]
    assert domain.info["files"][0] == "/home/ann/clicks.csv"
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "40 users, 30 items" in card
    assert 'Domain.from_hub("shop/toys")' in card


def test_users_by_numbers(domain, tmp_path):
    write_dataset(domain, tmp_path / "shared", number_users=True)
    again = Domain.load_from_disk(tmp_path / "shared")
    assert again.sequences["user_id"].to_list() == [str(number) for number in range(40)]
    assert again.flat.tolist() == domain.flat.tolist()
    assert again.content_hash != domain.content_hash


def test_what_is_not_pushed(domain):
    secret = Domain(domain.name, domain.items, domain.sequences, {"source": "/home/ann/data/clicks"})
    with pytest.raises(ValueError, match="it holds the path '/home/ann"):
        push_domain(secret, "shop/toys")  # refused before the Hub is asked


PROGRAM = """
import json, sys
from unisrec.data import Domain
folder = sys.argv[1]
domain = Domain.load_from_disk(folder)
url = domain.push_to_hub("shop/toys", private=False, license="mit")
private = Domain.load_from_disk(folder).push_to_hub("toys-of-customers", number_users=True)
again = Domain.from_hub("shop/toys@main")
numbered = Domain.from_hub("shop/toys-of-customers")
errors = []
for call in (
    lambda: domain.push_to_hub("shop/toys"),
    lambda: domain.push_to_hub("rival/toys"),
    lambda: Domain.from_hub("shop/nothing"),
    lambda: Domain.from_hub("shop/toys@v9"),
):
    try:
        call()
    except (OSError, ValueError) as error:
        errors.append(f"{type(error).__name__}: {error}")
print(json.dumps([url, private, again.content_hash, str(again.folder), numbered.sequences["user_id"][1], errors]))
"""


@pytest.mark.slow
def test_to_the_hub_and_back(domain, hub, tmp_path):
    folder = tmp_path / "domain"
    domain.save_to_disk(folder)
    url, private, content_hash, loaded_from, user, errors = hub.run(PROGRAM, folder, HF_TOKEN="hf_shop")
    assert url.startswith(f"{hub.url}/")
    assert "shop/toys-of-customers" in private
    assert (content_hash, loaded_from, user) == (domain.content_hash, "None", "1")
    public, rights, missing, revision = errors
    assert "shop/toys is there already and public" in public
    assert "the Hub refuses rival/toys" in rights
    assert "the Hub shows no repository shop/nothing" in missing
    assert "has no revision 'v9'" in revision
    assert json.dumps(errors).count("\\n") == 0
