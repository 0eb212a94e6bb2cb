"""The server: right answers under concurrency, and a status with one line for what is malformed, large or hostile."""

import asyncio
import copy
import datetime
import inspect
import json
import math
import time

import pytest


pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
import httpx
import polars as pl

from unisrec.recommender import Recommender
from unisrec.serving.batching import MicroBatcher, Overloaded
from unisrec.serving.endpoint import EndpointHandler
from unisrec.serving.server import Limits, create_app


JSON = {"Content-Type": "application/json"}


class Client:
    """Sends requests to an application in this process, many at once."""

    def __init__(self, handler, **limits):
        self.app = create_app(handler, Limits(**limits))

    def send(self, *requests):
        async def all_of_them():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with (
                self.app.router.lifespan_context(self.app),
                httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
            ):
                return await asyncio.gather(*(client.request(method, path, **kw) for method, path, kw in requests))

        return asyncio.run(all_of_them())

    def post(self, path, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(("POST", path, {"content": content, "headers": {**JSON, **headers}}))[0]

    def get(self, path, **headers):
        return self.send(("GET", path, {"headers": headers}))[0]


@pytest.fixture(scope="module")
def handler(recommender):
    return EndpointHandler(recommender=recommender, max_history=20)


@pytest.fixture(scope="module")
def client(handler):
    return Client(handler, max_body=4000)


def error(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]
    return answer.json()["error"]


def close(found, expected):
    assert [item["item_id"] for item in found] == [item.item_id for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item.score for item in expected], abs=1e-5)


def test_concurrent_requests_share_calls_and_get_their_own_answers(handler, recommender, monkeypatch):
    calls = []
    real = recommender.recommend
    monkeypatch.setattr(
        recommender, "recommend", lambda histories, **kw: calls.append(histories) or real(histories, **kw)
    )
    bodies = [{"history": [f"toys-{n % 30}", {"text": "red pen"}], "top_k": 3 + n % 2} for n in range(40)]
    bodies.append({"history": ["toys-1"], "exclude_seen": False, "allowed": ["toys-1", "toys-2"]})
    answers = Client(handler, max_wait=0.05).send(*(("POST", "/recommend", {"json": body}) for body in bodies))
    assert len(calls) < 10
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 200
        close(answer.json()["items"], real([body.pop("history")], **body)[0])


def test_rules_of_a_shop(make_recommender):
    recommender = make_recommender()
    processor = copy.copy(recommender.processor)
    columns = {"brand": [f"b{row % 4}" for row in range(30)], "sales": list(range(30)), "price": [math.nan] * 30}
    frame = pl.DataFrame(columns | {"since": [datetime.date(2026, 1, 1)] * 30})
    processor.catalogue = processor.catalogue.with_columns(frame)
    recommender = Recommender(recommender.model, processor)
    rules = {"where": "sales > 9", "cap": {"brand": 1}, "diversity": 0.5, "columns": ["brand", "price", "since"]}
    client = Client(EndpointHandler(recommender=recommender))
    found = client.post("/recommend", {"history": ["toys-1"], **rules}).json()["items"]
    close(found, recommender.recommend([["toys-1"]], **rules)[0])
    assert sorted(item["brand"] for item in found) == ["b0", "b1", "b2", "b3"]
    assert {(item["price"], item["since"]) for item in found} == {(None, "2026-01-01")}
    popular = client.post("/recommend", {"history": [], "popularity": "sales", "top_k": 2}).json()["items"]
    assert [item["item_id"] for item in popular] == ["toys-29", "toys-28"]


