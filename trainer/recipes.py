"""The main job in three calls: pre-train on domain folders, transfer to one, evaluate on one."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import set_seed

from ..data import Domain, leave_one_out
from ..data.given_features import ITEM_EMBEDDINGS
from ..data.hub import find_model
from ..data.text_encoders import find_text_pooling, load_text_encoder
from ..data.text_features import text_max_length
from ..data.word_drop import drop_words
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from .base_trainer import UniSRecTrainer
from .checkpoints import check_output_dir, domain_features, load_checkpoint, new_config, untrained_model
from .data_collator import PretrainCollator, TextFinetuneCollator
from .datasets import DomainFeatures, DomainTexts, RankingDataset, WindowDataset
from .finetune_trainer import UniSRecFinetuneTrainer
from .lora import add_lora, parse_lora_parts
from .model_card import UniSRecModelCardData
from .pretrain_trainer import UniSRecPretrainTrainer
from .run_results import load_run_results, run_facts
from .training_args import UniSRecFinetuneArguments, UniSRecPretrainArguments, UniSRecTrainingArguments


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
        args ([`UniSRecPretrainArguments`]): Arguments.
        text_pooling (`str`, *optional*): `"cls"` or `"mean"`; defaults to what the encoder's folder says, else `"cls"`.
        model_config (`Mapping`, *optional*): Further fields of [`UniSRecConfig`].

    Returns:
        [`UniSRecPretrainTrainer`]: After training, with the model and the log.
    """
    check_output_dir(args)
    domains = [Domain.load_from_disk(folder) for folder in domain_dirs]
    if len({domain.name for domain in domains}) < len(domains):
        raise ValueError(f"two domains have the same name: {', '.join(domain.name for domain in domains)}.")
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
    if not eval_dataset:
        args.eval_strategy = "no"
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


