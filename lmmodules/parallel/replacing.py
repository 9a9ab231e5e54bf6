"""A checkpoint takes the place of an older one, and at every moment one of the two is whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def partial_of(target: Path) -> Path:
    """Where a checkpoint is written before it gets its name.

    Args:
        target: The name.
    """
    return target.with_name(target.name + ".partial")


def replaced_by(target: Path) -> Path:
    """Where the older checkpoint is while the newer one takes its name; a process that is killed then leaves it there.

    Args:
        target: The name.
    """
    return target.with_name(target.name + ".replaced")


def put_in_place(target: Path) -> None:
    """Give the checkpoint at `partial_of(target)` its name.

    Of files the system does it in one step. A directory, which it puts in place of nothing, waits for the older
    checkpoint to go aside.

    Args:
        target: The name; what has it is removed at the end.
    """
    partial, aside = partial_of(target), replaced_by(target)
    if target.exists() and (partial.is_dir() or target.is_dir()):
        remove(aside)
        target.replace(aside)
    partial.replace(target)
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or directory, if it is there.

    Args:
        path: The checkpoint.
    """
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
