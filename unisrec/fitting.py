"""From two tables of a shop to a checkpoint that recommends there: the work of `unisrec fit`."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from .data import Domain, cut_at, domain_split
from .data.domain import check_output_folder, new_folder
from .data.domain_features import domain_features
from .data.readers.frames import TableSource
from .data.readers.guess import Columns
from .evaluation import evaluate
from .evaluation.analysis import metrics_by_popularity
from .evaluation.baselines import popularity_scores, text_neighbour_scores
from .evaluation.launch import make_accelerator
from .evaluation.ranking import RankingDataset, rank_targets
from .evaluation.relevance import RelevanceDataset, rank_users
from .fit_examples import example_histories
from .fit_notes import notes_on_metrics
from .fit_tables import prepare_tables
from .modeling_unisrec import UniSRecModel, UniSRecProcessor
from .modeling_unisrec.checkpoint import load_checkpoint, new_config
from .modeling_unisrec.text_encoders import load_text_encoder, text_max_length
from .modeling_unisrec.text_pooling import new_text_scale
from .recipes import CHOICE, Budget, Recipe, recipes
from .recommender.catalogue import make_catalogue
from .reports.fit_report import Attempt, FitFacts, write_fit_report
from .trainer import UniSRecFinetuneArguments, UniSRecFinetuneTrainer
from .trainer.finetuning import build_finetune_trainer, finish_finetuning


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


def fit(
    interactions: TableSource,
    items: TableSource | None = None,
    *,
    output: str | os.PathLike,
    model: str | os.PathLike | None = None,
    text_encoder: str | None = None,
    budget: float = 30.0,
    train_on_all: bool = False,
    split: str | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    text_columns: Sequence[str] | None = None,
    items_id_column: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    date_format: str | None = None,
    drop_anonymous: bool = False,
    keep_columns: Sequence[str] = (),
    keep_unsold: bool = True,
    missing_text: Literal["error", "drop", "keep"] = "drop",
    seed: int = 0,
    use_cpu: bool = False,
    report: Callable[[str], None] | None = None,
) -> FitResult:
    r"""
    Fits a recommender to a shop: recognises the columns of its tables, prepares them, trains in several ways, and keeps
    the way that ranks the held-out validation items best.

    The last two interactions of each user are held out. The last but one chooses among the recipes and their epochs, by
    NDCG@10 with seen items masked; the last is only used to measure the chosen one.

    Args:
        interactions (`str`, `os.PathLike` or data frame): Table of interactions, as for [`read_table`].
        items (`str`, `os.PathLike` or data frame, *optional*):
            Table of items. By default the texts are in the interactions.
        output (`str` or `os.PathLike`):
            New folder for the checkpoint, its card and `report.html`; it appears when everything is done.
        model (`str` or `os.PathLike`, *optional*):
            Checkpoint to start from. Defaults to `"unisrec-base"`, or to none if a `text_encoder` is given.
        text_encoder (`str`, *optional*):
            Without `model`: that of a new model, trained on this shop alone. With it: that of a checkpoint without one.
        budget (`float`, *optional*, defaults to 30):
            Minutes for the trainings. Half of them are for all recipes, the rest for the best one to go on.
        train_on_all (`bool`, *optional*, defaults to `False`):
            Whether to train the chosen recipe once more, on all interactions, for as many epochs as were best. The
            newest interactions then count, but no metric says what the result is worth: those of the report are of the
            model before. By default the model that was measured is the one that is saved.
        split (`str`, *optional*):
            Time split of [`cut_at`], such as `"time:2024-06-01"` or `"time:0.1"`: what lies before the cut is learned from,
            its last tenth chooses, and what comes after the cut measures.
        user_column, item_column, time_column, text_columns, items_id_column (*optional*):
            Columns, as for [`read_table`]. By default they are recognised by name or content, see [`guess_columns`].
        separator, encoding, date_format, drop_anonymous, keep_columns (*optional*): As for [`read_table`].
        keep_unsold (`bool`, *optional*, defaults to `True`):
            Whether products that nobody bought can be recommended, see [`build_domain`].
        missing_text (`str`, *optional*, defaults to `"drop"`): As for [`build_domain`].
        seed (`int`, *optional*, defaults to 0): Random seed of the trainings.
        use_cpu (`bool`, *optional*, defaults to `False`): Do not use an accelerator.
        report (`Callable[[str], None]`, *optional*): Receives lines that tell what is done; `print`, for example.

    Returns:
        [`FitResult`]

    Raises:
        FileExistsError: If `output` exists and is not an empty folder.
        OSError: If a table, the checkpoint or the text encoder cannot be read, or the folder cannot be written.
        ValueError: If a column cannot be recognised, the tables cannot be used, no user has three interactions, or
            `budget` is not positive.
    """
    if not 0 < budget < float("inf"):
        raise ValueError(f"`budget` is {budget}, expected a positive number of minutes")
    check_output_folder(output)
    if model is not None or text_encoder is None:
        load_checkpoint(model or BASE_MODEL, text_encoder)  # refused before the tables are read
    else:
        load_text_encoder(text_encoder)
    say = report or (lambda line: None)
    domain, columns = prepare_tables(
        interactions,
        items,
        name=Path(output).absolute().name,
        say=say,
        columns={
            "user_column": user_column,
            "item_column": item_column,
            "time_column": time_column,
            "text_columns": text_columns,
            "items_id_column": items_id_column,
        },
        csv={"separator": separator, "encoding": encoding},
        reading={"date_format": date_format, "drop_anonymous": drop_anonymous, "keep_columns": keep_columns},
        building={"keep_unsold": keep_unsold, "missing_text": missing_text},
    )
    if split is not None:
        domain = cut_at(domain, split)
    with new_folder(output) as draft:
        fitting = _Fitting(domain, draft / ".work", Path(output).absolute().name, seed, use_cpu, say)
        result = fitting.run(draft, model, text_encoder, budget * 60, train_on_all, columns)
        shutil.rmtree(draft / ".work", ignore_errors=True)
    say(f"written to {output}: checkpoint, README.md, {REPORT}")
    return replace(result, output=Path(output))


class _Fitting:
    """The trainings of one shop, in a folder for what is thrown away afterwards."""

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
        """Trains, chooses, measures, and writes checkpoint and report into `draft`."""
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
            if trainer.state.best_metric > score:
                best, score, best_budget = (recipe, trainer), trainer.state.best_metric, budget
        if best is not None and best_budget.is_over and time.monotonic() < end:
            self._go_on(*best, best_budget)
        chosen = ZERO_SHOT if best is None else best[0].name
        self.say(f"chosen by validation: {chosen}")
        start, processor = load_checkpoint(model, text_encoder)
        options = {"device": make_accelerator(self.use_cpu).device, "progress": False}  # encoded there in training
        vectors = domain_features(self.domain, start.text_encoder, processor.tokenizer, start.config, **options)
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
                folder = self._train_on_all(recipe, model, text_encoder)
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
        """Test metrics of the baselines, those of the model by popularity of the item that came next, and its ranks."""
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
        """Writes a model with random weights around a text encoder, from which recipes take the settings."""
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
        """Trains one recipe for at most so many seconds; its best epoch is loaded."""
        args = self._arguments(recipe, f"{place}")
        trainer = self._build(recipe, model, text_encoder, args)
        start = time.monotonic()
        trainer.add_callback(budget := Budget(recipe.name, start + seconds, end, self.say))
        trainer.train()
        self._note(recipe, trainer, time.monotonic() - start)
        return trainer, budget

    def _go_on(self, recipe: Recipe, trainer: UniSRecFinetuneTrainer, budget: Budget) -> None:
        """Trains a recipe that ran out of its time for the rest of the budget."""
        self.say(f"{recipe.name}: best so far, goes on")
        start = time.monotonic()
        (before,) = (each for each in self.attempts if each.name == recipe.name)
        self.attempts.remove(before)
        budget.deadline, budget.is_over = budget.end, False
        trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
        self._note(recipe, trainer, before.seconds + time.monotonic() - start)

    def _note(self, recipe: Recipe, trainer: UniSRecFinetuneTrainer, seconds: float) -> None:
        state = trainer.state
        curve = [(line["epoch"], line[f"eval_{CHOICE}"]) for line in state.log_history if f"eval_{CHOICE}" in line]
        best_epoch = max(curve, key=lambda point: point[1])[0]
        self.attempts.append(Attempt(recipe.name, state.best_metric, seconds, best_epoch, curve))

    def _train_on_all(self, recipe: Recipe, model: Any, text_encoder: str | None) -> Path:
        """Trains a recipe on all interactions, for as many epochs as were best."""
        attempt = next(each for each in self.attempts if each.name == recipe.name)
        self.say(f"{recipe.name}: once more on all interactions, {attempt.best_epoch:.3g} epochs")
        args = self._arguments(
            recipe, "all", hold_out=False, num_train_epochs=attempt.best_epoch, early_stopping_patience=0
        )
        again = self._build(recipe, model, text_encoder, args)
        again.train()
        finish_finetuning(again, recipe.setting, recipe.from_scratch)
        return Path(args.output_dir)

    def _build(
        self, recipe: Recipe, model: Any, text_encoder: str | None, args: UniSRecFinetuneArguments
    ) -> UniSRecFinetuneTrainer:
        trainer = build_finetune_trainer(
            model, self.domain, recipe.setting, args, text_encoder=text_encoder, from_scratch=recipe.from_scratch
        )
        trainer.remove_callback(PrinterCallback)  # `say` tells less
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
        """Saves the checkpoint that was started from, with the catalogue of the shop."""
        processor.catalogue = make_catalogue(self.domain).with_embeddings(torch.from_numpy(np.array(vectors)))
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        card = (
            "---\nlibrary_name: transformers\ntags: [unisrec, recommendation, sequential-recommendation]\n---\n\n"
            f"# {self.name}\n\nThe model {name} with the catalogue of this shop. It was not trained here: none of the "
            f"trainings that were tried ranked the validation items better. Metrics and examples are in {REPORT}.\n"
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


__all__ = ["FitResult", "fit"]
