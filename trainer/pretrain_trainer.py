"""Multi-domain contrastive pre-training (arXiv 2206.05941, section 2.3)."""

from contextlib import nullcontext

import torch
from torch import nn

from ..modeling_unisrec import unit_vectors
from .base_trainer import UniSRecTrainer
from .cached_batches import RandomState, split_targets, take_run
from .distributed import RowGatherer
from .domain_sampling import parse_domain_sampling
from .losses import contrastive_loss
from .training_args import UniSRecPretrainArguments


class UniSRecPretrainTrainer(UniSRecTrainer):
    r"""
    Trains on `L = L_si + sequence_loss_weight * L_ss` over the targets of all processes.

    Every position of every history is a pair. Sequence-item: the state at position t against the next items of the
    whole batch. Sequence-sequence: the same state against the view's state at the end of the same prefix. Pairs with
    the same next item are no negatives of each other, and in the second task neither are prefixes of one history.

    Args:
        model ([`UniSRecModel`]):
            Without ID embedding, and without a text encoder (`detach_text_encoder`) unless that is trained too.
        args ([`UniSRecPretrainArguments`]): Arguments.
        train_dataset ([`WindowDataset`]): Histories of all domains.
        data_collator ([`PretrainCollator`]): Makes the views.
        eval_dataset ([`RankingDataset`] or `dict[str, RankingDataset]`, *optional*): Domains to rank on.
    """

    args: UniSRecPretrainArguments
    current_gradient_accumulation_steps = 1  # until training starts

    @property
    def _sampling_temperature(self) -> float:
        return parse_domain_sampling(self.args.domain_sampling)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.args.cache_chunk_size is not None:
            return self._cached_loss(model, inputs)
        return self._loss(model, inputs, *self._vectors(model, inputs))

    @staticmethod
    def _vectors(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised states, states of the views and next items, (N, H) each."""
        # One call of the (wrapped) model for originals, views and next items: gradients are synchronised once.
        texts = {name: inputs[name] for name in ("text_embeds", "input_ids", "attention_mask") if name in inputs}
        outputs = model(item_index=inputs["item_index"], **texts)
        originals, views = outputs.last_hidden_state.chunk(2)
        queries = originals.flatten(0, 1)[inputs["query_index"]]
        views = views.flatten(0, 1)[inputs["view_index"]]
        next_items = unit_vectors(outputs.item_embeds)[inputs["target_rows"]]
        return unit_vectors(queries), unit_vectors(views), next_items

    def _cached_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss, with the gradients of all chunks but the last in the weights already; its own is that of the last."""
        runs = split_targets(inputs, self.args.cache_chunk_size)
        states, vectors = [], None
        with torch.no_grad():
            for run in runs:
                states.append(RandomState(inputs["item_index"]))
                parts = self._vectors(model, take_run(inputs, *run))
                if vectors is None:
                    vectors = [part.new_empty(len(inputs["target_rows"]), part.shape[1]) for part in parts]
                for whole, part in zip(vectors, parts, strict=True):
                    whole[run[1]] = part
        vectors = [whole.requires_grad_() for whole in vectors]
        loss = self._loss(model, inputs, *vectors)
        gradients = torch.autograd.grad(loss, vectors)
        del vectors
        for run, state in zip(runs, states, strict=True):
            last = run is runs[-1]
            with state.replay(), nullcontext() if last else self.accelerator.no_sync(model):
                again = self._vectors(model, take_run(inputs, *run))
                pairs = zip(again, gradients, strict=True)
                product = sum((vectors * gradient[run[1]]).sum() for vectors, gradient in pairs)
                if not last:  # the caller does the same with the last one
                    self.accelerator.backward(product / self.current_gradient_accumulation_steps)
        return loss.detach() + (product - product.detach())

    def _loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        queries: torch.Tensor,
        views: torch.Tensor,
        next_items: torch.Tensor,
    ) -> torch.Tensor:
        gather = RowGatherer(len(queries), queries.device)
        labels = torch.arange(len(queries), device=queries.device) + gather.offset
        items, sequences = inputs["target_items"], inputs["target_sequences"]
        all_items, all_sequences = gather(items), gather(sequences)
        temperature = self.accelerator.unwrap_model(model).config.temperature

        def same_item(rows: slice) -> torch.Tensor:  # (rows, all N)
            return items[rows].unsqueeze(1) == all_items

        def same_item_or_sequence(rows: slice) -> torch.Tensor:
            return same_item(rows) | (sequences[rows].unsqueeze(1) == all_sequences)

        of_originals = self.args.sequence_negatives == "original"
        with self.accelerator.autocast():  # which else ends with the model's forward pass
            sequence_item = gather.scale * contrastive_loss(
                queries, gather(next_items), labels, same_item, temperature, duplicate_mask=self.args.duplicate_mask
            )
            sequence_sequence = gather.scale * contrastive_loss(
                queries,
                gather(queries if of_originals else views),
                labels,
                same_item_or_sequence,
                temperature,
                positives=views if of_originals else None,
                duplicate_mask=self.args.duplicate_mask,
            )
        self._record(sequence_item_loss=sequence_item, sequence_sequence_loss=sequence_sequence)
        return sequence_item + self.args.sequence_loss_weight * sequence_sequence


__all__ = ["UniSRecPretrainTrainer"]