def finetune(
    model: str | os.PathLike,
    domain_dir: str | os.PathLike,
    setting: Literal["inductive", "transductive"],
    args: UniSRecFinetuneArguments,
    text_encoder: str | None = None,
    from_scratch: bool = False,
    compare_with: str | os.PathLike | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> tuple[UniSRecFinetuneTrainer, dict[str, float]]:
    r"""
    Transfer of a checkpoint to a domain; the adapted checkpoint, with its catalogue, is left in `args.output_dir`.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id of a checkpoint.
        domain_dir (`str` or `os.PathLike`): Domain folder.
        setting (`str`): `"inductive"` (text only) or `"transductive"` (text + ID embedding).
        args ([`UniSRecFinetuneArguments`]): Arguments.
        text_encoder (`str`, *optional*): Where the checkpoint has no text encoder, the one it was trained with.
        from_scratch (`bool`, *optional*, defaults to `False`):
            Take only the settings of the checkpoint and train new weights, all of them: the row to compare with.
        compare_with (`str` or `os.PathLike`, *optional*):
            Output folder of another run on the same domain, whose test metrics the model card shows beside these.
        model_config (`Mapping`, *optional*):
            Fields of [`UniSRecConfig`] that differ from the checkpoint's, from scratch only; `item_text=False` with
            `similarity="dot"` is SASRec.

    Returns:
        `tuple`: The trainer after training, with the best model, and its metrics on the test split (`ndcg@10`, ...).

    Raises:
        ValueError: If the setting is neither of the two, a text encoder has another width than the checkpoint, or the
            run to compare with was on another domain.
        OSError: If the output folder is not empty, or one of the inputs is not there.
    """
    if setting not in ("inductive", "transductive"):
        raise ValueError(f"the setting is {setting!r}, expected 'inductive' or 'transductive'.")
    if from_scratch and args.lora is not None:
        raise ValueError("--lora adapts trained weights and --from-scratch has none: leave one of them out.")
    if text_encoder is not None and args.lora is not None:
        raise ValueError(
            "--lora names the checkpoint as its base, and that has no text encoder: save it with one first."
        )
    if model_config and not from_scratch:
        raise ValueError("--model-config changes what the weights were trained for: add --from-scratch.")
    check_output_dir(args)
    domain = Domain.load_from_disk(domain_dir)
    card_data = UniSRecModelCardData(
        [domain],
        text_encoder,
        base_model=None if from_scratch else str(model),
        from_scratch=from_scratch,
        compared=None if compare_with is None else load_run_results(compare_with, domain),
    )
    set_seed(args.seed)
    base = None if args.lora is None else find_model(model)[1].get("revision")
    model, processor = load_checkpoint(model, text_encoder)
    texts = domain.items["text"].to_list()
    processor.catalogue = ItemCatalogue(domain.items["item_id"].to_list(), texts)
    encoder, text_embeds, catalogue, collator = None, None, texts, TextFinetuneCollator(texts, processor.tokenize)
    if args.trains_on_texts and model.text_encoder is None:
        raise ValueError("the checkpoint has no text encoder to train; name the one it knows by --text-encoder.")
    if not args.trains_on_texts:
        catalogue = text_embeds = domain_features(
            domain_dir, domain, model.text_encoder, processor.tokenizer, model.config, args
        )
        processor.catalogue.item_embeddings = torch.from_numpy(np.array(text_embeds))
        encoder, collator = model.detach_text_encoder(), None
    num_items = domain.num_items if setting == "transductive" else None
    if from_scratch:
        model = untrained_model(model, num_items, model_config or {})
        encoder = encoder if model.config.item_text else None
        args.freeze_sequence_encoder = False
    else:
        model.reset_item_embedding(num_items)
    if args.lora is not None:
        model = add_lora(model, parse_lora_parts(args.lora), args.lora_rank, None if base is None else base.resolved)
    elif args.train_text_encoder:
        model.text_encoder.requires_grad_(True)
    trainer = UniSRecFinetuneTrainer(
        model,
        args,
        text_encoder=encoder,
        processing_class=processor,
        data_collator=collator,
        train_dataset=WindowDataset(
            [leave_one_out(domain, "train")],
            [domain.num_items],
            model.config.max_position_embeddings,
            args.prefix_rows,
        ),
        eval_dataset=RankingDataset(leave_one_out(domain, "valid"), catalogue),
        text_embeds=text_embeds,
        card_data=card_data,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    users = RankingDataset(leave_one_out(domain, "test"), catalogue)
    measured = trainer.predict(users).metrics
    facts = run_facts(domain, setting, from_scratch, args.seed)
    trainer.save_metrics("test", measured | facts, combined=False)
    metrics = {name.removeprefix("test_"): value for name, value in measured.items() if "@" in name}
    card_data.test_metrics, card_data.num_test_users = metrics, len(users)
    if args.trains_on_texts:
        processor.catalogue.item_embeddings = torch.from_numpy(trainer.encode_catalogue(texts))
    trainer.save_model()
    return trainer, metrics


def evaluate(
    model: str | os.PathLike,
    domain_dir: str | os.PathLike,
    split: Literal["valid", "test"],
    args: UniSRecTrainingArguments,
    text_encoder: str | None = None,
) -> dict[str, float]:
    r"""
    Full-ranking metrics of a checkpoint on a domain; zero-shot if it has not been adapted to it.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id of a checkpoint.
        domain_dir (`str` or `os.PathLike`): Domain folder.
        split (`str`): `"valid"` or `"test"`.
        args ([`UniSRecTrainingArguments`]): Device and batch size.
        text_encoder (`str`, *optional*): Where the checkpoint has no text encoder, the one it was trained with.

    Returns:
        `dict[str, float]`: `recall@10`, `ndcg@10_seen_masked`, ...

    Raises:
        ValueError: If a transductive checkpoint belongs to another catalogue.
    """
    domain = Domain.load_from_disk(domain_dir)
    model, processor = load_checkpoint(model, text_encoder)
    known = None if processor.catalogue is None else processor.catalogue.item_ids
    if model.config.num_items is not None and known != domain.items["item_id"].to_list():
        raise ValueError(
            f"the checkpoint is transductive: its ID embedding belongs to a catalogue of {model.config.num_items} "
            f"items, which is not that of {domain_dir}; finetune it there, or take an inductive checkpoint."
        )
    text_embeds = domain_features(domain_dir, domain, model.text_encoder, processor.tokenizer, model.config, args)
    model.detach_text_encoder()
    trainer = UniSRecTrainer(model, args)
    metrics = trainer.predict(RankingDataset(leave_one_out(domain, split), text_embeds)).metrics
    return {name.removeprefix("test_"): value for name, value in metrics.items() if "@" in name}


__all__ = ["evaluate", "finetune", "pretrain"]
