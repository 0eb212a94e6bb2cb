"""Rules of a shop: filters, caps, diversity and popularity, against loops over users and items."""

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import ExactIndex, Recommender
from unisrec.recommender.rules import Cap, Rules, make_rules


NUM_ITEMS = 300


@pytest.fixture
def make_recommender(make_model):
    """Makes recommenders of 300 items without a text encoder."""

    def make(**fields) -> Recommender:
        generator = torch.Generator().manual_seed(1)
        rows = range(NUM_ITEMS)
        columns = pl.DataFrame(
            {
                "brand": [None if row % 11 == 0 else f"b{row % 4}" for row in rows],
                "price": [None if row % 13 == 0 else row / 10 for row in rows],
                "stock": [row % 5 for row in rows],
            }
        )
        vectors = torch.randn(NUM_ITEMS, 16, generator=generator)
        catalogue = ItemCatalogue(
            [f"i{row}" for row in rows], [f"pen {row}" for row in rows], vectors, columns=columns
        )
        return Recommender(make_model(**fields), UniSRecProcessor(catalogue=catalogue, max_history_length=10))

    return make


HISTORIES = [["i1"], ["i2", "i7", "i9"], ["i44", "i3"], ["i299"], ["i5"] * 12]


def ids(items) -> list[str]:
    return [item.item_id for item in items]


# Against a loop


def loop(scores, vectors, top_k, groups, limits, diversity) -> list[list[float]]:
    """The list of one user, item by item: (row, value of each row that could have been chosen)."""
    chosen, steps = [], []
    while len(chosen) < top_k:
        values = {}
        for row, score in enumerate(scores):
            full = any(
                group[row] >= 0 and sum(group[other] == group[row] for other in chosen) >= limit
                for group, limit in zip(groups, limits, strict=True)
            )
            if row in chosen or score == -np.inf or full:
                continue
            nearest = max((float(vectors[row] @ vectors[other]) for other in chosen), default=0.0)
            values[row] = (1 - diversity) * score - diversity * nearest
        if not values:
            break
        best = max(values.values())
        row = min(row for row, value in values.items() if value == best)
        chosen.append(row)
        steps.append((row, values))
    return steps


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_equals_a_loop_over_users_and_items(seed, diversity):
    rng = np.random.default_rng(seed)
    num_items, num_users, top_k = int(rng.integers(4, 60)), 5, int(rng.integers(1, 12))
    vectors = F.normalize(torch.from_numpy(rng.normal(size=(num_items, 6))).float(), dim=-1)
    users = F.normalize(torch.from_numpy(rng.normal(size=(num_users, 6))).float(), dim=-1)
    groups = [torch.from_numpy(rng.integers(-1, 4, num_items)), torch.from_numpy(rng.integers(-1, 2, num_items))]
    limits = rng.integers(1, 4, 2).tolist()
    hidden = [rng.choice(num_items, size=rng.integers(0, 3), replace=False).tolist() for _ in range(num_users)]
    candidates = torch.from_numpy(rng.random(num_items) < 0.8)
    rules = Rules([Cap(*pair) for pair in zip(groups, limits, strict=True)], diversity)
    scores, rows = rules.search(ExactIndex(vectors), users, top_k, hidden, candidates)
    assert scores.shape == rows.shape == (num_users, min(top_k, num_items))
    for user in range(num_users):
        expected = (users[user] @ vectors.T).masked_fill(~candidates, -torch.inf)
        expected[hidden[user]] = -torch.inf
        # Stable order of equal values is that of the scores.
        steps = loop(expected.tolist(), vectors, top_k, [group.tolist() for group in groups], limits, diversity)
        found = [row for row, score in zip(rows[user].tolist(), scores[user].tolist(), strict=True) if score > -np.inf]
        assert len(found) == len(steps)
        if diversity == 1:  # the first is arbitrary by the formula: the best of all
            assert found[:1] == [int(expected.argmax())][: len(found)]
            continue
        assert found == [row for row, _ in steps]
        assert scores[user, : len(found)].tolist() == pytest.approx(expected[found].tolist(), abs=1e-6)


