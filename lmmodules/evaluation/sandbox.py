"""Running programs that a model wrote, apart from everything else: isolation, not a security boundary."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmmodules.errors import InputError

_PROGRAM = "program.py"
_NAMESPACES = ("--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")

# Limits are set by the process on itself, before it becomes the program, and can not be raised again.
_LIMITED = f"""
import os, resource, sys
for name, value in zip(("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_CORE"), map(int, sys.argv[1:])):
    try:
        resource.setrlimit(getattr(resource, name), (value, value))
    except (OSError, ValueError):
        pass
os.execv(sys.executable, [sys.executable, "-I", "{_PROGRAM}"])
"""


@dataclass(frozen=True)
class Execution:
    """How a program ran.

    Attributes:
        status: `finished` with exit code 0, `failed` with another or by a signal, or `timeout`.
        output: What it wrote to standard output, cut off at the limit.
        errors: What it wrote to standard error, cut off at the limit.
        seconds: Wall time.
    """

    status: Literal["finished", "failed", "timeout"]
    output: str
    errors: str
    seconds: float


class Sandbox:
    """Runs Python programs in processes of their own.

    A program gets an empty directory that is removed behind it, no variables of the environment, no standard input, and
    limits of time, memory and written bytes. Where the system has `unshare` and allows namespaces to users, it has no
    network, and every process it started ends with it. It can still read what the user can read and write where the
    user can write: this keeps accidents in, not an attacker. Judge a program by what it printed, never by what it
    could have changed.

    Args:
        timeout_seconds: Wall time that a program may take.
        memory_bytes: Address space that it may have.
        output_bytes: Size that a file it writes may have, standard output included.

    Raises:
        InputError: When a limit is not positive.
    """

    def __init__(
        self, timeout_seconds: float = 3.0, memory_bytes: int = 4 * 1024**3, output_bytes: int = 1024**2
    ) -> None:
        for name, value in (
            ("timeout_seconds", timeout_seconds),
            ("memory_bytes", memory_bytes),
            ("output_bytes", output_bytes),
        ):
            if value <= 0:
                raise InputError(f"`{name}` must be positive, but is {value}")
        self.timeout_seconds = timeout_seconds
        self.memory_bytes = memory_bytes
        self.output_bytes = output_bytes

    @property
    def cuts_network(self) -> bool:
        """Whether programs run without a network here."""
        return _namespaces_work()

    def run(self, program: str) -> Execution:
        """Run one program.

        Args:
            program: Python source.
        """
        limits = (self.memory_bytes, int(self.timeout_seconds) + 1, self.output_bytes, 0)
        command = [sys.executable, "-I", "-S", "-c", _LIMITED, *map(str, limits)]
        if self.cuts_network:
            command = ["unshare", *_NAMESPACES, *command]
        with tempfile.TemporaryDirectory(prefix="sandbox", ignore_cleanup_errors=True) as folder:
            directory = Path(folder)
            inside, output, errors = directory / "inside", directory / "output", directory / "errors"
            inside.mkdir()
            (inside / _PROGRAM).write_text(program, encoding="utf-8", errors="replace", newline="")
            began = time.monotonic()
            with output.open("wb") as out, errors.open("wb") as err:
                process = subprocess.Popen(
                    command,
                    cwd=inside,
                    env={"PATH": os.defpath, "HOME": str(inside), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
                try:
                    code = process.wait(self.timeout_seconds)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    _end(process)
            seconds = time.monotonic() - began
            status: Literal["finished", "failed", "timeout"] = (
                "timeout" if code is None else "failed" if code else "finished"
            )
            return Execution(status, self._read(output), self._read(errors), seconds)

    def run_all(self, programs: Sequence[str]) -> list[Execution]:
        """Run several programs, as many at a time as there are processors.

        Args:
            programs: Python sources.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self.run, programs))

    def _read(self, file: Path) -> str:
        with file.open("rb") as content:
            return content.read(self.output_bytes).decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and those it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@functools.lru_cache(maxsize=1)
def _namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True, check=False)
    return probe.returncode == 0
