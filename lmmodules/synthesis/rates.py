"""How many questions are solved, of all and of those that a machine can judge."""

from __future__ import annotations

from collections.abc import Sequence

from lmmodules.synthesis.solver import Solution
from lmmodules.synthesis.verdicts import VERDICTS

Row = dict[str, str | int | float]


def table(solutions: Sequence[Solution]) -> list[Row]:
    """A row per course, and one over all where there are several.

    Args:
        solutions: Of any courses.
    """
    courses = list(dict.fromkeys(solution.question.course for solution in solutions))
    rows = [_row(course, [one for one in solutions if one.question.course == course]) for course in courses]
    return [*rows, _row("all", solutions)] if len(courses) > 1 else rows


def rates(solutions: Sequence[Solution]) -> dict[str, int | float]:
    """Counts and rates. What only a person can judge is never counted as solved.

    Args:
        solutions: At least one.

    Returns:
        `questions`, `gradable`, `zero_shot`, `solved`, `rate` of all and `rate_gradable`, and a count of each verdict.
    """
    gradable = [solution for solution in solutions if solution.gradable]
    solved = sum(solution.verdict.correct for solution in solutions)
    solved_gradable = sum(solution.verdict.correct for solution in gradable)
    counts: dict[str, int | float] = {
        "questions": len(solutions),
        "gradable": len(gradable),
        "zero_shot": sum(solution.attempts[0].solved for solution in solutions),
        "solved": solved,
        "rate": solved / max(len(solutions), 1),
        "rate_gradable": solved_gradable / max(len(gradable), 1),
    }
    return counts | {kind: sum(one.verdict.kind == kind for one in solutions) for kind in VERDICTS}


def _row(course: str, solutions: Sequence[Solution]) -> Row:
    return {"course": course, **rates(solutions)}