def test_caps_beyond_the_pool_equal_reading_the_whole_ranking():
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(2000, 8, generator=generator), dim=-1)
    users = F.normalize(torch.randn(7, 8, generator=generator), dim=-1)
    groups = (torch.arange(2000) >= 1990).long()  # ten items of one group among 1,990 of another
    groups[(users[:3] @ vectors.T).topk(400).indices.flatten()] = 0  # whose best are far down the ranking
    scores, rows = Rules([Cap(groups, 2)]).search(ExactIndex(vectors), users, 6, [[]] * 7)
    for user in range(7):
        ranked, left = (users[user] @ vectors.T).sort(descending=True).indices.tolist(), {0: 2, 1: 2}
        expected = []
        for row in ranked:
            if left[int(groups[row])]:
                left[int(groups[row])] -= 1
                expected.append(row)
        assert rows[user][scores[user] > -torch.inf].tolist() == expected


@pytest.mark.parametrize("fields", [{}, {"similarity": "dot"}])
def test_rules_together_follow_the_definition(make_recommender, fields):
    recommender = make_recommender(**fields)
    options = {"where": "stock > 1 AND price < 25", "cap": {"brand": 2, "stock": 3}, "diversity": 0.4}
    found = recommender.recommend(HISTORIES, 8, columns=["brand", "stock", "price"], **options)
    table = recommender.processor.catalogue.table()
    allowed = ((table["stock"] > 1) & (table["price"] < 25)).fill_null(False).to_numpy()
    vectors = torch.from_numpy(recommender.item_embeds)
    unit, groups = F.normalize(vectors, dim=-1), []
    for name in ("brand", "stock"):
        codes = {value: place for place, value in enumerate(sorted(table[name].drop_nulls().unique().to_list()))}
        groups.append([codes.get(value, -1) for value in table[name]])
    for history, items in zip(HISTORIES, found, strict=True):
        scores = torch.from_numpy(recommender.encode_users([history]))[0] @ vectors.T
        scores[[not each for each in allowed]] = -torch.inf
        scores[[int(item[1:]) for item in history]] = -torch.inf
        pool = scores.sort(descending=True, stable=True).indices[:100]
        kept = torch.full_like(scores, -torch.inf)
        kept[pool] = scores[pool]
        if fields:
            kept /= scores[pool][scores[pool] > -torch.inf].abs().max()
        steps = loop(kept.tolist(), unit, 8, groups, (2, 3), 0.4)
        for item, (_, values) in zip(items, steps, strict=True):
            row = int(item.item_id[1:])
            assert values[row] == pytest.approx(max(values.values()), abs=1e-5)
            assert item.score == pytest.approx(scores[row].item(), abs=1e-5)
            assert item.columns == dict(table.select("brand", "stock", "price").row(row, named=True))


def test_without_rules_nothing_changes(make_recommender):
    recommender = make_recommender()
    plain = recommender.recommend(HISTORIES, 20)
    assert recommender.recommend(HISTORIES, 20, where="stock >= 0", cap={"brand": 10**30}, diversity=0) == plain
    assert recommender.recommend(HISTORIES, 20, diversity=0.0, cap={}, where=[True] * NUM_ITEMS) == plain
    assert recommender.recommend(HISTORIES, 20, popularity="stock") == plain
    for alone, together in zip(
        HISTORIES, recommender.recommend(HISTORIES, 9, diversity=0.5, cap={"brand": 2}), strict=True
    ):
        assert ids(recommender.recommend([alone], 9, diversity=0.5, cap={"brand": 2})[0]) == ids(together)


