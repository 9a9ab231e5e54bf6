"""Optimizers, parameter groups and learning-rate schedules. AdamW and Adafactor are torch's own."""

from lmmodules.optim.adam_weight_decay import AdamWeightDecay
from lmmodules.optim.build import build_optimizer
from lmmodules.optim.muon import Muon
from lmmodules.optim.parameter_groups import GroupRow, NoDecayRule, ParameterGroups
from lmmodules.optim.schedules import (
    BertLinear,
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    Polynomial,
    Schedule,
    WarmupStableDecay,
)

__all__ = [
    "AdamWeightDecay",
    "BertLinear",
    "Constant",
    "Cosine",
    "GroupRow",
    "InverseSquareRoot",
    "Linear",
    "Muon",
    "NoDecayRule",
    "ParameterGroups",
    "Polynomial",
    "Schedule",
    "WarmupStableDecay",
    "build_optimizer",
]
