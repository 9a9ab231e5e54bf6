"""A rank that fails ends its run in seconds, and its error is what is told."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmmodules.command import input_error
from lmmodules.launch import Launch, find_launch

ERROR_FILE = "error.txt"
"""In the directory of a run that failed: the traceback of the rank that failed first."""


@contextmanager
def failure_told(directory: Path) -> Iterator[None]:
    """Leave the error of a run in its directory, and let none of its processes wait for one that is gone.

    A rank whose partner has failed may wait in a collective for as long as the backend's timeout.
    Here every rank of a run that torchrun, srun or a sweep started looks for the error of another once a second, prints
    it and exits with code 1. The trial of a sweep hands the error to the launcher as well, which needs
    no accounting of the scheduler then.

    Args:
        directory: Of the run, the same for all ranks.
    """
    launch = find_launch()
    path = directory / ERROR_FILE
    began = time.time()
    finished = threading.Event()
    if launch is not None and launch.processes > 1:
        threading.Thread(target=_watch, args=(path, began, finished, launch), daemon=True).start()
    try:
        yield
    except Exception as error:
        finished.set()
        if input_error(error) is not None:  # the same in all ranks, told in one sentence, and nothing is left of it
            raise
        text = traceback.format_exc()
        if launch is None:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                _leave(path, text, began)
            raise
        first = _leave(path, text, began)
        print(text, file=sys.stderr, flush=True)
        _end(launch, first)
    else:
        path.unlink(missing_ok=True)  # of an earlier attempt
    finally:
        finished.set()


def _watch(path: Path, began: float, finished: threading.Event, launch: Launch) -> None:
    """End this process when another rank has failed."""
    while not finished.wait(1.0):
        text = _read(path, began)
        if text is not None:
            print(f"another rank has failed:\n{text}", file=sys.stderr, flush=True)
            _end(launch, text)


def _leave(path: Path, text: str, began: float) -> str:
    """Write an error if no other rank was first, and give the first one."""
    earlier = _read(path, began)
    if earlier is not None:
        return earlier
    with suppress(OSError):  # a full disk must not hide the error
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)
    return text


def _read(path: Path, began: float) -> str | None:
    """The error, unless it is of an earlier attempt."""
    try:
        return path.read_text() if path.stat().st_mtime >= began - 5 else None
    except OSError:
        return None


def _end(launch: Launch, text: str) -> None:
    """Leave at once: what is left of the process group would wait for the others."""
    if launch.is_trial:
        import submitit
        from submitit.core.utils import cloudpickle_dump, temporary_save_path

        with suppress(Exception), temporary_save_path(submitit.JobEnvironment().paths.result_pickle) as temporary:
            cloudpickle_dump(("error", text), temporary)
    sys.stdout.flush()
    os._exit(1)