def test_more_diversity_is_more_diverse(make_recommender):
    recommender = make_recommender()
    unit = torch.from_numpy(recommender.item_embeds)
    means = []
    for diversity in (0.0, 0.3, 0.6, 0.9):
        found = recommender.recommend(HISTORIES, 10, diversity=diversity)
        rows = torch.tensor([[int(item.item_id[1:]) for item in items] for items in found])
        cosines = unit[rows] @ unit[rows].transpose(1, 2)
        means.append(((cosines.sum() - 10 * len(rows)) / (90 * len(rows))).item())
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 0.05


# With FAISS


@pytest.mark.parametrize("index", ["hnsw", "ivf", "exact-bf16"])
def test_filters_and_caps_hold_with_every_index(make_recommender, index):
    if index != "exact-bf16":
        pytest.importorskip("faiss")
    recommender = make_recommender()
    recommender.use_index(index)
    options = {"where": "price < 3", "cap": {"brand": 2}, "columns": ["price", "brand"]}
    exact = make_recommender().recommend(HISTORIES, 10, **options)
    for items, expected in zip(recommender.recommend(HISTORIES, 10, **options), exact, strict=True):
        assert len(items) == len(expected)  # none is missing because the index looked at too few
        assert all(item.columns["price"] < 3 for item in items)
        brands = [item.columns["brand"] for item in items if item.columns["brand"] is not None]
        assert max(map(brands.count, brands)) <= 2


# Popularity


def test_empty_histories_get_the_most_popular_items(make_recommender, make_domain):
    recommender = make_recommender()
    counts = {f"i{row}": row % 50 if row % 2 else float(row % 50) for row in range(250)}  # the last 50 are unknown
    empty, other = recommender.recommend([[], ["i3"]], 5, popularity=counts)
    assert ids(empty) == ["i49", "i99", "i149", "i199", "i249"]
    assert [item.score for item in empty] == pytest.approx([49 / sum(counts.values())] * 5)
    assert [other] == recommender.recommend([["i3"]], 5)
    (filtered,) = recommender.recommend([[]], 5, popularity=counts, where="brand = 'b1'", blocked=["i49"])
    assert ids(filtered) == ["i149", "i249", "i97", "i197", "i45"]
    (capped,) = recommender.recommend([[]], 6, popularity=counts, cap={"brand": 1})
    assert ids(capped) == ["i49", "i99", "i199", "i48", "i98", "i198"]  # i99 and i198 have no brand
    (column,) = recommender.recommend([[]], 3, popularity="price")
    assert ids(column) == ["i298", "i297", "i296"]
    (diverse,) = recommender.recommend([[]], 5, popularity="price", diversity=0.9)
    assert diverse[0].item_id == "i298"
    assert ids(diverse) != ids(recommender.recommend([[]], 5, popularity="price")[0])
    with pytest.raises(ValueError, match="history 0 is empty"):
        recommender.recommend([[]])


def test_interactions_of_a_domain_are_counted(make_recommender, make_domain):
    domain = make_domain("i", num_items=NUM_ITEMS)
    domain = type(domain)(
        "i", domain.items.with_columns(item_id=pl.col("item_id").str.replace("-", "")), domain.sequences
    )
    (items,) = make_recommender().recommend([[]], 4, popularity=domain)
    counts = np.bincount(domain.flat, minlength=NUM_ITEMS)
    assert ids(items) == [f"i{row}" for row in np.argsort(-counts, kind="stable")[:4]]
    assert items[0].score == pytest.approx(counts.max() / counts.sum())


# Columns


