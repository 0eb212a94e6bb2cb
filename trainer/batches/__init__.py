"""Batches of training: windows of histories, the order in which they are taken, and their tensors."""

from .data_collator import PretrainCollator
from .datasets import DomainFeatures, DomainTexts, WindowDataset
from .samplers import TargetBatchSampler
from .window_batches import StaticShapes


__all__ = ["DomainFeatures", "DomainTexts", "PretrainCollator", "StaticShapes", "TargetBatchSampler", "WindowDataset"]
