"""The page under `unisrec demo`, asked by raw HTTP: what it takes, what it refuses, and that neither log nor disk shows it."""

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from transformers import AutoModel, AutoTokenizer


pytest.importorskip("gradio")
from gradio_client import Client

from unisrec.demo import app as app_module
from unisrec.demo import page_gate
from unisrec.demo.app import build_app, launch
from unisrec.demo.explorer import Explorer
from unisrec.demo.page_gate import MAX_BODY
from unisrec.demo.side_by_side import SideBySide
from unisrec.modeling_unisrec import ItemCatalogue, UniSRecProcessor
from unisrec.recommender import Recommender


IDS, TEXTS = ["i0", "i1", "i2"], ["red pen", "steel kettle", "garden lamp"]
JOIN = "/gradio_api/queue/join"
JSON = {"Content-Type": "application/json"}


class Served(NamedTuple):
    """A page in a process of its own, which Ctrl-C ends with 130: its port, the file of what it printed, its folder for files."""

    port: int
    log: Path
    files: Path

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def event(self, path: str = JOIN, **body: object) -> int:
        return self.ask("POST", path, json.dumps(body).encode(), JSON)[0]

    def index(self, name: str) -> int:
        events = json.loads(self.ask("GET", "/config")[1])["dependencies"]
        return next(event["id"] for event in events if event["api_name"] == name)


@pytest.fixture(scope="module")
def recommender(make_model, text_encoder_dir) -> Recommender:
    model = make_model()
    model.attach_text_encoder(AutoModel.from_pretrained(text_encoder_dir))
    tokenizer = AutoTokenizer.from_pretrained(text_encoder_dir)
    processor = UniSRecProcessor(tokenizer, ItemCatalogue(IDS, TEXTS), max_history_length=10, max_text_length=32)
    return Recommender(model, processor)


