"""Full-ranking metrics of a checkpoint on a domain folder, in one call."""

import os
from typing import Literal

from ..data import Domain, leave_one_out
from ..modeling_unisrec import ItemCatalogue
from .base_trainer import UniSRecTrainer
from .checkpoints import domain_features, load_checkpoint
from .datasets import RankingDataset
from .training_args import UniSRecTrainingArguments
from .training_data import check_unseen


def evaluate(
    model: str | os.PathLike,
    domain_dir: str | os.PathLike,
    split: Literal["valid", "test"],
    args: UniSRecTrainingArguments,
    text_encoder: str | None = None,
    allow_seen: bool = False,
) -> dict[str, float]:
    r"""
    Full-ranking metrics of a checkpoint on a domain; zero-shot if it has not been adapted to it.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id of a checkpoint.
        domain_dir (`str` or `os.PathLike`): Domain folder.
        split (`str`): `"valid"` or `"test"`.
        args ([`UniSRecTrainingArguments`]): Device and batch size.
        text_encoder (`str`, *optional*): Where the checkpoint has no text encoder, the one it was trained with.
        allow_seen (`bool`, *optional*, defaults to `False`):
            Evaluate on interactions that the checkpoint was trained on, too.

    Returns:
        `dict[str, float]`: `recall@10`, `ndcg@10_seen_masked`, ...

    Raises:
        ValueError: If a transductive checkpoint belongs to another catalogue, or the checkpoint was trained on what it is
            to be tested on.
    """
    domain = Domain.load_from_disk(domain_dir)
    name, (model, processor) = model, load_checkpoint(model, text_encoder)
    if not allow_seen:
        check_unseen(name, model.config, domain, "take a model that holds out, or look all the same with --allow-seen")
    items = ItemCatalogue(domain.items["item_id"].to_list(), domain.items["text"].to_list())
    if model.config.num_items is not None and model.config.item_ids_hash != items.item_ids_hash:
        raise ValueError(
            f"the checkpoint is transductive: its ID embedding belongs to a catalogue of {model.config.num_items} "
            f"items, which is not that of {domain_dir}; finetune it there, or take an inductive checkpoint."
        )
    text_embeds = domain_features(domain_dir, domain, model.text_encoder, processor.tokenizer, model.config, args)
    model.detach_text_encoder()
    trainer = UniSRecTrainer(model, args)
    metrics = trainer.predict(RankingDataset(leave_one_out(domain, split), text_embeds)).metrics
    return {name.removeprefix("test_"): value for name, value in metrics.items() if "@" in name}


__all__ = ["evaluate"]
