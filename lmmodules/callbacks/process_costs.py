"""What a step costs each process: seconds, and bytes of what it keeps."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lmmodules.callbacks.throughput import peak_memory_bytes
from lmmodules.parallel.mesh import local_tensor

STATUS = Path("/proc/self/status")


class ProcessCosts(Callback):
    """Every process writes what it took into a file of its own, `process_0.json` and so on.

    A file holds `step_seconds`, a number per batch, `state_bytes`, what the process holds of parameters, gradients and
    optimizer states, and `peak_bytes`, the most memory it has had since it began. Validation and saving are left out.

    Args:
        directory: Where the files go.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._seconds: list[float] = []
        self._begin = 0.0
        self._states = self._peak = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock: the batch is there."""
        self._begin = _now(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock and weigh, before anything is validated or saved."""
        self._seconds.append(_now(pl_module.device) - self._begin)
        self._states = sum(tensor.numel() * tensor.element_size() for tensor in _states(trainer, pl_module))
        self._peak = _peak_bytes(pl_module.device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        costs = {"step_seconds": self._seconds, "state_bytes": self._states, "peak_bytes": self._peak}
        (self.directory / f"process_{trainer.global_rank}.json").write_text(json.dumps(costs))


def _states(trainer: L.Trainer, module: L.LightningModule) -> Iterator[Tensor]:
    """This process's part of parameters, gradients and what optimizers keep for them."""
    for parameter in module.parameters():
        yield local_tensor(parameter)
        if parameter.grad is not None:
            yield local_tensor(parameter.grad)
    for optimizer in trainer.optimizers:
        for state in optimizer.state.values():
            yield from (local_tensor(value) for value in state.values() if isinstance(value, Tensor))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_bytes(device: torch.device) -> int:
    """The peak of this program; what `getrusage` tells of a process includes the one that started it."""
    if device.type != "cuda" and STATUS.is_file():
        return 1024 * next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line[:6] == "VmHWM:")
    return peak_memory_bytes(device)
