"""Base of both trainers: batches by number of targets, full-ranking evaluation, loss parts and the model card."""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput, denumpify_detensorize
from transformers.utils import logging

from ..data.text_encoding import encode_texts
from ..evaluation.metrics import ranking_metrics
from ..evaluation.ranking import RankingCollator, RankingDataset, rank_batches
from ..modeling_unisrec.adapters import save_training_data
from ..reports.model_card import KindOfRun, ModelCardCallback, UniSRecModelCardData, write_model_card
from .argument_rules import check_arguments, check_metric
from .batches.samplers import TargetBatchSampler
from .callbacks import BestModelCheck, LogFile, SpeedMeter, TrainingProgress, outlive_sigterm
from .checkpoint_trainer import CheckpointTrainer
from .distributed import layers_to_shard, whole_weights
from .step_graphs import StepGraphs, can_replay
from .training_args import UniSRecTrainingArguments


logger = logging.get_logger(__name__)


def _ranking_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return ranking_metrics(prediction.predictions)


# Private methods of `Trainer` that our trainers override, each because there is no public hook for it:
# - `_inner_training_loop`: with `auto_find_batch_size`, every attempt starts from the initial weights.
# - `_run_epoch`: a run that had already ended trains no further when it is resumed.
# - `_load_optimizer_and_scheduler`: state files are checked before torch reads them.
# - `_load_best_model`: weights are checked before they are loaded, and the step is kept for the model card.
# - `_finalize_training`: the best checkpoint may have disappeared, and others are deleted at once, not file by file.
# - `_get_output_dir`, `_save_checkpoint`: checkpoints are written elsewhere and moved into place when complete.
# - `_save`: the frozen text encoder is part of the model but not of checkpoints, and there are no pickled arguments.
# - `_save_rng_state`: only the first process writes into the output folder.
# - `_push_from_checkpoint`: private files of the run are not uploaded.
# - `_finish_current_push`: a failed upload is a warning; the parent ends the training.
# - `_get_grad_norm`: gradients of the ID embedding may be sparse.
class UniSRecTrainer(CheckpointTrainer):
    r"""
    Base of [`UniSRecPretrainTrainer`] and [`UniSRecFinetuneTrainer`].

    `train_dataset` is a [`WindowDataset`]; `eval_dataset` is a [`RankingDataset`] or a dict of them by name. Evaluations
    rank each target among the whole catalogue and log `eval_recall@10`, `eval_ndcg@10`, ... with seen items kept, and the
    same metrics with the suffix `_seen_masked`.

    The training arguments are copied; those of the caller do not change.

    Args:
        args ([`UniSRecTrainingArguments`]): Training arguments.
        text_encoder ([`PreTrainedModel`], *optional*):
            Frozen encoder of the text vectors. It is not part of the model and the checkpoints during training; `save_model`
            and `push_to_hub` add it.
        card_data ([`UniSRecModelCardData`], *optional*):
            Facts for the model card that the trainer does not know: domains, base model, test metrics.

    Raises:
        ValueError: If an argument is invalid, or evaluations do not compute `metric_for_best_model`.
    """

    can_return_loss = True
    current_gradient_accumulation_steps = 1  # until training starts
    _sampling_temperature = 1.0  # of the shares of the domains in an epoch
    _one_domain = False  # whether all windows of a step are of the same domain
    _kind_of_run: KindOfRun | None = None  # for the model card

    def __init__(
        self,
        model: PreTrainedModel,
        args: UniSRecTrainingArguments,
        *more,
        text_encoder: PreTrainedModel | None = None,
        card_data: UniSRecModelCardData | None = None,
        **kwargs,
    ):
        check_arguments(args)  # they may have been changed after their construction
        if kwargs.get("preprocess_logits_for_metrics") is not None:
            raise ValueError("preprocess_logits_for_metrics has no effect: evaluations compute ranks. Leave it out.")
        kwargs.setdefault("compute_metrics", _ranking_metrics)
        super().__init__(model, copy.copy(args), *more, **kwargs)
        self.accelerator.dataloader_config.non_blocking = self.args.dataloader_pin_memory  # copies do not wait
        if self.eval_dataset is not None and self.compute_metrics is _ranking_metrics:
            check_metric(self.args, self.eval_dataset if isinstance(self.eval_dataset, Mapping) else None)
        self.add_callback(BestModelCheck())
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap is None:
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = layers_to_shard(self.model)
        self._text_encoder = text_encoder
        self.label_names = ["labels"]
        self.card_data = card_data or UniSRecModelCardData()
        self.card_data.kind_of_run = self._kind_of_run
        self.add_callback(ModelCardCallback(self.card_data))
        self._speed = SpeedMeter()
        self.add_callback(self._speed)
        self.add_callback(LogFile())
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(TrainingProgress)
        self._loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._graphs: StepGraphs | None = None

    def train(self, *args, **kwargs):
        # All processes start from the same seed; adding the index gives them different dropout masks.
        torch.manual_seed(self.args.seed + self.args.process_index)
        # Hidden from the parent's loop, which would write the special tokens of the tokenizer into the configuration, and
        # save the catalogue, as large as many checkpoints, with each of them.
        self._processor, self.processing_class = self.processing_class, None
        try:
            return super().train(*args, **kwargs)
        finally:
            self.processing_class = self._processor

    def _inner_training_loop(self, batch_size: int, *args, **kwargs) -> TrainOutput:
        """Trains like the parent class; with `auto_find_batch_size`, restarts with half the targets when memory runs out."""
        if not self.args.auto_find_batch_size:
            return super()._inner_training_loop(batch_size, *args, **kwargs)
        weights = {name: weight.detach().cpu().clone() for name, weight in self.model.state_dict().items()}
        given = self.optimizer, self.lr_scheduler
        while True:
            # In our copy of the arguments, so that the model card shows the value that was used.
            self.args.per_device_train_batch_size = batch_size
            try:
                return super()._inner_training_loop(batch_size, *args, **kwargs)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                reason = " ".join(str(error).split())
            if batch_size == 1:
                raise ValueError(f"not even one target per step fits into memory ({reason}).")
            logger.warning(
                f"{batch_size} targets per step do not fit into memory; starting again with {batch_size // 2}."
            )
            batch_size //= 2
            self.model.load_state_dict(weights)
            self.model.zero_grad()
            self.optimizer, self.lr_scheduler = given
            self._loss_parts.clear()
            torch.manual_seed(self.args.seed + self.args.process_index)
            clear_device_cache(garbage_collection=True)

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """Creates the optimizer of the parent class, with a separate learning rate for the text encoder."""
        optimizer = super().create_optimizer(*args, **kwargs)
        rate = self.args.text_encoder_learning_rate
        if rate is None and self.args.train_text_encoder:
            rate = self.args.learning_rate / 20
        if rate is None:
            return optimizer
        of_text = {id(weight) for name, weight in self.model.named_parameters() if "text_encoder." in name}
        for group in list(optimizer.param_groups):
            moved = [weight for weight in group["params"] if id(weight) in of_text]
            if moved:
                group["params"] = [weight for weight in group["params"] if id(weight) not in of_text]
                optimizer.add_param_group(group | {"params": moved, "lr": rate})
        return optimizer

    def count_parameters(self) -> tuple[int, int]:
        """Returns the numbers of trained parameters and of all parameters of the checkpoint, including the text encoder."""
        trained = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        frozen = [] if self._text_encoder is None else [*self._text_encoder.parameters()]
        return trained, sum(weight.numel() for weight in [*self.model.parameters(), *frozen])

    def encode_catalogue(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes `texts` by the text encoder of the model. Returns vectors `(num_items, text_embedding_size)`."""
        model = self.accelerator.unwrap_model(self.model)
        return encode_texts(
            texts,
            model.text_encoder,
            self._processor.tokenizer,
            max_length=self._processor.max_text_length,
            device=self.args.device,
            progress=False,
        )

    def get_train_dataloader(self) -> DataLoader:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=TargetBatchSampler(
                self.train_dataset,
                self._train_batch_size,
                self.args.world_size,
                seed,
                self._sampling_temperature,
                self._one_domain,
            ),
            collate_fn=self.data_collator,
            worker_init_fn=outlive_sigterm,
            **self._loader_options(),
        )
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset: RankingDataset | str | None = None) -> DataLoader:
        """Returns batches of all users of a dataset, in its order."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        loader = DataLoader(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            self.args.per_device_eval_batch_size,
            collate_fn=RankingCollator(self.model.config.max_position_embeddings),
            **self._loader_options(),
        )
        return self.accelerator.prepare(loader)

    get_test_dataloader = get_eval_dataloader

    def _loader_options(self) -> dict[str, object]:
        return {
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
            "multiprocessing_context": self.args.dataloader_multiprocessing_context,
        }

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        r"""
        Ranks the targets of all users, by the loop that [`evaluate`] uses as well, in float32.

        Args:
            dataloader (`DataLoader`): Batches of a [`RankingDataset`], made by `get_eval_dataloader`.
            description, prediction_loss_only, ignore_keys: Not used: ranks are the only output.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Prefix of the names of the metrics.

        Returns:
            `EvalLoopOutput`: `predictions` `(num_users, 2)`: ranks from 0, with seen items kept and masked; `label_ids`
            `(num_users,)`: catalogue rows of the targets; `metrics`; `num_samples`.
        """
        users: RankingDataset = dataloader.dataset
        model = self.accelerator.unwrap_model(self.model)
        self.callback_handler.eval_dataloader = dataloader

        def batches() -> Iterator[dict[str, torch.Tensor]]:
            for batch in dataloader:
                yield self._prepare_inputs(batch)
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

        catalogue = users.catalogue
        if not isinstance(catalogue, np.ndarray):
            with whole_weights(model):
                catalogue = self.encode_catalogue(catalogue)
        # Pre-training compares what is learnt, without the texts that the checkpoint adds to the score.
        share = 0.0 if self._kind_of_run == "pretraining" else None
        ranks = rank_batches(model, catalogue, batches(), self.accelerator, whole_weights, share)
        metrics = {}
        if self.compute_metrics is not None:
            metrics = denumpify_detensorize(self.compute_metrics(EvalPrediction(ranks, users.targets)))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(ranks, users.targets, metrics, len(users))

    def training_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args, **kwargs) -> torch.Tensor:
        self._speed.add(inputs["num_targets"])
        if not can_replay(self.args):
            return super().training_step(model, inputs, *args, **kwargs)
        model.train()
        inputs = self._draw(self._prepare_inputs(inputs))
        if self._graphs is None:
            self._graphs = StepGraphs(lambda batch: self._loss_and_parts(model, batch), self.model)
        loss, parts = self._graphs(inputs, self.current_gradient_accumulation_steps)
        self._record(**{name: value.clone() for name, value in parts.items()})
        return loss.detach() / self.current_gradient_accumulation_steps

    def _loss_and_parts(
        self, model: nn.Module, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the loss and what `_record` is given on the way, without recording it."""
        kept, self._loss_parts = self._loss_parts, defaultdict(list)
        try:
            loss = self.compute_loss(model, inputs)
            return loss, {name: value for name, (value,) in self._loss_parts.items()}
        finally:
            self._loss_parts = kept

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss part since the last entry, the speed and the memory."""
        if "loss" in logs:
            for name, values in sorted(self._loss_parts.items()):
                logs[name] = self.accelerator.reduce(torch.stack(values).mean(), "mean").item()
            self._loss_parts.clear()
            logs |= self._speed.report(self.accelerator)
        super().log(logs, start_time)

    def _record(self, **parts: torch.Tensor) -> None:
        """Records parts of the loss for the next log entry."""
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
        if not self.args.should_save:  # transformers calls this in every process
            return
        # Shared folders must not contain pickles; `config.json` and the command of the run hold the same information.
        (folder / "training_args.bin").unlink(missing_ok=True)
        if not isinstance(model, PreTrainedModel):
            save_training_data(model.config, folder)
        if not folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-"):
            self._write_model_card(folder)

    def _save_checkpoint(self, model: nn.Module, trial: None) -> None:
        if self.args.push_to_hub and self.is_world_process_zero():
            # A pushed checkpoint has a model card, without the frozen text encoder.
            self._write_model_card(Path(self.args.output_dir), text_encoder=None)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        """Saves the random states of all processes, written by the first one: no other process touches the output folder."""
        with TemporaryDirectory() as own:
            super()._save_rng_state(own)
            (file,) = Path(own).iterdir()
            states = gather_object([(file.name, file.read_bytes())])
        if self.args.should_save:
            for name, state in states:
                (Path(output_dir) / name).write_bytes(state)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        r"""
        Writes the model card, `README.md`, to the output folder. Failure is logged as a warning.

        Args:
            language (`str`, *optional*): Language of the item texts.
            license (`str`, *optional*): Licence of the checkpoint; defaults to `args.card_license`.
            tags (`str` or `list[str]`, *optional*): Additional tags.
            model_name (`str`, *optional*): Title; defaults to the name of repository or folder.
            finetuned_from (`str`, *optional*): Hub id of the base model; defaults to that of `card_data`.
            dataset_tags (`str` or `list[str]`, *optional*):
                Hub ids of the datasets; defaults to those of the domains of `card_data`.
            tasks, dataset, dataset_args: Not used: the task is sequential recommendation, and `card_data` has the domains.
        """
        if self.is_world_process_zero():
            self._write_model_card(
                Path(self.args.output_dir),
                title=model_name,
                language=language,
                license=license,
                tags=tags,
                base_model=finetuned_from,
                datasets=dataset_tags,
            )

    def _write_model_card(self, folder: Path, license: str | None = None, **known) -> None:
        try:
            write_model_card(
                folder,
                self.card_data,
                self.args,
                self.accelerator.unwrap_model(self.model),
                processor=self._processor,
                best_step=self.state.best_global_step,
                loaded_step=self.loaded_step,
                best_is_gone=self.best_is_gone,
                name=self.hub_model_id,
                license=license or self.args.card_license,
                **({"text_encoder": self._text_encoder} | known),
            )
        except Exception as error:  # a failing model card must not cost the trained model
            logger.warning(f"{folder}: no model card could be written ({type(error).__name__}: {error}).")


__all__ = ["UniSRecTrainer"]
