"""The web page without a browser: its answers, its HTML, its events over HTTP, the folder of a Space."""

# ruff: noqa: E402

import ast
import copy
import re
import runpy
import shutil
from urllib.request import urlopen

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from huggingface_hub import RepoCard
from torch.nn import functional as F


gr = pytest.importorskip("gradio")
from gradio_client import Client

from unisrec.cli import main
from unisrec.data import Domain
from unisrec.demo import page_html
from unisrec.demo.app import build_app, launch, load_app, theme
from unisrec.demo.cards import MAX_TEXT, Card, clean
from unisrec.demo.explorer import Explorer
from unisrec.demo.page_events import PageEvents
from unisrec.demo.side_by_side import Popularity, SideBySide, example_histories, training_counts
from unisrec.demo.space import export_space
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import Recommender


SCRIPT = "red pen <script>alert('&')</script>"
TEXTS = ["red pen", "blue pen", "red tent", "steel kettle", "wood lamp", SCRIPT, "kids chair", "garden lamp"]
IDS = [f"i{row}" for row in range(len(TEXTS))]
OWN = {"n1": "green travel kettle", "n2": "small red pen set"}
HISTORY = [{"item_id": "i1"}, {"item_id": "n2"}, {"text": "lamp for camping"}]


@pytest.fixture
def make_explorer(make_model, text_encoder, tokenizer):
    def make(reads_text: bool = True, **fields) -> Explorer:
        model = make_model(**fields)
        model.attach_text_encoder(text_encoder)
        processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS), max_history_length=10, max_text_length=32)
        recommender = Recommender(model, processor)
        if not reads_text:
            recommender.model.text_encoder = None
        return Explorer(recommender)

    return make


@pytest.fixture
def make_recommender_of(make_model, text_encoder, tokenizer):
    def make(texts: list[str]) -> Recommender:
        model = make_model()
        model.attach_text_encoder(text_encoder)
        catalogue = ItemCatalogue([str(row) for row in range(len(texts))], texts)
        return Recommender(model, UniSRecProcessor(tokenizer, catalogue, max_history_length=10, max_text_length=32))

    return make


@pytest.fixture
def explorer(make_explorer) -> Explorer:
    return make_explorer()


@pytest.fixture
def with_own(make_explorer) -> Recommender:
    """A recommender whose catalogue holds the visitor's products for good."""
    recommender = make_explorer().recommender
    recommender.add_items(OWN)
    return recommender


def test_ranking_equals_the_recommenders_own(explorer):
    for history in ([{"item_id": "i1"}], [{"item_id": "i4"}, {"text": "lamp for camping"}]):
        (expected,) = explorer.recommender.recommend([history], 5)
        cards = explorer.recommend(history, {}, 5)
        assert [(card.item_id, card.text, card.score) for card in cards] == [
            tuple(e.to_dict().values()) for e in expected
        ]
    assert explorer.recommend([], {}, 5) == []


@pytest.mark.parametrize("fields", [{}, {"num_items": 8}, {"similarity": "dot"}])
def test_own_products_rank_as_if_they_were_in_the_catalogue(make_explorer, fields):
    explorer, other = make_explorer(**fields), make_explorer(**fields).recommender
    other.add_items(OWN)
    history = [{"item_id": "i1"}, {"text": "lamp for camping"}]
    (expected,) = other.recommend([history], 9)
    cards = explorer.recommend(history, OWN, 9)
    assert [card.item_id for card in cards] == [item.item_id for item in expected]
    assert [card.score for card in cards] == pytest.approx([item.score for item in expected], abs=1e-5)
    assert {card.item_id for card in cards if card.own} == set(OWN)


def test_reason_is_the_item_of_the_history_with_the_largest_cosine(explorer, with_own):
    vectors = dict(zip(with_own.processor.catalogue.item_ids, with_own.item_embeds, strict=True))
    typed = with_own.encode_items(["lamp for camping"])[0]
    history = {"blue pen": vectors["i1"], OWN["n2"]: vectors["n2"], "lamp for camping": typed}
    for card in explorer.recommend(HISTORY, OWN, 10):
        cosines = {
            title: torch.cosine_similarity(torch.tensor(vector), torch.tensor(vectors[card.item_id]), dim=0).item()
            for title, vector in history.items()
        }
        assert card.nearest == max(cosines, key=cosines.get)
        assert card.cosine == pytest.approx(max(cosines.values()), abs=1e-5)
        assert card.item_id not in ("i1", "n2")


