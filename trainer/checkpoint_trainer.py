"""A trainer with crash-safe checkpoints, which SIGTERM ends with a checkpoint, and pushes without private files."""

import copy
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, get_last_checkpoint
from transformers.utils.hub import PushInProgress
from transformers.utils.logging import get_logger

from ..data.markdown import one_line
from ..data.training_data import check_same_data
from ..modeling_unisrec.hub import api, create_repository, upload_checkpoint, upload_state
from ..modeling_unisrec.outgoing import check_adapter_base, check_outgoing, shared_files
from ..modeling_unisrec.weight_files import check_weights_of_folder
from .callbacks import SavingCallback
from .checkpoint_folders import (
    DRAFTS,
    delete_checkpoints,
    how_to_resume,
    leave_no_trace,
    lock_run,
    publish_checkpoint,
    publish_files,
    unlock_run,
)
from .resume import (
    check_optimizer,
    check_random_state,
    check_scheduler,
    find_best_checkpoint,
    had_stopped,
    read_trainer_state,
    without_warnings_about_paths,
)


logger = get_logger(__name__)


class TrainingInterrupted(InterruptedError):
    """Raised when SIGTERM has ended a training, after a checkpoint has been saved."""


class CheckpointTrainer(Trainer):
    r"""
    `Trainer` whose checkpoints survive a crash of its process.

    Checkpoints and the final model are written under a temporary name in the output folder and moved into place when they
    are complete. SIGTERM ends the training with a checkpoint and [`TrainingInterrupted`]. A loss that is not finite, a full
    disk and a dead worker of a data loader end it with an error of one line; the last checkpoint is kept.

    Pushes to the Hub leave out pickled arguments, logs and results of the run. With `hub_strategy="checkpoint"` or
    `"all_checkpoints"`, the training state is uploaded to a folder of its own, the only one with pickles, and training
    waits for that upload because the next save may delete the checkpoint. With `hub_always_push`, training waits for the
    previous push, so that each commit holds the step it names.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._processor = self.processing_class  # kept here while `train` hides it from the parent
        self.loaded_step: int | None = None  # step of the best checkpoint, if its weights were loaded
        self.best_is_gone = False  # no checkpoint has the best model; the model keeps the last weights
        self._drafting = False
        self._had_stopped = False  # early stopping had already ended the resumed run
        self._saving = SavingCallback()
        self.add_callback(self._saving)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        r"""
        Trains like the parent class.

        Raises:
            BlockingIOError: If another process writes to the output folder.
            ChildProcessError: If a worker of a data loader dies.
            FileNotFoundError: If `resume_from_checkpoint` is `True` and there is no checkpoint.
            OSError: If a checkpoint cannot be written.
            TrainingInterrupted: If SIGTERM ended the training, after a checkpoint has been saved.
            ValueError: If training diverges, or the checkpoint to resume from does not fit: its state files are missing or
                damaged, or its weights are not those of the model.
        """
        folder, writes = Path(self.args.output_dir), self.args.process_index == 0
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
            if resume_from_checkpoint is None:
                raise FileNotFoundError(f"{folder}: no checkpoint to resume from.")
        if self.args.should_save:
            (folder / DRAFTS).mkdir(parents=True, exist_ok=True)
        if writes:
            lock_run(folder / DRAFTS)
        checkpoint = None if not resume_from_checkpoint else Path(resume_from_checkpoint).resolve()
        self._had_stopped, self.loaded_step, self.best_is_gone = False, None, False
        self._saving.has_begun, self._saving.best_checkpoint = False, None
        try:
            if checkpoint is not None:
                self._prepare_to_resume(checkpoint)
            with without_warnings_about_paths():
                return super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        except BaseException as error:
            if writes:
                leave_no_trace(folder)
                unlock_run(folder / DRAFTS)
            if isinstance(error, Exception) and checkpoint is not None and not self._saving.has_begun:
                raise ValueError(
                    f"{resume_from_checkpoint}: cannot be resumed from ({one_line(str(error))[:200]}); resume from another checkpoint, "
                    "or start again in another --output_dir."
                ) from error
            # ConnectionError and EOFError: a worker died while it passed a batch on.
            if self.args.dataloader_num_workers == 0 or not (
                isinstance(error, ConnectionError | EOFError)
                or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error))
            ):
                raise
            raise ChildProcessError(
                f"a worker of the data loader died ({one_line(str(error))[:200]}), probably because memory ran out: "
                f"try fewer --dataloader_num_workers. {how_to_resume(self.args.output_dir)}"
            ) from error
        finally:
            self._saving.restore_handler()
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                    callback.training_bar.close()

    def _prepare_to_resume(self, checkpoint: Path) -> None:
        """Checks all files of the checkpoint to resume from, and finds the best checkpoint of its run."""
        state = read_trainer_state(checkpoint, [*self.callback_handler.callbacks, self.control])
        check_random_state(checkpoint, self.args.process_index, self.args.world_size)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            check_weights_of_folder(checkpoint, self.model)
        check_same_data(checkpoint, self.accelerator.unwrap_model(self.model).config)
        self._had_stopped = had_stopped(state)
        best = find_best_checkpoint(checkpoint, state, Path(self.args.output_dir), adopt=self.args.should_save)
        self.accelerator.wait_for_everyone()
        if best is not None and best.is_dir():
            self._saving.best_checkpoint = best
        elif best is not None and self.is_world_process_zero():
            logger.warning(
                f"{best}, the best checkpoint so far ({self.args.metric_for_best_model} {state.best_metric}), is missing: "
                "unless a better one follows, the run will end with the weights of its last step."
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            check_optimizer(Path(checkpoint), getattr(self.optimizer, "optimizer", self.optimizer))
            check_scheduler(Path(checkpoint), self.lr_scheduler)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _run_epoch(self, *args, **kwargs) -> None:
        if self._had_stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs) -> TrainOutput:
        best = self.state.best_model_checkpoint
        if best is not None and not Path(best).is_dir():
            best = self.state.best_model_checkpoint = None
        if self.args.load_best_model_at_end and best is None and self.state.best_metric is not None:
            self.best_is_gone = True
            if self.is_world_process_zero():
                logger.warning(
                    f"no checkpoint has the best model (step {self.state.best_global_step}, "
                    f"{self.args.metric_for_best_model} {self.state.best_metric:.4f}): the run ends with the weights of its "
                    "last step."
                )
        if self.args.should_save and self.args.save_total_limit == 1 and best is not None:
            # The parent would delete it file by file.
            delete_checkpoints(Path(self.args.output_dir), 1, {Path(best).name})
        return super()._finalize_training(*args, **kwargs)

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            try:
                check_weights_of_folder(best, self.model)
            except ValueError as error:
                raise ValueError(f"the best checkpoint, {best}, cannot be loaded ({error}).") from error
        super()._load_best_model()
        self.loaded_step = int(best.name.rpartition("-")[2])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs like the parent class. Raises `ValueError` if the loss, a mean over all processes, is not finite."""
        if "loss" in logs and not torch.isfinite(torch.tensor(logs["loss"])):
            self._refuse(f"the loss is {logs['loss']}")
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves like the parent class, but atomically: a killed process leaves a complete model or none. Raises `ValueError`
        if a trained weight is not finite, `OSError` if a file cannot be written."""
        if self._drafting:  # called by the parent
            super().save_model(output_dir, _internal_call)
            return
        # The last steps of a run without checkpoints are checked nowhere else.
        self._check_finite(self.model)
        if self.args.push_to_hub and not _internal_call and output_dir in (None, self.args.output_dir):
            self.push_to_hub()  # which saves first
            return
        folder = Path(output_dir or self.args.output_dir)
        draft = folder / DRAFTS / folder.absolute().name
        with self._writing(draft, folder):
            super().save_model(str(draft), _internal_call=True)
            if self.args.should_save:
                publish_files(draft, folder)
                shutil.rmtree(folder / DRAFTS)
                unlock_run(folder / DRAFTS)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub()

    def _save_checkpoint(self, model: nn.Module, trial: None) -> None:
        self._check_finite(model, self._tr_loss)
        folder = Path(self._get_output_dir(trial))
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        draft = folder / DRAFTS / checkpoint.name
        with self._writing(draft, checkpoint):
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(checkpoint.absolute())
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._write_state(draft)
                publish_checkpoint(draft, checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            keep = {checkpoint.name} | (set() if best is None else {Path(best).name})
            delete_checkpoints(folder, self.args.save_total_limit, keep)
        if self._saving.saving:
            self.callback_handler.on_train_end(self.args, self.state, self.control)  # closes bars and logs
            self._finish_current_push()
            raise TrainingInterrupted(
                f"stopped by SIGTERM after step {self.state.global_step}. {how_to_resume(self.args.output_dir)}"
            )

    def _get_output_dir(self, trial: None) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, DRAFTS) if self._drafting else folder

    @contextmanager
    def _writing(self, draft: Path, target: Path) -> Iterator[None]:
        self._drafting = True
        try:
            yield
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch and safetensors raise their own for a full disk
            shutil.rmtree(draft, ignore_errors=True)
            raise OSError(
                f"{target} could not be written ({one_line(str(error))[:200]}); is the disk full? {how_to_resume(self.args.output_dir)}"
            ) from error
        finally:
            self._drafting = False

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates the repository and its branch `args.hub_revision` unless they exist. Raises `ValueError` for adapters whose
        base is a local folder, since nobody else could load them."""
        for adapter in getattr(self.model, "peft_config", {}).values():
            check_adapter_base(Path(self.args.output_dir), adapter.to_dict())
        if self.is_world_process_zero():
            self.hub_model_id = create_repository(
                self.args.hub_model_id or Path(self.args.output_dir).absolute().name,
                private=self.args.hub_private_repo if private is None else private,
                revision=self.args.hub_revision,
                token=token or self.args.hub_token,
            )
            self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future[CommitInfo] | None:
        r"""
        Saves model, processor and card, and uploads them.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Commit message.
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait for the upload.
            token (`str`, *optional*): Access token. Defaults to `args.hub_token`.
            revision (`str`, *optional*): Existing branch. Defaults to `args.hub_revision`.
            private (`bool`, *optional*): Whether a new repository is private; defaults to `args.hub_private_repo`.
            **kwargs: Arguments of `create_model_card`.

        Returns:
            `CommitInfo`, or a `Future` of it without `blocking`; `None` in all processes but the first.

        Raises:
            OSError: If the upload fails. The output folder is complete nevertheless.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self._finish_current_push()  # it may still read the folder that the save writes
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if kwargs:  # replaces the card that saving has written
            self.create_model_card(**kwargs)
        folder = Path(self.args.output_dir)
        upload = partial(
            upload_checkpoint,
            folder,
            self.hub_model_id,
            commit_message,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
        )
        if not blocking:
            return api.run_as_future(upload)
        try:
            return upload()
        except (OSError, ValueError) as error:
            raise OSError(f"{error}; the checkpoint is complete: unisrec push {folder} {self.hub_model_id}") from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy = self.args.hub_strategy
        if self._drafting or not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self._finish_current_push()  # it may still read the folder written below
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # The folder of a checkpoint may be deleted by the next save, while an upload still reads it.
        checkpoint, folder = Path(checkpoint_folder), Path(self.args.output_dir)
        try:
            check_outgoing(checkpoint, shared_files(checkpoint))
        except ValueError as error:
            logger.warning("a checkpoint was not pushed: %s", error)
            return
        for name in shared_files(checkpoint):
            if name != "README.md":
                shutil.copy(checkpoint / name, folder / name)
        if self.push_in_progress is None and self._processor is not None:
            self._processor.save_pretrained(folder)
        message = f"Training in progress, step {self.state.global_step}"
        target = {"repo_id": self.hub_model_id, "revision": self.args.hub_revision, "token": self.args.hub_token}
        jobs = [api.run_as_future(upload_checkpoint, folder, message=message, **target)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            title = f"{message}, state of the training"
            jobs.append(api.run_as_future(upload_state, checkpoint, place, message=title, **target))
        self.push_in_progress = PushInProgress(jobs)
        if len(jobs) > 1:
            self._finish_current_push()

    def _finish_current_push(self) -> None:
        """Waits for running uploads. A failed one is logged as a warning, so that training continues."""
        super()._finish_current_push()
        if self.hub_model_id is None or self.push_in_progress is None:
            return
        for job in self.push_in_progress.jobs:
            if (error := job.exception()) is not None:
                logger.warning("a checkpoint was not pushed: %s", one_line(str(error)))
        self.push_in_progress = PushInProgress([])

    def save_state(self) -> None:
        """Saves the state like the parent class, but without local paths."""
        if self.args.should_save:
            self._write_state(Path(self.args.output_dir))

    def _write_state(self, folder: Path) -> None:
        """Writes the state of the trainer, with the name of the best checkpoint instead of its path."""
        state = copy.copy(self.state)
        if state.best_model_checkpoint is not None:
            state.best_model_checkpoint = Path(state.best_model_checkpoint).name
        state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _check_finite(self, model: nn.Module, *tensors: torch.Tensor) -> None:
        """Raises `ValueError` if a trained weight or one of the tensors has NaN or infinity: a good checkpoint stays."""
        tensors += tuple(weight for weight in model.parameters() if weight.requires_grad)
        if tensors and not torch.stack([torch.isfinite(each).all().to(self.args.device) for each in tensors]).all():
            self._refuse("the loss or a weight is not finite")

    def _refuse(self, what: str) -> None:
        raise ValueError(
            f"{what} at step {self.state.global_step}: try a lower --learning_rate, --max_grad_norm 1, or --bf16 instead "
            f"of --fp16. {how_to_resume(self.args.output_dir)}"
        )


__all__ = ["CheckpointTrainer", "TrainingInterrupted"]
