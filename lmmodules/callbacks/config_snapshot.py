"""Checkpoints that explain themselves."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

SNAPSHOT_KEY = "lmmodules"


class ConfigSnapshot(Callback):
    """Store in every checkpoint what builds its network again: plain dictionaries and the tokenizer's text.

    `lmmodules.load` reads them. Nothing is pickled but strings, numbers, lists and dictionaries, so a checkpoint can
    be read with `weights_only=True` and nothing in it is ever executed.

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

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the snapshot to the checkpoint."""
        checkpoint[SNAPSHOT_KEY] = self.snapshot
