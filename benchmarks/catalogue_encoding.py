"""Item vectors of a catalogue from its text vectors, by the adaptor: ours against eight experts that run one after the other.

    python benchmarks/catalogue_encoding.py

First as for serving and evaluation, without gradients; then as in a training step, forward and backward.
"""

from collections.abc import Callable

import torch
from _steps import Workload
from _timing import compare, count, describe, header, measure_machine, parser
from reference import OfficialUniSRec

from unisrec.modeling_unisrec.pipeline_unisrec import encode_items


def vectors(num_items: int, path: str) -> Callable[[], torch.Tensor]:
    """A function that gives the vectors of all items, `path` "ours" or "reference"."""
    workload = Workload(num_items=num_items)
    model, texts = workload.model().eval(), torch.from_numpy(workload.text_embeds())
    numbers = torch.arange(1, num_items + 1)
    if path == "ours":
        return lambda: encode_items(model, texts, numbers)
    official = OfficialUniSRec(model, texts).eval()
    return torch.no_grad()(lambda: official.items(numbers))


def gradients(num_items: int, path: str) -> Callable[[], None]:
    """A function that computes them in training, and the gradient of their sum."""
    workload = Workload(num_items=num_items)
    model, texts = workload.model().train(), torch.from_numpy(workload.text_embeds())
    numbers = torch.arange(1, num_items + 1)
    if path == "ours":
        return lambda: model.get_item_features(texts, id_rows=numbers).sum().backward()
    official = OfficialUniSRec(model, texts).train()
    return lambda: official.items(numbers).sum().backward()


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--items", type=int, default=12_000)
    args = args.parse_args()
    num_items = 60 if args.smoke else args.items
    machine = measure_machine(256, 1 << 16) if args.smoke else measure_machine()
    if args.smoke:
        torch.testing.assert_close(vectors(num_items, "ours")(), vectors(num_items, "reference")())
    print(describe(machine), header(), sep="\n\n")
    for name, prepare in (("item vectors", vectors), ("item vectors and gradients", gradients)):
        comparison = compare(
            f"{name}, {num_items:,} items",
            prepare(num_items, "ours"),
            prepare(num_items, "reference"),
            1 if args.smoke else args.rounds,
        )
        if not args.smoke:
            comparison.our_cost = count(prepare, num_items, "ours")
            comparison.reference_cost = count(prepare, num_items, "reference")
        print(comparison.row(machine), flush=True)


if __name__ == "__main__":
    main()
