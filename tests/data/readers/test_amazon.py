"""The layouts of the Amazon dumps of 2014, 2018 and 2023."""

import gzip
import json

import pytest

from unisrec.data import read_amazon


METADATA_2018 = [
    {
        "asin": "A1",
        "title": "Salt &amp; Pepper Mill",
        "brand": "Acme",
        "category": ["Home & Kitchen", "Mills", "</span></span>"],
        "description": ["['Grinds.', '']"],
    },
    {"asin": "A2", "title": "Tea Pot", "brand": "", "category": [], "description": []},
]
METADATA_2014 = [
    {"asin": "A1", "title": "Bob's Mill", "brand": "Acme", "categories": [["Home", "Mills"], ["Home", "Tools"]]},
    {"asin": "A2", "title": "Tea Pot"},
]
METADATA_2023 = [
    {"parent_asin": "A1", "title": "Mill", "store": "Acme", "categories": ["Home", "Mills"], "main_category": "Home"},
    {"parent_asin": "A2", "title": "Tea Pot", "store": None, "categories": [], "main_category": "Kitchen"},
]
EVENTS = [("u1", "A1", 10), ("u1", "A2", 20), ("u2", "A2", 5)]


@pytest.fixture
def write(tmp_path):
    def write(lines, name: str):
        content = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


@pytest.fixture
def metadata(write):
    return write(METADATA_2018, "meta.json.gz")


@pytest.mark.parametrize(
    ("name", "lines", "layout"),
    [
        ("r.csv.gz", [f"{i},{u},5.0,{t}" for u, i, t in EVENTS], "CSV without header: item,user,rating,timestamp"),
        ("r.csv", [f"{u},{i},5.0,{t}" for u, i, t in EVENTS], "CSV without header: user,item,rating,timestamp"),
        (
            "r.csv",
            ["user_id,parent_asin,rating,timestamp"] + [f"{u},{i},5.0,{t}" for u, i, t in EVENTS],
            "CSV with header: user_id,parent_asin,rating,timestamp",
        ),
        (
            "r.json.gz",
            [{"overall": 5.0, "reviewerID": u, "asin": i, "unixReviewTime": t, "style": {}} for u, i, t in EVENTS],
            "JSON lines: reviewerID,asin,unixReviewTime",
        ),
        (
            "r.jsonl",
            [{"rating": 5.0, "user_id": u, "asin": "child", "parent_asin": i, "timestamp": t} for u, i, t in EVENTS],
            "JSON lines: user_id,parent_asin,timestamp",
        ),
    ],
)
def test_ratings_of_every_year(write, metadata, name, lines, layout):
    interactions, _, info = read_amazon(write(lines, name), metadata)
    assert interactions.rows() == EVENTS
    assert info["ratings_layout"] == layout
    assert info["steps"] == [{"step": f"read {name}", "dropped": 0, "left": 3}]


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (METADATA_2018, ["Salt & Pepper Mill. Home & Kitchen Mills. Acme", "Tea Pot"]),
        (list(map(repr, METADATA_2014)), ["Bob's Mill. Home Mills Tools. Acme", "Tea Pot"]),
        (METADATA_2023, ["Mill. Home Mills. Acme", "Tea Pot. Kitchen"]),
    ],
)
def test_metadata_of_every_year(write, lines, texts):
    _, items, _ = read_amazon(write([f"{i},{u},5.0,{t}" for u, i, t in EVENTS], "r.csv"), write(lines, "meta.json"))
    assert items["item_id"].to_list() == ["A1", "A2"]
    assert items["text"].to_list() == texts
    assert items.columns == ["item_id", "text", "title", "category", "brand"]


def test_missing_values_of_json_lines(write):
    metadata = [
        '{"parent_asin": "A1", "title": NaN}',
        '{"parent_asin": "A2", "title": "pan", "store": NaN, "categories": [null]}',
        '{"parent_asin": null, "title": "lid"}',
        '{"parent_asin": 7.0, "title": ["pot", {}]}',
    ]
    reviews = [
        '{"user_id": "u", "parent_asin": "A2", "timestamp": 1}',
        '{"parent_asin": "A2", "timestamp": 1}',
        '{"user_id": NaN, "parent_asin": 7, "timestamp": null}',
    ]
    interactions, items, _ = read_amazon(write(reviews, "r.jsonl"), write(metadata, "meta.jsonl"))
    assert items.select("item_id", "text").rows() == [("A1", None), ("A2", "pan"), (None, "lid"), ("7", "pot")]
    assert interactions.rows() == [("u", "A2", 1), (None, "A2", 1), (None, "7", None)]


def test_text_fields(write, metadata):
    ratings = write(["A1,u1,5.0,1"], "r.csv")
    items = read_amazon(ratings, metadata, text_fields=("brand", "description")).items
    assert items["text"].to_list() == ["Acme. Grinds", None]
    with pytest.raises(
        ValueError, match=r"unknown text field 'price', expected some of title, category, brand, description"
    ):
        read_amazon(ratings, metadata, text_fields=("price",))
    with pytest.raises(ValueError, match=r"text field 'title' is named twice"):
        read_amazon(ratings, metadata, text_fields=("title", "brand", "title"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["x,u,5.0,1"], r"r.csv: neither of the first two columns has item ids of .*meta.json.gz"),
        (["A1,u1,5.0"], r"r.csv, line 1: 3 fields, expected 4"),
        (["A1,u1,5.0,1", "A2,u1,5.0,soon"], r"r.csv, line 2: 'timestamp' is 'soon', expected a number"),
        (["user_id,parent_asin,rating,time", "u,A1,5,1"], r"no column 'timestamp', .* did you mean 'time'\?"),
        (['{"reviewerID": "u", "asin": "A1"}'], r"r.csv: no column 'unixReviewTime'"),
        (['{"reviewerID": "u", "asin": "A1", "unixReviewTime": 1}', "{"], r"r.csv, line 2: not a JSON object"),
        (
            ['{"reviewerID": ["u"], "asin": "A1", "unixReviewTime": 1}'],
            r"r.csv, line 1: 'reviewerID' is \['u'\], a list, expected texts or whole numbers",
        ),
    ],
)
def test_bad_ratings(write, metadata, lines, message):
    with pytest.raises(ValueError, match=message):
        read_amazon(write(lines, "r.csv"), metadata)


def test_metadata_without_asin(write):
    with pytest.raises(ValueError, match=r"meta.json, record 2: neither 'asin' nor 'parent_asin'"):
        read_amazon(write(["A1,u1,5.0,1"], "r.csv"), write([{"asin": "A1"}, {"title": "x"}], "meta.json"))
