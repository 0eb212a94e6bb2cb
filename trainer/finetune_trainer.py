"""Fine-tuning on one domain, inductive or transductive (arXiv 2206.05941, section 2.4)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import TrainOutput

from ..evaluation.ranking import catalogue_tensors
from ..modeling_unisrec import UniSRecModelOutput
from .base_trainer import UniSRecTrainer
from .batches.samplers import NegativeSampler
from .batches.window_batches import StaticShapes
from .candidates import (
    BatchCandidates,
    Candidates,
    CatalogueCandidates,
    SampledCandidates,
    Selection,
    StepItems,
)
from .distributed import RowGatherer
from .ensemble import SHARES, Ensemble, Start, WeightInterpolator, choose_text_neighbours, parse_interpolation
from .losses import SoftTargets
from .sparse_adam import SparseRowsAdamW, exchange_rows
from .training_args import UniSRecFinetuneArguments


class UniSRecFinetuneTrainer(UniSRecTrainer):
    r"""
    Trainer of the cross entropy of the next item at every position of every history, with cosine similarity over
    temperature as logits.

    The candidates are the whole catalogue ([`CatalogueCandidates`]), with `num_negatives` a sample of it
    ([`SampledCandidates`]), or the items of the batch if the text encoder is trained ([`BatchCandidates`]).

    With `teachers`, the target is `(1 - distillation_weight)` times the next item plus `distillation_weight` times the
    softmax of the teachers' mean scores over the same candidates (arXiv 1503.02531).

    With `min_id_interactions`, items with fewer training interactions have no ID embedding; their rows of it are fixed at 0.

    With `interpolate`, the final weights are interpolated between those before and after training
    ([`WeightInterpolator`]). Without `text_neighbours`, the share of text neighbours in the score of the final model is chosen
    on the validation users ([`choose_text_neighbours`]).

    The setting depends on the model: transductive with an ID embedding ([`UniSRecModel.reset_item_embedding`]), inductive
    without.

    With `start_text_neighbours`, the final model is compared on the validation users with that before training, which is kept
    if it ranks them better.

    Args:
        model ([`UniSRecModel`] or `PeftModel`):
            Model to train, without a text encoder (`detach_text_encoder`) unless that is trained too.
        args ([`UniSRecFinetuneArguments`]): Training arguments.
        train_dataset ([`WindowDataset`]): Training histories of the domain.
        text_embeds (`np.ndarray` of shape `(num_items, text_embedding_size)`, *optional*):
            Text vectors of the catalogue. Required unless `data_collator` is a [`TextFinetuneCollator`].
        data_collator (`Callable`, *optional*): Defaults to the collator of the candidates.
        eval_dataset ([`RankingDataset`], *optional*): Validation users.
        teachers ([`Ensemble`], *optional*): Models of the same catalogue for distillation.
        start_text_neighbours (`float`, *optional*):
            Share of text neighbours with which the model ranks before training. Without it, and where `load_best_model_at_end`
            is off or nothing is validated, trained weights are kept in any case.

    Attributes:
        validated (`float`, *optional*):
            After training, `metric_for_best_model` on the validation users: of the final model if the share of text neighbours
            was chosen or the model compared with its start, otherwise of the best evaluation.
        start ([`Start`], *optional*): What the final model is compared with; `None` keeps trained weights in any case.
    """

    args: UniSRecFinetuneArguments

    _kind_of_run = "finetuning"

    def __init__(
        self,
        *args,
        text_embeds: np.ndarray | None = None,
        data_collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] | None = None,
        teachers: Ensemble | None = None,
        start_text_neighbours: float | None = None,
        **kwargs,
    ):
        super().__init__(*args, data_collator=data_collator, **kwargs)
        self._teachers = teachers
        length = self.model.config.max_position_embeddings
        if teachers is not None and teachers.max_length < length:
            raise ValueError(
                f"a teacher accepts histories of {teachers.max_length} items only, the model {length}: leave it out."
            )
        self.candidates = self._make_candidates(text_embeds, data_collator)
        self.data_collator = self.candidates.collator if data_collator is None else data_collator
        if self.args.sparse_item_embedding:
            if self.model.item_embedding is None:
                raise ValueError(
                    "--sparse_item_embedding is for the transductive setting: the model has no ID embedding."
                )
            exchange_rows(self.model, "item_embedding")
            _, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer_cls_and_kwargs = SparseRowsAdamW, options
        if self.args.freeze_sequence_encoder and self.args.lora is None:  # adapters have frozen it already
            self.model.freeze_sequence_encoder()
        if self.args.early_stopping_patience and self.eval_dataset is not None and self.args.eval_strategy != "no":
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))
        self._interpolator = None if self.args.interpolate is None else WeightInterpolator(self.model)
        self._chooses_text_neighbours = self._can_choose_text_neighbours()
        self.validated: float | None = None
        self.start: Start | None = None
        is_validated = self.eval_dataset is not None and self.args.eval_strategy != "no"
        is_whole = not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if start_text_neighbours is not None and is_validated and is_whole and self.args.load_best_model_at_end:
            self.start = Start(self.model, start_text_neighbours)

    def _can_choose_text_neighbours(self) -> bool:
        """Returns whether their share is chosen after training: unless it is given, nothing is validated, adapters could not keep
        it, or texts would be encoded anew for each share."""
        config, args = self.model.config, self.args
        if args.text_neighbours is not None or config.text_neighbours:
            return False
        if not config.item_text or config.similarity != "cosine" or args.trains_on_texts or args.lora is not None:
            return False
        return self.eval_dataset is not None and args.eval_strategy != "no" and args.metric_for_best_model is not None

    def train(self, *args, **kwargs) -> TrainOutput:
        """Trains like the parent class, and afterwards interpolates the weights and chooses the share of text neighbours, as
        the arguments say, or returns to the start if validation was better there."""
        if self._chooses_text_neighbours:
            self.model.config.text_neighbours = 0.0  # a training that goes on has chosen before
        output = super().train(*args, **kwargs)
        self.validated = self.state.best_metric
        if self._interpolator is not None:
            share = parse_interpolation(self.args.interpolate)
            values = self._interpolator.choose(SHARES if share is None else [share], self._validate)
            self.card_data.interpolation_share = share = next(iter(values))
            self.log(
                {"interpolation_share": share}
                | {f"interpolation_{each:g}": value for each, value in sorted(values.items()) if len(values) > 1}
            )
        if self._chooses_text_neighbours:
            values = choose_text_neighbours(self.model.config, self._validate)
            share = self.model.config.text_neighbours
            self.validated = values[share]
            tried = {f"text_neighbours_{each:g}": value for each, value in values.items()}
            self.log({"text_neighbours": share} | tried)
        if self.start is not None:
            self._compare_with_start()
        return output

    def _compare_with_start(self) -> None:
        """Returns to the model before training if validation is worse after it, and says so."""
        before, after = self.start.compare(self._validate)
        self.validated, self.card_data.kept_start = max(before, after), before > after
        self.log({"validation_before_training": before, "validation_after_training": after})
        if self.card_data.kept_start and self.is_world_process_zero():
            metric = self.args.metric_for_best_model.removeprefix("eval_")
            tqdm.write(
                f"validation {metric} is {abs(after):.4f} after training and {abs(before):.4f} before it: the model stays as it "
                "was (`interpolate` 1 keeps the trained weights)"
            )

    def _validate(self) -> float:
        """Returns `metric_for_best_model` of the current weights, negated if lower is better. It is not logged."""
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
    ) -> torch.Tensor | tuple[torch.Tensor, UniSRecModelOutput]:
        """Returns the cross entropy of the next item among the candidates, in nats: the mean over the targets of all
        processes, and with `return_outputs` the outputs of the model."""
        if "negative_items" not in inputs:
            inputs = self._draw(inputs)
        items = self.candidates.items(inputs)
        outputs = model(item_index=inputs["item_index"], position_ids=inputs.get("position_ids"), **items.inputs)
        own = self.accelerator.unwrap_model(model)
        queries = own.project_sequences(outputs.last_hidden_state.flatten(0, 1)[inputs["query_index"]])
        queries = queries / own.config.score_temperature
        gather = RowGatherer(len(queries), queries.device, inputs.get("is_target"))
        selection = self.candidates.select(inputs, items, outputs.item_embeds, gather.total)
        candidates = own.project_items(selection.item_embeds)
        with self.accelerator.autocast():  # autocast otherwise ends with the forward pass of the model
            soft_targets = self._soft_targets(inputs, items, selection)
            weights = inputs["is_target"].to(queries.dtype) if "is_target" in inputs else None
            loss = gather.mean(selection.loss(queries, candidates, soft_targets=soft_targets, weights=weights))
        return (loss, outputs) if return_outputs else loss

    def _draw(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self.candidates.draw(inputs)

    def _make_candidates(
        self, text_embeds: np.ndarray | None, collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] | None
    ) -> Candidates:
        """Builds the kind of candidates that data and arguments call for."""
        id_rows = self._find_id_rows()
        if text_embeds is None:
            if collator is None:
                raise ValueError("neither text_embeds nor a data_collator with texts is given: give one of them.")
            return BatchCandidates(collator, id_rows)
        texts = catalogue_tensors(text_embeds, self.args.device)["text_embeds"]
        shapes = None
        if self.args.static_batches:
            shapes = StaticShapes.of(self.train_dataset.lengths, self.args.per_device_train_batch_size)
        if self.args.num_negatives is None:
            return CatalogueCandidates(texts, id_rows, shapes)
        sampler = NegativeSampler(
            self.train_dataset, len(texts), self.args.num_negatives, self.args.seed, self.args.device
        )
        processes = self.args.process_index, self.args.world_size
        return SampledCandidates(texts, id_rows, sampler, *processes, shapes)

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
                    if "item_embedding" in name:  # two of them in a model with adapters
                        weight[1:][rare] = 0
        return id_rows.to(self.args.device)

    def _soft_targets(
        self, inputs: dict[str, torch.Tensor], items: StepItems, selection: Selection
    ) -> SoftTargets | None:
        """Returns the soft targets of the teachers over the candidates."""
        if self._teachers is None:
            return None
        histories = items.catalogue_index(inputs["item_index"])
        queries = self._teachers.queries(histories, inputs["query_index"], inputs.get("position_ids"))
        return SoftTargets(queries, self._teachers.candidates[selection.rows], self.args.distillation_weight)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the gradient norm for the log; of a sparse gradient, only the rows of this process count."""
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


__all__ = ["UniSRecFinetuneTrainer"]
