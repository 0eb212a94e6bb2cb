"""`unisrec serve`: one line for what it cannot do, and the whole life of the process."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest

import unisrec
from unisrec.cli import main
from unisrec.commands import serve


def bad(capsys, *words):
    """The one line of a server that does not start."""
    assert main(["serve", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_missing_packages_are_named(capsys, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "prometheus_client" else name)
    line = bad(capsys, "model")
    assert line == 'unisrec serve: error: the server needs prometheus-client: pip install "unisrec[serve]"\n'


def test_the_package_needs_none_of_them():
    code = (
        "import sys, unisrec, unisrec.serving, unisrec.cli\n"
        "unisrec.cli.build_parser()\n"
        "print(sorted({'fastapi', 'pydantic', 'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_port_in_use_is_refused_before_anything_is_loaded(capsys):
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = bad(capsys, "no-such-model", "--port", port)
    assert line.startswith(f"unisrec serve: error: cannot serve on 127.0.0.1:{port} (")
    assert "choose another --port or --host" in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--max-history", "0"], "--max-history is 0; expected a whole number from 1"),
        (["--max-body", "-1"], "--max-body is -1; expected a whole number from 1"),
        (["--workers", "0"], "--workers is 0; expected a whole number from 1"),
        (["--max-wait", "nan"], "--max-wait is nan; expected milliseconds from 0 to 1000"),
        (["--token", ""], "--token (or UNISREC_TOKEN) is empty"),
        (["--token", "gehéim"], "--token (or UNISREC_TOKEN) is empty or holds other than printable ASCII"),
        (["--port", "0"], "model 'no-such-model' cannot be loaded"),
    ],
)
def test_bad_options(capsys, words, line):
    pytest.importorskip("fastapi")
    assert f"unisrec serve: error: {line}" in bad(capsys, "no-such-model", *words)


@contextmanager
def running(*words, **environment):
    """A server process, its address and its first line."""
    command = [sys.executable, "-m", "unisrec", "serve", *map(str, words), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment) as process:
        try:
            line = process.stdout.readline()
            yield process, line.partition(" on ")[2].split()[0] if line else process.communicate()[1], line
        finally:
            process.kill()


def ask(address, path, body=None, token=None):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_server_starts_answers_and_stops_gracefully(shop, recommender):
    with running(shop, UNISREC_TOKEN="s3cret") as (process, address, line):
        assert line == f"serving {shop} (30 items) on {address} with a token; Ctrl-C stops\n"
        found = ask(address, "/recommend", {"history": ["toys-1"], "top_k": 3}, "s3cret")["items"]
        expected = recommender.recommend([["toys-1"]], 3)[0]
        assert [item["item_id"] for item in found] == [item.item_id for item in expected]
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as slow:  # a request in progress when the server is to stop
            body = b'{"history": ["toys-1"]}'
            head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nContent-Length: {len(body)}\r\n"
            slow.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:5])
            ask(address, "/health")
            process.send_signal(signal.SIGTERM)
            slow.settimeout(0.5)
            with pytest.raises(TimeoutError):
                slow.recv(1)
            slow.sendall(body[5:])
            slow.settimeout(60)
            assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "stopped after 3 requests\n"), err
    assert "Traceback" not in err


def test_serve_in_python(recommender, capsys):
    pytest.importorskip("fastapi")
    requests = []

    def ask_and_stop():
        try:
            while not (line := capsys.readouterr().out):
                time.sleep(0.01)
            requests.append(ask(line.split()[4].rstrip(";"), "/recommend", {"history": ["toys-1"], "top_k": 1}))
        finally:
            signal.raise_signal(signal.SIGINT)

    other = threading.Thread(target=ask_and_stop, daemon=True)
    other.start()
    assert unisrec.serve(recommender, port=0) == 1
    other.join()
    assert len(requests[0]["items"]) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_workers_load_the_checkpoint_themselves(shop, monkeypatch, capsys):
    pytest.importorskip("fastapi")
    from uvicorn import supervisors

    class Processes:
        def __init__(self, config, sockets):
            assert (config.workers, len(sockets)) == (2, 1)
            self.config = pickle.loads(pickle.dumps(config))  # as it gets into a process

        def run(self):
            assert os.path.isdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])
            self.config.app = self.config.app.func(*self.config.app.args)
            assert self.config.app.state.num_items == 30

    monkeypatch.setattr(supervisors, "Multiprocess", Processes)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert main(["serve", str(shop), "--workers", "2", "--port", "0"]) == 0
    started, stopped = capsys.readouterr().out.splitlines()
    assert started.endswith("without a token, 2 processes")
    assert stopped == "stopped"
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
