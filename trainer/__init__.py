"""Training of models: losses, batches, trainers and training arguments."""

from ..reports.model_card import UniSRecModelCardData
from . import finetuning as transfer  # its former name
from .base_trainer import UniSRecTrainer
from .batches.data_collator import PretrainCollator
from .batches.datasets import WindowDataset
from .batches.samplers import NegativeSampler, TargetBatchSampler
from .candidates import FinetuneCollator, SampledFinetuneCollator, TextFinetuneCollator
from .distributed import RowGatherer
from .finetune_trainer import UniSRecFinetuneTrainer
from .finetuning import build_finetune_trainer, finetune
from .losses import catalogue_loss, contrastive_loss, sampled_softmax_loss
from .pretrain_trainer import UniSRecPretrainTrainer
from .pretraining import build_pretrain_trainer, pretrain
from .training_args import UniSRecFinetuneArguments, UniSRecPretrainArguments, UniSRecTrainingArguments
from .training_result import TrainingResult


__all__ = [
    "FinetuneCollator",
    "NegativeSampler",
    "PretrainCollator",
    "RowGatherer",
    "SampledFinetuneCollator",
    "TargetBatchSampler",
    "TextFinetuneCollator",
    "TrainingResult",
    "UniSRecFinetuneArguments",
    "UniSRecFinetuneTrainer",
    "UniSRecModelCardData",
    "UniSRecPretrainArguments",
    "UniSRecPretrainTrainer",
    "UniSRecTrainer",
    "UniSRecTrainingArguments",
    "WindowDataset",
    "build_finetune_trainer",
    "build_pretrain_trainer",
    "catalogue_loss",
    "contrastive_loss",
    "finetune",
    "pretrain",
    "sampled_softmax_loss",
    "transfer",
]
