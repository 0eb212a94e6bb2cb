"""Load test of `unisrec serve`: many clients at once, each answer compared with `Recommender.recommend`.

    OMP_NUM_THREADS=1 python benchmarks/serving.py --clients 200 --seconds 60

The server is a process of its own on 127.0.0.1 with a checkpoint of the paper's size, random weights and a synthetic
catalogue. Each client keeps one connection and sends the next request when it has its answer. The plain loop calls
`Recommender.recommend` for one history at a time, in this process, without HTTP.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from unisrec import ItemCatalogue, Recommender, UniSRecConfig, UniSRecModel, UniSRecProcessor


TOP_K = 10
TOLERANCE = 1e-5  # of a score: a batch of another size sums in another order


class Answer(NamedTuple):
    """Seconds of one request, and what is wrong with its answer."""

    seconds: float
    fault: str | None


def make_recommender(num_items: int) -> Recommender:
    """Returns a model of the paper's size, with random weights, and a catalogue."""
    torch.manual_seed(0)
    model = UniSRecModel(UniSRecConfig(text_embedding_size=384)).eval()
    ids = [f"item-{row}" for row in range(num_items)]
    catalogue = ItemCatalogue(ids, [f"product number {row}" for row in range(num_items)], torch.randn(num_items, 384))
    return Recommender(model, UniSRecProcessor(catalogue=catalogue))


def make_histories(count: int, num_items: int) -> list[list[str]]:
    """Returns histories of 1 to 50 items."""
    chance = random.Random(0)
    return [[f"item-{chance.randrange(num_items)}" for _ in range(chance.randint(1, 50))] for _ in range(count)]


def request(history: list[str]) -> bytes:
    """Returns an HTTP request."""
    body = json.dumps({"history": history, "top_k": TOP_K}).encode()
    head = (
        f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def fault_of(found: list[dict], expected: list) -> str | None:
    """Returns what is wrong with an answer. Items whose scores are equal but for rounding may change places."""
    if len(found) != len(expected):
        return f"{len(found)} items"
    scores = {item.item_id: item.score for item in expected}
    for item, right in zip(found, expected, strict=True):
        if abs(item["score"] - right.score) > TOLERANCE:
            return f"score {item['score']} instead of {right.score}"
        at_the_end = right.score - expected[-1].score <= TOLERANCE  # where another item may have come in
        score = scores.get(item["item_id"], right.score if at_the_end else -np.inf)
        if item["item_id"] != right.item_id and abs(score - right.score) > TOLERANCE:
            return f"{item['item_id']} instead of {right.item_id}"
    return None


async def client(
    port: int, requests: list[bytes], expected: list, seed: int, until: float, answers: list[Answer]
) -> None:
    """Sends requests on one connection until a moment."""
    chance = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        place = chance.randrange(len(requests))
        start = time.perf_counter()
        writer.write(requests[place])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        body = await reader.readexactly(length)
        seconds = time.perf_counter() - start
        fault = None if head.startswith(b"HTTP/1.1 200") else body.decode()
        answers.append(Answer(seconds, fault or fault_of(json.loads(body)["items"], expected[place])))
    writer.close()


async def load(port: int, clients: int, seconds: float, histories: list[list[str]], expected: list) -> list[Answer]:
    """Runs all clients and returns their answers."""
    requests, answers = [request(history) for history in histories], []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, requests, expected, seed, until, answers) for seed in range(clients)))
    return answers


def row(name: str, seconds: list[float], elapsed: float) -> str:
    """Returns a row of the table."""
    p50, p99 = 1000 * np.percentile(seconds, [50, 99])
    return f"| {name} | {p50:.1f} | {p99:.1f} | {len(seconds) / elapsed:,.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--histories", type=int, default=2_000)
    parser.add_argument("--loop-seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    recommender, histories = make_recommender(args.items), make_histories(args.histories, args.items)
    expected = recommender.recommend(histories, TOP_K)
    with TemporaryDirectory() as folder:
        recommender.save_pretrained(Path(folder) / "shop")
        command = [
            sys.executable,
            "-m",
            "unisrec",
            "serve",
            f"{folder}/shop",
            "--port",
            "0",
            "--workers",
            str(args.workers),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            line = server.stdout.readline()
            port = int(line.partition("http://127.0.0.1:")[2].split()[0])
            if args.workers > 1:
                time.sleep(60)  # they load the checkpoint
            asyncio.run(load(port, min(10, args.clients), 2, histories, expected))  # warms up
            start = time.perf_counter()
            answers = asyncio.run(load(port, args.clients, args.seconds, histories, expected))
            elapsed = time.perf_counter() - start
            server.send_signal(signal.SIGTERM)
            print(server.communicate()[0].strip(), file=sys.stderr)
    seconds, start = [], time.perf_counter()
    while time.perf_counter() - start < args.loop_seconds:
        before = time.perf_counter()
        recommender.recommend([histories[len(seconds) % len(histories)]], TOP_K)
        seconds.append(time.perf_counter() - before)
    loop_elapsed = time.perf_counter() - start
    faults = [answer.fault for answer in answers if answer.fault is not None]
    print(f"{args.items:,} items, histories of 1 to 50 items, load average {os.getloadavg()[0]:.1f} at the end\n")
    print("| | p50 ms | p99 ms | requests/s |\n|---|---|---|---|")
    print(row(f"{args.clients} clients over HTTP", [answer.seconds for answer in answers], elapsed))
    print(row("a plain loop, one history at a time", seconds, loop_elapsed))
    print(f"\n{len(answers):,} answers, {len(faults):,} wrong{''.join(f', first: {fault}' for fault in faults[:1])}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
