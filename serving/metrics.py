"""Counters of the server in the format of Prometheus."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector


disable_created_metrics()  # the times of first use, which nobody plots
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    r"""
    Counts requests and batches. Worker processes share their counts through the files in `PROMETHEUS_MULTIPROC_DIR`.

    Args:
        paths (`set[str]`): Paths of the server; others are counted as one, `other`.
        num_items (`int`): Number of items of the catalogue.
    """

    def __init__(self, paths: set[str], num_items: int):
        self.paths, self.registry = paths, CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("unisrec_requests", "Requests by path and status", ["path", "status"], **own)
        self.seconds = Histogram("unisrec_request_seconds", "Time to the answer", ["path"], buckets=SECONDS, **own)
        self.batches = Histogram("unisrec_batch_size", "Requests in one call of the model", buckets=SIZES, **own)
        items = Gauge("unisrec_items", "Items of the catalogue", multiprocess_mode="max", **own)
        items.set(num_items)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts a request for `path` that was answered with `status` after a number of `seconds`."""
        path = path if path in self.paths else "other"
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Returns all counts, of all worker processes together."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)


__all__ = ["Metrics"]
