"""One run at a time in a directory."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmmodules.errors import InputError

# Windows has no flock: nothing is kept there.
_fcntl = importlib.import_module("fcntl") if os.name == "posix" else None
LOCK = ".running"
"""In the directory of a run while it runs: the number of its process."""
_held: set[int] = set()
"""Descriptors of the locks of this process."""


def _let_go() -> None:
    """Close the locks in a process that was forked: a worker that outlives a killed run must not keep the next out."""
    while _held:
        os.close(_held.pop())


if _fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)


def _holds(lock: int, path: Path) -> bool:
    """Lock a file, and say whether it is still the one that has the name; without locks in a file system it is."""
    try:
        if _fcntl is not None:
            _fcntl.flock(lock, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return True
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def only_run_in(directory: Path, remedy: str = "paths.output_dir=runs/my_run") -> Iterator[None]:
    """Keep a directory for this process, as long as the block lasts or until the process is gone.

    Two runs that start in the same second, or are given the same directory, would write over each other's checkpoints.
    Where a file system knows no locks, nothing is kept.

    Args:
        directory: Of the run.
        remedy: The override that chooses another.

    Raises:
        InputError: When a run that has not ended writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _holds(lock, path):  # whoever held it has taken the file away meanwhile
            os.close(lock)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except BlockingIOError:
        holder = os.read(lock, 32).decode().strip() or "of another run"
        os.close(lock)
        raise InputError(
            f"`{remedy.partition('=')[0]}` must be free, but process {holder} is still writing to `{directory}`; use "
            f"another directory, for example `{remedy}`"
        ) from None
    _held.add(lock)
    try:
        with suppress(OSError):  # whether the disk is full shows later
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        if lock in _held:  # not in a process that was forked within the block
            path.unlink(missing_ok=True)
            _held.remove(lock)
            os.close(lock)