def test_similar_and_items_and_health(client, recommender):
    found = client.post("/similar", {"item": {"text": "blue tent"}, "top_k": 4}).json()["items"]
    close(found, recommender.similar_items({"text": "blue tent"}, 4))
    catalogue = recommender.processor.catalogue
    page = client.get("/items?offset=28&limit=5").json()
    assert page["total"] == 30
    assert [item["item_id"] for item in page["items"]] == catalogue.item_ids[28:]
    assert client.get("/health").json() == {"status": "ok"}
    assert client.send(("HEAD", "/health", {}))[0].status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"", 422, "body: missing; expected a JSON object"),
        (b"{", 400, "the body is not JSON: Expecting property name"),
        (b"\xff", 400, "the body is not JSON in UTF-8"),
        (b'{"history": ["\xff"]}', 400, "the body is not JSON in UTF-8"),
        (b'{"history": ' + b"[" * 3900, 400, "the body is not JSON in UTF-8, or is nested too deeply"),
        (b'{"history": ["toys-1"], "top_k": ' + b"9" * 3900 + b"}", 422, "top_k: expected"),
        (b'{"history": ["toys-1"], "top_k": 1e400}', 422, "top_k: expected a valid integer, not inf"),
        (b'{"history": ["toys-1"], "top_k": NaN}', 422, "top_k: expected a valid integer, not nan"),
        (b'{"history": ["\\ud800"]}', 422, "history[0]: expected the id of an item"),
        (b'{"\\ud800": 1, "history": ["toys-1"]}', 422, "body: unknown field '\\ud800'"),
        ([], 422, "body: expected an object with history, top_k"),
        ({"histories": [["toys-1"]]}, 422, "body: unknown field 'histories'; expected history, top_k"),
        ({}, 422, "history: missing"),
        ({"history": []}, 422, "history: empty; expected at least one item"),
        ({"history": "toys-1"}, 422, "history: expected a valid list, not 'toys-1'"),
        ({"history": ["toys-1", 7]}, 422, "history[1]: expected the id of an item"),
        ({"history": [["toys-1"]]}, 422, "history[0]: expected the id of an item"),
        ({"history": [{"text": "x", "id": "y"}]}, 422, "history[0]: expected the id of an item"),
        ({"history": [{"text": " "}]}, 422, "history[0]: expected the id of an item"),
        ({"history": ["toys-1", "toys-99"]}, 422, "history[1]: item id 'toys-99' is not in the catalogue of 30 items"),
        ({"history": ["x" * 2001]}, 422, "history[0]: expected the id of an item"),
        ({"history": ["toys-1"] * 21}, 422, "history: 21 entries; expected at most 20"),
        ({"history": ["toys-1"], "top_k": 10**9}, 422, "top_k: expected less than or equal to 1000, not 1000000000"),
        ({"history": ["toys-1"], "top_k": "10"}, 422, "top_k: expected a valid integer, not '10'"),
        ({"history": ["toys-1"], "top_k": None}, 422, "top_k: expected a valid integer, not null"),
        ({"history": ["toys-1"], "exclude_seen": 1}, 422, "exclude_seen: expected a valid boolean, not 1"),
        ({"history": ["toys-1"], "blocked": ["toys-99"]}, 422, "blocked[0]: item id 'toys-99'"),
        ({"history": ["toys-1"], "where": "stock >"}, 422, "where: the items have no column 'stock'"),
        ({"history": ["toys-1"], "where": "(" * 900}, 422, "where: the condition has 900 words"),
        ({"history": ["toys-1"], "cap": {"none": 1}}, 422, "cap: the items have no column 'none'"),
        ({"history": ["toys-1"], "cap": {"brand": 1.5}}, 422, "cap.brand: expected a valid integer, not 1.5"),
        ({"history": ["toys-1"], "diversity": 2}, 422, "diversity: expected less than or equal to 1, not 2"),
        ({"history": ["toys-1"], "columns": ["none"]}, 422, "columns: the items have no column 'none'"),
        ({"history": [], "popularity": "none"}, 422, "popularity: the items have no column 'none'"),
        ({"history": ["toys-1"], "allowed": "toys-1"}, 422, "allowed: expected a valid list, not 'toys-1'"),
        ({"history": ["toys-1"] * 1000}, 413, "The body is too large; at most 4,000 bytes are read."),
    ],
)
def test_bad_bodies(client, body, status, line):
    assert error(client.post("/recommend", body), status).startswith(line)


@pytest.mark.parametrize(
    ("method", "path", "status", "line"),
    [
        ("GET", "/", 404, "'/' is not here; expected one of /docs, /health, /items"),
        ("GET", "/../../etc/passwd", 404, "'/"),
        ("GET", "/%ff%00", 404, "'/"),
        ("GET", "/recommend/", 404, "'/recommend/' is not here"),
        ("GET", "/recommend", 405, "GET '/recommend': expected POST"),
        ("DELETE", "/items", 405, "DELETE '/items': expected GET"),
        ("GET", "/items?limit=0", 422, "limit: expected greater than or equal to 1, not '0'"),
        ("GET", "/items?limit=many", 422, "limit: expected a valid integer, not 'many'"),
        ("GET", "/items?query=tent", 422, "query: unknown field 'query'; expected offset, limit"),
        ("GET", "/items?limit=%ff", 422, "limit: expected a valid integer"),
    ],
)
def test_bad_routes(client, method, path, status, line):
    (answer,) = client.send((method, path, {"headers": JSON}))
    assert error(answer, status).startswith(line)
    assert client.send(("HEAD", "/recommend", {}))[0].status_code == 405


