"""Any table: file kinds, where the texts are, datasets by name."""

import gzip
import io
import json
import sys
from datetime import date

import polars as pl
import pytest

from unisrec.cli import main
from unisrec.data import Domain, read_table
from unisrec.data.readers.table import load_table


CLICKS = pl.DataFrame(
    {
        "customer": ["ann", "ann", "bob"],
        "sku": ["007", "8", "007"],
        "clicked": ["2024-01-02", "2024-01-01", "2024-01-03"],
        "name": ["Red Mug", "Tea Pot", "Mug"],
    }
)
PRODUCTS = pl.DataFrame({"sku": ["007", "8"], "name": ["Red Mug", "Tea Pot"], "maker": ["Acme", None]})
COLUMNS = {"user_column": "customer", "item_column": "sku", "time_column": "clicked"}
DAY = 86_400_000_000
START = 19_723 * DAY


ROWS = {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]}


def write(frame, path):
    path.parent.mkdir(exist_ok=True)
    writers = {
        "csv": frame.write_csv,
        "tsv": lambda to: frame.write_csv(to, separator="\t", quote_style="never"),
        "jsonl": frame.write_ndjson,
        "parquet": frame.write_parquet,
    }
    buffer = io.BytesIO()
    writers[path.name.split(".")[1]](buffer)
    content = buffer.getvalue()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_kinds_of_files(tmp_path, ending):
    clicks, products = write(CLICKS, tmp_path / f"clicks.{ending}"), write(PRODUCTS, tmp_path / f"products.{ending}")
    interactions, items, info = read_table(clicks, products, text_columns=["name", "maker"], **COLUMNS)
    assert interactions.rows() == [("ann", "007", START + DAY), ("ann", "8", START), ("bob", "007", START + 2 * DAY)]
    assert items.rows() == [("007", "Red Mug. Acme"), ("8", "Tea Pot")]
    assert [row["left"] for row in info["steps"] + info["item_steps"]] == [3, 2]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_that_are_kept(tmp_path, ending):
    products = PRODUCTS.with_columns(price=pl.Series(["4,90", "19,90"]), stock=pl.Series([3, None]))
    products = write(
        pl.concat([products, products.with_columns(price=pl.lit("1,00"))]), tmp_path / f"products.{ending}"
    )
    clicks = write(CLICKS, tmp_path / f"clicks.{ending}")
    options = {"text_columns": ["name"], **COLUMNS}
    items, info = read_table(clicks, products, keep_columns=["price", "maker", "stock"], **options)[1:]
    assert items.to_dict(as_series=False) == {
        "item_id": ["007", "8"],
        "text": ["Red Mug", "Tea Pot"],
        "price": [4.9, 19.9],
        "maker": ["Acme", None],
        "stock": [3, None],
    }
    assert info["columns"]["kept"] == ["price", "maker", "stock"]
    assert read_table(clicks, keep_columns=["clicked"], **options).items["clicked"].to_list() == [
        "2024-01-02",
        "2024-01-01",
    ]
    with pytest.raises(ValueError, match="no column 'prise'.*did you mean 'price'"):
        read_table(clicks, products, keep_columns=["prise"], **options)
    frame = PRODUCTS.with_columns(images=pl.Series([["x"], []]))
    with pytest.raises(ValueError, match="items: column 'images' cannot be kept, expected numbers, texts"):
        read_table(CLICKS, frame, keep_columns=["images"], **options)


def test_texts_in_the_interactions(tmp_path):
    frame = pl.concat([CLICKS[:1].with_columns(name=pl.lit(None, pl.String)), CLICKS])
    items = read_table(write(frame, tmp_path / "clicks.csv"), text_columns=["name"], **COLUMNS).items
    assert items.rows() == [("007", "Red Mug"), ("8", "Tea Pot")]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_number_ids_and_lists_of_texts(tmp_path, ending):
    clicks = pl.DataFrame({"user_id": [1.0, 1.0, 2.0], "item_id": [5, 6, 5], "timestamp": [1, 2, 3]})
    products = pl.DataFrame({"item_id": [5, 6], "title": [["Red", "Mug"], ["Tea"]]})
    raw = read_table(write(clicks, tmp_path / f"clicks.{ending}"), write(products, tmp_path / f"products.{ending}"))
    assert raw.interactions.rows() == [("1", "5", 1), ("1", "6", 2), ("2", "5", 3)]
    assert raw.items.rows() == [("5", "Red Mug"), ("6", "Tea")]


