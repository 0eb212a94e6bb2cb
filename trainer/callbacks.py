"""Callbacks of the trainers: log file, speed, progress bar, checkpoints on SIGTERM, and a check of the evaluations."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback


LOG_FILE = "log.jsonl"


class LogFile(TrainerCallback):
    """
    Writes `log.jsonl` into the output folder: one JSON object for each line of the log, as it comes.

    The file is what `state.log_history` is. A run that goes on from a checkpoint starts with the lines up to there.
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
    """Targets (items to be predicted) that are trained on in a second, without the time of evaluations and saves."""

    def __init__(self):
        self._targets, self._start = 0, None

    def add(self, targets: int) -> None:
        """Counts those of a step of this process, as it begins."""
        self._targets += targets
        if self._start is None:
            self._start = time.perf_counter()

    def report(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns `targets_per_second` over all processes since the last report, and the highest `peak_memory_gb`."""
        seconds = None if self._start is None else time.perf_counter() - self._start
        own = torch.tensor([self._targets, peak_memory(accelerator.device)], device=accelerator.device)
        targets, memory = accelerator.gather(own).view(-1, 2).T.tolist()
        self._restart()
        speed = {"targets_per_second": round(sum(targets) / seconds, 1)} if sum(targets) else {}
        return speed | {"peak_memory_gb": round(max(memory), 3)}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._targets, self._start = 0, None  # until the first batch is there

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._restart()

    on_save = on_evaluate

    def _restart(self) -> None:
        self._targets, self._start = 0, time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """Most memory this process has held so far, in GB (1e9 bytes): of the GPU it trains on, else of the machine."""
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
    The bar of `transformers` with losses, speed and memory behind it, and a line with the two leading metrics per
    evaluation, of which the last N@10 stays in the bar.
    """

    def __init__(self):
        super().__init__()
        self._shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description("Training")

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


class BestModelCheck(TrainerCallback):
    """Raises `ValueError` before the first step if a run should end with its best model but never evaluates."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if not args.load_best_model_at_end:
            return
        last = state.max_steps if args.eval_strategy == "steps" else state.num_train_epochs
        first = max(args.eval_delay, state.eval_steps if args.eval_strategy == "steps" else 0)
        if first > last:
            raise ValueError(
                f"--load_best_model_at_end needs an evaluation, and the first would come after the end, at {first:g} of "
                f"{last} {args.eval_strategy.value.rstrip('s')}s: lower --eval_steps or --eval_delay."
            )


__all__ = [
    "LOG_FILE",
    "BestModelCheck",
    "LogFile",
    "SavingCallback",
    "SpeedMeter",
    "TrainingProgress",
    "outlive_sigterm",
    "peak_memory",
]
