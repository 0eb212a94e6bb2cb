"""Machine-readable training log: `log.jsonl`, speed and memory."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


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


__all__ = ["LOG_FILE", "LogFile", "SpeedMeter", "peak_memory"]
