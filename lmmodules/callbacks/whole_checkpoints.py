"""Checkpoints that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lmmodules.parallel.replacing import partial_of, put_in_place, remove
from lmmodules.parallel.sharded_checkpoint import is_sharded, read_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its final name, and give it the name when all of it is on the disk.

    Lightning writes to the system's temporary folder and moves the file. Onto another file system a move is a copy, and
    a full disk or a kill in its middle leaves half a checkpoint where a good one was.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to save.
            path: The file; a URL of a remote store is left to Lightning.
            storage_options: Not used for files.

        Raises:
            OSError: When the disk is full; what was there before stays.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, str(path), storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(target)
        remove(partial)  # which a run in parts may have left as a directory
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            put_in_place(target)
        except BaseException as error:
            full = shutil.disk_usage(target.parent).free < 2**20
            partial.unlink(missing_ok=True)
            if full and isinstance(error, RuntimeError):  # torch's writer does not say why it failed
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
            raise

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; one in parts is put together, so that a run goes on with a strategy that writes none.

        Args:
            path: The file, or the directory of the parts.
            map_location: See `torch.load`.
            weights_only: See `torch.load`.
        """
        if is_sharded(path):
            return read_whole(path)
        return super().load_checkpoint(os.fspath(path), map_location, weights_only)
