"""Console output during training: a progress bar with the remaining time, and one line per evaluation."""

from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback


class TrainingProgress(ProgressCallback):
    """
    The bar of `transformers` with losses, speed and memory behind it, and a line with the two leading metrics per
    evaluation, of which the last N@10 stays in the bar.
    """

    def __init__(self):
        super().__init__()
        self._shown: dict[str, str] = {}

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


__all__ = ["TrainingProgress"]
