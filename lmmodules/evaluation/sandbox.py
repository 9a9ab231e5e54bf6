"""Running programs that a model wrote, apart from everything else."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmmodules.errors import InputError
from lmmodules.evaluation import protection as protections
from lmmodules.evaluation.confinement import PROGRAM, WORKPLACE
from lmmodules.evaluation.protection import Protection

_LOOK_EVERY = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")

Status = Literal["finished", "failed", "timeout"]


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        seconds: Wall time.
        memory_bytes: Address space of a process, and resident memory of all of them.
        processes: Processes at a time.
        file_bytes: Size of a file it writes.
        disk_bytes: Size of all files it writes.
        output_bytes: Size of its standard output, and of its standard error.

    Raises:
        InputError: When one is not positive.
    """

    seconds: float = 10.0
    memory_bytes: int = 4 * 1024**3
    processes: int = 32
    file_bytes: int = 16 * 1024**2
    disk_bytes: int = 64 * 1024**2
    output_bytes: int = 1024**2

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            name, value = limit.name, getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise InputError(
                    f"`{name}` must be positive, but is {value}; use `evaluation.limits.{name}={limit.default}`"
                )


@dataclass(frozen=True)
class Execution:
    """How a program ran.

    Attributes:
        status: `finished` with exit code 0, `failed` with another, by a signal or at a limit, or `timeout`.
        output: What it wrote to standard output, cut off at the limit.
        errors: What it wrote to standard error, cut off at the limit.
        seconds: Wall time.
        reason: Why it did not finish, in words; empty when it did.
        protection: Name of what kept it in.
    """

    status: Status
    output: str
    errors: str
    seconds: float
    reason: str = ""
    protection: str = ""


