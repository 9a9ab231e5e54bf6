"""Callbacks that every run shares."""

from lmmodules.callbacks.config_snapshot import ConfigSnapshot
from lmmodules.callbacks.progress import TrainingProgress
from lmmodules.callbacks.rank_zero_logging import RankZeroLogging, read_metrics
from lmmodules.callbacks.save_on_termination import SaveOnTermination
from lmmodules.callbacks.throughput import Throughput
from lmmodules.callbacks.warmup_decay import WarmupDecay
from lmmodules.callbacks.whole_checkpoints import WholeCheckpoints

__all__ = [
    "ConfigSnapshot",
    "RankZeroLogging",
    "SaveOnTermination",
    "Throughput",
    "TrainingProgress",
    "WarmupDecay",
    "WholeCheckpoints",
    "read_metrics",
]
