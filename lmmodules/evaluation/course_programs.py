"""The published programs of courses, run and graded: what they print against what was published."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lmmodules.data.math_courses import CourseQuestion
from lmmodules.evaluation.answer_parser import Equation, Expression, UnreadableError, parse
from lmmodules.evaluation.answers import compare, extract_answer
from lmmodules.evaluation.program_execution import run_programs
from lmmodules.evaluation.sandbox import Execution, Limits

TOLERANCE = 1e-3
"""Answers of courses are rounded."""
COURSE_LIMITS = Limits(seconds=60.0)
"""The longest of the published programs simulate."""
PRINTED_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?:/\d+)?")


@dataclass(frozen=True)
class GradedProgram:
    """A published program, its run, and what we make of it.

    Attributes:
        question: What it answers.
        execution: How it ran.
        answer: What it printed as its answer; empty where nothing.
        readable: Whether the published answer is read as mathematics, so that a verdict is possible.
        correct: Whether the answer is the published one.
        anywhere: Whether it is, or some other number that was printed is.
        cause: Why it is not, in words; empty where it is.
    """

    question: CourseQuestion
    execution: Execution
    answer: str
    readable: bool
    correct: bool
    anywhere: bool
    cause: str


def is_readable(answer: str) -> bool:
    """Whether a published answer is mathematics with a value of its own, not prose and not a picture.

    Args:
        answer: As published.
    """
    try:
        value = parse(answer)
    except (UnreadableError, RecursionError):
        return False
    if isinstance(value, Equation):
        value = value.right
    return not isinstance(value, Expression) or all(len(name) == 1 or name[1:].isdigit() for name in value.names())


def grade(
    questions: Sequence[CourseQuestion],
    limits: Limits = COURSE_LIMITS,
    workers: int = 2,
    *,
    tolerance: float = TOLERANCE,
    protection: str | None = None,
) -> list[GradedProgram]:
    """Run the programs of questions twice, and compare what the first run printed with the published answers.

    The second run tells randomness from wrong answers; it decides nothing.

    Args:
        questions: With their programs.
        limits: What each program may use.
        workers: How many run at a time.
        tolerance: How far a number may lie from the published one, relative to it.
        protection: One of `protection.PROTECTIONS`; `None` for the strongest.
    """
    programs = [question.program for question in questions]
    first = run_programs(programs, limits, workers, protection=protection)
    graded = [_grade(question, run, tolerance) for question, run in zip(questions, first, strict=True)]
    unclear = [at for at, one in enumerate(graded) if one.cause == "another answer"]
    second = run_programs([programs[at] for at in unclear], limits, workers, protection=protection)
    for at, run in zip(unclear, second, strict=True):
        if run.output != graded[at].execution.output:
            one = graded[at]
            graded[at] = GradedProgram(
                one.question, one.execution, one.answer, one.readable, one.correct, one.anywhere, "randomness"
            )
    return graded


def verify(
    questions: Sequence[CourseQuestion],
    limits: Limits = COURSE_LIMITS,
    workers: int = 2,
    *,
    protection: str | None = None,
) -> list[CourseQuestion]:
    """The questions whose programs run again to their answers; only these serve as examples or to learn from.

    Args:
        questions: With their programs.
        limits: What each program may use.
        workers: How many run at a time.
        protection: One of `protection.PROTECTIONS`; `None` for the strongest.
    """
    graded = grade(questions, limits, workers, protection=protection)
    return [one.question for one in graded if one.correct]


def table(graded: Sequence[GradedProgram]) -> list[dict[str, str | int]]:
    """Counts per course, and over all.

    Args:
        graded: Of any courses.
    """
    courses = list(dict.fromkeys(one.question.course for one in graded))
    rows = [_counts(course, [one for one in graded if one.question.course == course]) for course in courses]
    return [*rows, _counts("all", graded)] if len(courses) > 1 else rows


def disagreements(graded: Sequence[GradedProgram]) -> list[dict[str, str | int]]:
    """Every program that was published as automatic and does not print the published answer, with the cause.

    Args:
        graded: Of any courses.
    """
    return [
        {
            "course": one.question.course,
            "topic": one.question.topic[:24],
            "question": one.question.number,
            "label": one.question.solution_type,
            "cause": one.cause,
            "printed": one.answer[:40],
            "published": one.question.answer[:40],
        }
        for one in graded
        if one.question.automatic and one.cause
    ]


def causes(graded: Sequence[GradedProgram]) -> dict[str, int]:
    """How many automatic programs do not print their answer, by cause, the most frequent first.

    Args:
        graded: Of any courses.
    """
    return dict(Counter(one.cause for one in graded if one.question.automatic and one.cause).most_common())


def _counts(course: str, graded: Sequence[GradedProgram]) -> dict[str, str | int]:
    automatic = [one for one in graded if one.question.automatic]
    readable = [one for one in automatic if one.readable]
    return {
        "course": course,
        "questions": len(graded),
        "zero_shot": sum(one.question.solution_type == "zero_shot" for one in graded),
        "automatic": len(automatic),
        "finished": sum(one.execution.status == "finished" for one in automatic),
        "printed": sum(bool(one.answer) for one in automatic),
        "readable": len(readable),
        "correct": sum(one.correct for one in readable),
        "anywhere": sum(one.anywhere for one in readable),
    }


def _grade(question: CourseQuestion, run: Execution, tolerance: float) -> GradedProgram:
    found = extract_answer(run.output)
    answer = found.text or ""
    readable = is_readable(question.answer)
    verdict = compare(answer, question.answer, tolerance) if answer else None
    correct = run.status == "finished" and verdict is not None and verdict.correct
    anywhere = correct or any(
        compare(number, question.answer, tolerance).correct
        for number in dict.fromkeys(PRINTED_NUMBER.findall(run.output)[:200])
    )
    cause = "" if correct else _cause(question, run, found.reason, readable, anywhere)
    return GradedProgram(question, run, answer, readable, correct, anywhere, cause)


def _cause(question: CourseQuestion, run: Execution, silence: str, readable: bool, anywhere: bool) -> str:
    last = next((line for line in reversed(run.errors.splitlines()) if line.strip()), "")
    if run.status == "timeout":
        return run.reason
    if run.status == "failed":
        name = re.match(r"[A-Za-z_.]+", last)
        if name is None:
            return run.reason
        kind = name[0].rsplit(".", 1)[-1]
        if kind in ("NameError", "ModuleNotFoundError"):
            return "missing import"
        return {"SyntaxError": "not Python 3", "EOFError": "asks for input"}.get(kind, f"fails with {kind}")
    if silence:
        return "a picture" if re.search(r"matplotlib|plt\.|plot\(|turtle", question.program) else silence
    if not readable:
        return "the published answer is prose or a picture"
    if anywhere:
        return "printed, but not as the last line alone"
    return "another answer"