@pytest.mark.parametrize("name", ["shop/clicks", "shop/clicks[train]", "shop/clicks:default[train]"])
def test_dataset_by_name(tmp_path, monkeypatch, name):
    # `datasets` reads a local folder of files by the same kind of name as a dataset of the Hub.
    (tmp_path / "shop").mkdir()
    write(CLICKS, tmp_path / "shop" / "clicks" / "train.csv")
    monkeypatch.chdir(tmp_path)
    raw = read_table(name, text_columns=["name"], **COLUMNS)
    assert raw.interactions["user_id"].to_list() == ["ann", "ann", "bob"]
    assert raw.items["text"].to_list() == ["Red Mug", "Tea Pot"]


def test_dataset_without_that_split(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    write(CLICKS, tmp_path / "shop" / "clicks" / "train.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"shop/clicks\[test\]: cannot be loaded as a dataset of the Hub \(.*test"):
        read_table("shop/clicks[test]", **COLUMNS)


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"clicks.csv: no such file"):
        read_table(tmp_path / "clicks.csv", **COLUMNS)
    with pytest.raises(
        FileNotFoundError, match=r"clicks.xls: expected a .csv, .tsv, .txt, .jsonl.*, .xlsx file, or a dataset"
    ):
        read_table(tmp_path / "clicks.xls", **COLUMNS)
    clicks = write(CLICKS, tmp_path / "clicks.csv")
    with pytest.raises(ValueError, match=r"clicks.csv: no column 'user_id', the columns are customer, sku"):
        read_table(clicks)
    with pytest.raises(ValueError, match=r"clicks.csv: no column 'title', the columns are"):
        read_table(clicks, **COLUMNS)
    products = write(PRODUCTS, tmp_path / "products.jsonl")
    with pytest.raises(ValueError, match=r"products.jsonl: no column 'title', the columns are sku, name, maker"):
        read_table(clicks, products, **COLUMNS)
    bad = write(
        CLICKS.with_columns(clicked=pl.Series(["2024-01-02", "2024-01-01", "yesterday"])), tmp_path / "bad.csv"
    )
    with pytest.raises(ValueError, match=r"bad.csv, line 4: 'clicked' is 'yesterday', expected a number, an ISO 8601"):
        read_table(bad, text_columns=["name"], **COLUMNS)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([" mug", " "], ["mug", None]),
        ([3.0, None], ["3.0", None]),
        ([3.5, float("nan")], ["3.5", None]),
        ([7, None], ["7", None]),
        ([True, None], ["true", None]),
        ([date(2024, 1, 2), None], ["2024-01-02", None]),
        ([["Toys", None], []], ["Toys", None]),
        ([[["Toys", "Games"], ["Toys", "Puzzles"]], [["Home", None]]], ["Toys Games Puzzles", "Home"]),
        ([{"kind": "Toys", "size": 3}, {"kind": None, "size": None}], ["Toys 3", None]),
    ],
)
def test_a_text_is_the_same_in_every_format(tmp_path, ending, values, texts):
    items = pl.DataFrame({"item_id": ["a", "b"], "title": values})
    if items["title"].dtype.is_nested() and ending in ("csv", "tsv"):  # which have JSON instead
        items = items.with_columns(title=pl.Series([json.dumps(value) for value in values]))
    path = write(items, tmp_path / f"items.{ending}")
    assert read_table(write(pl.DataFrame(ROWS), tmp_path / "rows.csv"), path).items["text"].to_list() == texts


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1.0, 2.0, float("nan")], ["1", "2", None]),
        ([1, 2, None], ["1", "2", None]),
        (["C:\\new", " AC\\DC", ""], ["C:\\new", "AC\\DC", None]),
        (pl.Series(["x", None, "y"], dtype=pl.Categorical), ["x", None, "y"]),
        (pl.Series([2**64 - 1, 1, None], dtype=pl.UInt64), [str(2**64 - 1), "1", None]),
    ],
)
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_an_id_is_the_same_in_every_format(tmp_path, ending, ids, expected, column):
    rows = pl.DataFrame(ROWS).with_columns(pl.Series(column, ids))
    items = pl.DataFrame({"item_id": ids, "title": ["mug", "pan", "lid"]})
    raw = read_table(write(rows, tmp_path / f"rows.{ending}"), write(items, tmp_path / f"items.{ending}"))
    assert raw.interactions[column].to_list() == expected
    assert raw.items["item_id"].to_list() == expected


