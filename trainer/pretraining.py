"""Multi-domain pre-training: a text encoder and domain folders in, a checkpoint out."""

import os
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import IntervalStrategy

from ..data import Domain, cut_at, domain_split
from ..data.domain_features import domain_features
from ..data.given_features import ITEM_EMBEDDINGS
from ..data.text_features import drop_words
from ..data.training_data import training_record
from ..data.whitening import fit_whitening
from ..evaluation.ranking import RankingDataset
from ..modeling_unisrec import UniSRecModel, UniSRecProcessor
from ..modeling_unisrec.checkpoint import new_config
from ..modeling_unisrec.text_encoders import load_text_encoder, text_max_length
from ..modeling_unisrec.text_neighbours import fit_text_space
from ..modeling_unisrec.text_pooling import new_text_scale
from ..reports.model_card import UniSRecModelCardData
from .argument_rules import check_arguments, check_metric
from .batches.data_collator import PretrainCollator
from .batches.datasets import DomainFeatures, DomainTexts, WindowDataset
from .batches.window_batches import StaticShapes
from .callbacks import check_callbacks
from .checkpoint_folders import check_output_dir
from .encoding import encoding_options
from .pretrain_trainer import UniSRecPretrainTrainer, check_similarity
from .training_args import UniSRecPretrainArguments, check_kind
from .training_result import TrainingResult


