"""Transfer to one domain, inductive or transductive (arXiv 2206.05941, section 2.4)."""

import torch
from torch import nn
from transformers import EarlyStoppingCallback

from .base_trainer import UniSRecTrainer
from .data_collator import FinetuneCollator
from .datasets import catalogue_tensors
from .distributed import RowGatherer
from .losses import catalogue_loss
from .training_args import UniSRecFinetuneArguments


class UniSRecFinetuneTrainer(UniSRecTrainer):
    r"""
    Trains on the cross entropy of cosine over temperature among the whole catalogue, at every position.

    The model decides the setting: with an ID embedding ([`UniSRecModel.reset_item_embedding`]) it is transductive,
    without one inductive.

    Args:
        model ([`UniSRecModel`]): Without a text encoder (`detach_text_encoder`).
        args ([`UniSRecFinetuneArguments`]): Arguments.
        train_dataset ([`WindowDataset`]): Histories of the domain.
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`): Text vectors of its catalogue.
        eval_dataset ([`RankingDataset`], *optional*): Validation users.
    """

    args: UniSRecFinetuneArguments

    def __init__(self, *args, text_embeds, **kwargs):
        kwargs.setdefault("data_collator", FinetuneCollator())
        super().__init__(*args, **kwargs)
        self._items = catalogue_tensors(text_embeds, self.args.device)
        if self.args.freeze_sequence_encoder:
            self.model.freeze_sequence_encoder()
        if self.args.early_stopping_patience and self.eval_dataset is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        outputs = model(item_index=inputs["item_index"], **self._items)
        queries = outputs.last_hidden_state.flatten(0, 1)[inputs["query_index"]]  # (N, H)
        scores = self.accelerator.unwrap_model(model).score(queries, outputs.item_embeds)  # (N, num_items)
        gather = RowGatherer(len(queries), queries.device)
        return catalogue_loss(scores, inputs["labels"]).sum() * gather.scale


__all__ = ["UniSRecFinetuneTrainer"]
