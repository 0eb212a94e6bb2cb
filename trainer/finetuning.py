"""Fine-tuning on one domain: a checkpoint and a domain folder in, an adapted checkpoint and its test metrics out."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, set_seed

from ..data import Domain, cut_at, domain_split
from ..data.domain_features import domain_catalogue, domain_features
from ..data.training_data import check_unseen, merge_records, training_record
from ..evaluation.ranking import RankingDataset
from ..evaluation.relevance import RelevanceDataset, rank_users
from ..evaluation.scores import model_scores
from ..modeling_unisrec.adapters import add_lora
from ..modeling_unisrec.checkpoint import load_checkpoint, untrained_model
from ..modeling_unisrec.hub import find_model
from ..modeling_unisrec.text_neighbours import enter_catalogue, keep_text_space
from ..reports.model_card import UniSRecModelCardData
from ..reports.run_results import load_run_results, run_facts
from .batches.datasets import WindowDataset
from .callbacks import check_callbacks
from .candidates import TextFinetuneCollator
from .checkpoint_folders import check_output_dir
from .distributed import whole_weights
from .encoding import encoding_options
from .ensemble import Ensemble, choose_recipe, set_dropout
from .finetune_trainer import UniSRecFinetuneTrainer
from .training_args import UniSRecFinetuneArguments, check_kind
from .training_result import TrainingResult


def build_finetune_trainer(
    model: str | os.PathLike,
    domain: Domain | str | os.PathLike,
    setting: Literal["inductive", "transductive"],
    args: UniSRecFinetuneArguments,
    *,
    text_encoder: str | None = None,
    from_scratch: bool = False,
    compare_with: str | os.PathLike | None = None,
    model_config: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    split: str | None = None,
) -> UniSRecFinetuneTrainer:
    r"""
    Builds the trainer that [`finetune`] runs, for example to train without touching the test split.

    Nothing is trained yet. The output folder is created, empty, and text vectors are cached in the domain folder.

    Args:
        model (`str` or `os.PathLike`): Folder, `"unisrec-base"` or Hub id of the checkpoint to start from.
        domain ([`Domain`], `str` or `os.PathLike`): Domain in memory, or its folder.
        setting (`str`): `"inductive"` (text only) or `"transductive"` (text + ID embedding).
        args ([`UniSRecFinetuneArguments`]): Training arguments. They are copied, not modified.
        text_encoder (`str`, *optional*): Text encoder to use if the checkpoint contains none: the one it was trained with.
        from_scratch (`bool`, *optional*, defaults to `False`):
            Take only the configuration of the checkpoint and train all weights from random initialisation, as a
            baseline.
        compare_with (`str` or `os.PathLike`, *optional*):
            Output folder of another run on the same domain; the model card shows its test metrics for comparison.
        model_config (`Mapping`, *optional*):
            Fields of [`UniSRecConfig`] that override those of the checkpoint. Requires `from_scratch`;
            `{"item_text": False, "similarity": "dot"}` is SASRec.
        callbacks (`Sequence[TrainerCallback]`, *optional*): Callbacks of transformers, besides our own.
        split (`str`, *optional*):
            Time split of [`cut_at`], such as `"time:2024-06-01"` or `"time:0.1"`: what lies before the cut is learned from,
            except its last tenth, on which is validated. By default the last two interactions of each user are held out.

    Returns:
        [`UniSRecFinetuneTrainer`]: Trainer with model, training data and validation users, before its first step.

    Raises:
        ValueError: If the setting is unknown, options contradict each other, the text encoder does not fit the
            checkpoint, or `compare_with` is a run on another domain.
        OSError: If the output folder is not empty, or the checkpoint or the domain cannot be read.
        TypeError: If `domain` is no domain and no path, `args` are no [`UniSRecFinetuneArguments`], or a
            callback is none.
    """
    check_kind(args, UniSRecFinetuneArguments)
    check_callbacks(callbacks)
    if setting not in ("inductive", "transductive"):
        raise ValueError(f"the setting is {setting!r}, expected 'inductive' or 'transductive'.")
    if from_scratch and args.lora is not None:
        raise ValueError("--lora adapts trained weights, and `from_scratch` has none: leave one of them out.")
    if args.lora is not None and args.text_neighbours:
        raise ValueError(
            "--text_neighbours is kept in config.json, which adapters do not have: leave one of them out."
        )
    if from_scratch and args.interpolate is not None:
        raise ValueError("--interpolate keeps trained weights, and `from_scratch` has none: leave one of them out.")
    if text_encoder is not None and args.lora is not None:
        raise ValueError(
            "--lora needs a base checkpoint with a text encoder: save the checkpoint together with its encoder first."
        )
    if model_config and not from_scratch:
        raise ValueError("`model_config` does not fit trained weights: add `from_scratch`.")
    if args.dropout is not None and {"hidden_dropout", "attention_dropout"} & set(model_config or ()):
        raise ValueError(
            "--dropout sets hidden_dropout and attention_dropout: leave it out, or these of `model_config`."
        )
    args = copy.copy(args)  # changed below, unlike those of the caller
    check_output_dir(args)
    source, domain = domain, Domain.load(domain)
    if not args.hold_out:
        domain = replace(domain, held_out=False, cut=None)
    elif not domain.held_out:
        raise ValueError(f"{source} holds nothing out to validate and test on: add --hold_out false.")
    if split is not None:
        if not args.hold_out:
            raise ValueError(f"--hold_out false holds nothing out, and --split {split} does: leave one of them out.")
        domain = cut_at(domain, split)
    card_data = UniSRecModelCardData(
        [domain],
        text_encoder,
        base_model=None if from_scratch else str(model),
        from_scratch=from_scratch,
        compared=None if compare_with is None else load_run_results(compare_with, domain),
    )
    set_seed(args.seed)
    base = None if args.lora is None else find_model(model)[1].get("revision")
    name, (model, processor) = model, load_checkpoint(model, text_encoder)
    learned = model.config.training_data or []
    if from_scratch:  # only the text encoder of the checkpoint is used
        learned = [record for record in learned if record.get("text_encoder")]
    model.config.training_data = learned
    if domain.held_out:
        check_unseen(name, model.config, domain, "add --hold_out false, or take another checkpoint")
    texts = domain.items["text"].to_list()
    processor.catalogue = domain_catalogue(domain)
    encoder, text_embeds, catalogue, collator = None, None, texts, TextFinetuneCollator(texts, processor.tokenize)
    if args.trains_on_texts and model.text_encoder is None:
        raise ValueError(
            "the checkpoint has no text encoder to train: name the one it was trained with by `text_encoder`."
        )
    text_space = (model_config or {}).get("text_space", model.config.text_space)
    if args.lora is not None and args.trains_on_texts and text_space is not None:
        raise ValueError(
            "adapters do not hold the text space of the model, which a trained text encoder needs: take --train_text_encoder "
            "without --lora, or --lora sequence without it."
        )
    first_vectors = None
    if not args.trains_on_texts or text_space is not None:
        first_vectors = domain_features(
            domain, model.text_encoder, processor.tokenizer, model.config, **encoding_options(args)
        )
    if not args.trains_on_texts:
        catalogue = text_embeds = first_vectors
        processor.catalogue.item_embeddings = torch.from_numpy(np.array(text_embeds))
        encoder, collator = model.detach_text_encoder(), None
    teachers = None if args.teachers is None else Ensemble.load(args.teachers, domain, args.device)
    taught = (
        [] if teachers is None else [record for each in teachers.models for record in each.config.training_data or ()]
    )
    for teacher, each in zip(args.teachers or (), [] if teachers is None else teachers.models, strict=True):
        if domain.held_out:
            check_unseen(teacher, each.config, domain, "leave it out, or add --hold_out false")
    model.config.training_data = merge_records(learned, taught, [training_record(domain, args.trains_on_texts)])
    num_items = domain.num_items if setting == "transductive" else None
    ranks_by = None
    if from_scratch:
        of_args = {"text_neighbours": args.text_neighbours or 0.0}
        model = untrained_model(model, num_items, of_args | dict(model_config or {}))
        encoder = encoder if model.config.item_text else None
        args.freeze_sequence_encoder, recipe = False, None
    else:
        # Texts that are trained on are encoded anew for each evaluation, adapters cannot keep a share, a given share of the
        # weights is meant, and the paper knows no such choice.
        is_chosen = not args.trains_on_texts and args.lora is None and not args.freeze_sequence_encoder
        if is_chosen and args.interpolate is None:
            ranks_by = model.config.text_neighbours_share(args.text_neighbours)
        model.reset_item_embedding(num_items)
        model.config.text_neighbours = model.config.text_neighbours_share(args.text_neighbours or 0.0)
        recipe = choose_recipe(model.config, args, domain)
    # Adapters do not hold the space: loading them fits it again. If the text encoder is trained, it stays that of the first vectors.
    (keep_text_space if args.lora is None else enter_catalogue)(model, first_vectors)
    if args.dropout is not None:
        set_dropout(model, args.dropout)
    model.config.item_ids_hash = None if num_items is None else processor.catalogue.item_ids_hash
    if args.lora is not None:
        model = add_lora(model, args.lora_parts, args.lora_rank, None if base is None else base.resolved)
    elif args.train_text_encoder:
        model.text_encoder.requires_grad_(True)
    trainer = UniSRecFinetuneTrainer(
        model,
        args,
        text_encoder=encoder,
        processing_class=processor,
        data_collator=collator,
        train_dataset=WindowDataset(
            [domain_split(domain, "train")],
            [domain.num_items],
            model.config.max_position_embeddings,
            args.prefix_rows,
        ),
        eval_dataset=RankingDataset(domain_split(domain, "valid"), catalogue) if domain.held_out else None,
        text_embeds=text_embeds,
        teachers=teachers,
        start_text_neighbours=ranks_by,
        card_data=card_data,
    )
    if recipe is not None:
        trainer.add_callback(SayAtStart(recipe))
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


class SayAtStart(TrainerCallback):
    """Prints a line when training begins, after all that can be refused."""

    def __init__(self, line: str):
        self.line = line

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            tqdm.write(self.line)  # as the lines of the evaluations


def finetune(
    model: str | os.PathLike,
    domain: Domain | str | os.PathLike,
    setting: Literal["inductive", "transductive"],
    args: UniSRecFinetuneArguments,
    *,
    text_encoder: str | None = None,
    from_scratch: bool = False,
    compare_with: str | os.PathLike | None = None,
    model_config: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    split: str | None = None,
) -> TrainingResult:
    r"""
    Fine-tunes a checkpoint on a domain and evaluates it on the test split.

    The adapted checkpoint, with its catalogue, is saved to `args.output_dir`.

    Args:
        model (`str` or `os.PathLike`): Folder, `"unisrec-base"` or Hub id of the checkpoint to start from.
        domain ([`Domain`], `str` or `os.PathLike`): Domain in memory, or its folder.
        setting (`str`): `"inductive"` (text only) or `"transductive"` (text + ID embedding).
        args ([`UniSRecFinetuneArguments`]): Training arguments. They are copied, not modified.
        text_encoder, from_scratch, compare_with, model_config, callbacks, split (*optional*):
            See [`build_finetune_trainer`].

    Returns:
        [`TrainingResult`]: Its metrics (`ndcg@10`, `recall@10_seen_masked`, ...) are those of the test split, or of what
        comes after the cut as [`compare`] measures it; empty if the domain holds nothing out.

    Raises:
        ValueError: As [`build_finetune_trainer`], or if training diverges.
        OSError: As [`build_finetune_trainer`], or if a file cannot be written.
        TrainingInterrupted: If SIGTERM ended the training, after a checkpoint has been saved.
    """
    trainer = build_finetune_trainer(
        model,
        domain,
        setting,
        args,
        text_encoder=text_encoder,
        from_scratch=from_scratch,
        compare_with=compare_with,
        model_config=model_config,
        callbacks=callbacks,
        split=split,
    )
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    return finish_finetuning(trainer, setting, from_scratch)


def finish_finetuning(
    trainer: UniSRecFinetuneTrainer, setting: Literal["inductive", "transductive"], from_scratch: bool
) -> TrainingResult:
    """
    Evaluates a trained model on the test split and saves it, as [`finetune`] does after training.

    Args:
        trainer ([`UniSRecFinetuneTrainer`]): Trainer of [`build_finetune_trainer`], after training.
        setting, from_scratch: As given to [`build_finetune_trainer`], for the files of results.

    Returns:
        [`TrainingResult`]: The result of [`finetune`].
    """
    args = trainer.args
    trainer.save_state()
    (domain,) = trainer.card_data.domains
    metrics: dict[str, float] = {}
    if domain.held_out:
        measured, num_users = _measure(trainer, domain) if domain.cut is None else _measure_after_cut(trainer, domain)
        facts = run_facts(domain, setting, from_scratch, args.seed)
        if trainer.card_data.kept_start:
            facts["kept_start"] = True
        elif trainer.card_data.interpolation_share is not None:
            facts["interpolation_share"] = trainer.card_data.interpolation_share
        if share := trainer.accelerator.unwrap_model(trainer.model).config.text_neighbours:
            facts["text_neighbours"] = share
        trainer.save_metrics("test", measured | facts, combined=False)
        metrics = {name.removeprefix("test_"): value for name, value in measured.items() if "@" in name}
        trainer.card_data.test_metrics, trainer.card_data.num_test_users = metrics, num_users
    if args.trains_on_texts:
        catalogue = trainer.processing_class.catalogue
        catalogue.item_embeddings = torch.from_numpy(trainer.encode_catalogue(catalogue.texts))
    trainer.save_model()
    return TrainingResult(trainer.model, trainer, metrics)


def _measure(trainer: UniSRecFinetuneTrainer, domain: Domain) -> tuple[dict[str, float], int]:
    """Metrics of the last item of each user, and the number of users."""
    ranked = trainer.predict(RankingDataset(domain_split(domain, "test"), trainer.eval_dataset.catalogue))
    return ranked.metrics, len(ranked.predictions)


def _measure_after_cut(trainer: UniSRecFinetuneTrainer, domain: Domain) -> tuple[dict[str, float], int]:
    """Metrics of all that users took after the cut, and the number of users."""
    users, catalogue = RelevanceDataset.of_domain(domain), trainer.eval_dataset.catalogue
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    if not isinstance(catalogue, np.ndarray):
        with whole_weights(model):
            catalogue = trainer.encode_catalogue(catalogue)
    ranking = rank_users(
        model_scores(model, catalogue, whole_weights=whole_weights),
        users,
        domain.num_items,
        max_length=model.config.max_position_embeddings,
        text_neighbours=model.config.text_neighbours_share(),
        batch_size=trainer.args.per_device_eval_batch_size,
        accelerator=trainer.accelerator,
    )
    return {f"test_{name}": value for name, value in ranking.metrics((10, 50)).items()}, len(users)


__all__ = ["SayAtStart", "build_finetune_trainer", "finetune", "finish_finetuning"]
