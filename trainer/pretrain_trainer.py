"""Multi-domain contrastive pre-training (arXiv 2206.05941, section 2.3), also of batches larger than memory (2101.06983)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import get_device_states, set_device_states
from transformers import EarlyStoppingCallback

from ..configuration import UniSRecConfig
from ..modeling_unisrec import UniSRecModelOutput
from .base_trainer import UniSRecTrainer
from .batches.samplers import DomainNegativeSampler, parse_domain_sampling
from .distributed import RowGatherer, lowest
from .losses import contrastive_loss
from .training_args import UniSRecPretrainArguments


def check_similarity(config: UniSRecConfig) -> None:
    """Raises `ValueError` for a model that does not compare by the cosine, as the contrastive losses do."""
    if config.similarity != "cosine":
        raise ValueError(
            f"similarity is {config.similarity!r}: pre-training compares by the cosine; leave it out of --model_config."
        )


class UniSRecPretrainTrainer(UniSRecTrainer):
    r"""
    Trainer of `L = L_si + sequence_loss_weight * L_ss` over the targets of all processes.

    Each position t of each history is a query. The sequence-item loss contrasts its state with the next items of the whole
    batch, the sequence-sequence loss with the states of the augmented views at the end of the same prefix. Pairs with the
    same next item are not negatives of each other; in the second loss, neither are prefixes of the same history.

    With `num_negatives`, items drawn uniformly from the catalogue of the step's domain are additional candidates of the
    first loss, unless they are the next item itself. The draw is shared by all processes. It depends on the seed and the
    windows of the step, not on workers, resuming or the number of processes.

    If the collator makes no views, there is no second loss.

    Args:
        model ([`UniSRecModel`]):
            Model without an ID embedding, and without a text encoder (`detach_text_encoder`) unless that is trained too.
        args ([`UniSRecPretrainArguments`]): Training arguments.
        train_dataset ([`WindowDataset`]): Training histories of all domains.
        data_collator ([`PretrainCollator`]): Makes the views and looks up the text vectors of the negatives.
        eval_dataset ([`RankingDataset`] or `dict[str, RankingDataset]`, *optional*): Validation users of each domain.
        text_vectors (`torch.Tensor` of shape `(num_texts, text_embedding_size)`, *optional*):
            Text vectors on the device of the trainer, in which the `items` of the batches are rows. By default batches
            bring their text vectors.
    """

    args: UniSRecPretrainArguments

    _kind_of_run = "pretraining"

    def __init__(self, *args, text_vectors: torch.Tensor | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._text_vectors = text_vectors
        check_similarity(self.model.config)
        self._negatives: DomainNegativeSampler | None = None
        if self.args.num_negatives:
            self._negatives = DomainNegativeSampler(self.train_dataset, self.args.num_negatives, self.args.seed)
        if self.args.early_stopping_patience and self.eval_dataset is not None and self.args.eval_strategy != "no":
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    @property
    def _sampling_temperature(self) -> float:
        return parse_domain_sampling(self.args.domain_sampling)

    @property
    def _one_domain(self) -> bool:
        return self.args.batch_domains == "one"

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, UniSRecModelOutput]:
        """Returns `L_si + sequence_loss_weight * L_ss` in nats: the mean over the targets of all processes, and with
        `return_outputs` the outputs of the model. Raises `ValueError` for `return_outputs` with `args.cache_chunk_size`,
        because chunks have separate outputs."""
        if self.args.cache_chunk_size is not None:
            if return_outputs:
                raise ValueError("return_outputs needs the whole batch in one pass: leave --cache_chunk_size out.")
            return self._cached_loss(model, inputs)
        if "negative_items" not in inputs:
            inputs = self._draw(inputs)
        outputs = self._forward(model, inputs)
        loss = self._loss(model, inputs, *self._vectors(outputs, inputs))
        return (loss, outputs) if return_outputs else loss

    def _draw(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Adds this process's part of the negatives to a batch: their numbers, and where texts are not on the device their
        text vectors after those of the batch."""
        if self._negatives is None:
            return inputs
        device = inputs["item_index"].device
        drawn = self._negatives.draw(lowest(inputs["first_window"], device))
        drawn = drawn[self.args.process_index :: self.args.world_size]
        if "text_embeds" in inputs:
            texts = inputs["text_embeds"]
            vectors = torch.from_numpy(self.data_collator.features(drawn)).to(texts, non_blocking=True)
            inputs = inputs | {"text_embeds": torch.cat([texts, vectors])}
        elif len(drawn) < self.args.num_negatives:  # a smaller catalogue
            drawn = np.pad(
                drawn, (0, -(-self.args.num_negatives // self.args.world_size) - len(drawn)), constant_values=-1
            )
        return inputs | {"negative_items": torch.from_numpy(drawn).to(device, non_blocking=True)}

    def _forward(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> UniSRecModelOutput:
        """Calls the (wrapped) model once for originals, views and all items, so that gradients are synchronised once."""
        names = ("text_embeds", "input_ids", "attention_mask", "position_ids")
        arguments = {name: inputs[name] for name in names if name in inputs}
        if self._text_vectors is not None:
            rows = inputs["items"]
            if "negative_items" in inputs:
                rows = torch.cat([rows, inputs["negative_items"].clamp(min=0)])
            arguments["text_embeds"] = self._text_vectors[rows]
        return model(item_index=inputs["item_index"], **arguments)

    def _vectors(self, outputs: UniSRecModelOutput, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Returns normalised states `(N, H)`, next items followed by the negatives `(N + negatives, H)`, and with views
        their states `(N, H)`."""
        rows = inputs["target_rows"]
        if "negative_items" in inputs:
            number = len(outputs.item_embeds)
            first = number - len(inputs["negative_items"])
            rows = torch.cat([rows, torch.arange(first, number, device=rows.device)])
        candidates = self.model.project_items(outputs.item_embeds)[rows]
        states = outputs.last_hidden_state.chunk(2 if "view_index" in inputs else 1)
        places = (inputs[name] for name in ("query_index", "view_index") if name in inputs)
        queries, *views = (
            self.model.project_sequences(part.flatten(0, 1)[place]) for part, place in zip(states, places, strict=True)
        )
        return queries, candidates, *views

    def _cached_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the loss after a backward pass through all chunks but the last; backward of the result completes it."""
        runs = split_targets(inputs, self.args.cache_chunk_size)
        states, vectors = [], None
        with torch.no_grad():
            for run in runs:
                states.append(RandomState(inputs["item_index"]))
                chunk = take_run(inputs, *run)
                parts = self._vectors(self._forward(model, chunk), chunk)
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
                chunk = take_run(inputs, *run)
                again = self._vectors(self._forward(model, chunk), chunk)
                pairs = zip(again, gradients, strict=True)
                product = sum((vectors * gradient[run[1]]).sum() for vectors, gradient in pairs)
                if not last:  # the caller does the same for the last chunk
                    self.accelerator.backward(product / self.current_gradient_accumulation_steps)
        return loss.detach() + (product - product.detach())

    def _loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        queries: torch.Tensor,
        candidates: torch.Tensor,
        views: torch.Tensor | None = None,
    ) -> torch.Tensor:
        is_target = inputs.get("is_target")
        gather = RowGatherer(len(queries), queries.device, is_target)
        labels = torch.arange(len(queries), device=queries.device) + gather.offset
        items, sequences = inputs["target_items"], inputs["target_sequences"]
        all_items, all_sequences = gather(items), gather(sequences)
        temperature = self.args.temperature or self.accelerator.unwrap_model(model).config.score_temperature
        all_candidates, candidate_items = gather(candidates[: len(queries)]), all_items
        if "negative_items" in inputs:
            negatives = candidates[len(queries) :]
            gather_negatives = RowGatherer(len(negatives), negatives.device)
            all_candidates = torch.cat([all_candidates, gather_negatives(negatives)])
            candidate_items = torch.cat([all_items, gather_negatives(inputs["negative_items"])])

        def same_item(rows: slice) -> torch.Tensor:  # (rows, all N + all negatives)
            return items[rows].unsqueeze(1) == candidate_items

        def same_item_or_sequence(rows: slice) -> torch.Tensor:  # (rows, all N)
            same = items[rows].unsqueeze(1) == all_items
            return same | (sequences[rows].unsqueeze(1) == all_sequences)

        of_originals = self.args.sequence_negatives == "original"
        options = {"duplicate_mask": self.args.duplicate_mask}
        if is_target is not None:
            options["weights"] = is_target.to(queries.dtype)
        with self.accelerator.autocast():  # autocast otherwise ends with the forward pass of the model
            sequence_item = gather.mean(
                contrastive_loss(
                    queries,
                    all_candidates,
                    labels,
                    same_item,
                    temperature,
                    real=None if is_target is None else candidate_items >= 0,
                    **options,
                )
            )
            if views is None:
                self._record(sequence_item_loss=sequence_item)
                return sequence_item
            sequence_sequence = gather.mean(
                contrastive_loss(
                    queries,
                    gather(queries if of_originals else views),
                    labels,
                    same_item_or_sequence,
                    temperature,
                    positives=views if of_originals else None,
                    real=None if is_target is None else all_items >= 0,
                    **options,
                )
            )
        self._record(sequence_item_loss=sequence_item, sequence_sequence_loss=sequence_sequence)
        return sequence_item + self.args.sequence_loss_weight * sequence_sequence


class RandomState:
    r"""
    Snapshot of the random states of the CPU and of the device of a tensor, to repeat random draws such as dropout.

    Args:
        tensor (`torch.Tensor`): Any tensor on the device.
    """

    def __init__(self, tensor: torch.Tensor):
        self._cpu = torch.get_rng_state()
        self._devices, self._states = get_device_states(tensor)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Context manager inside which the same numbers are drawn again; afterwards, the previous state is restored."""
        with torch.random.fork_rng(devices=self._devices):
            torch.set_rng_state(self._cpu)
            set_device_states(self._devices, self._states)
            yield


def split_targets(batch: dict[str, torch.Tensor], chunk_size: int) -> list[tuple[slice, slice]]:
    r"""
    Splits a batch of [`PretrainCollator`] into runs of consecutive rows, each with one window or with several packed ones.

    Args:
        batch (`dict[str, torch.Tensor]`): The batch.
        chunk_size (`int`): Maximum number of targets per run. A row with more targets is a run of its own.

    Returns:
        `list[tuple[slice, slice]]`: Rows and targets of each run; padding is in the last one.
    """
    length = batch["item_index"].shape[1]
    num_rows = len(batch["item_index"]) // _num_parts(batch)
    queries = batch["query_index"][: batch["num_targets"]]
    counts = torch.bincount(queries // length, minlength=num_rows).tolist()
    runs, row, target, stop = [], 0, 0, 0
    for place, count in enumerate(counts):
        if place > row and stop + count - target > chunk_size:
            runs.append((slice(row, place), slice(target, stop)))
            row, target = place, stop
        stop += count
    return [*runs, (slice(row, num_rows), slice(target, len(batch["query_index"])))]


def take_run(batch: dict[str, torch.Tensor], rows: slice, targets: slice) -> dict[str, torch.Tensor]:
    r"""
    Selects consecutive rows of a batch, with their distinct items only.

    Args:
        batch (`dict[str, torch.Tensor]`): Batch of [`PretrainCollator`].
        rows (`slice`): Rows to select.
        targets (`slice`): Their targets.

    Returns:
        `dict[str, torch.Tensor]`: `item_index`, `query_index`, `view_index` (with views), `position_ids` (of packed rows),
        `target_rows`, and text vectors, tokens or numbers of the items.
    """

    def of_rows(name: str) -> torch.Tensor:
        return torch.cat([part[rows] for part in batch[name].chunk(_num_parts(batch))])

    index = of_rows("item_index")
    # Padding, 0, is always among the distinct numbers and remains 0.
    places = torch.cat([index.new_zeros(1), index.flatten(), batch["target_rows"][targets] + 1])
    distinct, places = torch.unique(places, return_inverse=True)
    items = distinct[1:] - 1
    first = rows.start * index.shape[1]
    texts = ("text_embeds", "input_ids", "attention_mask", "items")
    run = {name: batch[name][items] for name in texts if name in batch}
    places_of = ("query_index", "view_index")  # padding is at place 0 of the batch
    run |= {name: (batch[name][targets] - first).clamp(min=0) for name in places_of if name in batch}
    if "position_ids" in batch:
        run["position_ids"] = of_rows("position_ids")
    return run | {
        "item_index": places[1 : 1 + index.numel()].view_as(index),
        "target_rows": places[1 + index.numel() :] - 1,
    }


def _num_parts(batch: dict[str, torch.Tensor]) -> int:
    """Returns the number of parts of `item_index`: originals, and views if any."""
    return 2 if "view_index" in batch else 1


__all__ = ["RandomState", "UniSRecPretrainTrainer", "split_targets", "take_run"]
