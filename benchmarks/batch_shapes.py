"""Batches of fixed shapes (`--static_batches`): how many shapes there are, how much of them is filled, and what they cost.

    python benchmarks/batch_shapes.py --domains domains/beauty domains/toys domains/online-retail
    TORCH_LOGS=recompiles python benchmarks/batch_shapes.py --domains ... --compile eager

KB are what a batch copies to the device, collation is processor time. With `--compile BACKEND`, up to three batches of each shape
are trained on in the order of the epochs, by a small model that torch compiles, and its compilations are counted; torch lists all
but the first with their reason.
"""

import argparse
import tempfile
import time
from collections import Counter

import torch
from torch._dynamo.utils import counters

from unisrec import UniSRecConfig, UniSRecModel, UniSRecPretrainArguments, UniSRecPretrainTrainer
from unisrec.data import Domain, leave_one_out
from unisrec.trainer import PretrainCollator, TargetBatchSampler, WindowDataset
from unisrec.trainer.batches import StaticShapes


COLUMNS = [
    "targets a step",
    "domains of a step",
    "batches",
    "shapes",
    "places filled",
    "KB",
    "collation",
    "compilations",
]


def compiled_trainer(
    windows: WindowDataset, collate: PretrainCollator, num_texts: int, targets: int, length: int, backend: str
) -> UniSRecPretrainTrainer:
    """A trainer of a model with few weights."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_experts": 2}
    config = UniSRecConfig(text_embedding_size=8, max_position_embeddings=length, **small)
    with tempfile.TemporaryDirectory() as folder:
        args = UniSRecPretrainArguments(
            folder,
            per_device_train_batch_size=targets,
            torch_compile=True,
            torch_compile_backend=backend,
            eval_strategy="no",
            disable_tqdm=True,
        )
        return UniSRecPretrainTrainer(
            UniSRecModel(config),
            args,
            train_dataset=windows,
            data_collator=collate,
            text_vectors=torch.randn(num_texts, 8, device=args.device),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", required=True, help="prepared domain folders")
    parser.add_argument("--targets", type=int, nargs="+", default=[2048, 8192], help="targets a step")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--length", type=int, default=50, help="most inputs of a window")
    parser.add_argument("--compile", metavar="BACKEND", help="count compilations, such as eager or inductor")
    args = parser.parse_args()
    domains = [Domain.load_from_disk(folder) for folder in args.domains]
    sizes = [domain.num_items for domain in domains]
    windows = WindowDataset([leave_one_out(domain, "train") for domain in domains], sizes, args.length)
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 2)}")
    for targets in args.targets:
        collate = PretrainCollator(None, sum(sizes), shapes=StaticShapes.of(windows.lengths, targets))
        for one_domain in (False, True):
            sampler = TargetBatchSampler(windows, targets, seed=1, one_domain=one_domain)
            shapes, filled, places, nbytes, seconds = Counter(), 0, 0, 0, 0.0
            if args.compile is not None:
                torch.compiler.reset()
                counters.clear()
                trainer = compiled_trainer(windows, collate, 2 * sum(sizes), targets, args.length, args.compile)
                model = trainer.accelerator.prepare_model(trainer.model)
            for epoch in range(args.epochs):
                windows.set_epoch(epoch)
                for indices in sampler:
                    start = time.process_time()
                    batch = collate(windows.__getitems__(indices))
                    seconds += time.process_time() - start
                    tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
                    shape = tuple(tensor.shape for tensor in tensors)
                    shapes[shape] += 1
                    nbytes += sum(tensor.nbytes for tensor in tensors)
                    originals, _ = batch["item_index"].chunk(2)
                    filled, places = filled + int((originals > 0).sum()), places + originals.numel()
                    if args.compile is not None and shapes[shape] <= 3:
                        trainer.training_step(model, batch)
            batches = shapes.total()
            cells = [f"{targets:,}", "one" if one_domain else "mixed", batches, len(shapes), f"{filled / places:.0%}"]
            cells += [f"{nbytes / batches / 1e3:.0f}", f"{seconds / batches * 1e3:.1f} ms"]
            cells.append("" if args.compile is None else counters["stats"]["unique_graphs"])
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
