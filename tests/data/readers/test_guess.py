"""Columns that are recognised by their names and by their content."""

import polars as pl
import pytest

from unisrec.data.readers.guess import guess_columns
from unisrec.data.readers.table import Table, load_table


CLICKS = {"customer": ["ann", "ann", "bob"] * 4, "sku": ["07", "8", "9"] * 4, "ordered_at": ["2024-01-01"] * 12}
PRODUCTS = {"sku": ["07", "8", "9"], "title": ["Mug", "Pan", "Lid"], "brand": ["Acme"] * 3, "price": [1.5, 2.5, 3.5]}


def guess(clicks, products=None, **given):
    tables = [
        None if columns is None else Table(pl.DataFrame(columns), name)
        for columns, name in ((clicks, "clicks"), (products, "products"))
    ]
    return guess_columns(*tables, **given)


def renamed(columns, **names):
    return {names.get(name, name): values for name, values in columns.items()}


@pytest.mark.parametrize(
    ("clicks", "products", "expected"),
    [
        (CLICKS, PRODUCTS, ("customer", "sku", "ordered_at", "sku", ["title", "brand"])),
        (
            renamed(CLICKS, customer="Kunden-Nr", sku="Artikel_Nummer", ordered_at="Bestelldatum"),
            renamed(PRODUCTS, sku="ID", title="Bezeichnung", brand="Hersteller"),
            ("Kunden-Nr", "Artikel_Nummer", "Bestelldatum", "ID", ["Bezeichnung", "Hersteller"]),
        ),
        (
            CLICKS | {"title": ["Mug", "Pan", "Lid"] * 4},
            None,
            ("customer", "sku", "ordered_at", None, ["title"]),
        ),
    ],
)
def test_names(clicks, products, expected):
    found = guess(clicks, products)
    assert (found.user, found.item, found.time, found.items_id, found.texts) == expected
    assert all("name" in reason or "other table" in reason or "as in" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("user", "item", "time", "title", "brand"),
    [
        ("N° client", "Réf. produit", "Date de commande", "Libellé", "Marque"),
        ("ID cliente", "Código producto", "Fecha de pedido", "Título", "Marca"),
        ("Codice cliente", "Articolo", "Data ordine", "Nome prodotto", "Marca"),
        ("Cliente", "Código produto", "Data do pedido", "Título", "Marca"),
        ("Klantnummer", "Artikelcode", "Besteldatum", "Omschrijving", "Merk"),
        ("ID klienta", "ID produktu", "Data zamówienia", "Nazwa", "Marka"),
        ("Kundnummer", "Artikelnummer", "Orderdatum", "Benämning", "Varumärke"),
    ],
)
def test_names_in_other_languages(user, item, time, title, brand):
    clicks = {"Nr": range(12)} | renamed(CLICKS, customer=user, sku=item, ordered_at=time)
    clicks[time] = ["31/12/2024"] * 12  # says nothing
    found = guess(clicks, renamed(PRODUCTS, sku=item, title=title, brand=brand))
    assert (found.user, found.item, found.time, found.texts) == (user, item, time, [title, brand])


def test_content_where_names_say_nothing():
    times = [1_700_000_000 + 60 * row for row in range(40)]
    users, skus = [row % 9 for row in range(40)], [f"x{row % 7:03}" for row in range(40)]
    clicks = {"a": range(40), "b": [1] * 40, "c": times, "d": skus, "e": users}
    words = ["red mug", "tea pot large", "iron pan", "glass lid", "wooden spoon", "bread knife", "cake tin"]
    products = {"k": range(7), "l": [f"x{row:03}" for row in range(7)], "m": words, "n": ["new"] * 7}
    found = guess(clicks, products)
    assert (found.user, found.item, found.time, found.items_id, found.texts) == ("e", "d", "c", "l", ["m"])
    assert [reason.split(" of ")[0] for reason in found.reasons] == [
        "time: 'c'",
        "item: 'd'",
        "user: 'e'",
        "item",
        "text: 'm'",
    ]
    assert all("content" in reason for reason in found.reasons)


def test_ids_decide_which_column_of_the_items_is_meant():
    products = {"item_id": [1, 2, 3], "supplier_sku": ["07", "8", "9"], "title": ["Mug", "Pan", "Lid"]}
    assert guess(CLICKS, products).items_id == "supplier_sku"


