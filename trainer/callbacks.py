"""Callbacks of the trainers: log file, speed, progress bar, checkpoints on SIGTERM, and a check of the evaluations."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback


LOG_FILE = "log.jsonl"


class LogFile(TrainerCallback):
    """
    Appends each entry of the training log to `log.jsonl` in the output folder, as one JSON object per line.

    The file has the content of `state.log_history`. A resumed run keeps the lines up to its checkpoint.
    """

    def __init__(self):
        self._file: Path | None = None  # of a training in this process

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._file = Path(args.output_dir) / LOG_FILE
            draft = self._file.with_name(f"{LOG_FILE}.tmp")
            draft.write_text("".join(map(_line, state.log_history)), encoding="utf-8")
            os.replace(draft, self._file)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._file is not None:
            with open(self._file, "a", encoding="utf-8") as stream:
                stream.write(_line(state.log_history[-1]))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._file = None


class SpeedMeter(TrainerCallback):
    """Measures training speed in targets (items to predict) per second, without the time of evaluations and saves."""

    def __init__(self):
        self._targets, self._start = 0, None

    def add(self, targets: int) -> None:
        """Counts the targets of a step of this process, at its start."""
        self._targets += targets
        if self._start is None:
            self._start = time.perf_counter()

    def report(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns `targets_per_second` of all processes since the last report, and the highest `peak_memory_gb` of a process."""
        seconds = None if self._start is None else time.perf_counter() - self._start
        own = torch.tensor([self._targets, peak_memory(accelerator.device)], device=accelerator.device)
        targets, memory = accelerator.gather(own).view(-1, 2).T.tolist()
        self._restart()
        speed = {"targets_per_second": round(sum(targets) / seconds, 1)} if sum(targets) else {}
        return speed | {"peak_memory_gb": round(max(memory), 3)}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._targets, self._start = 0, None  # until the first batch has been loaded

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._restart()

    on_save = on_evaluate

    def _restart(self) -> None:
        self._targets, self._start = 0, time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """Returns the peak memory of this process in GB (1e9 bytes): GPU memory when it trains on one, else main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return 0.0  # Windows has no `resource` module
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def _line(entry: dict[str, float]) -> str:
    return json.dumps(entry) + "\n"


class TrainingProgress(ProgressCallback):
    """
    Progress bar of `transformers` that also shows losses, speed, memory and the last NDCG@10, and prints one line with
    NDCG@10 and recall@10 per evaluation. Where standard error is no terminal, only these lines are printed.
    """

    def __init__(self):
        super().__init__()
        self.current_step = 0
        self._shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.current_step = 0
        if state.is_world_process_zero:  # `disable=None`: no bar where nobody watches
            self.training_bar = tqdm(total=state.max_steps, desc="Training", dynamic_ncols=True, disable=None)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None and "loss" in logs:
            self._shown |= {name: f"{value:.4g}" for name, value in logs.items() if name.endswith("loss")}
            if "targets_per_second" in logs:
                self._shown["targets/s"] = f"{logs['targets_per_second']:,.0f}"
            self._shown["memory"] = f"{logs['peak_memory_gb']:.1f} GB"
            self.training_bar.set_postfix(self._shown, refresh=False)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_evaluate(args, state, control, **kwargs)
        if not state.is_world_process_zero or self.training_bar is None:
            return
        # Keys look like eval_ndcg@10, or eval_NAME_ndcg@10 where there are several domains.
        for key, value in metrics.items():
            if key.endswith("ndcg@10"):
                prefix = key.removesuffix("ndcg@10")
                name = prefix.removeprefix("eval").strip("_")
                self._shown[f"{name} N@10".strip()] = f"{value:.4f}"
                self.training_bar.set_postfix(self._shown, refresh=False)
                self.training_bar.write(
                    f"epoch {state.epoch:6.2f}  {name:{24 if name else 0}}N@10 {value:.4f}  R@10 {metrics[prefix + 'recall@10']:.4f}"
                )


class SavingCallback(TrainerCallback):
    """
    Requests a checkpoint after the step in which SIGTERM arrived, the signal that announces the end of a machine.

    Several processes agree on the step when they log, since they wait for each other there anyway.

    The callback also gives a resumed run the current path of its best checkpoint, and postpones a checkpoint of the last
    step of an epoch until the evaluation that ends the epoch. A run resumed from an earlier one would skip that evaluation
    and its draw from the random state.
    """

    def __init__(self):
        self.received = False  # SIGTERM, in this process
        self.saving = False  # all processes have agreed to save a last checkpoint
        self.has_begun = False  # the checkpoint to resume from has been read completely
        self.best_checkpoint: Path | None = None  # of the resumed run
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
        """Restores the SIGTERM handler from before the training."""
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
    """Makes a worker of a data loader ignore SIGTERM, because the step in progress needs its batches."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class BestModelCheck(TrainerCallback):
    """Raises `ValueError` before the first step if a run should end with its best model but never evaluates."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if not args.load_best_model_at_end:
            return
        last = state.max_steps if args.eval_strategy == "steps" else state.num_train_epochs
        first = max(args.eval_delay, state.eval_steps if args.eval_strategy == "steps" else 0)
        if first > last:
            raise ValueError(
                f"--load_best_model_at_end needs an evaluation, but the first one would follow the end of training, at {first:g} of "
                f"{last} {args.eval_strategy.value.rstrip('s')}s: lower --eval_steps or --eval_delay."
            )


def check_callbacks(callbacks: Sequence[TrainerCallback]) -> None:
    """Raises `TypeError` unless `callbacks` is a list of callbacks of transformers."""
    for callback in callbacks if isinstance(callbacks, Sequence) else [callbacks]:
        if not isinstance(callback, TrainerCallback):
            raise TypeError(f"callbacks: got {callback!r}, expected a list of objects of `TrainerCallback`")
    if not isinstance(callbacks, Sequence):
        raise TypeError(f"callbacks: got {callbacks!r}, expected a list; write [callback] for one")


__all__ = [
    "LOG_FILE",
    "BestModelCheck",
    "LogFile",
    "SavingCallback",
    "SpeedMeter",
    "TrainingProgress",
    "check_callbacks",
    "outlive_sigterm",
    "peak_memory",
]
