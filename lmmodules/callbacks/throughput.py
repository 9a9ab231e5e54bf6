"""How fast a run is: tokens per second, model FLOP utilisation, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lmmodules.parallel import data_parallel_group

PEAK_FLOPS = {
    # Dense bfloat16 tensor-core FLOP/s, from the makers' data sheets.
    "A100": 312e12,
    "A10G": 70e12,
    "H100": 989e12,
    "H200": 989e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}


class Throughput(Callback):
    """Tokens per second over all ranks, model FLOP utilisation and peak memory, for each log interval.

    Padding counts as tokens: how much of it the other ranks have would take a collective to know. Time spent in
    validation is left out. Nothing is synchronised: `RankZeroLogging` has just read the interval's losses from the
    device when it asks.

    Args:
        peak_flops: FLOP/s of one device at the precision in use, for the utilisation. `None` takes the data sheet's
            bfloat16 figure for GPUs that are known; on anything else no utilisation is logged.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self.peak_flops = peak_flops
        self.tokens = 0
        """Tokens trained on in this process group since the run began, resumed ones included."""
        self.seconds = 0.0
        """Seconds of training without validation, resumed ones included."""
        self._ranks = 1
        self._length = 0
        self._interval_tokens = 0
        self._interval_start: float | None = None
        self._pause_start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and forget earlier peaks of memory."""
        group = data_parallel_group(pl_module)
        self._ranks = trainer.world_size if group is None else group.size()
        self._interval_tokens, self._interval_start = 0, time.perf_counter()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the tokens of a batch."""
        input_ids = batch["input_ids"]
        self._length = input_ids.shape[-1]
        self._interval_tokens += input_ids.numel() * self._ranks

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._pause_start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the clock go on, as if validation had taken no time."""
        if self._interval_start is not None:
            self._interval_start += time.perf_counter() - self._pause_start

    def interval_metrics(self, trainer: L.Trainer) -> dict[str, float]:
        """Figures of the interval that ends now; starts the next."""
        now = time.perf_counter()
        seconds = now - (self._interval_start or now)
        tokens = self._interval_tokens
        self._interval_tokens, self._interval_start = 0, now
        self.tokens += tokens
        self.seconds += seconds
        rate = tokens / seconds if seconds > 0 else 0.0
        module = trainer.lightning_module
        metrics = {
            "tokens": float(self.tokens),
            "throughput/tokens_per_second": rate,
            "throughput/memory_gb": peak_memory_bytes(module.device) / 1e9,
        }
        peak = self.peak_flops or known_peak_flops(module.device)
        forward_flops: Callable[[int], float] | None = getattr(module, "flops_per_token", None)
        if peak and forward_flops is not None:
            # A forward pass counts once and a backward pass twice.
            flops = 3 * forward_flops(self._length)
            metrics["throughput/mfu"] = rate * flops / (peak * trainer.world_size)
        return metrics

    def state_dict(self) -> dict[str, float]:
        """Tokens and seconds so far, for the checkpoint."""
        return {"tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint ended."""
        self.tokens, self.seconds = int(state_dict["tokens"]), float(state_dict["seconds"])


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory since the run began: allocated on a GPU, resident in the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def known_peak_flops(device: torch.device) -> float | None:
    """Data-sheet bfloat16 FLOP/s of a GPU by its name, `None` where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for model, flops in PEAK_FLOPS.items() if model in name), None)