@pytest.fixture(scope="module")
def served(recommender, find_port, fork, tmp_path_factory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("page")
    recommender.save_pretrained(root / "shop")
    port = find_port()
    (root / "files").mkdir()
    variables = dict.fromkeys(["GRADIO_TEMP_DIR", "TMPDIR"], root / "files")
    page = Served(port, root / "log", root / "files")
    process = fork("demo", root / "shop", "--port", port, log=page.log, **variables)
    process.wait_for("public link", page.log)  # the last line it prints
    assert page.ask("GET", "/")[0] == 200
    yield page
    assert process.end(signal.SIGINT) == 130
    said = page.log.read_text()
    assert said.splitlines()[-1] == "unisrec demo: interrupted"
    assert "Traceback" not in said


@pytest.fixture
def page(served) -> Iterator[Served]:
    """The page, of whose visitors neither log nor disk may keep anything."""
    before = served.log.read_text()
    yield served
    assert served.log.read_text() == before
    assert [file for file in served.files.rglob("*") if file.is_file()] == []


def test_the_page_and_its_parts_are_served(page):
    for path in ("/", "/config", "/gradio_api/info", "/theme.css", "/gradio_api/app_id"):
        assert page.ask("GET", path)[0] == 200, path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/upload/"),
        ("PUT", "/gradio_api/upload"),
        ("POST", "//gradio_api/upload"),
        ("POST", "/gradio_api/%75pload/"),
        ("GET", "/gradio_api/upload_progress?upload_id=1"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/file=/etc/passwd"),
        ("GET", "/gradio_api/deep_link?session_hash=abc"),
        ("GET", "/?deep_link=abc"),
        ("GET", "/config?deep_link=abc"),
        ("GET", "/config?deep%5flink="),
        ("GET", "/gradio_api/proxy=https://example.org/"),
        ("GET", "/gradio_api/custom_component/a/client/component/index.js"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("POST", "/gradio_api/stream/abc"),
        ("POST", "/gradio_api/stream/abc/close"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/search"),
        ("POST", "/gradio_api/api/search"),
        ("POST", "/gradio_api/call/v2/search"),
        ("POST", "/gradio_api/reset"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/run-history/connect"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/mcp/"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/openapi.json"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/assets/../../../../etc/passwd"),
        ("GET", "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
        ("DELETE", "/"),
        ("POST", "/"),
    ],
)
def test_other_routes_are_closed(page, method, path):
    assert page.ask(method, path, b'{"data": ["red", null]}' if method == "POST" else b"", JSON)[0] == 404


def test_an_upload_is_refused_before_it_is_sent(page):
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", page.port), timeout=300) as connection:
        connection.sendall(f"{head}Content-Length: 300000000\r\n\r\n--b\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 404")


def test_an_event_answers(page):
    index = page.index("search")
    assert page.event(fn_index=index, session_hash="s1", data=["steel", None]) == 200
    status, stream = page.ask("GET", "/gradio_api/queue/data?session_hash=s1")
    assert status == 200
    assert "steel kettle" in stream
    status, answer = page.ask("POST", "/gradio_api/call/search", b'{"data": ["lamp"]}', JSON)
    status, stream = page.ask("GET", f"/gradio_api/call/search/{json.loads(answer)['event_id']}")
    assert "garden lamp" in stream


def test_malformed_events_are_refused(page):
    search, pick, show = (page.index(name) for name in ("search", "pick", "show"))
    right = {"fn_index": search, "session_hash": "s2", "data": ["pen", None]}
    clicked = {"fn_index": pick, "session_hash": "s2", "data": [None, None]}
    shown = {"fn_index": show, "session_hash": "s2"}
    for wrong, status in (
        ({**right, "data": [5, None]}, 422),
        ({**right, "data": [None, None]}, 422),
        ({**right, "data": [["pen"], None]}, 422),
        ({**right, "data": ["pen", {"n1": "forged state"}]}, 422),
        ({**right, "data": ["pen"]}, 422),
        ({**right, "data": {"words": "pen"}}, 422),
        ({**right, "data": None}, 422),
        ({**right, "fn_index": 99}, 404),
        ({**right, "fn_index": -1}, 404),
        ({**right, "fn_index": True}, 404),
        ({**right, "fn_index": "0"}, 404),
        ({**right, "fn_index": None}, 404),
        ({**right, "session_hash": None}, 422),
        ({**right, "session_hash": 5}, 422),
        ({**right, "session_hash": "s" * 65}, 422),
        ({**right, "session_hash": "../etc"}, 422),
        ({**right, "batched": True}, 422),
        ({**right, "event_id": "abc"}, 422),
        ({**right, "trigger_id": "abc"}, 422),
        (clicked, 422),
        ({**clicked, "event_data": {"key": None}}, 422),
        ({**clicked, "event_data": {"key": ["i0"]}}, 422),
        ({**clicked, "event_data": {"key": "\ud800"}}, 422),
        ({**clicked, "event_data": "i0"}, 422),
        ({**shown, "data": [None, None, "ten"]}, 422),
        ({**shown, "data": [None, None, 1_000_000]}, 422),
        ({**shown, "data": [None, None, -1]}, 422),
        ({**shown, "data": [None, None, True]}, 422),
        ({**shown, "data": [None, None, float("nan")]}, 400),
    ):
        assert page.event(**wrong) == status, wrong
    for body, status in ((b"", 400), (b"{", 400), (b"\xff\xfe", 400), (b"[" * 60_000, 400), (b"[]", 422), (b"7", 422)):
        assert page.ask("POST", JOIN, body, JSON)[0] == status, body[:10]
        assert page.ask("POST", "/gradio_api/call/search", body, JSON)[0] == status, body[:10]
    assert page.event("/gradio_api/call/pick", data=[None, None]) == 422
    assert page.event("/gradio_api/call/none", data=[]) == 404
    assert page.ask("GET", "/gradio_api/queue/data?session_hash=nobody")[0] == 404
    assert page.ask("GET", "/gradio_api/queue/data")[0] == 404
    assert page.ask("GET", f"/gradio_api/call/search/{'0' * 32}")[0] == 404


def test_bodies_are_bounded(page):
    body = json.dumps({"data": ["x" * MAX_BODY, None], "fn_index": 0, "session_hash": "s3"}).encode()
    for path in (JOIN, "/gradio_api/call/search", "/gradio_api/cancel", "/login"):
        assert page.ask("POST", path, body, JSON)[0] == 413, path
    chunked = http.client.HTTPConnection("127.0.0.1", page.port, timeout=300)  # without a length in its head
    chunked.request("POST", JOIN, iter([body]), JSON, encode_chunked=True)
    assert chunked.getresponse().status == 413


def test_a_click_on_what_is_not_there_is_one_line_on_the_page(page):
    pick = page.index("pick")
    event = {"fn_index": pick, "session_hash": "s4", "data": [None, None], "event_data": {"key": "<i99>"}}
    assert page.event(**event) == 200
    stream = page.ask("GET", "/gradio_api/queue/data?session_hash=s4")[1]
    assert "&lt;i99&gt;" in stream
    assert "is not in the catalogue" in stream


@contextmanager
def in_this_process(explorer: Explorer, **options: object) -> Iterator[Served]:
    app = build_app(explorer, SideBySide(explorer), "shop")
    launch(app, prevent_thread_lock=True, quiet=True, **options)
    yield Served(app.server_port, Path(), Path())
    app.close()


def test_a_full_queue_takes_no_more_events(monkeypatch, recommender):
    monkeypatch.setattr(app_module, "MAX_WAITING", 3)
    explorer, at_work, going = Explorer(recommender), threading.Semaphore(0), threading.Event()

    def search(*words: object) -> list:
        at_work.release()
        going.wait()
        return []

    monkeypatch.setattr(explorer, "search", search)
    with in_this_process(explorer) as page:
        event = {"fn_index": page.index("search"), "data": ["pen", None]}
        statuses = []
        try:
            for visitor in range(12):
                statuses.append(page.event(session_hash=f"v{visitor}", **event))
                if visitor < 4:
                    assert at_work.acquire(timeout=600)  # until it has left the queue
        finally:
            going.set()
    assert statuses == [200] * 7 + [503] * 5  # four at work, three waiting


def test_requests_at_once_are_bounded(monkeypatch, recommender):
    with in_this_process(Explorer(recommender)) as page:
        monkeypatch.setattr(page_gate, "MAX_REQUESTS", 2)
        streams = [http.client.HTTPConnection("127.0.0.1", page.port, timeout=300) for _ in range(2)]
        for visitor, stream in enumerate(streams):
            stream.request("GET", f"/gradio_api/heartbeat/v{visitor}")
            assert stream.getresponse().status == 200
        assert page.ask("GET", "/config")[0] == 503
        for stream in streams:
            stream.close()


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch, recommender):
    monkeypatch.setattr(page_gate, "BODY_TIMEOUT", 0.5)
    with (
        in_this_process(Explorer(recommender)) as page,
        socket.create_connection(("127.0.0.1", page.port), timeout=300) as connection,
    ):
        head = f"POST {JOIN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"data": [')
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_password_keeps_visitors_out(recommender):
    with in_this_process(Explorer(recommender), auth=("shop", "secret")) as page:
        assert page.ask("GET", "/gradio_api/info")[0] == 401
        assert page.event(fn_index=0, session_hash="s", data=["pen", None]) == 401
        address = f"http://127.0.0.1:{page.port}"
        client = Client(
            address, auth=("shop", "secret"), verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 600}
        )
        assert "steel kettle" in client.predict("steel", api_name="/search")
