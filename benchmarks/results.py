"""What a measurement leaves: every round's seconds, and where and with what they were taken."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.workload import Agreement, Comparison
from lmmodules.run_directory import git_commit

BUSY = 0.1
"""Share of time with something waiting from which the clock on the wall measures the neighbours."""
SHORT_COMMIT = 7
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("lmmodules", "torch", "lightning", "transformers", "datasets", "tokenizers", "litgpt", "numpy")


@dataclass
class CandidateResult:
    """One candidate of a case.

    Attributes:
        name: As in the case.
        skipped: Why it was not measured, if it was not.
        agreement: How far it is from computing what ours computes.
        steps_per_turn: How often its step was repeated in a turn.
        wall: Seconds of a step, mean of the turn, for every round.
        processor: The same by processor time.
        operations: Floating-point operations of a step.
        memory_mb: What three steps add to a fresh process, at their peak.
        kinds: Milliseconds of a step by kind of work, from steps that were recorded after all rounds.
    """

    name: str
    skipped: str | None = None
    agreement: list[Agreement] = field(default_factory=list)
    steps_per_turn: int = 1
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    operations: int | None = None
    memory_mb: float | None = None
    kinds: dict[str, float] = field(default_factory=dict)


@dataclass
class CaseResult:
    """One case: its candidates, and what the machine was doing.

    Attributes:
        name: As in the workload.
        unit: What is counted, for example `tokens`.
        units: How many a step works through.
        candidates: Their times.
        comparisons: Goals and floors as they were when it was measured.
        matrix_product: Floating-point operations per second of a matrix product, at the start of every round.
        waiting_share: Share of the time in which something on the machine had to wait for a processor.
        environment: Machine, versions, threads, date.
    """

    name: str
    unit: str
    units: int
    candidates: list[CandidateResult]
    comparisons: list[Comparison]
    matrix_product: list[float]
    waiting_share: float | None
    environment: dict[str, Any]

    def candidate(self, name: str) -> CandidateResult:
        """The candidate of a name."""
        return next(candidate for candidate in self.candidates if candidate.name == name)


@dataclass(frozen=True)
class Ratio:
    """Median over the rounds of a ratio, and the quartiles around it."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """From the ratios of all rounds; of a single one there is no spread."""
        if len(ratios) == 1:
            return cls(ratios[0], ratios[0], ratios[0])
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, lower, upper)


def speed_ratio(case: CaseResult, comparison: Comparison, clock: str = "wall") -> Ratio | None:
    """How much faster ours is than the peer, from the ratio within each round.

    Args:
        case: The rounds.
        comparison: Which two candidates; with `beyond`, less what a third takes in the same round.
        clock: `wall` or `processor`.

    Returns:
        `None` where one of them was not measured.
    """
    rounds: list[list[float]] = []
    for name in (comparison.ours, comparison.peer, comparison.beyond):
        seconds = [] if name is None else getattr(case.candidate(name), clock)
        rounds.append(seconds if name is not None else [0.0] * len(rounds[0]))
    if not all(rounds):
        return None
    return Ratio.of([(peer - base) / (ours - base) for ours, peer, base in zip(*rounds, strict=True)])


def decisive_clock(case: CaseResult) -> str:
    """By which clock goals are judged: the one on the wall, or on a busy machine that of the processors."""
    return "processor" if (case.waiting_share or 0.0) > BUSY else "wall"


def memory_ratio(case: CaseResult, comparison: Comparison) -> float | None:
    """Memory of ours as a share of the peer's, where both were looked at."""
    ours, peer = (case.candidate(name).memory_mb for name in (comparison.ours, comparison.peer))
    return ours / peer if ours and peer else None


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


@dataclass(frozen=True)
class Earlier:
    """What a comparison came to before it was measured again.

    Attributes:
        case: Name of the case.
        ours: Name of ours.
        peer: Name of the peer.
        faster: Median ratio of speeds, by the clock that decides.
        date: Of the measurement.
        commit: What was measured, where git told.
        processor: Model of the processor.
    """

    case: str
    ours: str
    peer: str
    faster: float
    date: str
    commit: str | None
    processor: str


def earlier(case: CaseResult) -> list[Earlier]:
    """What is kept of a case that is measured again: the ratios of those comparisons that have a goal."""
    found = []
    for comparison in case.comparisons:
        ratio = speed_ratio(case, comparison, decisive_clock(case))
        if comparison.goal is not None and ratio is not None:
            where = case.environment
            names = (case.name, comparison.ours, comparison.peer)
            found.append(Earlier(*names, ratio.median, where["date"], where.get("commit"), where["processor"]))
    return found


@dataclass
class WorkloadResult:
    """All cases of a workload that are stored.

    Attributes:
        workload: Name of the workload.
        title: Its heading.
        cases: Each with its own date and machine: they need not have been measured together.
        history: What their comparisons came to before, the oldest first.
    """

    workload: str
    title: str
    cases: list[CaseResult]
    history: list[Earlier] = field(default_factory=list)

    def merged(self, newer: WorkloadResult) -> WorkloadResult:
        """These cases, with those of a newer measurement in place of theirs or behind them."""
        cases = {case.name: case for case in [*self.cases, *newer.cases]}
        replaced = [case for case in self.cases if cases[case.name] is not case]
        history = [*self.history, *(found for case in replaced for found in earlier(case))]
        return WorkloadResult(newer.workload, newer.title, list(cases.values()), history)

    def to_json(self) -> str:
        """The file's content; numbers are rounded to what the clocks can tell."""
        return json.dumps(_rounded(asdict(self)), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> WorkloadResult:
        """What `to_json` wrote."""
        content = json.loads(text)
        for case in content["cases"]:
            for candidate in case["candidates"]:
                candidate["agreement"] = [Agreement(**found) for found in candidate["agreement"]]
            case["candidates"] = [CandidateResult(**candidate) for candidate in case["candidates"]]
            case["comparisons"] = [Comparison(**comparison) for comparison in case["comparisons"]]
        cases = [CaseResult(**case) for case in content["cases"]]
        history = [Earlier(**found) for found in content.get("history", [])]
        return cls(content["workload"], content["title"], cases, history)


def store(result: WorkloadResult, folder: Path = RESULTS) -> Path:
    """Write the file of a workload, keeping the cases that were not measured again.

    Args:
        result: What was measured.
        folder: Where the files lie.
    """
    path = folder / f"{result.workload}.json"
    if path.exists():
        result = WorkloadResult.from_json(path.read_text()).merged(result)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(result.to_json())
    return path


def load_all(folder: Path = RESULTS) -> list[WorkloadResult]:
    """All stored results, in the order of their names."""
    return [WorkloadResult.from_json(path.read_text()) for path in sorted(folder.glob("*.json"))]


def environment(device: str = "cpu") -> dict[str, Any]:
    """What decides the numbers beside the code: processor, memory, threads, versions, date. No name of the machine.

    Args:
        device: Where the steps ran; a GPU is told by its model.
    """
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "commit": (git_commit() or "")[:SHORT_COMMIT] or None,
        "processor": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "threads": torch.get_num_threads(),
        "idle_threads": "asleep" if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" else "awake",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
