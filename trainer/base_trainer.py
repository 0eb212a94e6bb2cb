"""What both trainers share: batches by targets, full-ranking evaluation, exact means over processes, loss parts."""

from collections import defaultdict
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, Trainer
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from .data_collator import RankingCollator
from .datasets import RankingDataset, TargetBatchSampler, catalogue_tensors
from .metrics import ranking_metrics, target_ranks
from .progress import TrainingProgress


def _ranking_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return ranking_metrics(prediction.predictions)


class UniSRecTrainer(Trainer):
    r"""
    Base of [`UniSRecPretrainTrainer`] and [`UniSRecFinetuneTrainer`].

    `train_dataset` is a [`WindowDataset`]; `eval_dataset` is a [`RankingDataset`] or a dict of them by name. The
    evaluation ranks each target among the whole catalogue: `eval_recall@10`, `eval_ndcg@10`, ... with seen items kept,
    and the same with `_seen_masked`.

    Args:
        text_encoder ([`PreTrainedModel`], *optional*):
            Encoder of the text vectors that the model is trained on. It stays out of the model and of the checkpoints
            of the run, and is part of what `save_model` and `push_to_hub` leave.
    """

    can_return_loss = True

    def __init__(self, *args, text_encoder: PreTrainedModel | None = None, **kwargs):
        kwargs.setdefault("compute_metrics", _ranking_metrics)
        super().__init__(*args, **kwargs)
        self._text_encoder = text_encoder
        self.label_names = ["labels"]
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(TrainingProgress)
        self._item_embeds: torch.Tensor | None = None  # of the catalogue that is being ranked
        self._loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)

    def train(self, *args, **kwargs):
        # Every process starts from the same seed; with one of its own, the processes draw different dropout masks.
        torch.manual_seed(self.args.seed + self.args.process_index)
        # Out of sight of the parent's loop, which would write the tokenizer's special tokens into our configuration, and
        # put the catalogue, as large as many checkpoints, into each of them.
        self._processor, self.processing_class = self.processing_class, None
        try:
            return super().train(*args, **kwargs)
        finally:
            self.processing_class = self._processor

    def get_train_dataloader(self) -> DataLoader:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = TargetBatchSampler(
            self.train_dataset, self.args.per_device_train_batch_size, self.args.world_size, seed
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
        )
        return self.accelerator.prepare(loader)

    def _get_eval_sampler(self, eval_dataset: RankingDataset) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(eval_dataset)

    def get_eval_dataloader(self, eval_dataset: RankingDataset | str | None = None) -> DataLoader:
        training_collator = self.data_collator
        self.data_collator = RankingCollator(self.model.config.max_position_embeddings)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    get_test_dataloader = get_eval_dataloader

    def evaluation_loop(self, dataloader: DataLoader, *args, **kwargs) -> EvalLoopOutput:
        """The parent's loop, with the item vectors of the catalogue computed once before it."""
        dataset: RankingDataset = dataloader.dataset
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.to(self.args.device).eval()
        with torch.inference_mode(), self.compute_loss_context_manager():
            self._item_embeds = model.get_item_features(**catalogue_tensors(dataset.text_embeds, self.args.device))
        try:
            return super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self._item_embeds = None
            model.train(training)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Ranks `(batch_size, 2)` of the targets, the only thing kept of a `(batch_size, num_items)` score matrix."""
        inputs = self._prepare_inputs(inputs)
        model = self.accelerator.unwrap_model(model)
        with torch.inference_mode(), self.compute_loss_context_manager():
            sequence_embeds = model.get_sequence_features(inputs["item_index"], self._item_embeds)
            scores = model.score(sequence_embeds, self._item_embeds).float()
        return None, target_ranks(scores, inputs["labels"], inputs["seen"]), inputs["labels"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each part of the loss since the last line."""
        if "loss" in logs and self._loss_parts:
            for name, values in sorted(self._loss_parts.items()):
                logs[name] = self.accelerator.reduce(torch.stack(values).mean(), "mean").item()
            self._loss_parts.clear()
        super().log(logs, start_time)

    def _record(self, **parts: torch.Tensor) -> None:
        """Keeps parts of the loss for the next log line."""
        for name, value in parts.items():
            self._loss_parts[name].append(value.detach())

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model)
        joined = None if folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-") else self._text_encoder
        if joined is not None:
            model.attach_text_encoder(joined)
            if state_dict is not None:
                state_dict |= {f"text_encoder.{name}": value for name, value in joined.state_dict().items()}
        try:
            super()._save(str(folder), state_dict)
        finally:
            if joined is not None:
                model.detach_text_encoder()
        # A pickle has no place in a folder that is shared; `config.json` and the run's own command say what it says.
        (folder / "training_args.bin").unlink(missing_ok=True)


__all__ = ["UniSRecTrainer"]