def test_new_product_lands_where_the_catalogue_would_have_it(explorer):
    history = [{"item_id": "i0"}, {"item_id": "i3"}]
    placed = explorer.place(history, OWN, " n9 ", "garden\x00 lamp\tset")
    assert (placed.item_id, placed.text) == ("n9", "garden lamp set")
    near = explorer.recommender.similar_items({"text": placed.text}, 5)
    assert [card.item_id for card in placed.neighbours] == [item.item_id for item in near]
    explorer.recommender.add_items({**OWN, "n9": placed.text})
    (ranked,) = explorer.recommender.recommend([history], 20)
    assert placed.total == len(ranked)
    assert ranked[placed.rank - 1].item_id == "n9"
    assert placed.score == pytest.approx(ranked[placed.rank - 1].score, abs=1e-5)
    assert explorer.place([], {}, "n9", "garden lamp").rank is None


def test_search_and_what_typed_words_mean(explorer):
    assert [card.item_id for card in explorer.search("LAMP", {})] == ["i4", "i7"]
    assert [card.item_id for card in explorer.search("red pen", OWN)] == ["n2", "i0", "i5"]
    assert [card.item_id for card in explorer.search("i3", {})] == ["i3"]
    assert explorer.search("  ", OWN) == explorer.search("x" * 200_000, OWN) == []
    assert explorer.entry(" i3 ", {}) == explorer.entry("Steel  Kettle", {}) == {"item_id": "i3"}
    assert explorer.entry("green travel kettle", OWN) == {"item_id": "n1"}
    assert explorer.entry("a \u202ekettle\u0007 🏕️👩‍🚀", {}) == {"text": "a kettle 🏕️👩‍🚀"}
    (cards,) = explorer.recommender.recommend([[explorer.entry("🏕️ \ud800 tent", {})]], 3)
    assert len(cards) == 3


def test_search_ignores_accents_and_case(make_recommender_of):
    explorer = Explorer(make_recommender_of(["Müslischale", "CAFÉ crème", "Straße", "Łódź mug", "plain mug"]))
    for words, found in {"muslischale": 0, "MÜSLI": 0, "cafe creme": 1, "strasse": 2, "lodz": None, "łodz": 3}.items():
        assert [card.item_id for card in explorer.search(words, {})] == ([] if found is None else [str(found)]), words
    assert [card.item_id for card in explorer.search("the", {"n1": "Thé vert"})] == ["n1"]


def test_customers_are_found_by_id(explorer):
    with_customers = Explorer(explorer.recommender, {"0017": ["i1", "gone", "i3"], "gone": ["x"], "long": ["i2"] * 30})
    page = PageEvents(with_customers, SideBySide(with_customers), [])
    assert page.customer(" 0017 ") == [{"item_id": "i1"}, {"item_id": "i3"}]
    assert page.customer("long") == [{"item_id": "i2"}] * 10
    for user_id, line in (
        ("17", "no customer '17'"),
        ("gone", "None of the products"),
        ("", "The customer id is empty"),
    ):
        with pytest.raises(ValueError, match=line):
            with_customers.customer(user_id)
    with pytest.raises(ValueError, match="no customer"):
        explorer.customer("0017")  # only where it is asked for


def test_columns_stand_on_the_cards(make_recommender_of):
    recommender = make_recommender_of(["red pen", "blue pen"])
    columns = {"title": ["red pen", "blue pen"], "price": [1.5, 4.9], "url": ["javascript:x", "https://shop/?a=1&b=2"]}
    recommender.set_columns(pl.DataFrame({"item_id": ["0", "1"], "score": [1, 2], "tag": ["<b>", None], **columns}))
    explorer = Explorer(recommender)
    html = page_html.results(explorer.recommend([{"item_id": "0"}], {"n1": "green pen"}, 3), cosine=True)
    assert "price 4.9" in html
    assert '<a href="https://shop/?a=1&amp;b=2" target="_blank" rel="noopener noreferrer nofollow">url</a>' in html
    html = page_html.results(explorer.recommend([{"item_id": "1"}], {}, 3), cosine=True)
    assert "tag &lt;b&gt;" in html
    assert "title red" not in html  # the text holds it already
    assert 'href="javascript' not in html


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda e: e.entry(" \x00\n", {}), "The text is empty"),
        (lambda e: e.entry("long " * 20_000, {}), "The text has 100,000 characters; at most 5,000"),
        (lambda e: e.append([], {"item_id": "i99"}, OWN), "'i99' is not in the catalogue"),
        (lambda e: e.append([{"item_id": "i1"}] * 10, {"item_id": "i2"}, {}), "history is full: .* 10 products"),
        (lambda e: e.place([], {}, "i3", "a kettle"), "The id 'i3' is taken by 'steel kettle'"),
        (lambda e: e.place([], OWN, "n1", "a kettle"), "The id 'n1' is taken by 'green travel kettle'"),
        (lambda e: e.place([], {}, "", "a kettle"), "The id is empty"),
        (lambda e: e.place([], {}, "n" * 101, "a kettle"), "The id has 101 characters; at most 100"),
        (lambda e: e.place([], {}, "n3", " "), "The text is empty"),
        (lambda e: e.place([], {}, "n3", "x" * 100_000), "The text has 100,000 characters"),
        (lambda e: e.place([], {f"n{n}": "pen" for n in range(50)}, "n99", "pen"), "have added 50 products"),
    ],
)
def test_bad_input_is_one_line(explorer, call, line):
    with pytest.raises((ValueError, KeyError), match=line) as raised:
        call(explorer)
    assert "\n" not in str(raised.value)
    assert len(clean("x" * MAX_TEXT)) == MAX_TEXT


