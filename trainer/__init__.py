"""Training of models: losses, batches, trainers and training arguments."""

from ..reports.model_card import UniSRecModelCardData
from .base_trainer import UniSRecTrainer
from .data_collator import FinetuneCollator, PretrainCollator, SampledFinetuneCollator, TextFinetuneCollator
from .datasets import TargetBatchSampler, WindowDataset
from .distributed import RowGatherer
from .finetune_trainer import UniSRecFinetuneTrainer
from .losses import catalogue_loss, contrastive_loss, sampled_softmax_loss
from .negatives import NegativeSampler
from .pretrain_trainer import UniSRecPretrainTrainer
from .pretraining import pretrain
from .training_args import UniSRecFinetuneArguments, UniSRecPretrainArguments, UniSRecTrainingArguments
from .transfer import finetune, finetune_trainer


__all__ = [
    "FinetuneCollator",
    "NegativeSampler",
    "PretrainCollator",
    "RowGatherer",
    "SampledFinetuneCollator",
    "TargetBatchSampler",
    "TextFinetuneCollator",
    "UniSRecFinetuneArguments",
    "UniSRecFinetuneTrainer",
    "UniSRecModelCardData",
    "UniSRecPretrainArguments",
    "UniSRecPretrainTrainer",
    "UniSRecTrainer",
    "UniSRecTrainingArguments",
    "WindowDataset",
    "catalogue_loss",
    "contrastive_loss",
    "finetune",
    "finetune_trainer",
    "pretrain",
    "sampled_softmax_loss",
]
