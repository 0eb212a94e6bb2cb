"""The softmax losses in chunks (`trainer/losses.py`), beside those that hold all scores: time and peak memory, gradients included.

    OMP_NUM_THREADS=1 python benchmarks/softmax.py

Vectors of 300 numbers: the contrastive loss of a pre-training batch of 8,192 targets with its mask of equal items, and the cross
entropy of 2,048 targets over a catalogue of 100,000 items.
"""

from collections.abc import Callable

import torch
from _timing import compare, count, describe, header, measure_machine, parser
from torch.nn import functional as F

from unisrec.trainer import catalogue_loss, contrastive_loss


TEMPERATURE = 0.07


def loss(kind: str, way: str, num_queries: int, num_candidates: int, size: int = 300) -> Callable[[], torch.Tensor]:
    """Computes a loss of random vectors and its gradients, `way` "ours" or "reference"."""
    torch.manual_seed(0)
    queries, candidates = (
        F.normalize(torch.randn(rows, size), dim=-1).requires_grad_() for rows in (num_queries, num_candidates)
    )
    labels = torch.arange(num_queries)
    items = torch.randint(10 * num_queries, (num_candidates,))

    def same_item(rows: slice) -> torch.Tensor:
        return items[:num_queries][rows].unsqueeze(1) == items

    def compute() -> torch.Tensor:
        if way == "ours" and kind == "contrastive":
            value = contrastive_loss(queries, candidates, labels, same_item, TEMPERATURE)
        elif way == "ours":
            value = catalogue_loss(queries / TEMPERATURE, candidates, labels)
        else:
            scores = queries @ candidates.T / TEMPERATURE
            if kind == "contrastive":
                excluded = same_item(slice(None)).scatter(1, labels.unsqueeze(1), False)
                scores = scores.masked_fill(excluded, -torch.inf)
            value = F.cross_entropy(scores, labels, reduction="sum")
        value.backward()
        queries.grad = candidates.grad = None
        return value.detach()

    return compute


def main() -> None:
    args = parser(__doc__)
    args.set_defaults(rounds=2)
    args = args.parse_args()
    machine = measure_machine(256, 1 << 16) if args.smoke else measure_machine()
    print(describe(machine), header(), sep="\n\n")
    for kind, num_queries, num_candidates in (("contrastive", 8192, 8192), ("catalogue", 2048, 100_000)):
        sizes = (64, 96) if args.smoke else (num_queries, num_candidates)
        ways = [loss(kind, way, *sizes) for way in ("ours", "reference")]
        torch.testing.assert_close(*(way() for way in ways), rtol=1e-4, atol=1e-4)
        comparison = compare(f"{kind}, {sizes[0]:,} x {sizes[1]:,}", *ways, 1 if args.smoke else args.rounds, calls=1)
        if not args.smoke:
            comparison.our_cost, comparison.reference_cost = (
                count(loss, kind, way, *sizes) for way in ("ours", "reference")
            )
        print(comparison.row(machine), flush=True)


if __name__ == "__main__":
    main()
