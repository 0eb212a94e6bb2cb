"""Metrics of checkpoints and baselines on the held-out interactions of a domain."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator

from ..configuration import UniSRecConfig
from ..data import Domain, Split, cut_at, domain_split, time_test
from ..data.domain_features import domain_features
from ..data.readers.values import check_count
from ..data.text_encoding import TextDtype
from ..data.time_splits import is_time_split
from ..data.training_data import SeenInTraining, check_unseen
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from ..modeling_unisrec.checkpoint import load_checkpoint
from ..modeling_unisrec.text_neighbours import RECENCY, enter_catalogue, fit_text_space
from .baselines import popularity_scores, random_scores, text_neighbour_scores
from .launch import make_accelerator
from .lists import item_novelty, list_metrics
from .relevance import PROTOCOLS, Ranking, RelevanceDataset, Scorer, rank_users
from .scores import model_scores


POPULARITY, TEXT_NEIGHBOURS, RECENT_TEXT_NEIGHBOURS, RANDOM = BASELINES = (
    "popularity",
    "text-neighbours",
    "recent-text-neighbours",
    "random",
)
# Its text encoder compares the items of lists if no checkpoint is named.
TEXT_MODEL = "unisrec-base"


@dataclass(frozen=True)
class Comparison:
    """
    Metrics of several models on the same users.

    Args:
        domain (`str`): Name of the domain.
        split (`str`): Split as it was asked for.
        cutoffs (`tuple[int, ...]`): Cutoffs k of the metrics.
        counts (`dict[str, int]`):
            `users` ranked and `items` of the catalogue. With a time split also `relevant` items of these users,
            `users_seen_masked`, who have one that is not in their history, `new_items_users`, who have one that is new, and
            those of [`TimeTest`].
        cut (`str`, *optional*): Moment of a time split.
        rows (`dict[str, dict[str, float]]`):
            Metrics of each model, see [`compare`].
    """

    domain: str
    split: str
    cutoffs: tuple[int, ...]
    counts: dict[str, int]
    cut: str | None
    rows: dict[str, dict[str, float]]


def compare(
    models: Sequence[str | os.PathLike],
    domain: Domain | str | os.PathLike,
    split: str = "test",
    *,
    cutoffs: Sequence[int] = (10, 50),
    text_neighbours: float | None = None,
    text_encoder: str | None = None,
    text_dtype: TextDtype = "auto",
    allow_seen: bool = False,
    batch_size: int = 512,
    use_cpu: bool = False,
    progress: bool = False,
) -> Comparison:
    r"""
    Computes full-ranking metrics of several checkpoints and baselines on the held-out interactions of a domain.

    With `split="test"` or `"valid"`, the last or the last but one item of each user is ranked, given the earlier ones
    (leave-one-out). With a time split, each user has one state, the history before the cut, and all distinct items of the
    user from the cut on are relevant. Users without a history at the cut are counted, and ranked by popularity alone.

    Args:
        models (`Sequence` of `str` or `os.PathLike`):
            Folders, `"unisrec-base"` or Hub ids of checkpoints; `"popularity"` (by the interactions known),
            `"text-neighbours"` (by the cosine with the mean text vector of the history), `"recent-text-neighbours"` (the
            latest items counting most and, where they are kept, those of the history themselves less, in the text space of
            the catalogue: [`recent_texts`], [`lower_seen`], [`fit_text_space`]) and `"random"`.
        domain ([`Domain`], `str` or `os.PathLike`): Domain in memory, or its folder.
        split (`str`, *optional*, defaults to `"test"`):
            `"valid"`, `"test"`, or a time split of [`cut_at`], `"time:0.1"`. Of a domain that is cut already, `"valid"` has
            the next item of each user before the cut, and `"test"` what comes after it.
        cutoffs (`Sequence[int]`, *optional*, defaults to `(10, 50)`): Cutoffs k.
        text_neighbours (`float`, *optional*): Share of text neighbours in the scores of all checkpoints, as for
            [`Recommender`]; by default each has that of its configuration. A row names its share if it is not 0.
        text_encoder (`str`, *optional*): Text encoder that the checkpoints were trained with, if they contain none.
        text_dtype (`str`, *optional*, defaults to `"auto"`):
            Precision in which texts are encoded, see [`resolve_text_dtype`].
        allow_seen (`bool`, *optional*, defaults to `False`):
            Whether to evaluate even on interactions that a checkpoint was trained on; its name says so then.
        batch_size (`int`, *optional*, defaults to 512): Users ranked at a time by each process, at most.
        use_cpu (`bool`, *optional*, defaults to `False`): Whether to run on the CPU even if there is an accelerator.
        progress (`bool`, *optional*, defaults to `False`): Whether to show progress bars.

    Returns:
        [`Comparison`]: Metrics of each model: those of [`relevance_metrics`] and [`list_metrics`], each with seen items kept
        (`recall@10`) and masked (`recall@10_seen_masked`). With a time split, masked items do not count as relevant either:
        those metrics are of items that are new to the user. `new_items_recall@10` and so on are of the items that nobody
        had before the cut, `new_users_recall@10` and so on, of popularity, of the users without a history. Diversity and
        text neighbours use the text vectors of the first checkpoint, or those of `"unisrec-base"`.

    Raises:
        ValueError: If an argument is out of its range, a model is named twice, a text encoder is named for a checkpoint that
            has one, a transductive checkpoint belongs to another catalogue, the domain cannot be split, or a checkpoint was
            trained on the interactions that it would be tested on.
        OSError: If a checkpoint or the domain cannot be loaded.
    """
    names = [os.fspath(model) for model in models]
    _check(names, split, cutoffs, batch_size)
    if text_neighbours and set(names) <= set(BASELINES):
        raise ValueError(
            "text neighbours are mixed with the scores of checkpoints, and only baselines are named: name one."
        )
    accelerator, domain = make_accelerator(use_cpu), Domain.load(domain)
    if is_time_split(split):
        domain = cut_at(domain, split)
    task = _Task(domain, split, tuple(cutoffs), text_dtype, batch_size, accelerator, progress)
    shown, scorers, text_embeds = {}, {}, None
    for name in names:
        if name in BASELINES:
            continue
        model, processor = load_checkpoint(name, text_encoder)
        if share := model.config.text_neighbours_share(text_neighbours):
            shown[name] = f"{name}, {share:g} text neighbours"
        try:
            check_unseen(
                name, model.config, domain, "take a model that holds out, or look all the same with --allow-seen"
            )
        except SeenInTraining:
            if not allow_seen:
                raise
            shown[name] = f"{shown.get(name, name)} (seen in training)"
        _check_catalogue(model.config, domain)
        vectors = task.text_vectors(model, processor)
        scorers[name] = model, vectors
        if text_embeds is None or not text_embeds.shape[1]:
            text_embeds = vectors
    if text_embeds is None or (not text_embeds.shape[1] and {TEXT_NEIGHBOURS, RECENT_TEXT_NEIGHBOURS} & set(names)):
        text_embeds = task.text_vectors(*load_checkpoint(TEXT_MODEL))
    rows = {}
    for name in names:  # nothing is refused any more
        if name in BASELINES:
            score, longest, share = task.baseline(name, text_embeds), None, float(name == RECENT_TEXT_NEIGHBOURS)
        else:
            model, vectors = scorers[name]
            score = model_scores(model.to(accelerator.device).eval(), vectors, text_neighbours)
            longest, share = model.config.max_position_embeddings, model.config.text_neighbours_share(text_neighbours)
        rows[shown.get(name, name)] = task.metrics(score, longest, share, text_embeds)
        if name == POPULARITY:
            rows[name] |= task.of_new_users(score)
    cut = None if domain.cut is None else domain.cut.shown
    return Comparison(domain.name, split, tuple(cutoffs), task.counts, cut, rows)


def evaluate(
    model: str | os.PathLike,
    domain: Domain | str | os.PathLike,
    split: str = "test",
    *,
    cutoffs: Sequence[int] = (10, 50),
    text_neighbours: float | None = None,
    text_encoder: str | None = None,
    text_dtype: TextDtype = "auto",
    allow_seen: bool = False,
    batch_size: int = 512,
    use_cpu: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    r"""
    Computes full-ranking metrics of a checkpoint on a domain; zero-shot if it was not fine-tuned on it.

    Args:
        model (`str` or `os.PathLike`): Folder, `"unisrec-base"` or Hub id of a checkpoint.
        domain ([`Domain`], `str` or `os.PathLike`): Domain in memory, or its folder.
        split (`str`, *optional*, defaults to `"test"`): `"valid"`, `"test"`, or a time split such as `"time:0.1"`.
        cutoffs, text_neighbours, text_encoder, text_dtype, allow_seen, batch_size, use_cpu, progress (*optional*):
            As for [`compare`].

    Returns:
        `dict[str, float]`: `recall@10`, `ndcg@10_seen_masked`, ..., see [`compare`].

    Raises:
        ValueError: As [`compare`].
        OSError: As [`compare`].
    """
    (metrics,) = compare(
        [model],
        domain,
        split,
        cutoffs=cutoffs,
        text_neighbours=text_neighbours,
        text_encoder=text_encoder,
        text_dtype=text_dtype,
        allow_seen=allow_seen,
        batch_size=batch_size,
        use_cpu=use_cpu,
        progress=progress,
    ).rows.values()
    return metrics


class _Task:
    """Users and catalogue of a comparison."""

    def __init__(
        self,
        domain: Domain,
        split: str,
        cutoffs: tuple[int, ...],
        text_dtype: TextDtype,
        batch_size: int,
        accelerator: Accelerator,
        progress: bool,
    ):
        self.domain, self.cutoffs, self.text_dtype = domain, cutoffs, text_dtype
        self.batch_size, self.accelerator, self.progress = batch_size, accelerator, progress
        self.is_new, self.new_users = None, None
        part = "valid" if split == "valid" else "test"
        self.users = RelevanceDataset.of_domain(domain, part)
        self.counts = {"users": len(self.users), "items": domain.num_items}
        if domain.cut is None or part == "valid":
            self.known = domain_split(domain, "train")
        else:
            test, self.known = time_test(domain), domain_split(domain, "all")
            self.is_new = test.is_new
            self.counts |= _relevant_counts(self.users, test.is_new) | test.counts
            if test.counts["new_users"]:
                self.new_users = _without_history(domain)
        self.novelty = item_novelty(self.known, domain.num_items)

    def text_vectors(self, model: UniSRecModel, processor: UniSRecProcessor) -> np.ndarray:
        vectors = domain_features(
            self.domain,
            model.text_encoder,
            processor.tokenizer,
            model.config,
            device=self.accelerator.device,
            progress=self.progress,
            text_dtype=self.text_dtype,
            shared=True,
        )
        model.detach_text_encoder()
        enter_catalogue(model, vectors)
        return vectors

    def baseline(self, name: str, text_embeds: np.ndarray) -> Scorer:
        if name == POPULARITY:
            return popularity_scores(self.known, self.domain.num_items)
        if name == RANDOM:
            return random_scores(self.domain.num_items)
        if name == TEXT_NEIGHBOURS:
            return text_neighbour_scores(text_embeds)
        texts = torch.from_numpy(np.array(text_embeds))
        return text_neighbour_scores(fit_text_space(texts).map(texts).numpy(), RECENCY)

    def metrics(self, score: Scorer, longest: int | None, share: float, text_embeds: np.ndarray) -> dict[str, float]:
        ranking = self._rank(score, self.users, longest, share)
        metrics = ranking.metrics(self.cutoffs)
        for column, suffix in enumerate(PROTOCOLS):
            of_lists = list_metrics(ranking.lists[:, :, column], self.cutoffs, self.novelty, text_embeds)
            metrics |= {f"{name}{suffix}": value for name, value in of_lists.items()}
        return metrics | ({} if self.is_new is None else ranking.metrics(self.cutoffs, self.is_new, "new_items_"))

    def of_new_users(self, score: Scorer) -> dict[str, float]:
        if self.new_users is None:
            return {}
        found = self._rank(score, self.new_users, None, 0.0).metrics(self.cutoffs, prefix="new_users_")
        return {name: value for name, value in found.items() if not name.endswith(PROTOCOLS[1])}  # nothing is seen

    def _rank(self, score: Scorer, users: RelevanceDataset, longest: int | None, share: float) -> Ranking:
        return rank_users(
            score,
            users,
            self.domain.num_items,
            depth=max(self.cutoffs),
            max_length=longest,
            text_neighbours=share,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
            progress=self.progress,
        )


def _check(names: Sequence[str], split: str, cutoffs: Sequence[int], batch_size: int) -> None:
    if split not in ("valid", "test") and not is_time_split(split):
        raise ValueError(
            f"split is {split!r}, expected 'valid' or 'test', which have a next item to rank, or a moment such as "
            "'time:2024-06-01' or 'time:0.1'."
        )
    check_count("batch_size", batch_size)
    if not cutoffs:
        raise ValueError("cutoffs is empty, expected at least one.")
    for cutoff in cutoffs:
        check_count("a cutoff", cutoff)
    if not names:
        raise ValueError("no model is named, expected at least one.")
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ValueError(f"{twice} is named twice; name each model once.")


def _check_catalogue(config: UniSRecConfig, domain: Domain) -> None:
    items = ItemCatalogue(domain.items["item_id"].to_list(), domain.items["text"].to_list())
    if config.num_items is not None and config.item_ids_hash != items.item_ids_hash:
        raise ValueError(
            f"the checkpoint is transductive: its ID embedding belongs to a catalogue of {config.num_items} "
            f"items, which is not that of {domain.name!r}; finetune it there, or take an inductive checkpoint."
        )


def _relevant_counts(users: RelevanceDataset, is_new: np.ndarray) -> dict[str, int]:
    each = [users[place] for place in range(len(users))]
    return {
        "relevant": sum(len(user["relevant"]) for user in each),
        "users_seen_masked": sum(not np.isin(user["relevant"], user["seen"]).all() for user in each),
        "new_items_users": sum(bool(is_new[user["relevant"]].any()) for user in each),
    }


def _without_history(domain: Domain) -> RelevanceDataset:
    """Users of whom nothing is known at the cut, with their distinct items."""
    first = domain.times[domain.offsets[:-1]]
    users = np.flatnonzero(first >= domain.cut.time)
    rows = [np.unique(domain.flat[domain.offsets[user] : domain.offsets[user + 1]]) for user in users]
    empty = Split(domain.flat[:0], np.zeros(len(users) + 1, dtype=np.int64), users)
    return RelevanceDataset(empty, np.concatenate(rows), np.cumsum([0, *map(len, rows)]), repeats=False)


__all__ = ["BASELINES", "Comparison", "compare", "evaluate"]
