"""What carries over between domains: use of the experts, spread of the vectors, quality by popularity of the item.

    python benchmarks/case_study.py --pretrained runs/pretrained --domains domains/beauty domains/toys domains/office \
        --target domains/office --models text=runs/office text+ID=runs/office-id ID=runs/office-sasrec \
        --report docs/case_study.md

Text vectors come from the encoder of the pre-trained checkpoint. Writes the tables as Markdown and one picture beside it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import unisrec
from unisrec.data import Domain, leave_one_out
from unisrec.data.domain_features import domain_features
from unisrec.evaluation.analysis import alignment, gate_use, mean_cosine, uniformity
from unisrec.evaluation.ranking import catalogue_tensors
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.text_neighbours import enter_catalogue
from unisrec.reports.analysis_plots import metrics_of_models, plot_analysis


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe_domains(pretrained: str, folders: list[Path]):
    """For each domain its use of the experts, and how vectors spread before and after the adaptor."""
    model, processor = load_checkpoint(pretrained)
    gates, rows = {}, []
    for folder in folders:
        domain = Domain.load_from_disk(folder)
        texts = domain_features(domain, model.text_encoder, processor.tokenizer, model.config)
        enter_catalogue(model, texts)
        gates[domain.name] = gate_use(model.eval(), texts)
        split = leave_one_out(domain, "valid")
        with torch.inference_mode():
            items = model.get_item_features(**catalogue_tensors(texts, model.device))
            users = np.random.default_rng(0).permutation(len(split))[:2000]
            length = model.config.max_position_embeddings
            histories = [split.flat[split.offsets[user] : split.offsets[user + 1]][-length:] + 1 for user in users]
            index = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in histories], batch_first=True)
            states = torch.cat([model.get_sequence_features(part, items) for part in index.split(256)])
        targets = items[torch.from_numpy(split.targets[users])]
        before = torch.from_numpy(np.array(texts))
        rows.append(
            [
                domain.name,
                *(f"{mean_cosine(vectors):.3f}" for vectors in (before, items)),
                *(f"{uniformity(vectors):.2f}" for vectors in (before, items)),
                f"{alignment(states, targets):.3f}",
            ]
        )
    return gates, rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained", required=True, help="pre-trained checkpoint")
    parser.add_argument("--domains", type=Path, nargs="+", required=True, help="domain folders to describe")
    parser.add_argument("--target", type=Path, required=True, help="domain folder of the models")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", help="checkpoints to compare")
    parser.add_argument("--report", type=Path, required=True, help="Markdown file")
    options = parser.parse_args()
    unisrec.register()
    models = dict(pair.split("=", 1) for pair in options.models)
    gates, spread = describe_domains(options.pretrained, options.domains)
    popularity = metrics_of_models(models, options.target)
    picture = options.report.with_suffix(".png")
    plot_analysis(picture, gates, popularity)
    buckets = next(iter(popularity.values()))
    experts = [str(expert) for expert in range(len(next(iter(gates.values()))))]
    parts = [
        "# Case study: what carries over between domains",
        f"![Use of the experts, recall by popularity]({picture.name})",
        "## Use of the experts\n\nMean gate weight over the catalogue, pre-trained checkpoint.",
        table(["domain", *experts], [[name, *(f"{use:.3f}" for use in values)] for name, values in gates.items()]),
        "## Spread of the vectors\n\nMean cosine of two items and uniformity (lower is more even), of the text vectors and "
        "of the item vectors behind the adaptor; alignment is the mean squared distance of history and next item "
        "(validation, up to 2,000 users).",
        table(
            ["domain", "cosine, text", "cosine, items", "uniformity, text", "uniformity, items", "alignment"], spread
        ),
        "## By popularity of the target\n\nR@10, test split, seen items kept; columns are training interactions of the "
        "target, with the number of users.",
        table(
            ["model", *(f"{name} ({bucket['num_users']:,})" for name, bucket in buckets.items())],
            [
                [name, *(f"{bucket['recall@10']:.4f}".lstrip("0") for bucket in found.values())]
                for name, found in popularity.items()
            ],
        ),
    ]
    options.report.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"report: {options.report}, picture: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
