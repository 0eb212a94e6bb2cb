"""What a training step costs as targets, items, history length and experts grow: a picture, and the exponents.

    python benchmarks/cost_curves.py --output docs/images/cost_curves.png

A step of text + ID transfer as in `finetune_step.py`; one thing grows, the others stay at 2,048 targets, 3,500 items,
histories of about 25 of at most 50 items and 8 experts. The exponent is the slope over the last three points, where what is
fixed weighs least: 0 costs nothing, 1 grows with it.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from _steps import Workload, finetune_steps
from _timing import header, parser, seconds, timed


SWEEPS = {
    "targets of a step": ("targets", [256, 512, 1024, 2048, 4096, 8192]),
    "items, full softmax": ("num_items", [1_000, 4_000, 16_000, 32_000, 64_000]),
    "items, 1,024 sampled": ("num_items", [1_000, 4_000, 16_000, 32_000, 64_000]),
    "longest history": ("length", [12, 25, 50, 100, 200]),
    "experts": ("num_experts", [1, 2, 4, 8, 16, 32]),
}


def step_seconds(name: str, field: str, value: int, rounds: int, small: bool) -> float:
    """Median seconds of a step with one thing changed."""
    sizes = {"histories": "long", "num_batches": 2, "targets": 2048}
    if small:
        sizes |= {"targets": 64, "num_items": 60, "length": 8}
    settings = (("num_experts", value),) if field == "num_experts" else ()
    if field != "num_experts":
        sizes[field] = value
    arguments = {"num_negatives": 1024} if "sampled" in name else {}
    step = finetune_steps(Workload(settings=settings, **sizes), "ours", **arguments)
    step()
    return float(np.median([timed(step) for _ in range(rounds)]))


def exponent(values: Sequence[int], durations: Sequence[float]) -> float:
    """Slope of the logarithms over the last three points."""
    return float(np.polyfit(np.log(values[-3:]), np.log(durations[-3:]), 1)[0])


def draw(curves: dict[str, tuple[list[int], list[float]]], output: Path) -> None:
    """One panel for each thing that grows; items by both losses in one."""
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    panels = list(dict.fromkeys(name.split(",")[0] for name in curves))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.1 * len(panels), 3), layout="constrained", sharey=True)
    for panel, ax in zip(panels, axes, strict=True):
        for name, (values, durations) in curves.items():
            if name.split(",")[0] == panel:
                label = f"{name.partition(', ')[2]} {exponent(values, durations):.2f}".strip()
                ax.loglog(values, durations, "o-", label=label, markersize=4)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
            axis.set_minor_formatter(ticker.NullFormatter())
        ax.legend(title="exponent", frameon=False)
        ax.set_xlabel(panel)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds a step")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    pyplot.close(figure)


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--output", type=Path, help="The picture; none is drawn without.")
    args = args.parse_args()
    curves = {}
    print(header(["what grows", "from .. to", "seconds a step", "exponent"]))
    rounds = 1 if args.smoke else args.rounds
    for name, (field, values) in SWEEPS.items():
        values = [8, 16, 32] if args.smoke else values
        durations = [step_seconds(name, field, value, rounds, args.smoke) for value in values]
        curves[name] = values, durations
        cells = [name, f"{values[0]:,} .. {values[-1]:,}", f"{seconds(durations[0])} .. {seconds(durations[-1])}"]
        print(f"| {' | '.join([*cells, f'{exponent(values, durations):.2f}'])} |", flush=True)
    if args.output:
        draw(curves, args.output)
        print(f"picture: {args.output}")


if __name__ == "__main__":
    main()
