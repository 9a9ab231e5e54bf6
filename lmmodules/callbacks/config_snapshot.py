"""Checkpoints that explain themselves."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lmmodules.parallel.agreement import check_orders, checksum

SNAPSHOT_KEY = "lmmodules"
COMPARED = ("seed", "max_steps", "optimizer", "parameter_groups")
"""Parts of a configuration that all ranks must agree on, besides network, objective, tokenizer and data."""
COMPARED_SAMPLES = 64


class ConfigSnapshot(Callback):
    """Store in every checkpoint what builds its network again: plain dictionaries and the tokenizer's text.

    `lmmodules.load` reads them. Nothing is pickled but strings, numbers, lists and dictionaries, so a checkpoint can
    be read with `weights_only=True` and nothing in it is ever executed.

    Rank zero writes it for all, so before training all are asked whether they were told the same.

    Args:
        model: Node that builds the backbone, with its `_target_`.
        objective: Node that builds the objective, with its `_target_`.
        tokenizer: The tokenizer as JSON text, or `None`.
        config: The whole resolved configuration of the run, for the record.
    """

    def __init__(
        self,
        model: dict[str, Any],
        objective: dict[str, Any],
        tokenizer: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.snapshot = {"model": model, "objective": objective, "tokenizer": tokenizer, "config": config or {}}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare seed, network, objective, tokenizer and data over the ranks, before they train.

        Raises:
            InputError: On every rank, when two differ.
        """
        if stage != "fit" or trainer.world_size == 1:
            return
        config = self.snapshot["config"]
        assert isinstance(config, dict)
        orders: dict[str, Any] = {name: config.get(name) for name in COMPARED}
        orders |= {name: self.snapshot[name] for name in ("model", "objective", "tokenizer")}
        check_orders({**orders, "data": samples_checksum(trainer)})

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the snapshot to the checkpoint."""
        checkpoint[SNAPSHOT_KEY] = self.snapshot


def samples_checksum(trainer: L.Trainer) -> list[float]:
    """Number of samples to train on, and a checksum of some of them; nothing where data have no such samples.

    Args:
        trainer: Whose data are meant.
    """
    samples = getattr(getattr(trainer, "datamodule", None), "train_samples", None)
    if samples is None:
        return []
    indices = np.unique(np.linspace(0, len(samples) - 1, COMPARED_SAMPLES).astype(np.int64))
    batch = samples[np.zeros_like(indices), indices]
    tensors = [batch[name] for name in sorted(batch) if isinstance(batch[name], Tensor)]
    return [float(len(samples)), *(float(checksum(tensor)) for tensor in tensors)]