def test_model_without_text_encoder_takes_products_alone(make_explorer):
    explorer = make_explorer(reads_text=False)
    with pytest.raises(ValueError, match="has no text encoder: pick a product"):
        explorer.entry("unheard of", {})
    assert len(explorer.recommend([{"item_id": "i3"}], {}, 3)) == 3
    labels = [
        part["props"].get("label") for part in build_app(explorer, SideBySide(explorer), "x").config["components"]
    ]
    assert "New" not in labels
    assert "Compare" not in labels


def test_rankings_side_by_side(make_explorer):
    explorer = make_explorer()
    popularity = Popularity({"i7": 5, "i0": 9, "i1": 9, "gone": 99, "i2": 0}, dict(zip(IDS, TEXTS, strict=True)))
    texts = make_explorer(num_items=8)
    rankings = SideBySide(explorer, texts, popularity).rankings(HISTORY, OWN, 4)
    assert list(rankings) == ["Text only", "Text + ID", "Popularity"]
    assert rankings["Text only"] == explorer.recommend(HISTORY, OWN, 4)
    assert rankings["Text + ID"] == texts.recommend(HISTORY, OWN, 4)
    assert [(card.item_id, card.score) for card in rankings["Popularity"]] == [("i0", 9), ("i7", 5)]
    # A model of ids alone knows neither typed words nor own products: they are left out of its history.
    ids = make_explorer(num_items=8, item_text=False)
    rankings = SideBySide(explorer, ids).rankings(HISTORY, OWN, 4)
    assert rankings["ID only"] == ids.recommend(HISTORY[:1], {}, 4)
    rankings = SideBySide(explorer, ids).rankings(HISTORY[1:], OWN, 4)
    assert rankings["ID only"] == []
    assert "knows none of these" in page_html.columns(rankings)
    assert list(SideBySide(explorer, make_explorer(seed=1)).rankings(HISTORY, {**OWN}, 2))[1].startswith("Text only, ")
    assert not SideBySide(explorer)


def test_counts_and_examples_of_a_domain_are_of_its_training_histories(make_domain):
    domain = make_domain()
    counts = dict.fromkeys(domain.items["item_id"], 0)
    histories = domain.sequences["item_index"].to_list()
    for history in histories:
        for row in history[:-2]:
            counts[f"toys-{row}"] += 1
    assert training_counts(domain) == counts
    starts = [[f"toys-{row}" for row in history[:-2][:4]] for history in histories]
    examples = example_histories(domain, count=7)
    assert len(examples) == 7
    assert all(example in starts for example in examples)


def test_every_text_is_escaped(explorer):
    own = {"<b>n</b>": SCRIPT}
    history = [{"item_id": "i5"}, {"item_id": "<b>n</b>"}, {"text": SCRIPT}]
    page = PageEvents(explorer, SideBySide(explorer, explorer), [])
    shown, results, points, columns = page.show(history, {**own, "<i>": "<u>"}, 10)
    parts = [shown, results, columns, page.search("script", own)]
    parts += [page.place("<a>", SCRIPT, history, own)[1], page_html.matches([], SCRIPT, True)]
    for part in parts:
        assert not re.search(r"<(script|b>n|u>|i>|a>)", part), part
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in shown
    assert SCRIPT in points["product"].tolist()  # drawn as text


def test_bad_input_warns_in_one_escaped_line_and_changes_nothing(explorer, monkeypatch):
    lines = []
    monkeypatch.setattr(gr, "Warning", lambda line, **options: lines.append(line))
    page = PageEvents(explorer, SideBySide(explorer), [])
    assert page.add_words("\x00", HISTORY, OWN) == gr.skip()
    assert page.place("n1", "x", HISTORY, {"n1": "<script>"}) == gr.skip()
    assert page.pick(HISTORY, OWN, gr.EventData(None, {"key": "<b>"})) == gr.skip()
    assert ["is empty" in lines[0], "&lt;script&gt;" in lines[1], "&lt;b&gt;" in lines[2]] == [True] * 3


