"""Whether what a program printed is the answer: judged outside its process, and never evaluated."""

from __future__ import annotations

import cmath
import math
import random
import re
from dataclasses import dataclass

from lmmodules.evaluation.answer_parser import parse
from lmmodules.evaluation.answer_spelling import of_bounded_length
from lmmodules.evaluation.answer_values import Collection, Equation, Expression, Interval, UnreadableError, Value

POINTS, ENOUGH = 12, 5
MAX_MEMBERS = 400
LABEL = re.compile(r"([A-Za-z][A-Za-z' ]*(?:\([A-Za-z ]+\)\s*)?)(?::\s*=?|=|(?<= )(?:is|are)\b:?)\s*(\S.*)", re.S)
"""Words before an answer, and the answer."""
DENIALS = {"no", "not", "non", "never", "neither", "nor", "none", "cannot", "false", "wrong", "without", "error"}
"""Words that make of what follows no answer."""


@dataclass(frozen=True)
class Extraction:
    """The answer in what was printed.

    Attributes:
        text: The answer; `None` where there is none.
        reason: Why there is none, in words.
    """

    text: str | None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Whether an answer is the expected one.

    Attributes:
        correct: Whether it is.
        kind: How that was found: `text`, `number`, `symbolic`, `list`, `set`, `interval`, `equation` or `unreadable`.
        reason: In words.
    """

    correct: bool
    kind: str
    reason: str


def extract_answer(output: str) -> Extraction:
    """Find the answer in what a program printed: the line that begins with `ANSWER:`, or the last one.

    A last line that closes a bracket takes the lines with it that opened it, as matrices are printed.

    Args:
        output: Standard output.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return Extraction(None, "nothing was printed")
    named = list(dict.fromkeys(line[7:].strip() for line in lines if line.upper().startswith("ANSWER:")))
    if len(named) > 1:
        return Extraction(None, f"{len(named)} different answers were printed")
    if named:
        return Extraction(named[0]) if named[0] else Extraction(None, "the answer is empty")
    answer = lines[-1]
    for line in reversed(lines[:-1][-50:]):
        if sum(map(answer.count, "])}")) <= sum(map(answer.count, "[({")):
            break
        answer = f"{line} {answer}"
    return Extraction(answer)


def compare(given: str, expected: str, tolerance: float = 1e-6) -> Comparison:
    """Compare two answers as mathematics.

    Args:
        given: What was printed.
        expected: The right answer.
        tolerance: How far a number may lie from the expected, relative to it; whole numbers and fractions that both
            are written exactly must be equal.

    Differences:
        Drori et al. (2022) compared by hand.
    """
    if " ".join(given.split()).lower() == " ".join(expected.split()).lower() and given.strip():
        if given.strip().lower().lstrip("+-") == "nan":
            return Comparison(False, "number", "not a number equals nothing")
        return Comparison(True, "text", "the same text")
    try:
        right = parse(expected)
    except (UnreadableError, RecursionError) as error:
        return Comparison(False, "unreadable", f"the expected answer is not read as mathematics: {error}")
    try:
        left = parse(_unlabelled(given, right))
    except (UnreadableError, RecursionError) as error:
        return Comparison(False, "unreadable", f"the answer is not read as mathematics: {error}")
    return _compare(left, right, tolerance)


def _unlabelled(given: str, expected: Value) -> str:
    """What stands behind words and a colon, or behind `is`; `The area is 12.5` is 12.5, and `no: 5` is not 5."""
    given = of_bounded_length(given)
    found = None if isinstance(expected, Equation) else LABEL.fullmatch(given)
    if found is None or any(word in DENIALS or word.endswith("n't") for word in found[1].lower().split()):
        return given
    return found[2]


def _compare(left: Value, right: Value, tolerance: float) -> Comparison:
    if isinstance(left, Equation) and not isinstance(right, Equation) and left.left.operation == "name":
        left = left.right  # `x = 5` where 5 is expected
    if isinstance(right, Equation) and not isinstance(left, Equation) and right.left.operation == "name":
        right = right.right
    if isinstance(left, Equation) and isinstance(right, Equation):
        sides = (_compare(left.left, right.left, tolerance), _compare(left.right, right.right, tolerance))
        return _verdict(all(side.correct for side in sides), "equation", "side by side")
    if isinstance(left, Interval) and isinstance(right, Interval):
        ends = _compare(left.low, right.low, tolerance).correct and _compare(left.high, right.high, tolerance).correct
        closed = (left.low_closed or _infinite(left.low), left.high_closed or _infinite(left.high)) == (
            right.low_closed or _infinite(right.low),
            right.high_closed or _infinite(right.high),
        )
        same = left.unknown == right.unknown or not (left.unknown and right.unknown)
        return _verdict(ends and closed and same, "interval", "its ends, and whether they belong to it")
    left, right = _as_interval(left, right), _as_interval(right, left)
    if isinstance(left, Interval) and isinstance(right, Interval):
        return _compare(left, right, tolerance)
    if isinstance(left, Collection) and isinstance(right, Collection):
        return _compare_collections(left, right, tolerance)
    if isinstance(left, Expression) and isinstance(right, Expression):
        return _compare_expressions(left, right, tolerance)
    return Comparison(False, "list", f"{_name_of(left)} is not {_name_of(right)}")


