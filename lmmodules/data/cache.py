"""Directories that are made once: by one process, completely, or not at all."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmmodules.errors import InputError

logger = logging.getLogger(__name__)

# Windows has no flock: two processes both do the work there, and the first to finish wins.
_fcntl = importlib.import_module("fcntl") if os.name == "posix" else None

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def default_cache_dir() -> Path:
    """`LMM_CACHE`, or `lmmodules` in the user's cache directory (`XDG_CACHE_HOME`, else `~/.cache`)."""
    if "LMM_CACHE" in os.environ:
        return Path(os.environ["LMM_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmmodules"


def make_once(target: Path, write: Callable[[Path], None]) -> Path:
    """Make a directory unless it exists.

    The content is written beside the target and moved there when it is complete, so whatever has the target's name
    is whole. Other processes that want the same directory wait for it. A failure, a full disk or an interrupt leaves
    nothing behind.

    Args:
        target: The directory wanted.
        write: Writes the content into the (not yet existing) directory it is given.

    Returns:
        The target.

    Raises:
        InputError: When the disk is full or the place can not be written to.
    """
    if target.is_dir():
        return target
    with _sentence_for_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if target.is_dir():  # the process we waited for has made it
                return target
            if _fcntl is not None:
                # Left by a process that was killed: we hold the lock, so nobody is writing there.
                for abandoned in target.parent.glob(f"{target.name}.partial-*"):
                    shutil.rmtree(abandoned, ignore_errors=True)
            partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
            try:
                write(partial)
                _move(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _move(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError:
        if not target.is_dir():
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if _fcntl is None:
        yield
        return
    with path.open("w") as file:
        try:
            _fcntl.flock(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process to finish `%s`", path.with_suffix(""))
            _fcntl.flock(file, _fcntl.LOCK_EX)
        yield


@contextmanager
def _sentence_for_disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise InputError(
                f"`data.cache_dir` must have room for the tokens of the corpus, but the disk of `{target.parent}` is "
                "full and nothing was kept; use `data.cache_dir=DIR` on a larger disk"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise InputError(
                f"`data.cache_dir` must be a directory that can be written to, but `{target.parent}` is not; "
                "use `data.cache_dir=DIR`"
            ) from error
        raise