class Sandbox:
    """Runs Python programs in processes of their own.

    A program gets an empty directory that is removed behind it, no variables of the environment, no standard input, and
    limits of time, memory, processes and written bytes. Where the system allows it, by bubblewrap or by namespaces of
    users, it sees nothing but the interpreter, read-only, and has no network; `protection` says what holds. Judge a
    program by what it printed, never by what it could have changed.

    Args:
        timeout_seconds: Wall time that a program may take.
        memory_bytes: Address space that it may have.
        output_bytes: Size of what it may write to standard output.

    Raises:
        InputError: When a limit is not positive.
    """

    def __init__(
        self, timeout_seconds: float = 3.0, memory_bytes: int = 4 * 1024**3, output_bytes: int = 1024**2
    ) -> None:
        if not isinstance(timeout_seconds, int | float) or not timeout_seconds > 0:
            raise InputError(f"`timeout_seconds` must be positive, but is {timeout_seconds}")
        self.limits = Limits(timeout_seconds, memory_bytes, output_bytes=output_bytes)
        self._protection: Protection | None = None

    @classmethod
    def of(cls, limits: Limits, protection: Protection) -> Sandbox:
        """A sandbox with all limits given.

        Args:
            limits: What a program may use.
            protection: What keeps it in.
        """
        sandbox = cls()
        sandbox.limits = limits
        sandbox._protection = protection
        return sandbox

    @property
    def protection(self) -> Protection:
        """What keeps programs in; the strongest that works here if none was chosen."""
        return self._protection or protections.strongest()

    @property
    def cuts_network(self) -> bool:
        """Whether programs run without a network here."""
        return self.protection.isolates

    def run(self, program: str) -> Execution:
        """Run one program.

        Args:
            program: Python source.
        """
        with tempfile.TemporaryDirectory(prefix="sandbox", ignore_cleanup_errors=True) as folder:
            directory = Path(folder)
            (directory / PROGRAM).write_text(program, encoding="utf-8", errors="replace", newline="")
            report_end, report = os.pipe()
            try:
                return self._watch(directory, report_end, report)
            finally:
                os.close(report_end)

    def run_all(self, programs: Sequence[str], workers: int | None = None) -> list[Execution]:
        """Run several programs at a time.

        Args:
            programs: Python sources.
            workers: How many at a time; `None` for as many as there are processors.
        """
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            return list(pool.map(self.run, programs))

    def _watch(self, directory: Path, report_end: int, report: int) -> Execution:
        """Start the program, read what it says, and end it at the first limit it passes."""
        home = WORKPLACE if self.protection.isolates else str(directory)
        began = time.monotonic()
        try:
            with (directory / PROGRAM).open("rb") as source:
                process = subprocess.Popen(
                    self.protection.command(directory, report, dataclasses.asdict(self.limits)),
                    cwd=directory,
                    env={**protections.ENVIRONMENT, "HOME": home, "TMPDIR": home},
                    stdin=source if self.protection.name == "bubblewrap" else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(report,),
                    start_new_session=True,
                )
        finally:
            os.close(report)
        assert process.stdout is not None
        assert process.stderr is not None
        said: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        passed = ""
        try:
            with selectors.DefaultSelector() as open_ends:
                for end in said:
                    os.set_blocking(end, False)
                    open_ends.register(end, selectors.EVENT_READ)
                while not passed and process.poll() is None:
                    _listen(open_ends, said, _LOOK_EVERY)
                    passed = self._passed_limit(process.pid, began, said)
                _end(process)
                while open_ends.get_map() and _listen(open_ends, said, 0.2):
                    passed = passed or self._passed_limit(process.pid, began, said)
                    if passed:
                        break
        finally:
            _end(process)
            process.stdout.close()
            process.stderr.close()
        seconds = time.monotonic() - began
        output, errors = (bytes(text[: self.limits.output_bytes]).decode("utf-8", "replace") for text in said.values())
        status, reason = self._verdict(passed, _read_report(report_end), errors)
        return Execution(status, output, errors, seconds, reason, self.protection.name)

    def _passed_limit(self, pid: int, began: float, said: dict[int, bytearray]) -> str:
        """The limit that the program has passed, in words, or nothing."""
        limits = self.limits
        if any(len(text) > limits.output_bytes for text in said.values()):
            return f"printed more than {limits.output_bytes} bytes"
        if time.monotonic() - began > limits.seconds:
            return f"ran longer than {limits.seconds:g} seconds"
        family = _descendants(pid)
        if len(family) > limits.processes + 4:  # those that watch it count as well
            return f"started more than {limits.processes} processes"
        if sum(map(_resident_bytes, family)) > limits.memory_bytes:
            return f"used more than {limits.memory_bytes} bytes of memory"
        return ""

    def _verdict(self, passed: str, report: str, errors: str) -> tuple[Status, str]:
        if passed:
            return ("timeout" if passed.startswith("ran longer") else "failed"), passed
        kind, _, rest = report.partition(" ")
        if kind == "setup":
            return "failed", f"could not be started: {rest}"
        if kind != "exit":
            return "failed", "ended what watched it" if not errors.startswith("bwrap:") else errors.strip()
        code = int(rest)
        if code == 0:
            return "finished", ""
        if -code == signal.SIGXCPU:
            return "timeout", f"used more than {int(self.limits.seconds) + 1} seconds of a processor"
        if code < 0:
            return "failed", f"ended by {_signal_name(-code)}"
        last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
        if last.startswith("MemoryError") or "Cannot allocate memory" in last:
            return "failed", f"needed more than {self.limits.memory_bytes} bytes of memory"
        return "failed", f"exit code {code}" + (f": {last[:200]}" if last else "")


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _listen(open_ends: selectors.DefaultSelector, said: dict[int, bytearray], seconds: float) -> bool:
    """Take up what has been said; `False` when nothing was."""
    heard = False
    if not open_ends.get_map():
        time.sleep(_LOOK_EVERY)
        return False
    for key, _ in open_ends.select(seconds):
        text = os.read(key.fd, 1 << 16)
        if text:
            said[key.fd] += text
        else:
            open_ends.unregister(key.fd)
        heard = True
    return heard


def _read_report(end: int) -> str:
    os.set_blocking(end, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(end, 4096).decode("utf-8", "replace")
    return ""


def _descendants(pid: int) -> list[int]:
    """A process and all that it and its children started and that still are; orphans fall to the one that watches."""
    found, open_ones = [], [pid]
    while open_ones:
        here = open_ones.pop()
        found.append(here)
        with contextlib.suppress(OSError, ValueError):
            for task in Path(f"/proc/{here}/task").iterdir():
                open_ones += map(int, (task / "children").read_text().split())
        if len(found) > 5000:
            break
    return found


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    if process.poll() is None:
        for pid in reversed(_descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