SALES = [(order, order * 7 % 30, f"s{(order + line) % 9}") for order in range(90) for line in range(1 + order % 3)]
ORDERS = {
    "nr": [order for order, _, _ in SALES],
    "x": [f"2024-{1 + order // 28:02}-{1 + order % 28:02}" for order, _, _ in SALES],
    "sku": [sku for _, _, sku in SALES],
    "total": [order % 40 for order, _, _ in SALES],
    "country": [f"c{who % 4}" for _, who, _ in SALES],
}


@pytest.mark.parametrize("customer", ["E-Mail", "who", "Müşteri No"])
def test_customers_and_not_their_orders_are_the_users(customer):
    clicks = ORDERS | {customer: [f"u{who}" for _, who, _ in SALES], "phone": [who % 25 for _, who, _ in SALES]}
    assert guess(clicks, text_columns="sku").user == customer


ONE_LINE = [
    (order, order * 7 % 30, f"s{order * 11 % 47}") for order in range(90) for _ in range(1 + (order % 10 == 0))
]


@pytest.mark.parametrize("sales", [SALES, ONE_LINE])
def test_what_an_item_or_an_order_has_is_no_user(sales):
    clicks = {
        "nr": [order for order, _, _ in sales],
        "link": [f"/p/{sku}" for _, _, sku in sales],
        "x": [f"2024-{1 + order // 28:02}-{1 + order % 28:02}" for order, _, _ in sales],
        "born": [f"19{50 + who}-01-01" for _, who, _ in sales],
        "sku": [sku for _, _, sku in sales],
        "preis": [f"{order % 40},50" for order, _, _ in sales],
        "paid": [order % 40 + 0.5 for order, _, _ in sales],
    }
    found = guess(clicks | {"who": [f"u{who}" for _, who, _ in sales]}, text_columns="sku")
    assert (found.user, found.time) == ("who", "x")
    assert (
        guess(clicks | {" time": [f"u{who}" for _, who, _ in sales]}, text_columns="sku", time_column="x").user
        == " time"
    )
    with pytest.raises(ValueError, match="'nr' are orders"):
        guess(clicks, text_columns="sku")


@pytest.mark.parametrize("empty", [[None] * 12, [""] * 12, ["0"] * 12, ["guest"] * 8 + ["a", "b", "a", "b"]])
def test_a_name_counts_only_if_the_column_says_something(empty):
    clicks = {"user_id": empty, "email": [f"{who}@x.org" for who in CLICKS["customer"]]} | CLICKS
    assert guess({name: clicks[name] for name in ("user_id", "email", "sku", "ordered_at")}, PRODUCTS).user == "email"
    products = {"sku": PRODUCTS["sku"], "label": ["New"] * 3, "name": PRODUCTS["title"], "brand": ["Acme"] * 3}
    assert guess(CLICKS, products).texts == ["name", "brand"]
    assert guess(CLICKS, products | {"name": [None] * 3, "Artikeltext": PRODUCTS["title"]}).texts == [
        "Artikeltext",
        "brand",
    ]


def test_ids_are_no_titles_and_no_row_numbers():
    sales = {
        "Unnamed: 0": range(12),
        "Lineitem name": ["Red mug", "Tea pot", "Pan lid"] * 4,
        "Lineitem sku": ["07", "8", "9"] * 4,
        "Email": CLICKS["customer"],
        "Paid at": [f"2024-01-{1 + row:02}" for row in range(12)],
    }
    items = {"Unnamed: 0": range(3), "Title": ["Red mug", "Tea pot", "Pan lid"], "Variant SKU": ["07", "8", "9"]}
    found = guess(sales, items)
    assert (found.item, found.items_id, found.texts) == ("Lineitem sku", "Variant SKU", ["Title"])


def test_a_namesake_is_the_id_of_the_items_also_with_a_row_for_each_language():
    items = {"nr": ["8", "9", "07", "5", "6", "7"], "sku": ["07", "07", "8", "8", "9", "9"]}
    assert guess(CLICKS, items | {"title": [f"Mug {row}" for row in range(6)]}).items_id == "sku"


def test_orders_without_customers_are_asked_for():
    with pytest.raises(
        ValueError, match=r"'nr' are orders, each with one time; name the column by `user_column`, that of"
    ):
        guess(ORDERS, text_columns="sku")
    assert guess(ORDERS, user_column="nr", text_columns="sku").user == "nr"


