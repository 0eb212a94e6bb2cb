"""Multi-domain contrastive pre-training (arXiv 2206.05941, section 2.3)."""

import torch
from torch import nn
from torch.nn import functional as F

from .base_trainer import UniSRecTrainer
from .distributed import RowGatherer
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

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # One call of the (wrapped) model for originals, views and next items: gradients are synchronised once.
        texts = {name: inputs[name] for name in ("text_embeds", "input_ids", "attention_mask") if name in inputs}
        outputs = model(item_index=inputs["item_index"], **texts)
        originals, views = outputs.last_hidden_state.chunk(2)
        queries = F.normalize(originals.flatten(0, 1)[inputs["query_index"]], dim=-1)  # (N, H)
        views = F.normalize(views.flatten(0, 1)[inputs["view_index"]], dim=-1)  # (N, H)
        next_items = F.normalize(outputs.item_embeds, dim=-1)[inputs["target_rows"]]  # (N, H)

        gather = RowGatherer(len(queries), queries.device)
        labels = torch.arange(len(queries), device=queries.device) + gather.offset
        items, sequences = inputs["target_items"], inputs["target_sequences"]
        all_items, all_sequences = gather(items), gather(sequences)
        temperature = self.accelerator.unwrap_model(model).config.temperature

        def same_item(rows: slice) -> torch.Tensor:  # (rows, all N)
            return items[rows].unsqueeze(1) == all_items

        def same_item_or_sequence(rows: slice) -> torch.Tensor:
            return same_item(rows) | (sequences[rows].unsqueeze(1) == all_sequences)

        sequence_item = gather.scale * contrastive_loss(
            queries, gather(next_items), labels, same_item, temperature, duplicate_mask=self.args.duplicate_mask
        )
        of_originals = self.args.sequence_negatives == "original"
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
