"""Timing in alternation: A B C, B C A, C A B, ..., so that a slow spell of the machine meets all of them.

What counts is the ratio within a round. Absolute times of a shared machine drift by a fifth within minutes; the
median over the rounds of the ratio of neighbours in time does not.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.operations import count_operations
from benchmarks.processes import OwnProcess
from benchmarks.results import CandidateResult, CaseResult, environment, median
from benchmarks.time_by_function import time_by_function
from benchmarks.time_by_kind import time_by_kind
from benchmarks.workload import Candidate, Case, Chosen, Seconds, Step

Clock = Callable[[], Seconds]
Say = Callable[[str], None]

MATRIX_SIZE = 1024
GPU_MATRIX_SIZE = 8192
MATRIX_SECONDS = 0.15


def clock() -> Seconds:
    """Seconds since some moment, by the wall and by all threads of this process."""
    return Seconds(time.perf_counter(), time.process_time())


def measure(
    chosen: Chosen,
    case: Case,
    *,
    rounds: int,
    turn_seconds: float,
    memory: bool = False,
    say: Say = lambda text: None,
    now: Clock = clock,
) -> CaseResult:
    """Measure all candidates of a case.

    Args:
        chosen: The workload, for processes that have to find the case again.
        case: What to measure.
        rounds: Turns of every candidate.
        turn_seconds: How long a turn should be at least; short steps are repeated within it.
        memory: Whether to look, in a process of its own for every candidate, at what three steps add to its size.
        say: Told what is being done.
        now: The clocks.

    Returns:
        The times of every round, and what was found beside them.
    """
    results = {candidate.name: CandidateResult(candidate.name) for candidate in case.candidates}
    steps: dict[str, Step] = {}
    for candidate in case.candidates:
        say(f"{candidate.name}: building")
        result = results[candidate.name]
        result.skipped = missing_packages(candidate) or candidate.lacks() or disagreement(candidate, result)
        if result.skipped is None:
            steps[candidate.name] = build(chosen, case, candidate)
    for name, step in steps.items():
        say(f"{name}: warming up")
        results[name].steps_per_turn = warm_up(step, turn_seconds, now)
        if case.counts_operations:
            results[name].operations = step.operations() if isinstance(step, OwnProcess) else count_operations(step)
    stalled, began = stalled_seconds(), time.perf_counter()
    products = []
    for number in range(rounds if steps else 0):
        products.append(matrix_product_speed(case.device))
        for name in rotated(list(steps), number):
            say(f"round {number + 1} of {rounds}: {name}")
            seconds = turn(steps[name], results[name].steps_per_turn, now)
            results[name].wall.append(seconds.wall)
            results[name].processor.append(seconds.processor)
    elapsed = time.perf_counter() - began
    where = environment(case.device if steps else "cpu")
    waited = None if stalled is None else (stalled_seconds() or stalled) - stalled
    for name, step in steps.items():
        if case.profile != "nothing":
            say(f"{name}: where the time goes")
            results[name].kinds = where_time_goes(step, case.profile, median(results[name].wall))
        if isinstance(step, OwnProcess):
            step.close()
    steps.clear()
    gc.collect()
    if memory and chosen.workload.measures_memory:
        for result in results.values():
            if result.skipped is None:
                say(f"{result.name}: memory")
                with OwnProcess(chosen, case.name, result.name) as process:
                    result.memory_mb = process.added_memory()
    return CaseResult(
        name=case.name,
        unit=case.unit,
        units=case.units,
        candidates=list(results.values()),
        comparisons=list(case.comparisons),
        matrix_product=products,
        waiting_share=None if waited is None else waited / elapsed,
        environment=where,
    )


def where_time_goes(step: Step, by: Literal["operators", "functions"], seconds: float) -> dict[str, float]:
    """Milliseconds of a step, by kind of work or by the functions that took them.

    Args:
        step: Warm.
        by: What is told apart.
        seconds: What it takes unrecorded.
    """
    if isinstance(step, OwnProcess):
        return step.time_by_kind()
    return time_by_kind(step) if by == "operators" else time_by_function(step, seconds * 1000)


def missing_packages(candidate: Candidate) -> str | None:
    """Why a candidate cannot run here, if a package is missing."""
    missing = [package for package in candidate.packages if importlib.util.find_spec(package) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def disagreement(candidate: Candidate, result: CandidateResult) -> str | None:
    """Why a candidate must not be compared, if it computes something else than ours."""
    if candidate.agreement is None:
        return None
    result.agreement = candidate.agreement()
    gc.collect()
    failed = [found for found in result.agreement if not found.holds]
    if not failed:
        return None
    return "; ".join(
        f"{found.what} differs by {found.difference:.2g} (at most {found.tolerance:.2g})" for found in failed
    )


def build(chosen: Chosen, case: Case, candidate: Candidate) -> Step:
    """The step of a candidate, in this process or in another."""
    if candidate.process == "shared":
        return candidate.build()
    start = partial(OwnProcess, chosen, case.name, candidate.name)
    if candidate.process == "own":
        return start()

    def step() -> Seconds:
        with start() as process:
            return process()

    return step


def warm_up(step: Step, turn_seconds: float, now: Clock = clock) -> int:
    """Run a step until it is warm, and say how many of them fill a turn.

    The first call makes caches, buffers and optimizer states, and is forgotten; a step that is shorter than a turn is
    then run for a quarter of one.
    """

    def seconds(times: int) -> float:
        # Not what a step says of itself: it may take long to tell a short time.
        start = now().wall
        for _ in range(times):
            step()
        return max((now().wall - start) / times, 1e-7)

    seconds(1)
    needed = seconds(1)
    if needed < turn_seconds / 4:
        needed = seconds(math.ceil(turn_seconds / 4 / needed))
    return math.ceil(turn_seconds / needed)


def turn(step: Step, times: int, now: Clock = clock) -> Seconds:
    """Mean seconds of a step over one turn."""
    gc.collect()  # so that nobody clears up after another
    own: list[Seconds] = []
    start = now()
    for _ in range(times):
        told = step()
        if told is not None:
            own.append(told)
    end = now()
    if own:
        return Seconds(sum(one.wall for one in own) / times, sum(one.processor for one in own) / times)
    return Seconds((end.wall - start.wall) / times, (end.processor - start.processor) / times)


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: each begins with the next candidate."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


def matrix_product_speed(device: str = "cpu") -> float:
    """Floating-point operations per second that a square product reaches just now, the best of several.

    Args:
        device: A processor multiplies in float32, a GPU larger matrices in bfloat16.
    """
    size, dtype = (GPU_MATRIX_SIZE, torch.bfloat16) if device == "cuda" else (MATRIX_SIZE, torch.float32)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    product = torch.empty(size, size, device=device, dtype=dtype)
    best, end = math.inf, time.perf_counter() + MATRIX_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=product)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def stalled_seconds(path: Path = Path("/proc/pressure/cpu")) -> float | None:
    """Seconds since the machine started in which something had to wait for a processor, where Linux tells."""
    try:
        some = path.read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return int(some.rpartition("total=")[2]) / 1e6
