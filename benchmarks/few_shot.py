"""What pre-training is worth when a shop has few users: text only, new models and a pre-trained one, on shares of the users.

    python benchmarks/few_shot.py --domain domains/office --pretrained unisrec-base --output runs/few-shot \
        --report few_shot.md --seeds 1 2 3

A share of the users is drawn for each seed; training, early stopping and the choice of the share of text neighbours know nobody
else. The catalogue is the whole one, and the test items of all users are ranked in it, by the model alone and with the share
that was chosen. Batches shrink with the share, so that an epoch has as many steps. Runs that are finished are read, not run
again, and one that was interrupted goes on.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from reproduce import cell

import unisrec
from unisrec.data import Domain
from unisrec.evaluation import evaluate
from unisrec.trainer import UniSRecFinetuneArguments, finetune


SCRATCH, SCRATCH_LIKE_IT, PRETRAINED = "from scratch", "from scratch, settings of the checkpoint", "pre-trained"
ALONE, CHOSEN = "alone", "with text neighbours"
# Of new models: the best settings of docs/results_office.md without a text space, and those of the checkpoint with the dropout
# that fine-tuning takes.
DROPOUT = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
SCRATCH_CONFIGS = {SCRATCH: {"hidden_size": 300, "text_space": None, **DROPOUT}, SCRATCH_LIKE_IT: DROPOUT}
METRICS = ("recall@10", "ndcg@10", "recall@10_seen_masked", "ndcg@10_seen_masked")
FULL_BATCH, LEAST_BATCH = 512, 64


def with_share(domain: Domain, share: float, seed: int) -> Domain:
    """The domain with a share of its users, in their order, and its whole catalogue."""
    rng = np.random.default_rng(seed)
    users = np.sort(rng.choice(domain.num_users, max(1, round(share * domain.num_users)), replace=False))
    info = {**domain.info, "share_of_users": share, "share_seed": seed}
    return Domain(f"{domain.name}-share", domain.items, domain.sequences[users], info)


def run(
    options: argparse.Namespace, domain: Domain, share: float, seed: int, start: str
) -> dict[str, dict[str, float]]:
    """Test metrics of all users after training on a share of them, by the model alone and with text neighbours."""
    folder = options.output / f"{share:g}-seed-{seed}"
    checkpoint = folder / start.replace(",", "").replace(" ", "-")
    results = checkpoint / "few_shot.json"
    if not results.is_file():
        if not (folder / "domain").is_dir():
            with_share(domain, share, seed).save_to_disk(folder / "domain")
        is_new = start != PRETRAINED
        arguments = UniSRecFinetuneArguments(
            str(checkpoint),
            seed=seed,
            per_device_train_batch_size=max(LEAST_BATCH, round(share * FULL_BATCH)),
            disable_tqdm=True,
            metric_for_best_model=options.metric,
            num_negatives=options.num_negatives,
            resume_from_checkpoint="auto",
            **({} if is_new else {"interpolate": options.interpolate, "freeze_sequence_encoder": options.freeze}),
        )
        config = SCRATCH_CONFIGS.get(start)
        trained = finetune(
            options.pretrained, folder / "domain", "inductive", arguments, from_scratch=is_new, model_config=config
        )
        print(f"share of text neighbours {trained.model.config.text_neighbours:g}", flush=True)
        results.write_text(json.dumps(test_metrics(str(checkpoint), options.domain)), encoding="utf-8")
    return json.loads(results.read_text(encoding="utf-8"))


def test_metrics(checkpoint: str, domain_dir: Path) -> dict[str, dict[str, float]]:
    """Metrics of a checkpoint on the test items of all users."""
    shares = {ALONE: 0.0, CHOSEN: None}
    return {name: evaluate(checkpoint, domain_dir, "test", text_neighbours=share) for name, share in shares.items()}


def cells(runs: list[dict[str, float]]) -> str:
    """Means, with the standard deviation over seeds where there are several."""
    return " | ".join(cell([run[metric] for run in runs]) for metric in METRICS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", type=Path, required=True, help="domain folder")
    parser.add_argument("--pretrained", required=True, help="pre-trained checkpoint with its text encoder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--report", type=Path, required=True, help="Markdown file")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="of the users (0.1 0.3 1)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one draw and three runs for each (1)")
    parser.add_argument("--metric", default="ndcg@10_seen_masked", help="by which is validated (ndcg@10_seen_masked)")
    parser.add_argument("--num_negatives", type=int, metavar="N", help="of the sampled softmax of large catalogues")
    parser.add_argument("--interpolate", metavar="auto|SHARE", help="argument of unisrec finetune, if not its default")
    parser.add_argument(
        "--freeze", action="store_true", help="freeze the layers of the sequence encoder, as in the paper"
    )
    options = parser.parse_args()
    unisrec.register()
    domain = Domain.load_from_disk(options.domain)
    lines = [
        "| users trained on | | R@10 kept | N@10 kept | R@10 masked | N@10 masked | gain in N@10, masked |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| 0 | zero-shot, {name} | {cells([metrics])} | |"
        for name, metrics in test_metrics(options.pretrained, options.domain).items()
    ]
    for share in options.shares:
        of_start = {start: [] for start in (*SCRATCH_CONFIGS, PRETRAINED)}
        for seed in options.seeds:
            for start, runs in of_start.items():
                runs.append(run(options, domain, share, seed, start))
                print(f"{share:5.0%}  seed {seed}  {start:40}  {runs[-1][CHOSEN]}", flush=True)
        for name in (ALONE, CHOSEN):
            rows = {start: [run[name] for run in runs] for start, runs in of_start.items()}
            means = {start: np.mean([row[METRICS[-1]] for row in found]) for start, found in rows.items()}
            for start, found in rows.items():
                gain = "" if start == SCRATCH else f"{means[start] / means[SCRATCH] - 1:+.0%}"
                lines.append(f"| {share * domain.num_users:,.0f} | {start}, {name} | {cells(found)} | {gain} |")
    options.report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
