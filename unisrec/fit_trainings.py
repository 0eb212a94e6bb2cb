"""Trains the candidate models of a shop and writes up the one that is chosen."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from .data import Domain, domain_split
from .data.domain_features import domain_catalogue, domain_features
from .data.readers.guess import Columns
from .evaluation import evaluate
from .evaluation.analysis import metrics_by_popularity
from .evaluation.baselines import popularity_scores, text_neighbour_scores
from .evaluation.launch import make_accelerator
from .evaluation.ranking import RankingDataset, rank_targets
from .evaluation.relevance import RelevanceDataset, rank_users
from .fit_examples import example_histories
from .fit_notes import notes_on_metrics
from .modeling_unisrec import UniSRecModel, UniSRecProcessor
from .modeling_unisrec.checkpoint import load_checkpoint, new_config
from .modeling_unisrec.text_encoders import load_text_encoder, text_max_length
from .modeling_unisrec.text_neighbours import enter_catalogue
from .modeling_unisrec.text_pooling import new_text_scale
from .recipes import CHOICE, Budget, Recipe, recipes
from .reports.fit_report import Attempt, FitFacts, write_fit_report
from .trainer import UniSRecFinetuneArguments, UniSRecFinetuneTrainer
from .trainer.finetuning import SayAtStart, build_finetune_trainer, finish_finetuning


if TYPE_CHECKING:
    from .recommender import Recommender


BASE_MODEL = "unisrec-base"
REPORT = "report.html"
# A new model without pre-trained weights is of the size of unisrec-base.
NEW_MODEL = {"hidden_size": 256, "num_experts": 8, "hidden_dropout": 0.2, "attention_dropout": 0.2}
ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class FitResult:
    """
    Result of [`fit`].

    Args:
        output (`Path`): Folder of the checkpoint and its report.
        chosen (`str`): Name of the recipe with the best validation metric.
        metrics (`dict[str, float]`): Its metrics on the test split, see [`ranking_metrics`].
        rows (`dict[str, dict[str, float]]`): Metrics on the test split of the baselines and of the chosen recipe.
        attempts (`list[Attempt]`): What was tried.
        domain ([`Domain`]): The prepared data.
        notes (`list[str]`): Sentences on repeat purchases, better baselines, and what the metrics are of.
    """

    output: Path
    chosen: str
    metrics: dict[str, float]
    rows: dict[str, dict[str, float]]
    attempts: list[Attempt]
    domain: Domain
    notes: list[str]

    def recommender(self) -> "Recommender":
        """Loads the checkpoint, see [`Recommender`]."""
        from .recommender import Recommender

        return Recommender.from_pretrained(self.output)


class Fitting:
    """Trains the candidate models of one shop in a temporary folder."""

    def __init__(
        self, domain: Domain, work: Path, name: str, seed: int, use_cpu: bool, say: Callable[[str], None]
    ) -> None:
        self.domain, self.work, self.name, self.seed, self.use_cpu, self.say = domain, work, name, seed, use_cpu, say
        self.attempts: list[Attempt] = []

    def run(
        self,
        draft: Path,
        model: str | os.PathLike | None,
        text_encoder: str | None,
        seconds: float,
        train_on_all: bool,
        columns: Columns,
    ) -> FitResult:
        """Trains all candidates, keeps the best, measures it, and writes checkpoint and report to `draft`."""
        is_new = model is None and text_encoder is not None
        if is_new:
            model, text_encoder = self._new_checkpoint(text_encoder), None
        model = model or BASE_MODEL
        zero_shot = None if is_new else self._try_zero_shot(model, text_encoder)
        best, score = None, -1.0 if zero_shot is None else zero_shot
        end, todo = time.monotonic() + seconds, recipes(self.domain, not is_new)
        if not todo:
            nothing = "no history has two items before the held-out ones, so nothing can be trained"
            if is_new:
                raise ValueError(f"{nothing}; leave `text_encoder` out to start from {BASE_MODEL} as it is")
            self.say(f"{nothing}: the model stays as it is")
        for place, recipe in enumerate(todo):
            left = end - seconds / 2 - time.monotonic()  # half of the time is kept for the best one
            if left <= 0 and score >= 0:
                self.attempts.append(Attempt(recipe.name, note="not tried: no time left"))
                continue
            if left <= 0:  # a new model
                self.say(f"{recipe.name}: the budget is too small for a training, one step is made")
            trainer, budget = self._train(recipe, model, text_encoder, place, left / (len(todo) - place), end)
            if trainer.validated > score:
                best, score, best_budget = (recipe, trainer), trainer.validated, budget
        if best is not None and best_budget.is_over and time.monotonic() < end:
            self._go_on(*best, best_budget)
        chosen = ZERO_SHOT if best is None else best[0].name
        self.say(f"chosen by validation: {chosen}")
        start, processor = load_checkpoint(model, text_encoder)
        options = {"device": make_accelerator(self.use_cpu).device, "progress": False}  # encoded there in training
        vectors = domain_features(self.domain, start.text_encoder, processor.tokenizer, start.config, **options)
        enter_catalogue(start, vectors)
        measured = best[1].model if best is not None else start
        rows, cold, ranks = self._measure(measured, vectors)
        if zero_shot is not None:
            rows[ZERO_SHOT] = evaluate(model, self.domain, "test", text_encoder=text_encoder, use_cpu=self.use_cpu)
        if best is None:
            if train_on_all:
                self.say("zero-shot was chosen, so nothing is trained on all interactions")
            self._save_zero_shot(str(model), start, processor, vectors, draft)
        else:
            recipe, trainer = best
            rows[chosen] = finish_finetuning(trainer, recipe.setting, recipe.from_scratch).metrics
            folder = Path(trainer.args.output_dir)
            if train_on_all:
                share = trainer.model.config.text_neighbours
                folder = self._train_on_all(recipe, model, text_encoder, share)
            for path in folder.iterdir():
                if not path.name.startswith(("checkpoint-", ".")):
                    os.replace(path, draft / path.name)
        shared = [metric for metric in rows[chosen] if all(metric in row for row in rows.values())]
        rows = {name: {metric: row[metric] for metric in shared} for name, row in rows.items()}
        examples, coverage = example_histories(draft, self.domain)
        test = domain_split(self.domain, "test")
        notes = notes_on_metrics(test, ranks, rows, chosen, train_on_all and best is not None)
        facts = FitFacts(
            self.name, self.domain, columns.reasons, rows, chosen, self.attempts, examples, coverage, cold, notes
        )
        write_fit_report(draft / REPORT, facts)
        return FitResult(draft, chosen, rows[chosen], rows, self.attempts, self.domain, notes)

    def _measure(self, model: UniSRecModel, vectors: np.ndarray) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
        """Returns test metrics of the baselines, those of the model by popularity of the next item, and its ranks."""
        train, test = domain_split(self.domain, "train"), domain_split(self.domain, "test")
        accelerator, num_items = make_accelerator(self.use_cpu), self.domain.num_items
        asked = RelevanceDataset.of_domain(self.domain)
        known = train if self.domain.cut is None else domain_split(self.domain, "all")
        scores = {"popularity": popularity_scores(known, num_items), "text neighbours": text_neighbour_scores(vectors)}
        rows = {
            name: rank_users(score, asked, num_items, accelerator=accelerator).metrics((10, 50))
            for name, score in scores.items()
        }
        users = RankingDataset(test, vectors)
        ranks = rank_targets(model, users, accelerator=accelerator)
        return rows, metrics_by_popularity(ranks, users.targets, train, num_items), ranks

    def _new_checkpoint(self, text_encoder: str) -> Path:
        """Writes an untrained model with a text encoder, whose settings the recipes use."""
        encoder, tokenizer = load_text_encoder(text_encoder)
        of_text = encoder.text_head.to_config(encoder.config.hidden_size)
        of_text["text_scale"] = new_text_scale(of_text["text_layers"], of_text["text_embedding_size"])
        model = UniSRecModel(new_config(of_text | NEW_MODEL))
        model.attach_text_encoder(encoder)
        processor = UniSRecProcessor(
            tokenizer, None, model.config.max_position_embeddings, text_prompt=model.config.text_prompt
        )
        processor.max_text_length = text_max_length(encoder, tokenizer)
        folder = self.work / "new"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    def _try_zero_shot(self, model: str | os.PathLike, text_encoder: str | None) -> float:
        start = time.monotonic()
        metrics = evaluate(model, self.domain, "valid", text_encoder=text_encoder, use_cpu=self.use_cpu)
        self.attempts.append(Attempt(ZERO_SHOT, metrics[CHOICE], seconds=time.monotonic() - start))
        self.say(f"{ZERO_SHOT}: validation NDCG@10 {metrics[CHOICE]:.4f}, without training")
        return metrics[CHOICE]

    def _train(
        self, recipe: Recipe, model: Any, text_encoder: str | None, place: int, seconds: float, end: float
    ) -> tuple[UniSRecFinetuneTrainer, Budget]:
        """Trains one recipe for at most `seconds` and loads its best epoch."""
        args = self._arguments(recipe, f"{place}")
        trainer = self._build(recipe, model, text_encoder, args)
        start = time.monotonic()
        trainer.add_callback(budget := Budget(recipe.name, start + seconds, end, self.say))
        trainer.train()
        self._note(recipe, trainer, time.monotonic() - start)
        return trainer, budget

    def _go_on(self, recipe: Recipe, trainer: UniSRecFinetuneTrainer, budget: Budget) -> None:
        """Continues a recipe that ran out of time, for the rest of the budget."""
        self.say(f"{recipe.name}: best so far, goes on")
        start = time.monotonic()
        (before,) = (each for each in self.attempts if each.name == recipe.name)
        self.attempts.remove(before)
        budget.go_on()
        trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
        self._note(recipe, trainer, before.seconds + time.monotonic() - start)

    def _note(self, recipe: Recipe, trainer: UniSRecFinetuneTrainer, seconds: float) -> None:
        state = trainer.state
        curve = [(line["epoch"], line[f"eval_{CHOICE}"]) for line in state.log_history if f"eval_{CHOICE}" in line]
        best_epoch = max(curve, key=lambda point: point[1])[0]
        self.attempts.append(Attempt(recipe.name, trainer.validated, seconds, best_epoch, curve))
        share = trainer.model.config.text_neighbours
        self.say(f"{recipe.name}: NDCG@10 {trainer.validated:.4f} with {share:g} of the score from text neighbours")

    def _train_on_all(self, recipe: Recipe, model: Any, text_encoder: str | None, text_neighbours: float) -> Path:
        """Trains a recipe on all interactions, for the number of epochs that validated best."""
        attempt = next(each for each in self.attempts if each.name == recipe.name)
        self.say(f"{recipe.name}: once more on all interactions, {attempt.best_epoch:.3g} epochs")
        options = {"num_train_epochs": attempt.best_epoch, "early_stopping_patience": 0}
        args = self._arguments(recipe, "all", hold_out=False, text_neighbours=text_neighbours, **options)
        again = self._build(recipe, model, text_encoder, args)
        again.train()
        finish_finetuning(again, recipe.setting, recipe.from_scratch)
        return Path(args.output_dir)

    def _build(
        self, recipe: Recipe, model: Any, text_encoder: str | None, args: UniSRecFinetuneArguments
    ) -> UniSRecFinetuneTrainer:
        trainer = build_finetune_trainer(
            model,
            self.domain,
            recipe.setting,
            args,
            text_encoder=text_encoder,
            from_scratch=recipe.from_scratch,
            model_config=recipe.model_config,
        )
        trainer.start = None  # the choice is between all of them and zero-shot
        for callback in (PrinterCallback, SayAtStart):  # `say` tells less, and names no options that `fit` lacks
            trainer.remove_callback(callback)
        return trainer

    def _arguments(self, recipe: Recipe, folder: str, **options: Any) -> UniSRecFinetuneArguments:
        common = {"metric_for_best_model": CHOICE, "seed": self.seed, "use_cpu": self.use_cpu}
        quiet = {"disable_tqdm": True, "report_to": "none"}
        # The last part is the name of the checkpoint in its card.
        output = str(self.work / folder / self.name)
        return UniSRecFinetuneArguments(output, **{**common, **quiet, **recipe.options, **options})

    def _save_zero_shot(
        self, name: str, model: UniSRecModel, processor: UniSRecProcessor, vectors: np.ndarray, folder: Path
    ) -> None:
        """Saves the starting checkpoint unchanged, with the catalogue of the shop."""
        processor.catalogue = domain_catalogue(self.domain, vectors)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        card = (
            "---\nlibrary_name: transformers\ntags: [unisrec, recommendation, sequential-recommendation]\n---\n\n"
            f"# {self.name}\n\nThe model {name} with the catalogue of this shop. It was not trained here: none of the "
            f"trainings that were tried ranked the validation items better. Metrics and examples are in {REPORT}.\n"
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


__all__ = ["BASE_MODEL", "REPORT", "FitResult", "Fitting"]
