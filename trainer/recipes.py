"""The main job in three calls: pre-train on domain folders, transfer to one, evaluate on one."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from ..configuration import UniSRecConfig
from ..data import Domain, leave_one_out
from ..data.text_encoders import find_text_pooling, load_text_encoder
from ..data.text_features import text_max_length
from ..modeling_unisrec import ItemCatalogue, UniSRecModel, UniSRecProcessor
from .base_trainer import UniSRecTrainer
from .checkpoints import check_output_dir, domain_features, load_checkpoint
from .data_collator import PretrainCollator
from .datasets import DomainFeatures, RankingDataset, WindowDataset
from .finetune_trainer import UniSRecFinetuneTrainer
from .model_card import write_model_card
from .pretrain_trainer import UniSRecPretrainTrainer
from .training_args import UniSRecFinetuneArguments, UniSRecPretrainArguments, UniSRecTrainingArguments


def pretrain(
    domain_dirs: Sequence[str | os.PathLike],
    text_encoder: str,
    args: UniSRecPretrainArguments,
    text_pooling: Literal["cls", "mean"] | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> UniSRecPretrainTrainer:
    r"""
    Multi-domain contrastive pre-training; the checkpoint, with its text encoder, is left in `args.output_dir`.

    The last two interactions of each user are held out, so that no checkpoint has seen what it may be tested on.

    Args:
        domain_dirs (`Sequence` of `str` or `os.PathLike`): Domain folders.
        text_encoder (`str`): Folder or Hub id of the text encoder, or `"minilm"` for the packaged one.
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
    encoder, tokenizer = load_text_encoder(text_encoder)
    pooling = text_pooling or find_text_pooling(text_encoder)
    set_seed(args.seed)
    settings = {"text_embedding_size": encoder.config.hidden_size, "text_pooling": pooling, **(model_config or {})}
    try:
        model = UniSRecModel(UniSRecConfig(**settings))
    except StrictDataclassError as error:
        raise ValueError(f"the model cannot be of that form: {error}") from error

    features, word_drop_features = [], []
    for folder, domain in zip(domain_dirs, domains, strict=True):
        source = (folder, domain, encoder, tokenizer, pooling, args)
        features.append(domain_features(*source))
        if args.item_drop_probability < 1:
            word_drop_features.append(domain_features(*source, word_drop_ratio=args.word_drop_ratio))
    collator = PretrainCollator(
        DomainFeatures(features),
        DomainFeatures(word_drop_features) if word_drop_features else None,
        item_drop_probability=args.item_drop_probability,
        item_drop_ratio=args.item_drop_ratio,
        word_drop_item_ratio=args.word_drop_item_ratio,
        augmentation_draw=args.augmentation_draw,
        seed=args.seed,
    )
    processor = UniSRecProcessor(
        tokenizer, None, model.config.max_position_embeddings, text_max_length(encoder, tokenizer)
    )
    trainer = UniSRecPretrainTrainer(
        model,
        args,
        text_encoder=encoder,
        processing_class=processor,
        data_collator=collator,
        train_dataset=WindowDataset(
            [leave_one_out(domain, "train") for domain in domains],
            [domain.num_items for domain in domains],
            model.config.max_position_embeddings,
        ),
        eval_dataset={
            domain.name: RankingDataset(leave_one_out(domain, "valid"), table)
            for domain, table in zip(domains, features, strict=True)
        },
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    trainer.save_model()
    if args.should_save:
        write_model_card(Path(args.output_dir), domains, args, "UniSRec, pre-trained to be adapted to a new domain.")
    return trainer


def finetune(
    model: str | os.PathLike,
    domain_dir: str | os.PathLike,
    setting: Literal["inductive", "transductive"],
    args: UniSRecFinetuneArguments,
    text_encoder: str | None = None,
    from_scratch: bool = False,
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

    Returns:
        `tuple`: The trainer after training, with the best model, and its metrics on the test split (`ndcg@10`, ...).

    Raises:
        ValueError: If the setting is neither of the two, or a text encoder has another width than the checkpoint.
        OSError: If the output folder is not empty, or one of the inputs is not there.
    """
    if setting not in ("inductive", "transductive"):
        raise ValueError(f"the setting is {setting!r}, expected 'inductive' or 'transductive'.")
    check_output_dir(args)
    domain = Domain.load_from_disk(domain_dir)
    set_seed(args.seed)
    model, processor = load_checkpoint(model, text_encoder)
    text_embeds = domain_features(
        domain_dir, domain, model.text_encoder, processor.tokenizer, model.config.text_pooling, args
    )
    encoder = model.detach_text_encoder()
    if from_scratch:
        model = UniSRecModel(model.config)
        args.freeze_sequence_encoder = False
    model.reset_item_embedding(domain.num_items if setting == "transductive" else None)
    processor.catalogue = ItemCatalogue(
        domain.items["item_id"].to_list(), domain.items["text"].to_list(), torch.from_numpy(np.array(text_embeds))
    )
    trainer = UniSRecFinetuneTrainer(
        model,
        args,
        text_encoder=encoder,
        processing_class=processor,
        train_dataset=WindowDataset(
            [leave_one_out(domain, "train")], [domain.num_items], model.config.max_position_embeddings
        ),
        eval_dataset=RankingDataset(leave_one_out(domain, "valid"), text_embeds),
        text_embeds=text_embeds,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    metrics = trainer.predict(RankingDataset(leave_one_out(domain, "test"), text_embeds)).metrics
    trainer.save_metrics("test", metrics, combined=False)
    trainer.save_model()
    metrics = {name.removeprefix("test_"): value for name, value in metrics.items() if "@" in name}
    if args.should_save:
        start = "trained from scratch" if from_scratch else "adapted from a pre-trained checkpoint"
        summary = f"UniSRec for {domain.name}, {setting}, {start}."
        history = processor.catalogue.item_ids[:2]
        write_model_card(Path(args.output_dir), [domain], args, summary, history, metrics)
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
    text_embeds = domain_features(
        domain_dir, domain, model.text_encoder, processor.tokenizer, model.config.text_pooling, args
    )
    model.detach_text_encoder()
    trainer = UniSRecTrainer(model, args)
    metrics = trainer.predict(RankingDataset(leave_one_out(domain, split), text_embeds)).metrics
    return {name.removeprefix("test_"): value for name, value in metrics.items() if "@" in name}


__all__ = ["evaluate", "finetune", "pretrain"]
