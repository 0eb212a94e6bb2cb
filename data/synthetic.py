"""
Synthetic domains for tests and demos: two shops for pre-training (kitchen, garden), one to transfer to (camping).

A catalogue is a sample of all combinations of brand, style, product and kind (`KINDS`). A user has a favourite brand
and a favourite style and buys 4 to 20 different items. After each item the next one is drawn in one of three ways:

- *Next step* (70 %). A pattern visible in the titles and shared by all three shops: first the small version of a
  product, then a case for it, spare parts, a care kit, the large version, then the small version of the next product
  of the same line. Among the items that fit a step, those of the favourite brand and style are likelier, and so are
  popular ones.
- *Bought together* (20 %). A pattern invisible in the titles: the items of a shop are randomly put into groups of
  three, and a user who buys one item of a group buys the next one of it.
- *Chance* (10 %). Any item, by popularity.

Brands, products and all users and items are invented.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from .domain import Domain


@dataclass(frozen=True)
class Shop:
    """Words of a shop: its brands, and its product lines with a small and a large size."""

    brands: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[str, ...]], ...]


SHOPS = {
    "kitchen": Shop(
        ("Nordkap", "Velluno", "Ovenbird", "Karsta", "Mirelle Home", "Tindrum", "Pottersby", "Zestoria"),
        (
            ("2 Cup", "8 Cup", ("Coffee Grinder", "Coffee Maker", "Milk Frother", "Coffee Mug")),
            ("0.8 L", "1.7 L", ("Tea Kettle", "Teapot", "Tea Infuser", "Tea Tin")),
            ("20 cm", "28 cm", ("Frying Pan", "Saucepan", "Wok", "Pan Lid")),
            ("23 cm", "33 cm", ("Baking Tray", "Cake Tin", "Rolling Pin", "Cooling Rack")),
            ("12 cm", "21 cm", ("Chef Knife", "Bread Knife", "Cutting Board", "Knife Block")),
            ("0.5 L", "1.2 L", ("Lunch Box", "Water Bottle", "Food Jar", "Storage Box")),
        ),
    ),
    "garden": Shop(
        ("Greenmoor", "Halvarsund", "Rootwick", "Solgarth", "Bramblow", "Terravine", "Mossgate", "Fernessa"),
        (
            ("60 cm", "120 cm", ("Raised Bed", "Trellis", "Plant Pot", "Plant Tray")),
            ("15 m", "30 m", ("Garden Hose", "Hose Reel", "Sprinkler", "Spray Nozzle")),
            ("18 cm", "25 cm", ("Pruning Shears", "Hedge Trimmer", "Pruning Saw", "Lopper")),
            ("30 cm", "90 cm", ("Garden Fork", "Spade", "Rake", "Hand Trowel")),
            ("37 cm", "57 cm", ("Charcoal Grill", "Grill Tongs", "Grill Grate", "Fire Starter")),
            ("2-Seat", "4-Seat", ("Garden Bench", "Garden Table", "Parasol", "Bench Cushion")),
        ),
    ),
    "camping": Shop(
        ("Trailhusk", "Fjellora", "Campwright", "Ridgeborn", "Tundrel", "Wildmarch", "Basecairn", "Lakenfell"),
        (
            ("2-Person", "4-Person", ("Tent", "Tent Footprint", "Tent Pegs", "Tent Lamp")),
            ("Regular", "Long", ("Sleeping Bag", "Sleeping Mat", "Camping Pillow", "Camping Blanket")),
            ("1-Burner", "2-Burner", ("Camp Stove", "Camp Kettle", "Camp Pan", "Camp Mug")),
            ("30 L", "60 L", ("Hiking Backpack", "Dry Bag", "Hydration Bladder", "Rain Poncho")),
            ("200 lm", "600 lm", ("Headlamp", "Lantern", "Flashlight", "Power Bank")),
            ("Low", "High", ("Camping Chair", "Camping Table", "Hammock", "Sun Shelter")),
        ),
    ),
}
STYLES = (
    "Stainless Steel",
    "Bamboo",
    "Matte Black",
    "Forest Green",
    "Ocean Blue",
    "Sand Beige",
    "Cherry Red",
    "Kids",
)
# The kinds of items in the order in which they are bought.
KINDS = (
    "{brand} {style} {product} {small}",
    "{brand} Carry Case for {product}, {style}",
    "{brand} Replacement Parts for {product}, {style}",
    "{brand} Care Kit for {product}, {style}",
    "{brand} {style} {product} Pro {large}",
)
# Row: kind of the last item; column: kind of the next one.
NEXT_KIND = np.array(
    [
        [0.10, 0.60, 0.15, 0.10, 0.05],
        [0.10, 0.02, 0.60, 0.18, 0.10],
        [0.10, 0.03, 0.02, 0.60, 0.25],
        [0.25, 0.02, 0.03, 0.05, 0.65],
        [0.80, 0.08, 0.05, 0.05, 0.02],
    ]
)
BOUGHT_TOGETHER, CHANCE = 0.20, 0.10
FAVOURITE_BRAND, FAVOURITE_STYLE = 15.0, 15.0
MIN_LENGTH, MAX_LENGTH, MEAN_LENGTH = 4, 20, 7


def synthetic_domains(
    seed: int = 0,
    num_source_users: int = 4000,
    num_target_users: int = 1000,
    num_source_items: int = 1000,
    num_target_items: int = 1000,
) -> dict[str, Domain]:
    r"""
    Generates three small shops with shared buying patterns but no common item: `kitchen` and `garden` for
    pre-training, `camping` to transfer to.

    Args:
        seed (`int`, *optional*, defaults to 0): The same seed gives the same domains.
        num_source_users (`int`, *optional*, defaults to 4000): Users of each of the first two.
        num_target_users (`int`, *optional*, defaults to 1000): Users of the last.
        num_source_items (`int`, *optional*, defaults to 1000): Items of each of the first two.
        num_target_items (`int`, *optional*, defaults to 1000): Items of the last.

    Returns:
        `dict[str, Domain]`: Domains by name, the target domain last.

    Raises:
        ValueError: If there are no users, or a catalogue is too small or too large for the vocabulary.
    """
    sizes = {
        "kitchen": (num_source_users, num_source_items),
        "garden": (num_source_users, num_source_items),
        "camping": (num_target_users, num_target_items),
    }
    return {
        name: _shop_domain(name, users, items, np.random.default_rng([seed, number]), seed)
        for number, (name, (users, items)) in enumerate(sizes.items())
    }


def _shop_domain(name: str, num_users: int, num_items: int, rng: np.random.Generator, seed: int) -> Domain:
    """Generates one shop: its catalogue, then the histories of its users."""
    shop = SHOPS[name]
    num_products = sum(len(products) for _, _, products in shop.lines)
    parts = (len(shop.brands), len(STYLES), num_products, len(KINDS))
    if num_users < 1 or not MAX_LENGTH <= num_items <= np.prod(parts):
        raise ValueError(
            f"{name}: {num_users} users and {num_items} items asked for; expected at least 1 user and "
            f"{MAX_LENGTH} to {np.prod(parts)} items"
        )
    brand, style, product, kind = np.unravel_index(rng.choice(np.prod(parts), num_items, replace=False), parts)
    products = [(small, large, product) for small, large, line in shop.lines for product in line]
    texts = [
        KINDS[k].format(
            brand=shop.brands[b], style=STYLES[s], product=products[p][2], small=products[p][0], large=products[p][1]
        )
        for b, s, p, k in zip(brand, style, product, kind, strict=True)
    ]
    line = np.repeat(np.arange(len(shop.lines)), [len(products) for _, _, products in shop.lines])[product]

    popularity = rng.lognormal(sigma=0.7, size=num_items)
    favourite_brand = rng.integers(len(shop.brands), size=(num_users, 1))
    favourite_style = rng.integers(len(STYLES), size=(num_users, 1))
    taste = popularity * np.where(brand == favourite_brand, FAVOURITE_BRAND, 1)
    taste *= np.where(style == favourite_style, FAVOURITE_STYLE, 1)
    histories = _walk(_step_weights(product, line, kind), taste, popularity, _groups_of_three(num_items, rng), rng)

    items = pl.DataFrame({"item_id": [f"{name}-{row:04d}" for row in range(num_items)], "text": texts})
    users = pl.Series("user_id", [f"{name}-user-{row:05d}" for row in range(num_users)])
    sequences = pl.DataFrame([users, pl.Series("item_index", histories).cast(pl.List(pl.UInt32))])
    return Domain(name, items, sequences, {"source": "synthetic (unisrec.data.synthetic)", "seed": seed})


def _step_weights(product: np.ndarray, line: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Returns the weight of each item as the next step after each other item: `[num_items, num_items]`."""
    same_product = product[:, None] == product
    same_line = line[:, None] == line
    next_product = same_line & (product[:, None] + 1 == product)
    # A new product comes from the same line; case, parts, care kit and large version belong to the same product.
    to_new_product = np.select([same_product, next_product, same_line], [1.0, 30.0, 8.0], 1.0)
    to_addition = np.select([same_product, same_line], [60.0, 4.0], 0.3)
    return NEXT_KIND[kind[:, None], kind] * np.where(kind == 0, to_new_product, to_addition)


