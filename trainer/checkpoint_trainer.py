"""A crash-safe trainer: checkpoints are complete or absent, and SIGTERM ends a run with a checkpoint."""

import copy
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, get_last_checkpoint
from transformers.utils.logging import get_logger

from ..modeling_unisrec.weight_files import check_weights_of_folder
from .checkpoint_folders import (
    DRAFTS,
    adopt_checkpoint,
    delete_checkpoints,
    leave_no_trace,
    publish_checkpoint,
    publish_files,
)
from .hub_trainer import HubTrainer
from .resume import check_optimizer, check_random_state, check_scheduler, read_trainer_state
from .run_lock import lock_run, unlock_run


logger = get_logger(__name__)


class TrainingInterrupted(InterruptedError):
    """Raised after a training has saved a checkpoint and stopped because of SIGTERM."""


class SavingCallback(TrainerCallback):
    """
    Asks for a checkpoint after the step in which SIGTERM came, as machines get it that are taken away soon. With several
    processes they must agree on the step; they do where they wait for each other anyway, at log lines.

    Tells a run that goes on where its best checkpoint is now, whatever path it had before.

    A checkpoint of the last step of an epoch is put off until the evaluation that ends the epoch. A run that goes on from
    one made before would leave that evaluation out, and its draw from the random state with it.
    """

    def __init__(self):
        self.received = False  # in this process
        self.saving = False  # agreed on, and the checkpoint is being saved
        self.has_begun = False  # all of the checkpoint that is resumed has been read
        self.best_checkpoint: Path | None = None  # of the run that is resumed
        self._put_off = False
        self._handler = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.received = self.saving = self._put_off = False
        self.has_begun = True
        state.best_model_checkpoint = None if self.best_checkpoint is None else str(self.best_checkpoint)
        if threading.current_thread() is threading.main_thread():  # Python handles signals only in the main thread
            self._handler = signal.signal(signal.SIGTERM, self._receive)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_training_stop or state.epoch == int(state.epoch):
            self._put_off, control.should_save = control.should_save, False
        elif args.world_size == 1 or state.global_step % max(1, int(state.logging_steps)) == 0:
            self._save_if_received(args, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_save |= self._put_off
        self._put_off = False
        self._save_if_received(args, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.restore_handler()

    def restore_handler(self) -> None:
        """Lets SIGTERM do again what it did before the training."""
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            self._handler = None

    def _receive(self, number: int, frame: object) -> None:
        self.received = True

    def _save_if_received(self, args: TrainingArguments, control: TrainerControl) -> None:
        self.saving = self.received
        if args.world_size > 1:
            flag = torch.tensor(int(self.received), device=args.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            self.saving = bool(flag)
        if self.saving:
            control.should_save = True


def outlive_sigterm(worker: int) -> None:
    """Lets a data loader's worker go on when all processes get SIGTERM: the step in progress needs its batches."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class SafeTrainer(HubTrainer):
    r"""
    `Trainer` whose checkpoints survive a crash of its process.

    Checkpoints, and the model at the end, are written under a temporary name in the output folder and moved into place
    when they are complete. SIGTERM ends the training with a checkpoint and [`TrainingInterrupted`]. A loss that is not
    finite, a full disk and a data loader's worker that died end it with one clear line, and the last checkpoint is kept.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loaded_step: int | None = None  # of the checkpoint that the model has its weights from after training
        self.best_is_gone = False  # the model has the weights of the last step instead
        self._drafting = False
        self._had_stopped = False  # the run that is resumed was at its end already
        self._saving = SavingCallback()
        self.add_callback(self._saving)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        r"""
        Trains as the parent does.

        Raises:
            BlockingIOError: If another process writes into the output folder.
            FileNotFoundError: If `resume_from_checkpoint` is `True` and there is no checkpoint.
            ValueError: If the checkpoint to resume from is not one of this run: its state files are missing or damaged, its
                weights are not those of the model.
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
            with _without_warnings_about_paths():
                return super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        except BaseException as error:
            if writes:
                leave_no_trace(folder)
                unlock_run(folder / DRAFTS)
            if isinstance(error, Exception) and checkpoint is not None and not self._saving.has_begun:
                raise ValueError(
                    f"{resume_from_checkpoint}: cannot be resumed from ({_one_line(error)}); resume from another checkpoint, "
                    "or start anew in another --output_dir."
                ) from error
            # The latter two: a worker died while it was handing over.
            if self.args.dataloader_num_workers == 0 or not (
                isinstance(error, ConnectionError | EOFError)
                or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error))
            ):
                raise
            raise ChildProcessError(
                f"a worker that prepares batches died ({_one_line(error)}); the system kills them when memory runs out: "
                f"try fewer --dataloader_num_workers. {self._how_to_go_on()}"
            ) from error
        finally:
            self._saving.restore_handler()
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                    callback.training_bar.close()

    def _prepare_to_resume(self, checkpoint: Path) -> None:
        """Looks at the files of a checkpoint, all of which this run goes on from, and finds its best checkpoint."""
        state = read_trainer_state(checkpoint, [*self.callback_handler.callbacks, self.control])
        check_random_state(checkpoint, self.args.process_index, self.args.world_size)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            check_weights_of_folder(checkpoint, self.model)
        # Early stopping has ended it, and killed after that it must not train for another epoch.
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        self._had_stopped = control.get("should_training_stop", False) and state.global_step < state.max_steps
        if state.best_model_checkpoint is None:
            return
        # The name alone counts: the folder may have been moved since, or spelled in another way.
        best = checkpoint.parent / Path(state.best_model_checkpoint).name
        folder = Path(self.args.output_dir).absolute()
        if self.args.should_save and best.is_dir() and not (folder / best.name).exists():
            adopt_checkpoint(best, folder)
        self.accelerator.wait_for_everyone()
        if (folder / best.name).is_dir():
            self._saving.best_checkpoint = folder / best.name
        elif self.is_world_process_zero():
            logger.warning(
                f"{best}, the best checkpoint so far ({self.args.metric_for_best_model} {state.best_metric}), is gone: "
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
            # the parent would, file by file
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
        """Logs as the parent does. Raises `ValueError` if the loss, a mean over all processes, is not finite."""
        if "loss" in logs and not torch.isfinite(torch.tensor(logs["loss"])):
            self._refuse(f"the loss is {logs['loss']}")
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves as the parent does, but atomically: a killed process leaves a complete model or none. Raises `ValueError` if a
        trained weight is not finite."""
        if not self._drafting:  # the last steps of a run without checkpoints are checked nowhere else
            self._check_finite(weight for weight in self.model.parameters() if weight.requires_grad)
        own = output_dir in (None, self.args.output_dir)
        if self._drafting or (own and self.args.push_to_hub and not _internal_call):
            super().save_model(output_dir, _internal_call)  # the push saves
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
        self._check_weights(model)
        folder = Path(self._get_output_dir(trial))
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        draft = folder / DRAFTS / checkpoint.name
        with self._writing(draft, checkpoint):
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(checkpoint.absolute())
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._save_state(draft)
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
                f"stopped by SIGTERM after step {self.state.global_step}. {self._how_to_go_on()}"
            )

    def _get_output_dir(self, trial: None) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, DRAFTS) if self._drafting else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._drafting:
            super()._push_from_checkpoint(checkpoint_folder)

    @contextmanager
    def _writing(self, draft: Path, target: Path) -> Iterator[None]:
        self._drafting = True
        try:
            yield
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch and safetensors have their own for a full disk
            shutil.rmtree(draft, ignore_errors=True)
            raise OSError(
                f"{target} could not be written ({_one_line(error)}); is the disk full? {self._how_to_go_on()}"
            ) from error
        finally:
            self._drafting = False

    def save_state(self) -> None:
        """Saves the state as the parent does, without local paths."""
        if self.args.should_save:
            self._save_state(Path(self.args.output_dir))

    def _save_state(self, folder: Path) -> None:
        """Writes the state of the trainer; the best checkpoint, which lies in the output folder, by its name alone."""
        state = copy.copy(self.state)
        if state.best_model_checkpoint is not None:
            state.best_model_checkpoint = Path(state.best_model_checkpoint).name
        state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _check_weights(self, model: nn.Module) -> None:
        """Checks that the weights are finite, because a checkpoint with NaN would replace a good one."""
        self._check_finite([self._tr_loss, *(weight for weight in model.parameters() if weight.requires_grad)])

    def _check_finite(self, tensors: Iterable[torch.Tensor]) -> None:
        flags = [torch.isfinite(tensor).all().to(self.args.device) for tensor in tensors]
        if flags and not torch.stack(flags).all():
            self._refuse("the loss or a weight is not finite")

    def _refuse(self, what: str) -> None:
        raise ValueError(
            f"{what} at step {self.state.global_step}: try a lower --learning_rate, --max_grad_norm 1, or --bf16 instead "
            f"of --fp16. {self._how_to_go_on()}"
        )

    def _how_to_go_on(self) -> str:
        folder = self.args.output_dir
        last = get_last_checkpoint(folder) if os.path.isdir(folder) else None
        if last is None:
            return "There is no checkpoint yet; --resume_from_checkpoint auto starts anew."
        return f"Go on from {last} by --resume_from_checkpoint auto."


@contextmanager
def _without_warnings_about_paths() -> Iterator[None]:
    """Without the parent's warning that a best checkpoint is not at the path it had: that is found by its name."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("The best checkpoint ")

    parent = logging.getLogger("transformers.trainer")
    parent.addFilter(is_other)
    try:
        yield
    finally:
        parent.removeFilter(is_other)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


__all__ = ["SafeTrainer", "SavingCallback", "TrainingInterrupted", "outlive_sigterm"]
