"""Search in a large synthetic catalogue: time of one history and of a thousand, memory, and what FAISS misses.

    OMP_NUM_THREADS=2 python benchmarks/search.py --items 1000000 --kinds exact exact-bf16 ivf

Item vectors lie in clusters of about fifty, queries near an item; real catalogues are in between this and no structure at
all, where every approximate index does worse. Encoding is that of histories of 50 items by a model of the paper's size.
"""

import argparse
import sys
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from torch.nn import functional as F

from unisrec import UniSRecConfig, UniSRecModel
from unisrec.recommender import ExactIndex, FaissIndex
from unisrec.recommender.faiss_index import choose_kind


def synthetic_vectors(num_items: int, num_queries: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of items `(num_items, width)` and of queries `(num_queries, width)`."""
    generator = torch.Generator().manual_seed(seed)

    def around(centres: torch.Tensor) -> torch.Tensor:
        return F.normalize(
            centres + 0.8 * F.normalize(torch.randn(centres.shape, generator=generator), dim=-1), dim=-1
        )

    centres = F.normalize(torch.randn(max(1, num_items // 50), width, generator=generator), dim=-1)
    items = torch.empty(num_items, width)
    for rows in torch.arange(num_items).split(100_000):
        items[rows] = around(centres[torch.randint(len(centres), rows.shape, generator=generator)])
    return items, around(items[torch.randint(num_items, (num_queries,), generator=generator)])


def timings(work: Callable[[torch.Tensor], object], queries: torch.Tensor, calls: int) -> tuple[float, float, float]:
    """p50 and p99 of single calls in milliseconds, and queries a second of one call for all."""
    single = []
    for query in queries[:calls].split(1):
        start = time.perf_counter()
        work(query)
        single.append(1000 * (time.perf_counter() - start))
    start = time.perf_counter()
    work(queries)
    return *np.percentile(single[5:], [50, 99]), len(queries) / (time.perf_counter() - start)  # the first ones warm up


def encoding(num_queries: int, width: int, calls: int) -> tuple[float, float, float]:
    """Timings of turning histories of 50 items into vectors."""
    model = UniSRecModel(UniSRecConfig(text_embedding_size=384, hidden_size=width)).eval()
    texts = torch.randn(50 * num_queries, 384)
    index = torch.arange(1, 50 * num_queries + 1).view(num_queries, 50)

    @torch.inference_mode()
    def encode(histories: torch.Tensor) -> None:
        for batch in histories.split(256):
            model(item_index=batch - batch.min() + 1, text_embeds=texts[batch.flatten() - 1])

    return timings(encode, index, calls)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="size of the catalogue (1,000,000)")
    parser.add_argument("--queries", type=int, default=1000, help="queries of the throughput (1,000)")
    parser.add_argument("--calls", type=int, default=200, help="single queries that are timed (200)")
    parser.add_argument("--width", type=int, default=300, help="numbers of a vector (300)")
    parser.add_argument("--kinds", nargs="+", default=["exact", "exact-bf16", "auto"], help="indexes to compare")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    items, queries = synthetic_vectors(options.items, options.queries + 256, options.width, options.seed)
    queries, sample = queries[: options.queries], queries[options.queries :]
    truth = ExactIndex(items).search(queries, 10)[1].numpy()
    print(f"{options.items:,} items of {options.width} numbers, {torch.get_num_threads()} threads\n")
    print(f"| | p50 ms | p99 ms | a second, {options.queries:,} at once | memory | recall@10 | built in |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    p50, p99, rate = encoding(options.queries, options.width, options.calls)
    print(f"| encoding of 50 items | {p50:.1f} | {p99:.1f} | {rate:,.0f} | | | |", flush=True)
    for kind in options.kinds:
        kind = kind if kind.startswith("exact") else choose_kind(kind, len(items))[0]
        start = time.perf_counter()
        if kind.startswith("exact"):
            index = ExactIndex(items, torch.bfloat16 if kind == "exact-bf16" else torch.float32)
            megabytes = index.vectors.nbytes / 1e6
        else:
            index = FaissIndex.build(ExactIndex(items), sample, kind)
            kind = f"FAISS {index.kind}"
            megabytes = (index.vectors.nbytes + len(faiss.serialize_index(index.faiss_index))) / 1e6
        built = time.perf_counter() - start
        p50, p99, rate = timings(lambda batch, index=index: index.search(batch, 10), queries, options.calls)
        found = index.search(queries, 10)[1].numpy()
        share = np.mean([len(np.intersect1d(*rows)) / 10 for rows in zip(truth, found, strict=True)])
        print(
            f"| {kind} | {p50:.1f} | {p99:.1f} | {rate:,.0f} | {megabytes:,.0f} MB | {share:.3f} | {built:.0f} s |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