def test_a_name_of_the_item_column_counts_only_if_it_holds_items():
    orders = renamed(ORDERS, nr="reference", sku="line") | {"client": [f"u{who}" for _, who, _ in SALES]}
    items = {"sku": [f"s{row}" for row in range(9)], "title": [f"Mug {row}" for row in range(9)]}
    found = guess(orders, items)
    assert (found.item, found.items_id) == ("line", "sku")
    few_known = orders | {"reference": ["s1", *["other"] * (len(SALES) - 1)]}
    assert guess(few_known, items).item == "reference"


@pytest.mark.parametrize(
    ("title", "texts"),
    [
        (["Red mug", "Tea pot", "Glass lid"], ["Artikel", "Marke"]),
        (["Red mug", "Red mug", "Red mug"], ["Artikel", "Marke"]),  # of several words
        (["x1", "x1", "x1"], ["Marke"]),
    ],
)
def test_a_brand_alone_is_no_text_if_there_is_a_title_of_another_name(title, texts):
    items = {"Artikelnr": ["07", "8", "9"], "Artikel": title, "Marke": ["Acme"] * 3, "Preis": ["1,5"] * 3}
    assert guess(CLICKS, items).texts == texts


def test_texts_of_sales_tell_about_items():
    orders = ORDERS | {"who": [f"u{who}" for _, who, _ in SALES], "name": [f"#{order}" for order, _, _ in SALES]}
    orders["Line text"] = [f"a thing called {sku}" for _, _, sku in SALES]
    assert guess(orders).texts == ["Line text"]


def test_numbers_that_count_from_1970_are_times_and_others_are_not():
    clicks = {"ean": [4_006_381_333_931 + row for row in range(12)], "user": CLICKS["customer"], "sku": CLICKS["sku"]}
    with pytest.raises(ValueError, match="no column of times"):
        guess(clicks, PRODUCTS)
    for unit in (1, 1000, 1_000_000, 1_000_000_000):
        assert guess(clicks | {"w": [(1_700_000_000 + row) * unit for row in range(12)]}, PRODUCTS).time == "w"


def test_what_is_given_is_taken():
    clicks = CLICKS | {"session": ["s1", "s2"] * 6, "shipped": ["2024-02-01"] * 12}
    found = guess(clicks, PRODUCTS, user_column="session", time_column="shipped", text_columns="brand")
    assert (found.user, found.item, found.time, found.texts) == ("session", "sku", "shipped", ["brand"])
    assert found.reasons[0] == "time: 'shipped' of clicks (as given)"


@pytest.mark.parametrize(
    ("clicks", "products", "message"),
    [
        (
            {"a": ["x"], "b": ["y"]},
            None,
            r"clicks: no column of times was recognised, .* a, b; name it by `time_column`",
        ),
        ({"time": [1, 2], "b": ["y", "z"]}, None, r"no column of items was recognised, .*by `item_column`"),
        ({"time": [1, 2], "sku": ["y", "z"]}, None, r"no column of users was recognised, .*by `user_column`"),
        (CLICKS, None, r"clicks: no column with the texts of items was recognised, .*by `text_columns`"),
        (CLICKS, {"no": [1], "title": ["Mug"]}, r"products: no column of items was recognised, .*`items_id_column`"),
    ],
)
def test_what_is_not_recognised_is_asked_for(clicks, products, message):
    with pytest.raises(ValueError, match=message):
        guess(clicks, products)


def test_all_columns_of_json_lines(tmp_path):
    pl.DataFrame(CLICKS).write_ndjson(tmp_path / "clicks.jsonl")
    assert (
        guess_columns(load_table(tmp_path / "clicks.jsonl"), Table(pl.DataFrame(PRODUCTS), "products")).user
        == "customer"
    )


@pytest.mark.parametrize(
    ("names", "category"),
    [
        (["緑の散水ホース", "青の散水ホース", "赤い傘"], "店 > 庭"),
        (["हरा पानी का पाइप", "नीला पानी का पाइप", "लाल छाता"], "दुकान > बगीचा > पानी के पाइप और औज़ार"),
    ],
)
def test_a_name_of_each_item_is_read_beside_texts_that_items_share(names, category):
    products = {"コード": ["a", "b", "c"], "名": names, "型": ["X-100", "X-200", "X-300"], "分類": [category] * 3}
    products |= {"画像": [f"https://example.org/{name}.png" for name in "abc"]}
    clicks = {"時": [1.7e9, 1.7e9 + 1, 1.7e9 + 2, 1.7e9 + 3], "人": ["u", "v", "u", "v"], "品": ["a", "b", "c", "a"]}
    found = guess(clicks, products)
    assert found.texts == ["名", "分類"]
    assert "one for each item, and the longest texts" in found.reasons[-1]
