"""Candidates in processes of their own: to see what memory they add, or because they must not share one.

    python -m benchmarks.processes {"workload": ..., "changes": ..., "case": ..., "candidate": ...}

builds the candidate and then answers, line by line, what it is asked: `step`, `memory`, `operations` or `kinds`.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from benchmarks.workload import Chosen, Seconds, Step, choose

MEMORY_STEPS = 3


class OwnProcess:
    """A candidate that lives in a process of its own, and is a step like any other.

    Args:
        chosen: The workload.
        case: Name of the case.
        candidate: Name of the candidate.
    """

    def __init__(self, chosen: Chosen, case: str, candidate: str) -> None:
        request = {"workload": chosen.name, "changes": chosen.changes, "case": case, "candidate": candidate}
        self.candidate = candidate
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.processes", json.dumps(request)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> Seconds:
        """One step, by its own clocks."""
        answer = self._ask("step")
        return Seconds(answer["wall"], answer["processor"])

    def added_memory(self) -> float:
        """Megabytes that three steps add to the resident size, at their peak."""
        return float(self._ask("memory")["added_mb"])

    def operations(self) -> int:
        """Floating-point operations of a step."""
        return int(self._ask("operations")["operations"])

    def time_by_kind(self) -> dict[str, float]:
        """Milliseconds of a step, by kind of work."""
        return self._ask("kinds")

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer = ""
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not answer:
            raise RuntimeError(f"`{self.candidate}` failed in its own process; the reason stands above")
        found: dict[str, Any] = json.loads(answer)
        return found


def answer(step: Step, question: str) -> dict[str, float]:
    """What a process answers.

    Args:
        step: Of its candidate.
        question: `step`, `memory`, `operations` or `kinds`.
    """
    if question == "memory":
        return {"added_mb": added_memory(step)}
    if question == "operations":
        from benchmarks.operations import count_operations

        return {"operations": count_operations(step)}
    if question == "kinds":
        from benchmarks.time_by_kind import time_by_kind

        return time_by_kind(step)
    start = time.perf_counter(), _processor_seconds()
    told = step()
    wall, processor = told or (time.perf_counter() - start[0], _processor_seconds() - start[1])
    return {"wall": wall, "processor": processor}


def _processor_seconds() -> float:
    """User and system time of this process and of the children it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def added_memory(step: Step) -> float:
    """Megabytes that three steps add at their peak: to what a GPU holds, or to the resident size of this process.

    Args:
        step: Built already.
    """
    import torch

    if torch.cuda.is_initialized():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(MEMORY_STEPS):
            step()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    with resident_peak_added() as added:
        for _ in range(MEMORY_STEPS):
            step()
    return added.megabytes


@dataclass
class AddedMemory:
    """Megabytes, known when the block it was made for has ended."""

    megabytes: float = 0.0


@contextmanager
def resident_peak_added() -> Iterator[AddedMemory]:
    """How much larger than at its beginning this process has been within a block."""
    gc.collect()
    before = _status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # lets the peak start from here
    except OSError:
        before = _status("VmHWM")
    added = AddedMemory()
    yield added
    added.megabytes = round((_status("VmHWM") - before) / 1024, 1)


def _status(field: str) -> int:
    """A size of this process in KiB, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    # Answers go where standard output went; what libraries print goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.loads(sys.argv[1])
    case = choose(request["workload"], request["changes"]).case(request["case"])
    candidate = next(candidate for candidate in case.candidates if candidate.name == request["candidate"])
    step = candidate.build()
    for line in sys.stdin:
        print(json.dumps(answer(step, line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()
