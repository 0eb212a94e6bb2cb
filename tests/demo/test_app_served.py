"""The web page as it is served: in headless Chromium, and to twenty visitors at once."""

# ruff: noqa: E402

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from transformers import AutoModel, AutoTokenizer


pytest.importorskip("gradio")
webdriver = pytest.importorskip("selenium.webdriver")
from gradio_client import Client
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from unisrec.demo.app import build_app, launch
from unisrec.demo.explorer import Explorer
from unisrec.demo.side_by_side import Popularity, SideBySide
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import Recommender


pytestmark = pytest.mark.slow
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="apt-get install chromium chromium-driver")
SCRIPT = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'> ${window.ran = 1} {{value}}"
USERS = 20


@pytest.fixture(scope="module")
def make_recommender(make_model, make_domain, text_encoder_dir) -> Callable[[], Recommender]:
    """Makes equal recommenders of 30 products."""
    items = make_domain().items
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)

    def make() -> Recommender:
        model = make_model()
        model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir))
        catalogue = ItemCatalogue(items["item_id"].to_list(), items["text"].to_list())
        return Recommender(model, UniSRecProcessor(tokenizer, catalogue, max_history_length=10, max_text_length=32))

    return make


@pytest.fixture(scope="module")
def address(make_recommender) -> Iterator[str]:
    explorer = Explorer(make_recommender())
    ids, texts = explorer.catalogue.item_ids, explorer.catalogue.texts
    popularity = Popularity(dict.fromkeys(ids, 3), dict(zip(ids, texts, strict=True)))
    app = build_app(explorer, SideBySide(explorer, popularity=popularity), "toys")
    launch(app, prevent_thread_lock=True, quiet=True)
    yield app.local_url
    app.close()


class Page:
    """The page in a browser; everything waits until it is there."""

    def __init__(self, browser: Chrome):
        self.browser = browser

    def wait(self, condition: Callable[[], object]) -> object:
        return WebDriverWait(self.browser, 60, ignored_exceptions=[Exception]).until(lambda _: condition())

    def all(self, selector: str) -> list[WebElement]:
        return [part for part in self.browser.find_elements(By.CSS_SELECTOR, selector) if part.is_displayed()]

    def type(self, placeholder: str, text: str) -> None:
        selector = f"textarea[placeholder='{placeholder}'], input[placeholder='{placeholder}']"
        self.wait(lambda: self.all(selector))[0].send_keys(text)

    def click(self, selector: str, text: str = "") -> None:
        # A list may be drawn anew between the look and the click.
        self.wait(lambda: next(part for part in self.all(selector) if text in part.text).click() or True)

    def history(self) -> list[str]:
        return [part.text for part in self.all("#us-history .us-title")]

    def results(self) -> list[str]:
        return [part.get_attribute("data-item") for part in self.all("#us-results li")]


@pytest.fixture(params=[(1280, False), (390, True)], ids=["desktop", "mobile"])
def page(request, address) -> Iterator[Page]:
    width, mobile = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = Chrome(options, Service(DRIVER))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    yield Page(browser)
    browser.quit()


@needs_chromium
def test_visit(page, make_recommender):
    box = "Search, or type your own words"
    recommender = make_recommender()
    text = recommender.processor.catalogue.texts[3]

    page.wait(lambda: "Your history is empty" in page.all("#us-history")[0].text)
    page.type(box, "toys-3")
    page.click("#us-matches button", text)
    page.wait(lambda: page.history() == [text])
    page.wait(lambda: not page.all("#us-matches button"))  # the box is empty again
    page.type(box, SCRIPT + Keys.ENTER)
    page.wait(lambda: page.history() == [text, SCRIPT])  # shown as it was typed
    entries = [{"item_id": "toys-3"}, {"text": SCRIPT}]
    (expected,) = recommender.recommend([entries], 10)
    page.wait(lambda: page.results() == [item.item_id for item in expected])
    assert page.browser.execute_script("return window.ran") is None

    page.click("button[role=tab]", "New")
    page.type("new-1", "n<b>1")
    page.type("Title, brand, what it is", "green travel kettle")
    page.click("button", "Add and place it")
    near = recommender.similar_items({"text": "green travel kettle"}, 5)
    recommender.add_items({"n<b>1": "green travel kettle"})
    (ranked,) = recommender.recommend([entries], 40)
    rank = [item.item_id for item in ranked].index("n<b>1") + 1
    page.wait(lambda: f"#{rank} of {len(ranked)} products" in page.all("#us-placed")[0].text)
    assert [part.get_attribute("data-item") for part in page.all("#us-placed li")] == [item.item_id for item in near]
    page.type(box, "travel kettle")
    page.click("#us-matches button", "yours")
    page.wait(lambda: page.history()[2:] == ["green travel kettle"])
    page.click("button[role=tab]", "Results")
    (expected,) = recommender.recommend([[*entries, {"text": "green travel kettle"}]], 10, blocked=["n<b>1"])
    page.wait(lambda: page.results() == [item.item_id for item in expected])

    page.click("button[role=tab]", "Compare")
    page.wait(lambda: [part.text for part in page.all("#us-compare h3")] == ["Text only", "Popularity"])
    page.click("button[role=tab]", "Map")
    page.wait(lambda: len(page.all("#us-map .role-mark path")) == 30 + 10 + 3)
    page.type(box, " " + Keys.ENTER)
    page.wait(lambda: "The text is empty" in page.browser.find_element(By.TAG_NAME, "body").text)
    page.click("button", "Clear")
    page.wait(lambda: page.history() == [])

    width = page.browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] == width[1]  # nothing to scroll to on the side
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 20
    assert {urlsplit(url).hostname for url in urls if not url.startswith("data:")} == {"127.0.0.1"}
    assert [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_twenty_visitors_at_once_each_get_their_own_answers(address, make_recommender):
    texts = make_recommender().processor.catalogue.texts

    def own(user: int) -> dict[str, str]:
        return {"mine": f"{'red' if user % 2 else 'blue'} {texts[user % 30]}"}

    def visit(user: int) -> list[list[tuple[str, str]]]:
        client = Client(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 600})
        client.predict("mine", own(user)["mine"], api_name="/place")
        shown = []
        for words in (f"toys-{user % 30}", f"lamp for {user}"):
            client.predict(words, api_name="/add")
            cards = client.predict(8, api_name="/show")[1]
            shown.append(re.findall(r'data-item="([^"]+)".*?us-score">(-?\d\.\d{3})<', cards))
        return shown

    with ThreadPoolExecutor(USERS) as pool:
        answers = list(pool.map(visit, range(USERS)))
    recommender = make_recommender()
    for user, shown in enumerate(answers):
        recommender.add_items(own(user))
        entries = [{"item_id": f"toys-{user % 30}"}, {"text": f"lamp for {user}"}]
        for cards, expected in zip(shown, recommender.recommend([entries[:1], entries], 8), strict=True):
            assert [item_id for item_id, _ in cards] == [item.item_id for item in expected], user
            assert [float(score) for _, score in cards] == pytest.approx([item.score for item in expected], abs=1e-3)
        recommender.remove_items(["mine"])
