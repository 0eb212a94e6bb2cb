"""Transfer to one domain, inductive or transductive (arXiv 2206.05941, section 2.4)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import TrainOutput

from ..evaluation.ranking import catalogue_tensors
from .base_trainer import UniSRecTrainer
from .data_collator import FinetuneCollator, SampledFinetuneCollator
from .distributed import RowGatherer
from .ensemble import SHARES, Ensemble, WeightInterpolator, parse_interpolation
from .losses import SoftTargets, catalogue_loss, sampled_softmax_loss
from .samplers import NegativeSampler
from .sparse_adam import SparseRowsAdamW, exchange_rows
from .training_args import UniSRecFinetuneArguments


class UniSRecFinetuneTrainer(UniSRecTrainer):
    r"""
    Trains on the cross entropy of cosine over temperature, at every position: among the whole catalogue; with
    `num_negatives` among a sample of it ([`sampled_softmax_loss`]), and only the vectors of that sample are computed;
    where the text encoder is trained too, among the items of the batch, whose texts alone are encoded.

    Sampled, the candidates of a step are the items of the batches of all processes and one draw that the processes
    share. The draw depends on the seed and the windows of the step, not on workers, resuming or the number of processes.

    With `teachers`, the softmax of their mean scores over the same candidates has the share `distillation_weight` of the
    target, and the next item the rest (arXiv 1503.02531).

    With `min_id_interactions`, items that are rarer in training have no ID embedding: their row of it is 0 and stays so.

    With `interpolate`, the model ends with weights between those it was given and those it was trained to
    ([`WeightInterpolator`]).

    The model decides the setting: with an ID embedding ([`UniSRecModel.reset_item_embedding`]) it is transductive,
    without one inductive.

    Args:
        model ([`UniSRecModel`] or `PeftModel`):
            Without a text encoder (`detach_text_encoder`) unless that is trained too.
        args ([`UniSRecFinetuneArguments`]): Arguments.
        train_dataset ([`WindowDataset`]): Histories of the domain.
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`, *optional*):
            Text vectors of its catalogue. Without them `data_collator` is a [`TextFinetuneCollator`].
        data_collator (*optional*): With text vectors, the one that suits the arguments is the default.
        eval_dataset ([`RankingDataset`], *optional*): Validation users.
        teachers ([`Ensemble`], *optional*): Models of the same catalogue to learn from.
    """

    args: UniSRecFinetuneArguments

    _kind_of_run = "finetuning"

    def __init__(
        self,
        *args,
        text_embeds: np.ndarray | None = None,
        data_collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] | None = None,
        teachers: Ensemble | None = None,
        **kwargs,
    ):
        super().__init__(*args, data_collator=data_collator, **kwargs)
        self._items = None if text_embeds is None else catalogue_tensors(text_embeds, self.args.device)
        self._id_rows = self._find_id_rows()
        if text_embeds is not None and self._id_rows is not None:
            self._items["id_rows"] = self._id_rows
        self._teachers = teachers
        length = self.model.config.max_position_embeddings
        if teachers is not None and teachers.max_length < length:
            raise ValueError(
                f"a teacher takes histories of {teachers.max_length} items, the model {length}: leave it out."
            )
        self._negatives: NegativeSampler | None = None
        if self.args.num_negatives is not None:
            self._negatives = NegativeSampler(
                self.train_dataset, len(text_embeds), self.args.num_negatives, self.args.seed, self.args.device
            )
        if self.args.sparse_item_embedding:
            if self.model.item_embedding is None:
                raise ValueError(
                    "--sparse_item_embedding is for the transductive setting: the model has no ID embedding."
                )
            exchange_rows(self.model, "item_embedding")
            _, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer_cls_and_kwargs = SparseRowsAdamW, options
        if data_collator is None:
            self.data_collator = FinetuneCollator() if self._negatives is None else SampledFinetuneCollator()
        if self.args.freeze_sequence_encoder and self.args.lora is None:  # adapters have frozen it already
            self.model.freeze_sequence_encoder()
        if self.args.early_stopping_patience and self.eval_dataset is not None and self.args.eval_strategy != "no":
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))
        self._interpolator = None if self.args.interpolate is None else WeightInterpolator(self.model)

    def train(self, *args, **kwargs) -> TrainOutput:
        output = super().train(*args, **kwargs)
        if self._interpolator is not None:
            share = parse_interpolation(self.args.interpolate)
            values = self._interpolator.choose(SHARES if share is None else [share], self._validate)
            self.card_data.interpolation_share = share = next(iter(values))
            self.log(
                {"interpolation_share": share}
                | {f"interpolation_{each:g}": value for each, value in sorted(values.items()) if len(values) > 1}
            )
        return output

    def _validate(self) -> float:
        """The metric of the best model as the model is now, negative where less is better; no evaluation of the training."""
        metrics = self.predict(self.eval_dataset, metric_key_prefix="eval").metrics
        name = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        if name not in metrics:
            raise KeyError(f"--metric_for_best_model {name} is none of {', '.join(sorted(metrics))}.")
        return metrics[name] if self.args.greater_is_better else -metrics[name]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        item_index, query_index = inputs["item_index"], inputs["query_index"]
        if "items" in inputs:
            items, tensors = self._items_of_batch(inputs)
            id_rows = None if self._id_rows is None else self._id_rows[items]
            outputs = model(item_index=item_index, id_rows=id_rows, **tensors)
            distinct, candidates, rows = self._distinct_items(items, outputs.item_embeds)
            labels = rows[inputs["labels"]]
        else:
            items, distinct = None, slice(None)
            outputs = model(item_index=item_index, **self._items)
            candidates, labels = outputs.item_embeds, inputs["labels"]
        own = self.accelerator.unwrap_model(model)
        queries = own.project_sequences(outputs.last_hidden_state.flatten(0, 1)[query_index])  # (N, H)
        queries, candidates = queries / own.config.score_temperature, own.project_items(candidates)
        gather = RowGatherer(len(queries), queries.device)
        with self.accelerator.autocast():  # autocast otherwise ends with the forward pass of the model
            soft_targets = self._soft_targets(item_index, query_index, items, distinct)
            if self._negatives is None:
                return catalogue_loss(queries, candidates, labels, soft_targets) * gather.scale
            log_inclusion = self._negatives.log_inclusion(distinct, sum(gather.sizes))
            certain = rows[inputs["windows"]][query_index // item_index.shape[1]]
            loss = sampled_softmax_loss(queries, candidates, labels, log_inclusion, certain, soft_targets)
            return loss * gather.scale

    def _find_id_rows(self) -> torch.Tensor | None:
        """Returns the row of each catalogue item in the ID embedding, 0 for items represented by their text alone."""
        config, least = self.model.config, self.args.min_id_interactions
        if least > 0 and (config.num_items is None or not config.item_text):
            raise ValueError("--min_id_interactions is for the transductive setting, where text stands in for the ID.")
        if config.num_items is None:
            return None
        id_rows = torch.arange(1, config.num_items + 1)
        if least > 0:
            (interactions,) = self.train_dataset.flats
            rare = torch.from_numpy(np.bincount(interactions, minlength=config.num_items) < least)
            id_rows[rare] = 0
            with torch.no_grad():
                for name, weight in self.model.named_parameters():
                    if "item_embedding" in name:  # there are two of them where adapters are
                        weight[1:][rare] = 0
        return id_rows.to(self.args.device)

    def _soft_targets(
        self,
        item_index: torch.Tensor,
        query_index: torch.Tensor,
        items: torch.Tensor | None,
        distinct: torch.Tensor | slice,
    ) -> SoftTargets | None:
        """Returns the soft targets of the teachers over the candidates `distinct`; `item_index` counts `items`."""
        if self._teachers is None:
            return None
        if items is not None:  # rows of the batch -> rows of the catalogue
            item_index = F.pad(items + 1, (1, 0))[item_index]
        queries = self._teachers.queries(item_index, query_index)
        return SoftTargets(queries, self._teachers.candidates[distinct], self.args.distillation_weight)

    def _items_of_batch(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Catalogue rows of the items that this process computes, those of its windows first, and their texts."""
        items = inputs["items"]
        if self._negatives is None:
            return items, {name: inputs[name] for name in ("input_ids", "attention_mask")}
        first_window = inputs["first_window"]
        if self.args.world_size > 1:  # the lowest index of the windows of all processes
            own = torch.tensor([first_window], device=items.device)
            first_window = int(RowGatherer(1, items.device)(own).min())
        drawn = self._negatives.draw(first_window)[self.args.process_index :: self.args.world_size]
        items = torch.cat([items, drawn])
        return items, {"text_embeds": self._items["text_embeds"][items]}

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        """The parent's, for the log; of a sparse gradient the rows of this process."""
        if not self.args.sparse_item_embedding:
            return super()._get_grad_norm(model, grad_norm)
        self.accelerator.unscale_gradients()
        weights = [weight for weight in model.parameters() if weight.grad is not None]
        for weight in weights:
            if weight.grad.is_sparse:
                weight.grad = weight.grad.coalesce()  # so that the optimizer does not repeat it
        return nn.utils.get_total_norm(
            [weight.grad.values() if weight.grad.is_sparse else weight.grad for weight in weights]
        )

    @staticmethod
    def _distinct_items(
        items: torch.Tensor, item_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Items of all processes, each one once; their vectors; and the items of this process as rows of them."""
        gather = RowGatherer(len(items), items.device)
        distinct, rows = torch.unique(gather(items), return_inverse=True)
        order = torch.arange(len(rows), device=rows.device)
        first = torch.full_like(distinct, len(rows)).scatter_reduce(0, rows, order, "amin")
        return distinct, gather(item_embeds)[first], rows[gather.offset : gather.offset + len(items)]


__all__ = ["UniSRecFinetuneTrainer"]
