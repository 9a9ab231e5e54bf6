"""The published programs of courses, run and graded: what they print against what was published."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmmodules.data.math_courses import CourseQuestion
from lmmodules.errors import require
from lmmodules.evaluation.answer_parser import parse
from lmmodules.evaluation.answer_values import FUNCTIONS, Equation, Expression, UnreadableError
from lmmodules.evaluation.answers import compare, extract_answer
from lmmodules.evaluation.program_execution import run_programs
from lmmodules.evaluation.sandbox import Execution, Limits

TOLERANCE = 1e-3
"""Answers of courses are rounded."""
COURSE_LIMITS = Limits(seconds=60.0)
"""The longest of the published programs simulate."""
VERIFYING_RUNS = 3
"""A program that draws at random seldom prints the same in all of them."""
PACKAGES = ("numpy", "sympy", "scipy", "networkx", "matplotlib")
"""What published programs import besides the standard library: the extra `solve`."""
NOISE = 0.05
"""How far a number that a program drew may lie from the published one, relative to it, for chance to be the cause."""
DRAWS = re.compile(r"\b(?:random|randint|randrange|shuffle)\b")
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
    return _is_mathematics(answer) or (not _is_prose(answer) and all(map(_is_mathematics, pieces(answer))))


def pieces(text: str) -> list[str]:
    """What was printed one below the other: lines, of which those belong together that a bracket or `P =` holds.

    Args:
        text: Of several lines.
    """
    found: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        last = found[-1] if found else ""
        if last.endswith("=") or sum(map(last.count, "[({")) > sum(map(last.count, "])}")):
            found[-1] = f"{last} {line}"
        else:
            found.append(line)
    return found


def check_packages(programs: Sequence[str]) -> None:
    """Refuse to run programs of which some would fail for want of a package.

    Args:
        programs: Python sources.

    Raises:
        InputError: When one imports a package of the extra `solve` that is not installed.
    """
    for package in PACKAGES:
        if any(re.search(rf"^\s*(?:import|from)\s+{package}\b", program, re.M) for program in programs):
            require(package, "solve", "running published programs")


def grade(
    questions: Sequence[CourseQuestion],
    limits: Limits = COURSE_LIMITS,
    workers: int = 2,
    *,
    tolerance: float = TOLERANCE,
    protection: str | None = None,
) -> list[GradedProgram]:
    """Run the programs of questions, and compare what they print with the published answers.

    Those that print another answer run a second time, which tells randomness and decides nothing.

    Args:
        questions: With their programs.
        limits: What each program may use.
        workers: How many run at a time.
        tolerance: How far a number may lie from the published one, relative to it.
        protection: One of `protection.PROTECTIONS`; `None` for the strongest.

    Raises:
        InputError: When a package that programs import is not installed, or programs cannot be isolated here.
    """
    check_packages([question.program for question in questions])
    programs = [question.program for question in questions]
    first = run_programs(programs, limits, workers, protection=protection)
    graded = [_grade(question, run, tolerance) for question, run in zip(questions, first, strict=True)]
    unclear = [at for at, one in enumerate(graded) if one.cause == "another answer"]
    second = run_programs([programs[at] for at in unclear], limits, workers, protection=protection)
    for at, run in zip(unclear, second, strict=True):
        if run.output != graded[at].execution.output:
            graded[at] = replace(graded[at], cause="randomness")
    return graded


def verify(
    questions: Sequence[CourseQuestion],
    limits: Limits = COURSE_LIMITS,
    workers: int = 2,
    *,
    protection: str | None = None,
) -> list[CourseQuestion]:
    """The questions whose programs run to their answers each time; only these serve as examples or to learn from.

    Every program runs `VERIFYING_RUNS` times and must print the same answer, so that none is kept by luck.

    Args:
        questions: With their programs.
        limits: What each program may use.
        workers: How many run at a time.
        protection: One of `protection.PROTECTIONS`; `None` for the strongest.

    Raises:
        InputError: When a package that programs import is not installed, or programs cannot be isolated here.
    """
    check_packages([question.program for question in questions])
    kept, printed = list(questions), dict[CourseQuestion, str]()
    for _ in range(VERIFYING_RUNS):
        runs = run_programs([question.program for question in kept], limits, workers, protection=protection)
        graded = [_grade(question, run, TOLERANCE) for question, run in zip(kept, runs, strict=True)]
        kept = [
            one.question
            for one in graded
            if one.correct and printed.setdefault(one.question, one.execution.output) == one.execution.output
        ]
    return kept


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
    right = (verdict is not None and verdict.correct) or _all_printed(run.output, question.answer, tolerance)
    correct = run.status == "finished" and right
    anywhere = correct or any(
        compare(number, question.answer, tolerance).correct
        for number in dict.fromkeys(PRINTED_NUMBER.findall(run.output)[:200])
    )
    cause = "" if correct else _cause(question, run, found.reason, readable, anywhere)
    return GradedProgram(question, run, answer, readable, correct, anywhere, cause)


def _is_mathematics(answer: str) -> bool:
    try:
        value = parse(answer)
    except (UnreadableError, RecursionError):
        return False
    if isinstance(value, Equation):
        value = value.right
    return not isinstance(value, Expression) or all(len(name) == 1 or name[1:].isdigit() for name in value.names())


def _is_prose(text: str) -> bool:
    """Whether there are words in it that are no functions."""
    return any(word not in FUNCTIONS for word in re.findall(r"(?<!\\)\b[A-Za-z]{3,}", text))


def _all_printed(output: str, published: str, tolerance: float) -> bool:
    """Whether several answers are published one below the other, and all that was printed is those."""
    wanted, printed = pieces(published), pieces(output)
    if len(wanted) < 2 or len(wanted) != len(printed):
        return False
    return all(compare(given, answer, tolerance).correct for given, answer in zip(printed, wanted, strict=True))


def _cause(question: CourseQuestion, run: Execution, silence: str, readable: bool, anywhere: bool) -> str:
    if run.status == "timeout":
        return run.reason
    if run.status == "failed":
        return _failure(run)
    if silence:
        return "a picture" if re.search(r"matplotlib|plt\.|plot\(|turtle", question.program) else silence
    if not readable:
        return _unread(question.answer)
    if anywhere:
        return "printed, but not as the last line alone"
    if compare(f"{extract_answer(run.output).text} + C", question.answer).correct:
        return "without the constant of integration"
    if DRAWS.search(question.program) and any(
        compare(number, question.answer, NOISE).correct for number in PRINTED_NUMBER.findall(run.output)[:200]
    ):
        return "randomness"
    return "another answer"


def _failure(run: Execution) -> str:
    last = next((line for line in reversed(run.errors.splitlines()) if line.strip()), "")
    name = re.match(r"[A-Za-z_.]+", last)
    if name is None:
        return run.reason
    kind = name[0].rsplit(".", 1)[-1]
    known = {"NameError": "missing import", "SyntaxError": "not Python 3", "EOFError": "asks for input"}
    return known.get(kind, f"fails with {kind}")


def _unread(published: str) -> str:
    """Why a published answer is not read as mathematics."""
    if re.fullmatch(r"\d{1,2}-[A-Z][a-z]{2}", published.strip()):
        return "the published answer is a fraction that a spreadsheet made a date"
    if _is_prose(published):
        return "the published answer is prose or a picture"
    return "the published answer is of a form that is not read"
