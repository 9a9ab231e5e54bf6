"""Losses as pure functions of tensors: each returns a sum and a count, and whoever has all ranks' counts divides."""

from lmmodules.losses.contrastive import binary_contrast, contrastive_cross_entropy, hard_negative_cross_entropy
from lmmodules.losses.cross_entropy import token_cross_entropy
from lmmodules.losses.linear import linear_cross_entropy
from lmmodules.losses.linear_rows import linear_token_cross_entropy
from lmmodules.losses.replacement import detection_cross_entropy, mixture_correction, weighted_correction
from lmmodules.losses.task_weights import task_uncertainty

__all__ = [
    "binary_contrast",
    "contrastive_cross_entropy",
    "detection_cross_entropy",
    "hard_negative_cross_entropy",
    "linear_cross_entropy",
    "linear_token_cross_entropy",
    "mixture_correction",
    "task_uncertainty",
    "token_cross_entropy",
    "weighted_correction",
]
