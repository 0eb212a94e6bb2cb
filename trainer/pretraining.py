"""Multi-domain pre-training in one call: domain folders and a text encoder in, a checkpoint out."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from ..data import Domain, leave_one_out
from ..data.given_features import ITEM_EMBEDDINGS
from ..data.text_encoders import find_text_pooling, load_text_encoder
from ..data.text_features import text_max_length
from ..data.word_drop import drop_words
from ..modeling_unisrec import UniSRecModel, UniSRecProcessor
from .argument_rules import check_arguments, check_metric
from .checkpoints import check_output_dir, domain_features, new_config
from .data_collator import PretrainCollator
from .datasets import DomainFeatures, DomainTexts, RankingDataset, WindowDataset
from .model_card import UniSRecModelCardData
from .pretrain_trainer import UniSRecPretrainTrainer
from .training_args import UniSRecPretrainArguments
from .training_data import training_record


def pretrain(
    domain_dirs: Sequence[str | os.PathLike],
    text_encoder: str | None,
    args: UniSRecPretrainArguments,
    text_pooling: Literal["cls", "mean"] | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> UniSRecPretrainTrainer:
    r"""
    Multi-domain contrastive pre-training; the checkpoint, with its text encoder, is left in `args.output_dir`.

    The last two interactions of each user are held out, so that no checkpoint has seen what it may be tested on; domains
    that hold nothing out (merged folders of the official code) are trained on whole and not ranked.

    Args:
        domain_dirs (`Sequence` of `str` or `os.PathLike`): Domain folders.
        text_encoder (`str` or `None`):
            Folder or Hub id of the text encoder, or `"minilm"` for the packaged one. `None` takes the text vectors that
            came with the domains and makes an embeddings-only model.
        args ([`UniSRecPretrainArguments`]): Arguments; they are copied, and stay as they are.
        text_pooling (`str`, *optional*): `"cls"` or `"mean"`; defaults to what the encoder's folder says, else `"cls"`.
        model_config (`Mapping`, *optional*): Further fields of [`UniSRecConfig`].

    Returns:
        [`UniSRecPretrainTrainer`]: After training, with the model and the log.
    """
    args = copy.copy(args)  # what is found out here is not the caller's
    check_output_dir(args)
    domains = [Domain.load_from_disk(folder) for folder in domain_dirs]
    if len({domain.name for domain in domains}) < len(domains):
        raise ValueError(f"two domains have the same name: {', '.join(domain.name for domain in domains)}.")
    _check_evaluations(args, [domain.name for domain in domains if domain.held_out])
    if text_encoder is None:
        if args.train_text_encoder or not domains[0].given_features:
            raise ValueError(
                "no text encoder is given, and no text vectors came with the domain: name --text-encoder."
            )
        encoder, tokenizer = None, None
        pooling, text_size = "cls", domains[0].given_features[ITEM_EMBEDDINGS].shape[1]
    else:
        encoder, tokenizer = load_text_encoder(text_encoder)
        pooling, text_size = text_pooling or find_text_pooling(text_encoder), encoder.config.hidden_size
    set_seed(args.seed)
    settings = {"text_embedding_size": text_size, "text_pooling": pooling, **(model_config or {})}
    settings["training_data"] = [training_record(domain, args.train_text_encoder) for domain in domains]
    model = UniSRecModel(new_config(settings))

    processor = UniSRecProcessor(tokenizer, None, model.config.max_position_embeddings)
    if encoder is not None:
        processor.max_text_length = text_max_length(encoder, tokenizer)
    ratios = [None] if args.item_drop_probability == 1 else [None, args.word_drop_ratio]
    if args.train_text_encoder:
        model.attach_text_encoder(encoder)
        encoder = encoder.requires_grad_(True)
        catalogues = [domain.items["text"].to_list() for domain in domains]
        views = [
            DomainTexts([texts if ratio is None else drop_words(texts, ratio, args.seed) for texts in catalogues])
            for ratio in ratios
        ]
    else:
        tables = [
            [
                domain_features(folder, domain, encoder, tokenizer, model.config, args, word_drop_ratio=ratio)
                for ratio in ratios
            ]
            for folder, domain in zip(domain_dirs, domains, strict=True)
        ]
        catalogues = [originals for originals, *_ in tables]
        views = [DomainFeatures(list(of_all_domains)) for of_all_domains in zip(*tables, strict=True)]
    collator = PretrainCollator(
        *views,
        tokenize=processor.tokenize if args.train_text_encoder else None,
        item_drop_probability=args.item_drop_probability,
        item_drop_ratio=args.item_drop_ratio,
        word_drop_item_ratio=args.word_drop_item_ratio,
        augmentation_draw=args.augmentation_draw,
        seed=args.seed,
    )
    eval_dataset = {
        domain.name: RankingDataset(leave_one_out(domain, "valid"), catalogue)
        for domain, catalogue in zip(domains, catalogues, strict=True)
        if domain.held_out
    }
    trainer = UniSRecPretrainTrainer(
        model,
        args,
        text_encoder=None if args.train_text_encoder else encoder,
        processing_class=processor,
        data_collator=collator,
        train_dataset=WindowDataset(
            [leave_one_out(domain, "train") for domain in domains],
            [domain.num_items for domain in domains],
            model.config.max_position_embeddings,
            args.prefix_rows,
        ),
        eval_dataset=eval_dataset or None,
        card_data=UniSRecModelCardData(domains, text_encoder),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    trainer.save_model()
    return trainer


def _check_evaluations(args: UniSRecPretrainArguments, ranked: Sequence[str]) -> None:
    """Raises `ValueError` if what the arguments ask of evaluations cannot be had on the domains that are ranked; where
    there are none, turns evaluations off."""
    if ranked:
        check_metric(args, ranked)
        return
    for name in ("load_best_model_at_end", "eval_on_start"):
        if getattr(args, name):
            raise ValueError(f"--{name} needs evaluations, and no domain holds anything out: leave it out.")
    args.eval_strategy = IntervalStrategy.NO
    check_arguments(args)


__all__ = ["pretrain"]