def _as_interval(value: Value, other: Value) -> Value:
    """A pair in brackets is an interval where the other is one: `[0, 1]` with its ends, `(0, 1)` without them."""
    if isinstance(other, Interval) and isinstance(value, Collection) and value.opening and len(value.members) == 2:
        low, high = value.members
        if isinstance(low, Expression) and isinstance(high, Expression):
            closed = value.opening == "["
            return Interval(low, high, closed, closed)
    return value


def _infinite(end: Expression) -> bool:
    """Whether it lies at infinity, where brackets mean nothing."""
    try:
        return not end.names() and cmath.isinf(end.value({}))
    except (ArithmeticError, ValueError, TypeError):
        return False


def _name_of(value: Value) -> str:
    if isinstance(value, Collection):
        return f"a {value.kind} of {len(value.members)}"
    return {Interval: "an interval", Equation: "an equation"}.get(type(value), "a number or expression")


def _verdict(correct: bool, kind: str, reason: str) -> Comparison:
    return Comparison(correct, kind, reason if correct else f"differs: {reason}")


def _compare_collections(left: Collection, right: Collection, tolerance: float) -> Comparison:
    if max(len(left.members), len(right.members)) > MAX_MEMBERS:
        return Comparison(False, "unreadable", f"more than {MAX_MEMBERS} members")
    if right.kind == "list":
        if left.kind == "set":
            return Comparison(False, "set", "a set has no order, but a list is expected")
        if _nested(left) != _nested(right):
            left, right = _flat(left), _flat(right)
        if len(left.members) != len(right.members):
            return Comparison(False, "list", f"{len(left.members)} members instead of {len(right.members)}")
        pairs = zip(left.members, right.members, strict=True)
        return _verdict(all(_compare(a, b, tolerance).correct for a, b in pairs), "list", "member by member, in order")
    mine, theirs = _distinct(left, tolerance), _distinct(right, tolerance)
    unmatched = list(theirs)
    for member in mine:
        match = next((at for at, other in enumerate(unmatched) if _compare(member, other, tolerance).correct), None)
        if match is None:
            return Comparison(False, "set", "a member is not expected")
        unmatched.pop(match)
    return _verdict(not unmatched, "set", "each member has its own, in any order")


def _nested(value: Collection) -> bool:
    return any(isinstance(member, Collection) for member in value.members)


def _flat(value: Collection) -> Collection:
    """A vector written as a matrix of one column or one row is a vector."""
    inner = [member for member in value.members if isinstance(member, Collection)]
    if len(inner) != len(value.members) or not inner:
        return value
    if len(inner) == 1:
        return inner[0]
    if all(len(member.members) == 1 for member in inner):
        return Collection("list", tuple(member.members[0] for member in inner))
    return value


def _distinct(value: Collection, tolerance: float) -> list[Value]:
    kept: list[Value] = []
    for member in value.members:
        if not any(_compare(member, other, tolerance).correct for other in kept):
            kept.append(member)
    return kept


def _compare_expressions(left: Expression, right: Expression, tolerance: float) -> Comparison:
    unknowns = sorted(left.names() | right.names())
    if not unknowns:
        return _compare_numbers(left, right, tolerance)
    draws = random.Random(0)
    agreed = 0
    for index in range(POINTS):
        angle = (0.0, math.pi, draws.uniform(-3, 3))[index % 3]
        point = {name: cmath.rect(draws.uniform(0.2, 2.5), angle) for name in unknowns}
        try:
            a, b = left.value(point), right.value(point)
        except (ArithmeticError, ValueError, TypeError):
            continue
        if not (cmath.isfinite(a) and cmath.isfinite(b)):
            continue
        if abs(a - b) > max(tolerance, 1e-9) * max(1e-3, abs(b)):
            return Comparison(False, "symbolic", "they differ at a point")
        agreed += 1
    return _verdict(agreed >= ENOUGH, "symbolic", f"checked at {agreed} points")


def _compare_numbers(left: Expression, right: Expression, tolerance: float) -> Comparison:
    exactly = left.exact(), right.exact()
    if exactly[0] is not None and exactly[1] is not None:
        if exactly[0] == exactly[1]:
            return Comparison(True, "number", "equal")
        if exactly[0].denominator == 1 and exactly[1].denominator == 1:
            return Comparison(False, "number", "two different whole numbers")
    try:
        a, b = left.value({}), right.value({})
    except (ArithmeticError, ValueError, TypeError):
        return Comparison(False, "number", "has no value, or too large a one")
    if cmath.isnan(a) or cmath.isnan(b):
        return Comparison(False, "number", "not a number equals nothing")
    if cmath.isinf(a) or cmath.isinf(b):
        return _verdict(a == b, "number", "infinite")
    return _verdict(abs(a - b) <= tolerance * max(abs(b), 1e-9), "number", f"within {tolerance:g} of the expected")