def test_columns_come_and_go_with_the_items(make_recommender, tmp_path, caplog):
    recommender = make_recommender()
    vectors = recommender.item_embeds
    recommender.remove_items([f"i{row}" for row in range(0, 300, 2)])
    (items,) = recommender.recommend([["i1"]], 3, where="price = 0.3", columns=["price"])
    assert [(item.item_id, item.columns) for item in items] == [("i3", {"price": 0.3})]
    assert items[0].to_dict() == {"item_id": "i3", "text": "pen 3", "score": items[0].score, "price": 0.3}
    recommender.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path)
    assert again.recommend([["i1"]], 4, where="price < 9", columns=["stock"]) == recommender.recommend(
        [["i1"]], 4, where="price < 9", columns=["stock"]
    )
    file = tmp_path / "tonight.csv"
    file.write_text("Artikelnr;Preis;Lager\ni3;4,90;0\ni5;10,00;2\nelsewhere;1,00;7\n")
    again.set_columns(file)
    assert "148 of 150 items of the catalogue are not in it" in caplog.text
    assert ids(again.recommend([["i1"]], where="Lager > 0 AND Preis >= 10")[0]) == ["i5"]
    assert np.array_equal(again.item_embeds, vectors[1::2])
    again.set_columns(pl.DataFrame({"item_id": ["i3"], "url": ["https://shop"]}))
    (items,) = again.recommend([["i1"]], 1, where="url IS NOT NULL", columns=["url", "text"])
    assert items[0].columns == {"url": "https://shop", "text": "pen 3"}


def test_table_of_recommendations_has_the_columns(make_recommender, tmp_path):
    table = make_recommender().recommend_dataset(HISTORIES, top_k=3, columns=["price", "brand"])
    table.to_parquet(tmp_path / "found.parquet")
    found = pl.read_parquet(tmp_path / "found.parquet")
    assert found.schema == {
        "user_id": pl.String,
        "rank": pl.Int32,
        "item_id": pl.String,
        "score": pl.Float32,
        "price": pl.Float64,
        "brand": pl.String,
    }
    assert found.filter(
        pl.col("price").is_not_null() & (pl.col("price") * 10 != pl.col("item_id").str.slice(1).cast(float))
    ).is_empty()


def test_bad_rules(make_recommender, make_domain):
    recommender = make_recommender()
    columns = "the columns are item_id .text., text .text., brand .text., price .number., stock .number."
    for options, message in [
        ({"where": "stok > 0"}, f"where: the items have no column 'stok'; did you mean 'stock'. {columns}"),
        ({"cap": {"label": 2}}, f"cap: the items have no column 'label'; {columns}"),
        ({"cap": {"brand": 0}}, "cap: 0 for column 'brand', expected a whole number of at least 1"),
        ({"cap": {"brand": True}}, "cap: True"),
        ({"cap": "brand=2"}, "cap: 'brand=2', expected a limit for each column"),
        ({"diversity": 1.1}, "diversity: 1.1, expected a number from 0 .none. to 1"),
        ({"diversity": float("nan")}, "diversity: nan"),
        ({"diversity": "0.3"}, "diversity: '0.3'"),
        ({"popularity": "sales"}, "popularity: the items have no column 'sales'"),
        ({"popularity": "brand"}, "popularity: column 'brand' has values of type String, expected numbers"),
        (
            {"popularity": {"i1": -1}},
            "popularity: the mapping has the value -1.0, expected finite numbers of at least 0",
        ),
        ({"popularity": {"x": 3}}, "popularity: the mapping has no count above 0 for an item of the catalogue"),
        ({"popularity": {"i1": "many"}}, "popularity: the mapping has values of type String"),
        ({"popularity": make_domain()}, "popularity: domain .toys. has no count above 0 for an item of the catalogue"),
        ({"popularity": 3}, "popularity: got a value of type int, expected a column of the items"),
        ({"columns": ["prise"]}, "columns: the items have no column 'prise'; did you mean 'price'"),
        ({"columns": ["score"]}, "columns: the items have no column 'score'"),
        ({"columns": ["price", "price"]}, "columns: 'price' comes twice"),
        ({"columns": "price"}, "columns: 'price', expected a list"),
    ]:
        with pytest.raises(ValueError, match=message):
            recommender.recommend([["i1"]], **options)
    bare = ItemCatalogue(["a"], ["pen"])
    with pytest.raises(
        ValueError, match="cap: the items have no column 'brand'; the columns are item_id .text., text .text.$"
    ):
        make_rules(bare, {"brand": 2})
