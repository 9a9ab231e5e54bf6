"""Warnings of a run of several processes: each once, whichever rank gave it."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lmmodules.command import RANK_VARIABLES, is_first_process

_fcntl = importlib.import_module("fcntl") if os.name == "posix" else None
WARNINGS_FILE = "warnings.txt"
"""In the directory of a run of several processes that gave warnings, each with the rank that gave it first."""


@contextmanager
def warnings_once(directory: Path) -> Iterator[None]:
    """Print a warning that several ranks give once, and keep one that a single rank gives.

    The ranks share a file in which the first to give a warning leaves it; a rank that finds its own there is silent.

    Args:
        directory: Of the run, the same for all ranks.
    """
    path = directory / WARNINGS_FILE
    if is_first_process():
        path.unlink(missing_ok=True)  # of an earlier attempt
    rank = next((value for name in RANK_VARIABLES if (value := os.environ.get(name, "0")) != "0"), "0")

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        if _is_first_to_say(path, rank, text):
            origin = "" if rank == "0" else f"rank {rank}: "
            print(origin + text, end="", file=file or sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _is_first_to_say(path: Path, rank: str, text: str) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            if _fcntl is not None:
                _fcntl.flock(file, _fcntl.LOCK_EX)
            file.seek(0)
            if text in file.read():
                return False
            file.write(f"rank {rank}: {text}")
    except OSError:  # better twice than not at all
        pass
    return True
