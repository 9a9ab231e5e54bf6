"""Where the time of a step goes when operators of PyTorch are not most of it: the functions that took it."""

from __future__ import annotations

import cProfile
import pstats
import sysconfig
import time
from collections import defaultdict
from pathlib import Path

import lmmodules
from benchmarks.workload import Step

RECORDED_SECONDS = 0.5
PYTHON = "Python itself"
_OURS = {Path(lmmodules.__file__).parent, Path(__file__).parent}
_PACKAGES = Path(sysconfig.get_paths()["purelib"])

Function = tuple[str, int, str]
"""File, line and name, as the profiler has them; what is not written in Python has the file `~`."""


def place_of(function: Function) -> str:
    """What a table calls the place of a function: its module and name if it is ours, else its package.

    Functions of numpy are told by name, as most of them are one loop in C.

    Args:
        function: Written in Python.
    """
    file, _, name = function
    path = Path(file)
    if _OURS & set(path.parents):
        return f"{path.stem}, {name.strip('<>')}"
    if _PACKAGES not in path.parents:
        return PYTHON
    package = path.relative_to(_PACKAGES).parts[0].removesuffix(".py")
    return f"numpy, {name.strip('<>')}" if package == "numpy" else package


def time_by_function(step: Step, milliseconds: float) -> dict[str, float]:
    """Milliseconds of a step on the thread that calls it, by the function that took them, the largest first.

    What is not written in Python counts for the function that called it. Recording makes every call slower, so only
    the shares are taken from it, and the time from steps that were not recorded.

    Args:
        step: Warm.
        milliseconds: What it takes unrecorded.
    """
    begin = time.perf_counter()
    with cProfile.Profile() as recorded:
        while time.perf_counter() - begin < RECORDED_SECONDS:
            step()
    found: defaultdict[str, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in pstats.Stats(recorded).stats.items():  # type: ignore[attr-defined]
        if function[0] != "~":
            found[place_of(function)] += own
            continue
        for caller, (_, _, share, _) in callers.items():
            found[PYTHON if caller[0] == "~" else place_of(caller)] += share
    total = sum(found.values())
    return {
        place: round(milliseconds * seconds / total, 4)
        for place, seconds in sorted(found.items(), key=lambda item: -item[1])
    }
