"""When a claim holds: rules over the figures of several seeds, in the words that are printed beside the verdict."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Finding:
    """What a rule says of the figures.

    Attributes:
        rule: The rule in words.
        difference: Mean over seeds of the first figure minus the second.
        standard_error: Of that mean; `None` with a single seed, or where a run has diverged.
        held: Whether the rule is met.
    """

    rule: str
    difference: float
    standard_error: float | None
    held: bool


class Rule(ABC):
    """A comparison of two figures that were measured in the same seeds, and so are paired.

    Attributes:
        first: Name of the figure that is compared.
        second: Name of the figure it is compared with.
    """

    first: str
    second: str

    @property
    @abstractmethod
    def words(self) -> str:
        """The rule in words, names of figures in backticks."""

    @abstractmethod
    def is_met(self, differences: Sequence[float], standard_error: float | None) -> bool:
        """Decide.

        Args:
            differences: The first figure minus the second, for each seed; infinite where a run has diverged.
            standard_error: Of their mean, where there is one.
        """

    def judge(self, seeds: Sequence[Mapping[str, float]]) -> Finding:
        """Apply the rule.

        Args:
            seeds: The figures of each seed, by name.
        """
        differences = [paired_difference(figures[self.first], figures[self.second]) for figures in seeds]
        error = standard_error(differences)
        return Finding(self.words, mean(differences), error, self.is_met(differences, error))


@dataclass(frozen=True)
class Below(Rule):
    """One figure is below the other in every seed, and the mean difference is no accident of few seeds.

    Args:
        first: Name of the lower figure.
        second: Name of the higher one.
        standard_errors: By how many standard errors the mean difference must exceed zero, where there are two seeds
            or more.
        by: How far below it must be in every seed, in the unit of the figures.
    """

    first: str
    second: str
    standard_errors: float = 2.0
    by: float = 0.0

    @property
    def words(self) -> str:
        """The rule in words."""
        margin = f" by more than {self.by:g}" if self.by else ""
        return (
            f"`{self.first}` is below `{self.second}`{margin} in every seed, and on average by more than "
            f"{self.standard_errors:g} standard errors"
        )

    def is_met(self, differences: Sequence[float], standard_error: float | None) -> bool:
        """All differences are negative, by the margin, and their mean is far enough from zero."""
        certain = standard_error is None or -mean(differences) > self.standard_errors * standard_error
        return all(difference < -self.by for difference in differences) and certain


@dataclass(frozen=True)
class NotAbove(Rule):
    """One figure is on average below the other, or so little above that nobody would care.

    Args:
        first: Name of the figure that must not be higher.
        second: Name of the figure it is compared with.
        tolerance: What does not matter, in the unit of the figures.
    """

    first: str
    second: str
    tolerance: float

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"`{self.first}` is on average at most {self.tolerance:g} above `{self.second}`"

    def is_met(self, differences: Sequence[float], standard_error: float | None) -> bool:
        """The mean difference is within the tolerance."""
        return mean(differences) <= self.tolerance


def paired_difference(first: float, second: float) -> float:
    """The difference of two figures of one seed, where two diverged runs are equally bad."""
    return 0.0 if math.isinf(first) and math.isinf(second) else first - second


def mean(values: Sequence[float]) -> float:
    """The mean; infinite where a run has diverged."""
    return fmean(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample (n - 1); `None` for fewer than two values or where a run has diverged."""
    return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean; `None` where there is no standard deviation."""
    deviation = standard_deviation(values)
    return None if deviation is None else deviation / math.sqrt(len(values))
