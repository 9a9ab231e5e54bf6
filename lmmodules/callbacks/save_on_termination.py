"""A run that is told to stop leaves its last step behind."""

from __future__ import annotations

import os
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException


class SaveOnTermination(Callback):
    """Write `last.ckpt` when SIGTERM ends the training, as schedulers send it before they take a machine away.

    Lightning notices the signal on all ranks after the same batch, so what is written is whole. An interruption from
    the keyboard may come in the middle of a step and writes nothing.

    Args:
        directory: Where the checkpoint is written.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save, if it was the signal."""
        if isinstance(exception, SIGTERMException) and trainer.global_step > 0:
            trainer.save_checkpoint(self.directory / "last.ckpt")