def _groups_of_three(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Returns for each item the next one of its group; leftover items map to themselves."""
    partner = np.arange(num_items)
    groups = rng.permutation(num_items)[: num_items - num_items % 3].reshape(-1, 3)
    partner[groups] = np.roll(groups, -1, axis=1)
    return partner


def _walk(
    step_weights: np.ndarray, taste: np.ndarray, popularity: np.ndarray, partner: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Generates the histories of all users at once, position by position."""
    num_users = len(taste)
    lengths = np.minimum(MIN_LENGTH - 1 + rng.geometric(1 / (MEAN_LENGTH - MIN_LENGTH + 1), num_users), MAX_LENGTH)
    bought = np.zeros((num_users, MAX_LENGTH), dtype=np.int64)
    seen = np.zeros(taste.shape, dtype=bool)
    for position in range(MAX_LENGTH):
        users = np.flatnonzero(lengths > position)
        last = bought[users, position - 1]
        way = rng.random((len(users), 1))
        weights = taste[users] if position == 0 else step_weights[last] * taste[users]
        weights = np.where(way < CHANCE, popularity, weights)
        weights[seen[users]] = 0
        total = weights.cumsum(axis=1)
        draws = (1 - rng.random((len(users), 1))) * total[:, -1:]  # above 0, so that no item of weight 0 is drawn
        chosen = (total < draws).sum(axis=1)
        if position > 0:
            together = (way[:, 0] > 1 - BOUGHT_TOGETHER) & ~seen[users, partner[last]]
            chosen = np.where(together, partner[last], chosen)
        bought[users, position] = chosen
        seen[users, chosen] = True
    return [row[:length] for row, length in zip(bought, lengths, strict=True)]


__all__ = ["synthetic_domains"]