def test_events_leave_what_came_in_as_it_was(explorer):
    page = PageEvents(explorer, SideBySide(explorer), [["i0", "i2"]])
    history, own = copy.deepcopy(HISTORY), dict(OWN)
    longer, box = page.add_words("Steel kettle", history, own)
    assert (longer, box) == ([*HISTORY, {"item_id": "i3"}], "")
    assert page.pick(history, own, gr.EventData(None, {"key": "i4"}))[0] == [*HISTORY, {"item_id": "i4"}]
    assert page.remove(history, gr.EventData(None, {"key": "1"})) == [HISTORY[0], HISTORY[2]]
    assert page.place("n9", "wood chair", history, own)[0] == {**OWN, "n9": "wood chair"}
    assert page.example() == [{"item_id": "i0"}, {"item_id": "i2"}]
    page.show(history, own, 5)
    assert (history, own) == (HISTORY, OWN)
    made_up = PageEvents(explorer, SideBySide(explorer), []).example()
    assert len({entry["item_id"] for entry in made_up}) == 3


def test_map_shows_catalogue_history_and_results(explorer):
    page = PageEvents(explorer, SideBySide(explorer), [])
    points = page.show(HISTORY, OWN, 4)[2]
    assert points["shown as"].value_counts().to_dict() == {"catalogue": 8, "results": 4, "history": 3}
    # The plane of the two largest singular values of the centred unit vectors, up to sign.
    unit = F.normalize(explorer.items, dim=-1)
    _, _, axes = torch.linalg.svd(unit - unit.mean(0))
    expected = ((unit - unit.mean(0)) @ axes[:2].T).abs()
    places = points[points["shown as"] == "catalogue"][["x", "y"]].to_numpy()
    np.testing.assert_allclose(np.abs(places), expected.numpy(), atol=1e-4)
    assert page.show([], {}, 4)[2]["shown as"].unique().tolist() == ["catalogue"]


def test_cards_show_rank_score_and_reason():
    text = page_html.results([Card("i1", "blue pen", 0.51234, "red pen", 0.756)], cosine=True)
    for part in ("0.512", "width:51%", "cosine 0.76", "<em>red pen</em>", 'data-key="i1"', 'data-item="i1"'):
        assert part in text
    assert "width" not in page_html.results([Card("i1", "blue pen", 7.5)], cosine=False)


def test_theme_loads_no_fonts():
    assert theme()._stylesheets == []
    assert "@import" not in theme()._get_theme_css()


@pytest.fixture
def address(explorer):
    app = build_app(explorer, SideBySide(explorer), "shop")
    launch(app, prevent_thread_lock=True, quiet=True)
    yield app.local_url
    app.close()


def test_two_visitors_over_http_do_not_meet(address, explorer):
    one, other = (
        Client(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 600}) for _ in range(2)
    )
    one.predict("n1", OWN["n1"], api_name="/place")
    assert "n1" in one.predict("kettle", api_name="/search")
    assert "n1" not in other.predict("kettle", api_name="/search")
    for client, own, words in ((one, {"n1": OWN["n1"]}, "red pen"), (other, {}, "garden lamp")):
        client.predict(words, api_name="/add")
        results = client.predict(5, api_name="/show")[1]
        expected = explorer.recommend([explorer.entry(words, own)], own, 5)
        assert re.findall(r'data-item="(\w+)"', results) == [card.item_id for card in expected]
    before = one.predict(5, api_name="/show")
    one.predict(" \x07 ", api_name="/add")  # a warning on the page
    assert one.predict(5, api_name="/show") == before


@pytest.fixture
def runs(make_explorer, make_domain, tmp_path):
    domain = make_domain(num_items=8)
    items = pl.DataFrame({"item_id": IDS, "text": TEXTS})
    Domain("shop", items, domain.sequences).save_to_disk(tmp_path / "domain")
    for name, fields in (("shop-text", {}), ("shop-id", {"num_items": 8})):
        recommender = make_explorer(**fields).recommender
        recommender.save_pretrained(tmp_path / name)
    return tmp_path


def test_page_of_folders(runs):
    app = load_app(runs / "shop-text", runs / "domain", runs / "shop-id")
    labels = [part["props"].get("label") for part in app.config["components"]]
    assert {"Results", "Compare", "Map", "New"} <= set(labels)
    assert "Customer" not in labels
    app_with_customers = load_app(runs / "shop-text", runs / "domain", customers=True)
    assert "Customer" in [part["props"].get("label") for part in app_with_customers.config["components"]]
    assert app.title == "shop-text: what comes next?"


