"""Items to rank, from everything a shop may have."""

import datasets
import polars as pl
import pyarrow as pa
import pytest

from unisrec import ItemCatalogue, Recommender, UniSRecProcessor
from unisrec.recommender.catalogue import make_catalogue


ROWS = {
    "item_id": ["1", "2", "3"],
    "title": ["red pen", "blue pen, 5 pack", "small steel kettle"],
    "brand": ["acme", None, "brewo"],
    "price": [1.5, 2.0, 30.0],
}
TITLES = dict(zip(ROWS["item_id"], ROWS["title"], strict=True))


def pairs(catalogue: ItemCatalogue) -> dict[str, str]:
    return dict(zip(catalogue.item_ids, catalogue.texts, strict=True))


@pytest.fixture
def table() -> pl.DataFrame:
    return pl.DataFrame(ROWS)


@pytest.fixture
def checkpoint(tmp_path, make_model, text_encoder, tokenizer):
    """A checkpoint without a catalogue."""
    model = make_model(text_pooling="mean")
    model.attach_text_encoder(text_encoder)
    model.save_pretrained(tmp_path / "base")
    UniSRecProcessor(tokenizer, max_history_length=10, max_text_length=32).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_files(tmp_path, table, suffix):
    file = tmp_path / f"products{suffix}"
    write = {".csv": table.write_csv, ".jsonl": table.write_ndjson, ".parquet": table.write_parquet}
    write[".tsv"] = lambda file: table.write_csv(file, separator="\t")
    write[suffix](file)
    assert pairs(make_catalogue(file)) == TITLES
    both = pairs(make_catalogue(str(file), text_columns=["title", "brand"]))
    assert both == {"1": "red pen. acme", "2": "blue pen, 5 pack", "3": "small steel kettle. brewo"}


def test_data_frames(table):
    forms = [table, table.to_arrow(), pa.table(ROWS), datasets.Dataset.from_dict(ROWS)]
    pandas = pytest.importorskip("pandas")
    forms.append(pandas.DataFrame(ROWS))
    for form in forms:
        assert pairs(make_catalogue(form)) == TITLES
        assert pairs(make_catalogue(form, item_column="title", text_columns="brand")) == {
            "red pen": "acme",
            "small steel kettle": "brewo",
        }


def test_mappings_domains_and_catalogues(make_domain, tmp_path):
    assert pairs(make_catalogue(TITLES)) == TITLES
    own = ItemCatalogue(list(TITLES), list(TITLES.values()))
    assert make_catalogue(own) is own
    assert make_catalogue(None) is None
    domain = make_domain("shop")
    domain.save_to_disk(tmp_path / "shop")
    for form in (domain, tmp_path / "shop", str(tmp_path / "shop")):
        assert make_catalogue(form).item_ids == domain.items["item_id"].to_list()


def test_the_column_text_is_taken_where_there_is_no_title(table):
    assert pairs(make_catalogue(table.rename({"title": "text"}))) == TITLES


def test_rows_that_are_no_item_are_counted(caplog):
    rows = {"item_id": ["1", None, "2", "1", "3"], "title": ["red pen", "lamp", "  ", "blue pen", "kettle"]}
    assert pairs(make_catalogue(pl.DataFrame(rows))) == {"1": "red pen", "3": "kettle"}
    expected = "3 of 5 rows left out: 1 without an id, 1 without a text, 1 with an id that came before"
    assert [record.getMessage() for record in caplog.records] == [f"items: {expected}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_columns": ["name"]}, "no column 'name', the columns are item_id, title, brand, price"),
        ({"item_column": "sku"}, "no column 'sku'"),
        ({"text_columns": []}, "no text column is named"),
        ({"text_columns": ["title", "title"]}, "'title' is named twice"),
    ],
)
def test_columns_that_are_not_there(table, options, message):
    with pytest.raises(ValueError, match=message):
        make_catalogue(table, **options)


def test_bad_items(table, tmp_path):
    with pytest.raises(ValueError, match="neither a column 'title' nor 'text', the columns are item_id, brand, price"):
        make_catalogue(table.drop("title"))
    with pytest.raises(ValueError, match="none of its 3 rows has an id and a text"):
        make_catalogue(table.with_columns(title=pl.lit("")))
    with pytest.raises(ValueError, match="items: a list, expected a file name or a table"):
        make_catalogue([("1", "red pen")])
    with pytest.raises(ValueError, match="the mapping of items is empty"):
        make_catalogue({})
    with pytest.raises(ValueError, match="neither of them empty"):
        make_catalogue({"1": ""})
    with pytest.raises(ValueError, match="encoding are of a table of items, not of a dict"):
        make_catalogue(TITLES, text_columns="title")
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        make_catalogue(tmp_path / "nothing.csv")
    with pytest.raises(OSError, match="domain"):
        make_catalogue(tmp_path)


def test_one_ranking_from_every_form(checkpoint, table, tmp_path):
    table.write_csv(tmp_path / "products.csv")
    history = [["1", {"text": "kettle"}]]
    forms = [table, TITLES, make_catalogue(TITLES), tmp_path / "products.csv"]
    results = [Recommender.from_pretrained(checkpoint, items=form).recommend(history) for form in forms]
    assert [item.item_id for item in results[0][0]] == [item.item_id for item in results[1][0]]
    assert all(result == results[0] for result in results)
    assert {item.item_id for item in results[0][0]} == {"2", "3"}


def test_what_is_saved_needs_no_items(checkpoint, table, tmp_path):
    recommender = Recommender.from_pretrained(checkpoint, table, text_columns=["title", "brand"])
    recommender.save_pretrained(tmp_path / "shop")
    again = Recommender.from_pretrained(tmp_path / "shop")
    assert again.processor.catalogue.item_embeddings is not None
    assert again.recommend([["2"]]) == recommender.recommend([["2"]])


def test_columns_without_a_table(checkpoint):
    with pytest.raises(ValueError, match="encoding are of a table of items, not of no items"):
        Recommender.from_pretrained(checkpoint, text_columns="title")


def test_the_callers_table_is_not_changed(table):
    before = table.clone()
    make_catalogue(table, text_columns=["title", "brand"])
    assert table.equals(before)