@pytest.mark.parametrize("ending", ["CSV", "Parquet", "JSONL.GZ"])
def test_endings_in_upper_case(tmp_path, ending):
    path = write(pl.DataFrame(ROWS), tmp_path / f"rows.{ending.lower()}").rename(tmp_path / f"ROWS.{ending}")
    items = write(pl.DataFrame({"item_id": ["a"], "title": ["mug"]}), tmp_path / "items.csv")
    assert read_table(path, items).interactions.height == 3


def test_a_column_may_be_id_and_text_at_once(tmp_path):
    rows = pl.DataFrame({"user_id": ["u", "u"], "title": ["mug", "pan"], "timestamp": [1, 2]})
    for items in (None, write(rows.select("title"), tmp_path / "items.csv")):
        raw = read_table(write(rows, tmp_path / "rows.csv"), items, item_column="title")
        assert raw.items.rows() == [("mug", "mug"), ("pan", "pan")]
    with pytest.raises(ValueError, match="text column 'title' is named twice"):
        read_table(tmp_path / "rows.csv", item_column="title", text_columns=["title", "title"])


def test_the_first_text_of_an_item_counts(tmp_path):
    rows = pl.DataFrame(ROWS | {"item_id": ["a", "a", "a"], "title": ["nan", "<b></b>", "mug"]})
    assert read_table(write(rows, tmp_path / "rows.csv")).items.rows() == [("a", "mug")]


