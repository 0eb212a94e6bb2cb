"""Result of a training."""

from dataclasses import dataclass, field

from transformers import PreTrainedModel

from .base_trainer import UniSRecTrainer


@dataclass(frozen=True)
class TrainingResult:
    r"""
    Result of [`pretrain`] and [`finetune`].

    Args:
        model ([`UniSRecModel`] or `PeftModel`):
            The trained model, without a text encoder that was frozen; the checkpoint in the output folder contains it.
        trainer ([`UniSRecTrainer`]): The trainer after training; `trainer.state.log_history` is the log.
        metrics (`dict[str, float]`): Ranking metrics, see [`ranking_metrics`], without a prefix for the split.
    """

    model: PreTrainedModel = field(repr=False)
    trainer: UniSRecTrainer = field(repr=False)
    metrics: dict[str, float]


__all__ = ["TrainingResult"]