def build_pretrain_trainer(
    text_encoder: str | None,
    domains: Sequence[Domain | str | os.PathLike],
    args: UniSRecPretrainArguments,
    *,
    text_pooling: str | None = None,
    text_prompt: str | None = None,
    text_truncate_dim: int | None = None,
    text_whitening: Literal["none", "pca"] = "none",
    text_whitening_size: int | None = None,
    model_config: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    split: str | None = None,
) -> UniSRecPretrainTrainer:
    r"""
    Builds the trainer that [`pretrain`] runs.

    Nothing is trained yet. The output folder is created, empty, and text vectors are cached in the domain folders.

    Args:
        text_encoder (`str` or `None`):
            Folder or Hub id of the text encoder to start from, or `"minilm"` for the packaged one. `None` uses the text
            vectors that came with the domains and makes an embeddings-only model.
        domains (`Sequence` of [`Domain`], `str` or `os.PathLike`): Domains in memory, or their folders.
        args ([`UniSRecPretrainArguments`]): Training arguments. They are copied, not modified.
        text_pooling (`str`, *optional*):
            Pooling of token states, see [`pool_tokens`]. Defaults to what the files of the encoder specify, or else to
            the usual one for its architecture.
        text_prompt (`str`, *optional*): Prefix of each item text. Defaults to what the files of the encoder specify.
        text_truncate_dim (`int`, *optional*): Number of leading components to keep of each text vector (Matryoshka).
        text_whitening (`str`, *optional*, defaults to `"none"`):
            `"pca"` whitens text vectors by a fixed linear map that is fitted to the catalogues of all domains, see
            [`fit_whitening`].
        text_whitening_size (`int`, *optional*): Number of components that the whitening keeps. Defaults to all.
        model_config (`Mapping`, *optional*): Further fields of [`UniSRecConfig`].
        callbacks (`Sequence[TrainerCallback]`, *optional*): Callbacks of transformers, besides our own.
        split (`str`, *optional*):
            Time split of [`cut_at`], for each of the domains and the zero-shot domain: what lies before the cut is learned
            from, except its last tenth, on which is validated. By default the last two interactions of each user are held
            out.

    Returns:
        [`UniSRecPretrainTrainer`]: Trainer with model, training data and validation users, before its first step.

    Raises:
        ValueError: If two domains have the same name, the zero-shot domain is also trained on or holds nothing out,
            options contradict each other, or there are no text vectors.
        OSError: If the output folder is not empty, or the text encoder or a domain cannot be read.
        TypeError: If a domain is no domain and no path, `args` are no [`UniSRecPretrainArguments`], or a
            callback is none.
    """
    if isinstance(domains, str | os.PathLike | Domain):
        raise ValueError(f"domains is {str(domains)!r}, expected a list of domains.")
    check_kind(args, UniSRecPretrainArguments)
    check_callbacks(callbacks)
    args, settings = copy(args), dict(model_config or {})
    of_encoder = {
        "text_pooling": text_pooling,
        "text_truncate_dim": text_truncate_dim,
        "text_prompt": text_prompt,
    }
    _check_text_options(text_encoder, of_encoder, args, settings, text_whitening, text_whitening_size)
    check_output_dir(args)
    domains = [Domain.load(domain) for domain in domains]
    if split is not None:
        domains = [cut_at(domain, split) for domain in domains]
    if len({domain.name for domain in domains}) < len(domains):
        raise ValueError(f"two domains have the same name: {', '.join(domain.name for domain in domains)}.")
    unseen = None if args.zero_shot_domain is None else _load_unseen(args.zero_shot_domain, domains)
    if unseen is not None and split is not None:
        unseen = cut_at(unseen, split)
    _check_evaluations(args, unseen, [domain.name for domain in domains if domain.held_out])
    if text_encoder is None:
        if args.train_text_encoder or not domains[0].given_features:
            raise ValueError("there is no text encoder, and the domain contains no text vectors: add `text_encoder`.")
        encoder, tokenizer = None, None
        of_text = {"text_embedding_size": domains[0].given_features[ITEM_EMBEDDINGS].shape[1]}
    else:
        encoder, tokenizer = load_text_encoder(
            text_encoder, pooling=text_pooling, prompt=text_prompt, truncate_dim=text_truncate_dim
        )
        of_text = encoder.text_head.to_config(encoder.config.hidden_size)
        layers = settings.get("text_layers", of_text["text_layers"])
        of_text["text_scale"] = new_text_scale(layers, of_text["text_embedding_size"])
    if text_whitening == "pca":
        of_text["text_whitening_size"] = text_whitening_size or of_text["text_embedding_size"]
    set_seed(args.seed)
    of_text["training_data"] = [training_record(domain, args.train_text_encoder) for domain in domains]
    config = new_config(of_text | settings)
    check_similarity(config)
    if "text_neighbours" not in settings and config.item_text:
        config.text_neighbours = config.text_neighbours_share(args.text_neighbours)
    model = UniSRecModel(config)

    processor = UniSRecProcessor(
        tokenizer, None, model.config.max_position_embeddings, text_prompt=model.config.text_prompt
    )
    if encoder is not None:
        model.attach_text_encoder(encoder)  # from here on it is used as `config` says
        processor.max_text_length = text_max_length(encoder, tokenizer)
    make_views = args.sequence_loss_weight != 0
    ratios = [None, args.word_drop_ratio] if make_views and args.item_drop_probability != 1 else [None]
    if args.train_text_encoder:
        encoder.requires_grad_(True)
        catalogues = [domain.items["text"].to_list() for domain in domains]
        views = [
            DomainTexts([texts if ratio is None else drop_words(texts, ratio, args.seed) for texts in catalogues])
            for ratio in ratios
        ]
    else:
        model.detach_text_encoder()
        tables = [
            [
                domain_features(
                    domain, encoder, tokenizer, model.config, word_drop_ratio=ratio, **encoding_options(args)
                )
                for ratio in ratios
            ]
            for domain in domains
        ]
        if config.text_space is not None:
            tables = [in_text_space(*of_domain) for of_domain in tables]
        catalogues = [originals for originals, *_ in tables]
        if text_whitening == "pca":
            model.adaptor.whitening.load_state_dict(fit_whitening(catalogues, model.config.text_whitening_size))
        views = [DomainFeatures(list(of_all_domains)) for of_all_domains in zip(*tables, strict=True)]
    histories = WindowDataset(
        [domain_split(domain, "train") for domain in domains],
        [domain.num_items for domain in domains],
        model.config.max_position_embeddings,
        args.prefix_rows,
    )
    text_vectors = shapes = None
    if args.static_batches:
        text_vectors = torch.cat([view.to_tensor() for view in views]).to(args.device)
        shapes = StaticShapes.of(histories.lengths, args.per_device_train_batch_size)
        views = [None, *([len(text_vectors) // 2] * (len(views) - 1))]
    collator = PretrainCollator(
        *views,
        tokenize=processor.tokenize if args.train_text_encoder else None,
        item_drop_probability=args.item_drop_probability,
        item_drop_ratio=args.item_drop_ratio,
        word_drop_item_ratio=args.word_drop_item_ratio,
        augmentation_draw=args.augmentation_draw,
        seed=args.seed,
        views=make_views,
        shapes=shapes,
    )
    if unseen is None:
        eval_dataset = {
            domain.name: RankingDataset(domain_split(domain, "valid"), catalogue)
            for domain, catalogue in zip(domains, catalogues, strict=True)
            if domain.held_out
        }
    else:
        catalogue = unseen.items["text"].to_list()
        if not args.train_text_encoder:
            catalogue = domain_features(unseen, encoder, tokenizer, model.config, **encoding_options(args))
            if config.text_space is not None:
                (catalogue,) = in_text_space(catalogue)
        eval_dataset = RankingDataset(domain_split(unseen, "valid"), catalogue)
    trainer = UniSRecPretrainTrainer(
        model,
        args,
        text_encoder=None if args.train_text_encoder else encoder,
        processing_class=processor,
        data_collator=collator,
        train_dataset=histories,
        text_vectors=text_vectors,
        eval_dataset=eval_dataset or None,
        card_data=UniSRecModelCardData(
            domains, text_encoder, zero_shot_domain=None if unseen is None else unseen.name
        ),
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def pretrain(
    text_encoder: str | None,
    domains: Sequence[Domain | str | os.PathLike],
    args: UniSRecPretrainArguments,
    *,
    text_pooling: str | None = None,
    text_prompt: str | None = None,
    text_truncate_dim: int | None = None,
    text_whitening: Literal["none", "pca"] = "none",
    text_whitening_size: int | None = None,
    model_config: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    split: str | None = None,
) -> TrainingResult:
    r"""
    Pre-trains a model on several domains (arXiv 2206.05941, section 2.3).

    The checkpoint, with its text encoder, is saved to `args.output_dir`. The last two interactions of each user are held
    out, so that the checkpoint can be evaluated on any of the domains. Domains that hold nothing out (merged folders of
    the official code) are trained on in full and not evaluated. With `args.zero_shot_domain`, only the validation users
    of that domain, which is not trained on, are ranked, and the checkpoint with the best metric on them is saved.
    Validation ranks by the model alone; the checkpoint itself ranks with a share of text neighbours,
    `args.text_neighbours` or that of `model_config`.

    Args:
        text_encoder (`str` or `None`):
            Folder or Hub id of the text encoder to start from, or `"minilm"` for the packaged one. `None` uses the text
            vectors that came with the domains and makes an embeddings-only model.
        domains (`Sequence` of [`Domain`], `str` or `os.PathLike`): Domains in memory, or their folders.
        args ([`UniSRecPretrainArguments`]): Training arguments. They are copied, not modified.
        text_pooling, text_prompt, text_truncate_dim, text_whitening, text_whitening_size, model_config (*optional*):
            See [`build_pretrain_trainer`].
        callbacks, split (*optional*): See [`build_pretrain_trainer`].

    Returns:
        [`TrainingResult`]: Its metrics are those of the saved weights on the validation users: `NAME_ndcg@10` for each
        domain, or `ndcg@10`, ... of the zero-shot domain. Empty if these weights were not evaluated during training.

    Raises:
        ValueError: As [`build_pretrain_trainer`], or if training diverges.
        OSError: As [`build_pretrain_trainer`], or if a file cannot be written.
        TrainingInterrupted: If SIGTERM ended the training, after a checkpoint has been saved.
    """
    trainer = build_pretrain_trainer(
        text_encoder,
        domains,
        args,
        text_pooling=text_pooling,
        text_prompt=text_prompt,
        text_truncate_dim=text_truncate_dim,
        text_whitening=text_whitening,
        text_whitening_size=text_whitening_size,
        model_config=model_config,
        callbacks=callbacks,
        split=split,
    )
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_state()
    trainer.save_model()
    return TrainingResult(trainer.model, trainer, _validation_metrics(trainer))


def _validation_metrics(trainer: UniSRecPretrainTrainer) -> dict[str, float]:
    """Logged metrics of the weights that the model has after training."""
    step = trainer.state.global_step if trainer.loaded_step is None else trainer.loaded_step
    return {
        name.removeprefix("eval_"): value
        for entry in trainer.state.log_history
        if entry["step"] == step
        for name, value in entry.items()
        if name.startswith("eval_") and "@" in name
    }


def _check_evaluations(args: UniSRecPretrainArguments, unseen: Domain | None, ranked: Sequence[str]) -> None:
    """Raises `ValueError` if the domains do not allow the evaluations that the arguments ask for. If no domain holds
    anything out, turns evaluations off in `args`."""
    if unseen is not None or ranked:
        check_metric(args, ranked if unseen is None else None)
        return
    for name in ("load_best_model_at_end", "eval_on_start"):
        if getattr(args, name):
            raise ValueError(f"--{name} needs evaluations, and no domain holds anything out: leave it out.")
    args.eval_strategy = IntervalStrategy.NO
    check_arguments(args)


def _check_text_options(
    text_encoder: str | None,
    of_encoder: Mapping[str, Any],
    args: UniSRecPretrainArguments,
    model_config: Mapping[str, Any],
    text_whitening: str,
    text_whitening_size: int | None,
) -> None:
    """Raises `ValueError` for text options that would have no effect, or that contradict `model_config`."""
    if text_whitening not in ("none", "pca"):
        raise ValueError(f"`text_whitening` takes none or pca, not {text_whitening!r}.")
    for option, value in of_encoder.items():
        if text_encoder is None and value is not None:
            raise ValueError(f"`{option}` needs a text encoder: add `text_encoder`.")
        if value is not None and option in model_config:
            raise ValueError(f"`{option}` is given twice: leave it out of `model_config`.")
    if "text_prompt" in model_config:
        raise ValueError(
            "text_prompt in `model_config` is not supported: use `text_prompt`, so that its tokens are counted."
        )
    if text_whitening == "none" and text_whitening_size is not None:
        raise ValueError("`text_whitening_size` needs a whitening: add `text_whitening='pca'`.")
    if "text_whitening_size" in model_config:
        raise ValueError(
            "text_whitening_size in `model_config` is not supported: use `text_whitening='pca'` and `text_whitening_size`."
        )
    text_space = model_config.get("text_space")
    if text_space == "own":
        raise ValueError(
            "text_space=own is of one shop: take text_space=catalogue, with which each domain has its own."
        )
    if text_space is not None and args.train_text_encoder:
        raise ValueError(f"text_space={text_space} is fitted to fixed text vectors: leave --train_text_encoder out.")
    if text_space is not None and text_whitening != "none":
        raise ValueError(
            f"text_space={text_space} takes the place of --text_whitening {text_whitening}: leave one out."
        )
    if text_whitening == "pca" and args.train_text_encoder:
        raise ValueError("`text_whitening='pca'` is fitted to fixed text vectors: leave --train_text_encoder out.")
    if text_whitening == "pca" and model_config.get("item_text", True) is False:
        raise ValueError(
            "`text_whitening='pca'` needs text vectors, which item_text=false removes: leave one of them out."
        )


def in_text_space(text_embeds: np.ndarray, *views: np.ndarray) -> list[np.ndarray]:
    r"""
    Maps the text vectors of a domain to the text space of its catalogue. A model in pre-training has no space of its own: it
    sees those of all domains.

    Args:
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`): Text vectors of the catalogue.
        *views (`np.ndarray` of shape `(num_items, text_embedding_size)`): Those of augmented texts, mapped alike.

    Returns:
        `list[np.ndarray]`: All of them, unit vectors in float32.
    """
    tables = [torch.from_numpy(np.array(table)) for table in (text_embeds, *views)]
    space = fit_text_space(tables[0])
    return [space.map(table).numpy() for table in tables]


def _load_unseen(folder: str, domains: Sequence[Domain]) -> Domain:
    """Loads the zero-shot domain. Raises `ValueError` if it holds nothing out or is also trained on."""
    unseen = Domain.load_from_disk(folder)
    if not unseen.held_out:
        raise ValueError(f"--zero_shot_domain {folder} holds nothing out to validate on.")
    for domain in domains:
        if domain.name == unseen.name or domain.content_hash == unseen.content_hash:
            raise ValueError(f"--zero_shot_domain {folder} is trained on as {domain.name}: leave it out of --domains.")
    return unseen


__all__ = ["build_pretrain_trainer", "pretrain"]