def test_space_has_all_it_needs_and_nothing_of_this_machine(runs, capsys):
    space = runs / "space"
    command = ["demo", runs / "shop-text", "--domain", runs / "domain", "--compare", runs / "shop-id"]
    assert main([*map(str, command), "--export-space", str(space)]) == 0
    assert "hf upload --repo-type space" in capsys.readouterr().out
    files = {file.relative_to(space).as_posix() for file in space.rglob("*") if file.is_file()}
    assert {"app.py", "requirements.txt", "README.md", "popularity.parquet", "model/model.safetensors"} <= files
    assert {"model/catalogue/items.parquet", "compare/catalogue/items.parquet"} <= files
    for name in files:
        assert str(runs).encode() not in (space / name).read_bytes(), name
        assert "sequences" not in name  # histories stay here
    head = (space / "README.md").read_text().split("---\n")[1]
    settings = yaml.safe_load(head)
    assert (settings["title"], settings["sdk"], settings["app_file"]) == ("shop-text", "gradio", "app.py")
    assert (settings["sdk_version"], settings["python_version"]) == (gr.__version__, "3.12")
    assert "unisrec[demo]==" in (space / "requirements.txt").read_text()
    code = (space / "app.py").read_text()
    assert "load_app(here / 'model', compare=here / 'compare', popularity_file=here / 'popularity.parquet', " in code
    assert [path.name for path in runs.glob(".space*")] == []
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export_space(runs / "shop-text", space)
    with pytest.raises(OSError, match="cannot be loaded"):
        export_space(runs / "nothing", runs / "other")
    assert not (runs / "other").exists()


ODD_NAMES = [
    'x"; import os; os._exit(3); "',
    "x'''\n\"\"\"; raise SystemExit(3)",
    "office: v2",
    "2024",
    "no",
    "null",
    "~",
    "-",
    "--help",
    "# pens",
    "[a, b]",
    "{a: b}",
    "&a *b !c",
    "a\n---\ntitle: b",
    "Büro 商店 🛒",
    "{name} %s $x",
    "<script>alert(1)<",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_data_in_the_code_and_the_head_of_a_space(runs, tmp_path, name):
    folder = tmp_path / "odd" / name
    shutil.copytree(runs / "shop-text", folder)
    export_space(folder, tmp_path / "space")
    code = (tmp_path / "space" / "app.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (call,) = (call for call in calls if getattr(call.func, "id", None) == "load_app")
    assert {keyword.arg: keyword.value.value for keyword in call.keywords} == {"name": name}
    assert len(ast.parse(code).body) == 5  # its docstring, two imports, the folder, the launch
    card = (tmp_path / "space" / "README.md").read_text(encoding="utf-8")
    settings = RepoCard(card).data.to_dict()
    assert settings["title"] == " ".join(name.encode("utf-8", "replace").decode().split())
    assert (settings["sdk"], settings["app_file"], settings["pinned"]) == ("gradio", "app.py", False)


def test_the_name_of_a_checkpoint_is_text_on_the_page(explorer):
    app = build_app(explorer, SideBySide(explorer), "</title></script><script>alert('hi')</script>")
    launch(app, prevent_thread_lock=True, quiet=True)
    try:
        page = urlopen(app.local_url).read().decode()
        assert "<script>alert" not in page
    finally:
        app.close()


@pytest.mark.slow
def test_space_starts(runs, monkeypatch):
    export_space(runs / "shop-text", runs / "space", runs / "domain", runs / "shop-id")
    titles = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda app, **options: titles.append(app.title))
    monkeypatch.chdir(runs / "space")
    runpy.run_path("app.py")
    assert titles == ["shop-text: what comes next?"]


def test_verb_refuses_in_one_line(runs, find_port, capsys):
    port = ["--port", str(find_port())]
    for words, line in (
        (["demo", str(runs / "nothing"), *port], "cannot be loaded"),
        (["demo", str(runs / "shop-text"), "--domain", str(runs / "nothing"), *port], "nothing"),
        (["demo", str(runs / "shop-text"), "--host", "203.0.113.9"], "cannot serve on 203.0.113.9:7860"),
        (["demo", str(runs / "shop-text"), "--port", "99999"], "choose another --port"),
        (["demo", str(runs / "shop-text"), "--customers"], "--customers: histories are those of --domain"),
    ):
        assert main(words) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert error.startswith("unisrec demo: error:")
        assert line in error