def test_sources_that_are_no_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = write(pl.DataFrame(ROWS), tmp_path / "rows.csv")
    rows.rename(tmp_path / "rows.xyz")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.csv").write_bytes(b"a,b\n1,2\n1,2,3\n")
    for source, message in {
        "rows.xyz": r"rows.xyz: unknown ending '.xyz', expected .csv, .tsv, .txt, .jsonl",
        "folder": r"folder: cannot be loaded as a dataset of the Hub \(.*data files\)",
        "broken": r"broken: cannot be loaded as a dataset of the Hub \(.*[Tt]okeniz.*\)",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_table(source)
        assert "\n" not in str(caught.value)


GERMAN = """Kunde;Artikel;Zeit;Titel
ann;007;31.12.2024 18:05;"M\u00fcsli &amp; Obst, 1 kg"
ann;8;1.1.2025;\u201eTee\u201c
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "txt", "tsv"])
def test_separator_and_encoding_are_found(tmp_path, encoding, separator, ending):
    text = GERMAN.replace(";", separator).replace("&amp" + separator, "&amp;")
    path = tmp_path / f"clicks.{ending}"
    path.write_bytes(text.encode(encoding))
    raw = read_table(path, user_column="Kunde", item_column="Artikel", time_column="Zeit", text_columns=["Titel"])
    assert raw.interactions["item_id"].to_list() == ["007", "8"]
    assert raw.interactions["time"].diff().to_list() == [None, (5 * 60 + 55) * 60_000_000]
    assert raw.items["text"].to_list() == ["M\u00fcsli & Obst, 1 kg", "\u201eTee\u201c"]
    notes = " ".join(raw.info.get("notes", []))
    assert ("separator" in notes) == (separator != {"csv": ",", "txt": "\t", "tsv": "\t"}[ending])
    assert ("read as cp1252" in notes) == (encoding == "cp1252")


def test_what_is_said_of_separator_and_encoding_is_done(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_bytes("user_id;item_id;timestamp;title\nu;a;1;\u0416\n".encode("cp1251"))
    assert read_table(path, encoding="cp1251").items.rows() == [("a", "\u0416")]
    with pytest.raises(ValueError, match=r"no column 'user_id', the columns are user_id;item_id;timestamp;title"):
        read_table(path, encoding="cp1251", separator=",")
    with pytest.raises(ValueError, match=r"clicks.csv: line 2 is not UTF-8 .*name another `encoding`"):
        read_table(path, encoding="utf-8")
    with pytest.raises(ValueError, match=r"`encoding` is 'base64', expected a name such as 'utf-8'"):
        read_table(path, encoding="base64")
    for wrong in ("::", "", '"', "\u20ac"):
        with pytest.raises(ValueError, match=r"`separator` is .*, expected one character, such as ';', or 'tab'"):
            read_table(path, separator=wrong)
    path = write(pl.DataFrame(ROWS), tmp_path / "rows.parquet")
    for option in ("separator", "encoding"):
        with pytest.raises(ValueError, match=rf"`{option}` is for .csv, .tsv and .txt files, and there is none"):
            read_table(path, text_columns=["item_id"], **{option: ";"})


def test_a_damaged_utf_8_file_is_not_taken_for_cp1252(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_bytes("user_id,item_id,timestamp,title\nu,a,1,M\u00fcsli\nu,b,2,T".encode() + b"\xfc\n")
    with pytest.raises(ValueError, match=r"clicks.csv: line 3 is not UTF-8 \(.*\); name another `encoding`"):
        read_table(path)


def test_workbooks(tmp_path):
    frame = CLICKS.with_columns(
        number=pl.Series([17, 2**53 - 1, 17]), when=pl.Series([date(2024, 1, n) for n in (2, 1, 3)])
    )
    frame.write_excel(tmp_path / "clicks.xlsx")
    raw = read_table(tmp_path / "clicks.xlsx", text_columns=["name"], **COLUMNS)
    assert raw.interactions.rows() == [
        ("ann", "007", START + DAY),
        ("ann", "8", START),
        ("bob", "007", START + 2 * DAY),
    ]
    options = COLUMNS | {"item_column": "number", "time_column": "when"}
    raw = read_table(tmp_path / "clicks.xlsx", text_columns=["name"], **options)
    assert raw.interactions["item_id"].to_list() == ["17", str(2**53 - 1), "17"]
    assert raw.interactions["time"].to_list() == [START + DAY, START, START + 2 * DAY]
    (tmp_path / "bad.xlsx").write_bytes(b"PK no workbook")
    with pytest.raises(ValueError, match=r"bad.xlsx: not a readable workbook"):
        read_table(tmp_path / "bad.xlsx")


def test_a_workbook_without_its_reader(tmp_path, monkeypatch):
    CLICKS.write_excel(tmp_path / "clicks.xlsx")
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(ValueError, match=r"clicks.xlsx: workbooks need fastexcel; `pip install unisrec\[excel\]`"):
        read_table(tmp_path / "clicks.xlsx", text_columns=["name"], **COLUMNS)


def test_anonymous_users(tmp_path):
    users = ["ann", None, "Guest", "0", "10", "NULL"]
    rows = pl.DataFrame({"user_id": users, "item_id": ["a"] * 6, "timestamp": range(6), "title": "mug"})
    kept = read_table(rows).interactions["user_id"].to_list()
    assert kept == users  # a missing one is dropped and counted by `build_domain`
    raw = read_table(rows, drop_anonymous=True)
    assert raw.interactions["user_id"].to_list() == ["ann", "10"]
    assert raw.info["steps"][-1] == {"step": "anonymous user", "dropped": 4, "left": 2}
    with pytest.raises(ValueError, match=r"no interaction has a user id: `drop_anonymous` leaves nothing"):
        read_table(rows[1:3], drop_anonymous=True)


def test_user_ids_that_look_like_visitors_are_pointed_out(tmp_path):
    def notes(users):
        rows = pl.DataFrame({"user_id": users, "item_id": "a", "timestamp": range(len(users)), "title": "mug"})
        rows.write_csv(tmp_path / "clicks.csv")
        return read_table(tmp_path / "clicks.csv").info.get("notes", [])

    others = [str(number) for number in range(1, 30)]
    (note,) = notes(["Gast", *others, "Gast", "guest"])
    expected = "clicks.csv: 3 rows are of users such as 'Gast', 'guest', who look like visitors without an account; "
    assert note == f"{expected}`drop_anonymous` leaves them out"
    assert notes(["0", *others]) == []  # numbers from 0 are usual
    assert notes(["0"] * 20 + others)[0].startswith("clicks.csv: 20 rows are of users such as '0',")


def test_one_name_is_a_list_of_one():
    columns = COLUMNS | {"event_column": "name", "events": "Mug"}
    one = read_table(CLICKS, PRODUCTS, text_columns="name", keep_columns="maker", **columns)
    columns["events"] = ["Mug"]
    several = read_table(CLICKS, PRODUCTS, text_columns=["name"], keep_columns=["maker"], **columns)
    assert one.info["tables"] == several.info["tables"]
    assert one.items.equals(several.items)
    assert one.interactions["user_id"].to_list() == ["bob"]


def test_columns_without_a_name_are_left_out(tmp_path):
    (tmp_path / "clicks.csv").write_text("user_id;;item_id;timestamp;title;;\nann;1;a;1;mug;;\n")
    assert load_table(tmp_path / "clicks.csv").frame.columns == ["user_id", "item_id", "timestamp", "title"]


def test_another_name_of_the_id_in_the_items():
    items = pl.DataFrame({"id": ["b", "a"], "title": ["pan", "mug"]})
    raw = read_table(pl.DataFrame(ROWS), items, items_id_column="id")
    assert raw.items.rows() == [("b", "pan"), ("a", "mug")]
    with pytest.raises(ValueError, match=r"items: no column 'item_id', the columns are id, title"):
        read_table(pl.DataFrame(ROWS), items)
    with pytest.raises(ValueError, match=r"`items_id_column` is a column of `items`, and none are given"):
        read_table(pl.DataFrame(ROWS), text_columns=["item_id"], items_id_column="id")


def test_only_the_events_that_are_asked_for_count(tmp_path):
    rows = pl.DataFrame(
        {
            "user_id": ["a", "a", "b", "b"],
            "item_id": ["1", "2", "1", "3"],
            "timestamp": [1, 2, 3, 4],
            "kind": ["view", " buy", "cart", None],
            "title": ["pen", "lamp", "pen", "tent"],
        }
    )
    raw = read_table(rows, event_column="kind", events=["buy", "cart"])
    assert raw.interactions.rows() == [("a", "2", 2), ("b", "1", 3)]
    assert raw.items["item_id"].to_list() == ["1", "2", "3"]  # known by their texts all the same
    assert raw.info["steps"][1] == {"step": "kind is not buy or cart", "dropped": 2, "left": 2}
    assert raw.info["tables"]["events"] == ["buy", "cart"]
    with pytest.raises(ValueError, match=r"no 'kind' is 'sale', the most frequent are .*buy \(1\).*; check `events`"):
        read_table(rows, event_column="kind", events=["buy", "sale"])
    with pytest.raises(ValueError, match="`events` needs `event_column`"):
        read_table(rows, events=["buy"])
    with pytest.raises(ValueError, match="no column 'knd'.*did you mean 'kind'"):
        read_table(rows, event_column="knd", events=["buy"])
    with pytest.raises(ValueError, match="`events` holds '', expected kinds of interactions"):
        read_table(rows, event_column="kind", events="")
    with pytest.raises(ValueError, match="`events` holds None, expected kinds of interactions"):
        read_table(rows, event_column="kind", events=[None])
    numbers = rows.with_columns(kind=pl.Series([1, 2, 3, None]))
    bought = rows.with_columns(kind=pl.Series([False, True, True, None]))
    for table, events in ((numbers, [2, 3.0]), (bought, True), (bought, "true")):
        found = read_table(table, event_column="kind", events=events, keep_columns=None)
        assert found.interactions.rows() == [("a", "2", 2), ("b", "1", 3)]
    assert read_table(numbers, event_column="kind", events=2).info["tables"]["events"] == ["2"]
    rows.write_csv(tmp_path / "clicks.csv")
    words = ["prepare", "table", "--interactions", tmp_path / "clicks.csv", "--event-column", "kind", "--user-k", "1"]
    words += ["--item-k", "1", "--output", tmp_path / "shop", "--events"]
    assert main([str(word) for word in [*words, "buy", "cart"]]) == 0
    assert Domain.load_from_disk(tmp_path / "shop").num_interactions == 2