def test_other_content_types(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post("/recommend", {"history": ["toys-1"]}, **{"Content-Type": kind})
        assert error(answer, 415).startswith("Content-Type: expected application/json")
    assert client.post(
        "/recommend", {"history": ["toys-1"]}, **{"Content-Type": "Application/JSON; charset=utf-8"}
    ).is_success


def test_token(handler):
    client = Client(handler, token="s3cret-token")
    assert error(client.get("/items"), 401).startswith("Authorization: missing")
    for given in ("Bearer s3cret", "Bearer s3cret-tokens", "Bearer", "Basic s3cret-token", "s3cret-token"):
        answer = client.get("/items", Authorization=given)
        assert "Bearer TOKEN" in error(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert error(client.post("/recommend", b"\xff"), 401)
    assert error(client.get("/metrics"), 401)
    assert error(client.get("/nothing"), 401)
    assert client.get("/items", Authorization="bearer s3cret-token").is_success
    assert client.get("/health").is_success
    schema = client.get("/openapi.json").json()
    assert "s3cret" not in json.dumps(schema)
    assert schema["components"]["securitySchemes"]


def test_the_page_describes_all_requests(client):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/recommend", "/similar", "/items", "/health", "/metrics"}
    request = schema["components"]["schemas"]["RecommendRequest"]
    options = set(inspect.signature(Recommender.recommend).parameters) - {
        "self",
        "histories",
        "batch_size",
        "progress",
    }
    assert request["properties"].keys() == {"history", *options}
    assert request["additionalProperties"] is False
    assert "<html" in client.get("/docs").text


def test_metrics(handler):
    client = Client(handler)
    good, bad = {"history": ["toys-1"]}, {"history": ["none"]}
    requests = [("POST", "/recommend", {"json": body}) for body in (good, good, bad)]
    client.send(*requests, ("GET", "/any/thing", {}))
    lines = client.get("/metrics").text.splitlines()
    assert 'unisrec_requests_total{path="/recommend",status="200"} 2.0' in lines
    assert 'unisrec_requests_total{path="/recommend",status="422"} 1.0' in lines
    assert 'unisrec_requests_total{path="other",status="404"} 1.0' in lines
    assert "unisrec_batch_size_sum 2.0" in lines
    assert "unisrec_items 30.0" in lines


def asgi(app, *messages):
    """What the application sends for a request whose body comes in parts, each after a pause."""
    sent, parts = [], iter(messages)

    async def receive():
        pause, part = next(parts, (3600, None))
        await asyncio.sleep(pause)
        return part

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/recommend", "headers": headers, "query_string": b""}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_slow_and_broken_bodies(handler):
    app = create_app(handler, Limits(body_seconds=0.1, max_body=100))
    part = {"type": "http.request", "body": b"{", "more_body": True}
    status, body = asgi(app, *[(0.03, part)] * 50)
    assert status == 408
    assert b"took too long" in body
    assert asgi(app, (0, part), (0, {"type": "http.disconnect"}))[0] == 400
    endless = {"type": "http.request", "body": b"x" * 90, "more_body": True}
    assert asgi(app, *[(0, endless)] * 1000)[0] == 413
    assert asgi(app, *[(0, endless)] * 3)[0] == 413  # and then nothing more comes


def test_one_bad_request_does_not_harm_its_batch(handler, recommender, monkeypatch):
    real = recommender.recommend

    def recommend(histories, **options):
        if any(history == ["toys-2"] for history in histories):
            raise ValueError("the vectors of histories are not all finite")
        return real(histories, **options)

    monkeypatch.setattr(recommender, "recommend", recommend)
    requests = [("POST", "/recommend", {"json": {"history": [f"toys-{n}"]}}) for n in range(4)]
    answers = Client(handler, max_wait=0.05).send(*requests)
    assert [answer.status_code for answer in answers] == [200, 200, 422, 200]
    assert error(answers[2], 422) == "the vectors of histories are not all finite"


def test_a_fault_is_no_traceback(handler, recommender, monkeypatch):
    monkeypatch.setattr(recommender, "recommend", lambda *args, **options: 1 / 0)
    assert error(Client(handler).post("/recommend", {"history": ["toys-1"]}), 500).startswith("A fault of the server")


def test_batcher_bounds_what_waits():
    async def run():
        async with MicroBatcher(lambda requests: time.sleep(0.2) or requests, max_batch=2, max_waiting=3) as batcher:
            first = [asyncio.create_task(batcher.submit(number)) for number in range(2)]
            await asyncio.sleep(0.05)
            rest = [asyncio.create_task(batcher.submit(number)) for number in range(2, 5)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await batcher.submit(9)
            rest[0].cancel()
            return await asyncio.gather(*first, *rest[1:])

    assert asyncio.run(run()) == [0, 1, 3, 4]
