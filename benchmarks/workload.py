"""What a workload is made of: cases, the candidates of a case, and who is compared with whom."""

from __future__ import annotations

import ast
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from lmmodules.errors import InputError

OURS = "lmmodules"
"""The candidate that is compared with its peers."""


class Seconds(NamedTuple):
    """What a step took: by the clock on the wall, and by the clocks of all processors that worked on it."""

    wall: float
    processor: float


Step = Callable[[], "Seconds | None"]
"""One unit of work. It is timed from outside, unless it returns its own time."""


def forget(result: object) -> None:
    """For a step whose result nobody looks at: it returns nothing."""


@dataclass(frozen=True)
class Agreement:
    """How far ours and a peer are from computing the same.

    Attributes:
        what: The quantity, for example `loss`.
        difference: Between the two.
        tolerance: The largest difference that is only rounding, or only chance.
    """

    what: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the two compute the same; a difference that is no number does not hold."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Candidate:
    """One of those that are measured.

    Attributes:
        name: For the tables; ours is `OURS`.
        build: Makes everything that a user makes once, and returns the step that is repeated.
        packages: What has to be installed; where one is missing the candidate is left out, and a row says so.
        agreement: Compares it with ours before it is timed; a peer that computes something else is left out.
        process: `shared` with the other candidates; `own`, for what a whole process is set to; or `fresh`, a new one
            for every step, for what leaves traces in it.
        lacks: Says why it cannot run here, where that is no package; `None` when it can.
    """

    name: str
    build: Callable[[], Step]
    packages: tuple[str, ...] = ()
    agreement: Callable[[], list[Agreement]] | None = None
    process: Literal["shared", "own", "fresh"] = "shared"
    lacks: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Comparison:
    """How much faster one candidate is than another, and how much it should be.

    Attributes:
        peer: The one that is divided by.
        goal: What the ratio of speeds should reach.
        floor: What it must not fall below.
        memory_goal: What the memory of ours should be at most, as a share of the peer's.
        ours: The one that is judged.
        beyond: A third candidate, whose time is subtracted from both: the ratio is of what the two add to it.
    """

    peer: str
    goal: float | None = None
    floor: float | None = None
    memory_goal: float | None = None
    ours: str = OURS
    beyond: str | None = None


@dataclass(frozen=True)
class Case:
    """A workload at one point of its grid.

    Attributes:
        name: Tells it from the other cases of the workload.
        candidates: In the order of the first round.
        comparisons: What the tables show.
        units: How many of `unit` a step works through.
        unit: For example `tokens`.
        counts_operations: Whether floating-point operations are most of what is done, and so are counted.
        told_by: By what it is told where the time goes: by operators of PyTorch, by functions (of candidates that
            share the process), or not at all; `None` means by operators where operations are counted.
        device: Where the steps run, `cpu` or `cuda`; a matrix product is measured there too.
    """

    name: str
    candidates: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...]
    units: int
    unit: str = "tokens"
    counts_operations: bool = True
    told_by: Literal["operators", "functions", "nothing"] | None = None
    device: str = "cpu"

    @property
    def profile(self) -> Literal["operators", "functions", "nothing"]:
        """By what it is told where the time goes."""
        return self.told_by or ("operators" if self.counts_operations else "nothing")


Grid = Mapping[str, Sequence[Any]]
"""Values of every axis of a workload."""


@dataclass(frozen=True)
class Workload(ABC):
    """Something that users do, and that should be fast.

    Attributes:
        title: Heading of its table.
        grid: Axes and the values they have unless the command line gives others.
        measures_memory: Whether `--memory` looks at it.
    """

    title: ClassVar[str]
    grid: ClassVar[Grid] = {}
    measures_memory: ClassVar[bool] = False

    @abstractmethod
    def cases(self, grid: Grid) -> Iterator[Case]:
        """The cases of a grid. Nothing is built before a candidate's `build` is called.

        Args:
            grid: Values for each axis of `self.grid`.
        """


@dataclass(frozen=True)
class Chosen:
    """A workload with the values that were asked for."""

    name: str
    workload: Workload
    changes: Grid = field(default_factory=dict)

    def cases(self) -> list[Case]:
        """The cases, with the changes laid over the grid."""
        return list(self.workload.cases({**self.workload.grid, **self.changes}))

    def case(self, name: str) -> Case:
        """The case of a name."""
        return next(case for case in self.cases() if case.name == name)


def summaries() -> dict[str, str]:
    """Names of all workloads and their first sentences, read without importing them."""
    files = sorted((Path(__file__).parent / "workloads").glob("[!_]*.py"))
    return {file.stem: (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0] for file in files}


def choose(name: str, changes: Grid | None = None) -> Chosen:
    """Load a workload.

    Args:
        name: The stem of its file.
        changes: Values for some of its axes.

    Raises:
        InputError: When there is no such workload, or it has no such axis.
    """
    names = summaries()
    if name not in names:
        raise InputError(f"`workload` must be one of {', '.join(names)}, but is `{name}`")
    module = importlib.import_module(f"benchmarks.workloads.{name}")
    [found] = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Workload) and kind.__module__ == module.__name__
    ]
    for axis in changes or ():
        if axis not in found.grid:
            axes = ", ".join(f"`--{known}`" for known in found.grid) or "no axes"
            raise InputError(f"`{name}` has {axes}, but was given `--{axis}`; leave it out")
    return Chosen(name, found(), changes or {})
