"""Shops without a log: text neighbours by a text encoder, beside a plain search for the same words (TF-IDF).

    python benchmarks/words.py --domains runs/base/domains/* [--model unisrec-base]

Test users of each domain, 5,000 at most, are ranked by the cosine of an item and the latest items of the history, with the
weights of `recent-text-neighbours`: in the text space of the text encoder of `--model`, of TF-IDF vectors of the words of the
texts (logarithmic counts), and by the mean of both. Metrics with seen items masked.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ablation import some_users
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from unisrec.data import Domain
from unisrec.data.domain_features import domain_features
from unisrec.evaluation.baselines import baseline_metrics, text_neighbour_scores
from unisrec.evaluation.relevance import Scorer
from unisrec.modeling_unisrec.checkpoint import load_checkpoint
from unisrec.modeling_unisrec.text_neighbours import RECENCY, text_space_of


def word_scores(texts: list[str]) -> Scorer:
    """Scores items by the cosine of their TF-IDF vectors and of the weighted mean of those of a history."""
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\b\w+\b", dtype=np.float32).fit_transform(texts)

    def score(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        histories = batch["item_index"].numpy()
        users, places = np.nonzero(histories)
        ages = (histories > 0).sum(1)[users] - 1 - places
        shape = len(histories), len(texts)
        weights = sparse.csr_matrix((RECENCY**ages, (users, histories[users, places] - 1)), shape)
        means = weights @ vectors
        lengths = np.sqrt(np.asarray(means.multiply(means).sum(1)))
        return torch.from_numpy((means @ vectors.T).toarray() / np.maximum(lengths, 1e-9)).float()

    return score


def mean_scores(*scorers: Scorer) -> Scorer:
    """Scores items by the mean of several scores."""
    return lambda batch: torch.stack([score(batch) for score in scorers]).mean(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=Path, nargs="+", required=True, help="prepared domains")
    parser.add_argument("--model", default="unisrec-base", help="checkpoint whose text encoder is taken")
    options = parser.parse_args()
    model, processor = load_checkpoint(options.model)
    print("| shop | products | text neighbours | words | mean of both |\n|---|---:|---|---|---|", flush=True)
    for folder in options.domains:
        domain = Domain.load(folder)
        embeds = torch.from_numpy(domain_features(domain, model.text_encoder, processor.tokenizer, model.config))
        meaning = text_neighbour_scores(text_space_of(model, embeds).map(embeds).numpy(), RECENCY)
        words = word_scores(domain.items["text"].to_list())
        users, cells = some_users(domain, "test"), []
        for score in (meaning, words, mean_scores(meaning, words)):
            metrics = baseline_metrics(score, users, domain.num_items)
            cells.append(" / ".join(f"{metrics[f'{name}@10_seen_masked']:.4f}"[1:] for name in ("recall", "ndcg")))
        print("|", " | ".join([domain.name, f"{domain.num_items:,}", *cells]), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
