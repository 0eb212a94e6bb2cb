"""Transfer to one domain, inductive or transductive (arXiv 2206.05941, section 2.4)."""

import numpy as np
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
    Trains on the cross entropy of cosine over temperature, at every position: among the whole catalogue, or, where the
    text encoder is trained too, among the items of the batch, whose texts alone are encoded.

    The model decides the setting: with an ID embedding ([`UniSRecModel.reset_item_embedding`]) it is transductive,
    without one inductive.

    Args:
        model ([`UniSRecModel`] or `PeftModel`):
            Without a text encoder (`detach_text_encoder`) unless that is trained too.
        args ([`UniSRecFinetuneArguments`]): Arguments.
        train_dataset ([`WindowDataset`]): Histories of the domain.
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`, *optional*):
            Text vectors of its catalogue. Without them `data_collator` is a [`TextFinetuneCollator`].
        eval_dataset ([`RankingDataset`], *optional*): Validation users.
    """

    args: UniSRecFinetuneArguments

    def __init__(self, *args, text_embeds: np.ndarray | None = None, **kwargs):
        kwargs.setdefault("data_collator", FinetuneCollator())
        super().__init__(*args, **kwargs)
        self._items = None if text_embeds is None else catalogue_tensors(text_embeds, self.args.device)
        if self.args.freeze_sequence_encoder and self.args.lora is None:  # adapters have frozen it already
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
        if self._items is None:
            outputs = model(
                item_index=inputs["item_index"],
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                item_ids=inputs["items"] + 1,
            )
            candidates, labels = self._distinct_items(outputs.item_embeds, inputs["items"], inputs["labels"])
        else:
            outputs = model(item_index=inputs["item_index"], **self._items)
            candidates, labels = outputs.item_embeds, inputs["labels"]
        queries = outputs.last_hidden_state.flatten(0, 1)[inputs["query_index"]]  # (N, H)
        scores = self.accelerator.unwrap_model(model).score(queries, candidates)  # (N, num_candidates)
        gather = RowGatherer(len(queries), queries.device)
        return catalogue_loss(scores, labels).sum() * gather.scale

    @staticmethod
    def _distinct_items(
        item_embeds: torch.Tensor, items: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Items of the batches of all processes, each one once, and the labels as rows of them."""
        gather = RowGatherer(len(items), items.device)
        distinct, rows = torch.unique(gather(items), return_inverse=True)
        order = torch.arange(len(rows), device=rows.device)
        first = torch.full_like(distinct, len(rows)).scatter_reduce(0, rows, order, "amin")
        return gather(item_embeds)[first], rows[labels + gather.offset]


__all__ = ["UniSRecFinetuneTrainer"]
