"""A trainer that loses nothing when its process dies: complete checkpoints or none, and a way to leave in time."""

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

from .hub_trainer import HubTrainer
from .safe_folders import DRAFTS, delete_checkpoints, publish_checkpoint, publish_files


class TrainingInterrupted(InterruptedError):
    """A training has saved a checkpoint and left because it was asked to by SIGTERM."""


class SavingCallback(TrainerCallback):
    """
    Asks for a checkpoint after the step in which SIGTERM came, as machines get it that are taken away soon. With several
    processes they must agree on the step; they do where they wait for each other anyway, at log lines.

    A checkpoint of the last step of an epoch is put off until the evaluation that ends the epoch. A run that goes on from
    one made before would leave that evaluation out, and its draw from the random state with it.
    """

    def __init__(self):
        self.received = False  # in this process
        self.saving = False  # agreed on, and the checkpoint is being saved
        self._put_off = False
        self._handler = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.received = self.saving = self._put_off = False
        if threading.current_thread() is threading.main_thread():  # Python has signals nowhere else
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
    `Trainer` that survives its process.

    Checkpoints, and the model at the end, are written under a temporary name in the output folder and moved into place
    when they are complete. SIGTERM ends the training with a checkpoint and [`TrainingInterrupted`]. A loss that is not
    finite, a full disk and a data loader's worker that died end it with one clear line, and the last checkpoint is kept.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._drafting = False
        self._had_stopped = False  # the run that is resumed was at its end already
        self._saving = SavingCallback()
        self.add_callback(self._saving)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        if self.args.should_save:
            (Path(self.args.output_dir) / DRAFTS).mkdir(parents=True, exist_ok=True)
        self._had_stopped = False
        if isinstance(resume_from_checkpoint, str):
            # Early stopping has ended it, and killed after that it must not train for another epoch.
            saved = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            control = saved.stateful_callbacks.get("TrainerControl", {}).get("args", {})
            self._had_stopped = control.get("should_training_stop", False) and saved.global_step < saved.max_steps
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except (RuntimeError, ConnectionError, EOFError) as error:  # the latter two: it died while it was handing over
            if self.args.dataloader_num_workers == 0 or (
                isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)
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

    def _run_epoch(self, *args, **kwargs) -> None:
        if self._had_stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs) -> TrainOutput:
        if self.args.should_save and self.args.save_total_limit == 1 and self._best_checkpoint():
            delete_checkpoints(
                Path(self.args.output_dir), 1, self._best_checkpoint()
            )  # the parent would, file by file
        return super()._finalize_training(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's; raises `ValueError` if the loss, a mean over all processes, is not finite."""
        if "loss" in logs and not torch.isfinite(torch.tensor(logs["loss"])):
            self._refuse(f"the loss is {logs['loss']}")
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the parent's; a process killed in it leaves nothing that loads, or everything, and raises `ValueError` where a
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
                self.state.best_model_checkpoint = str(checkpoint)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(draft / TRAINER_STATE_NAME))
                publish_checkpoint(draft, checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            delete_checkpoints(folder, self.args.save_total_limit, {checkpoint, *self._best_checkpoint()})
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

    def _best_checkpoint(self) -> set[Path]:
        best = self.state.best_model_checkpoint
        return set() if best is None else {Path(best)}

    def _check_weights(self, model: nn.Module) -> None:
        """A checkpoint of weights that are no numbers would take the place of a good one."""
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


__all__ = ["SafeTrainer", "SavingCallback", "TrainingInterrupted", "outlive_sigterm"]
