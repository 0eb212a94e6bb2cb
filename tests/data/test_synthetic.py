import numpy as np
import pytest

from unisrec.data import Domain, leave_one_out
from unisrec.data.synthetic import BOUGHT_TOGETHER, KINDS, MAX_LENGTH, MIN_LENGTH, SHOPS, STYLES, synthetic_domains


SIZES = {"num_source_users": 300, "num_target_users": 400, "num_source_items": 600, "num_target_items": 601}


@pytest.fixture(scope="module")
def domains():
    return synthetic_domains(seed=0, **SIZES)


def item_facts(domain):
    """Brand, style, product and kind of each item, read from its title alone."""
    shop = SHOPS[domain.name]
    products = [(small, large, product) for small, large, line in shop.lines for product in line]
    facts = {
        kind.format(brand=brand, style=style, product=product, small=small, large=large): (
            brand,
            style,
            product,
            number,
        )
        for number, kind in enumerate(KINDS)
        for brand in shop.brands
        for style in STYLES
        for small, large, product in products
    }
    return [facts[text] for text in domain.items["text"]]


def transitions(domain):
    """All pairs of items bought one after the other."""
    before = np.ones(domain.num_interactions, dtype=bool)
    before[domain.offsets[1:] - 1] = False
    rows = np.flatnonzero(before)
    return domain.flat[rows], domain.flat[rows + 1]


def test_sizes_and_names(domains):
    assert list(domains) == ["kitchen", "garden", "camping"]
    assert [domain.num_users for domain in domains.values()] == [300, 300, 400]
    assert [domain.num_items for domain in domains.values()] == [600, 600, 601]
    for name, domain in domains.items():
        assert domain.name == name
        assert domain.info["seed"] == 0
        lengths = np.diff(domain.offsets)
        assert (lengths.min(), lengths.max()) == (MIN_LENGTH, MAX_LENGTH)


def test_one_user_is_enough():
    domain = synthetic_domains(**(SIZES | {"num_target_users": 1}))["camping"]
    assert domain.num_users == 1


def test_titles_are_unique_and_shops_share_none(domains):
    titles = [text for domain in domains.values() for text in domain.items["text"]]
    assert len(set(titles)) == len(titles)
    brands = [brand for shop in SHOPS.values() for brand in shop.brands]
    assert len(set(brands)) == len(brands)


def test_nobody_buys_an_item_twice(domains):
    for domain in domains.values():
        assert domain.sequences["item_index"].list.n_unique().to_list() == np.diff(domain.offsets).tolist()


def test_the_seed_decides_everything(domains):
    hashes = {name: domain.content_hash for name, domain in domains.items()}
    assert {name: domain.content_hash for name, domain in synthetic_domains(seed=0, **SIZES).items()} == hashes
    for name, domain in synthetic_domains(seed=1, **SIZES).items():
        assert domain.content_hash != hashes[name]


def test_a_source_does_not_depend_on_the_size_of_the_target(domains):
    other = synthetic_domains(seed=0, **(SIZES | {"num_target_users": 50}))
    assert other["kitchen"].content_hash == domains["kitchen"].content_hash
    assert other["camping"].content_hash != domains["camping"].content_hash


def test_titles_explain_steps_in_order(domains):
    for domain in domains.values():
        facts = item_facts(domain)
        before, after = transitions(domain)
        kinds = np.array([kind for *_, kind in facts])
        case_then_parts = np.mean((kinds[before] == 1) & (kinds[after] == 2))
        parts_then_case = np.mean((kinds[before] == 2) & (kinds[after] == 1))
        assert case_then_parts > 3 * parts_then_case
        # The favourite style holds on: far more than the 1 in 8 of chance, though few fit.
        styles = np.array([STYLES.index(style) for _, style, *_ in facts])
        assert np.mean(styles[before] == styles[after]) > 0.18


def test_some_pairs_are_explained_by_ids_alone():
    domain = synthetic_domains(**(SIZES | {"num_target_users": 2000, "num_target_items": 100}))["camping"]
    facts = item_facts(domain)
    before, after = transitions(domain)
    half = np.arange(len(before)) < len(before) // 2
    counts, held_out = np.zeros((2, domain.num_items, domain.num_items))
    np.add.at(counts, (before[half], after[half]), 1)
    np.add.at(held_out, (before[~half], after[~half]), 1)
    unrelated = np.array([[not set(a) & set(b) for b in facts] for a in facts])
    # What most often comes next by the first half of the users, among items with no word in common.
    partners = np.where(unrelated, counts, -1).argmax(axis=1)
    share = held_out[np.arange(domain.num_items), partners].sum() / held_out.sum()
    assert share > BOUGHT_TOGETHER / 2


def test_a_domain_survives_its_folder(domains, tmp_path):
    domains["camping"].save_to_disk(tmp_path / "camping")
    loaded = Domain.load_from_disk(tmp_path / "camping")
    assert loaded.content_hash == domains["camping"].content_hash
    assert len(leave_one_out(loaded, "test")) == 400


@pytest.mark.parametrize("sizes", [{"num_target_users": 0}, {"num_target_items": 10}, {"num_target_items": 10_000}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"^camping: \d+ users and \d+ items asked for; expected"):
        synthetic_domains(**(SIZES | sizes))
