"""Callbacks that every run shares."""

from lmmodules.callbacks.config_snapshot import ConfigSnapshot
from lmmodules.callbacks.progress import TrainingProgress
from lmmodules.callbacks.rank_zero_logging import RankZeroLogging, read_metrics
from lmmodules.callbacks.throughput import Throughput
from lmmodules.callbacks.warmup_decay import WarmupDecay

__all__ = ["ConfigSnapshot", "RankZeroLogging", "Throughput", "TrainingProgress", "WarmupDecay", "read_metrics"]
