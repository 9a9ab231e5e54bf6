"""The intervals that inequalities say their unknown to lie in."""

from __future__ import annotations

import math

from lmmodules.evaluation.answer_values import Expression, Interval, UnreadableError, Value

OPPOSITE = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""Relations, and what they are when both sides change places."""


def between(sides: list[Expression], relations: list[str]) -> Interval:
    """The interval in which an inequality says its unknown to lie.

    Args:
        sides: What stands between the relations, and at both ends.
        relations: Of `<`, `<=`, `>` and `>=`, one fewer than the sides.

    Raises:
        UnreadableError: When it is not one unknown between one or two ends.
    """
    if relations[0] in (">", ">="):
        sides, relations = sides[::-1], [OPPOSITE[relation] for relation in relations[::-1]]
    at = next((at for at, side in enumerate(sides) if side.operation == "name" and side.names()), -1)
    if at < 0 or len(sides) > 3 or (len(sides) == 3 and at != 1) or not set(relations) <= {"<", "<="}:
        raise UnreadableError("an inequality is read between one unknown and one or two ends")
    endless = Expression("name", name="oo")
    low, high = sides[at - 1] if at else Expression("negative", (endless,)), [*sides, endless][at + 1]
    return Interval(
        low, high, at > 0 and relations[at - 1] == "<=", at < len(relations) and relations[at] == "<=", sides[at].name
    )


def in_both(one: Interval, other: Value) -> Interval:
    """What lies in two intervals, each of which an inequality gave.

    Args:
        one: The first.
        other: The second.

    Raises:
        UnreadableError: When they are of different unknowns, or an end is no number.
    """
    if not isinstance(other, Interval) or one.unknown != other.unknown:
        raise UnreadableError("inequalities of different unknowns")
    try:
        low = max((one, other), key=lambda part: (_real(part.low), not part.low_closed))
        high = min((one, other), key=lambda part: (_real(part.high), part.high_closed))
    except (ArithmeticError, ValueError, TypeError, KeyError) as error:
        raise UnreadableError("the ends of an inequality are no numbers") from error
    return Interval(low.low, high.high, low.low_closed, high.high_closed, one.unknown)


def _real(end: Expression) -> float:
    value = end.value({})
    if value.imag or math.isnan(value.real):
        raise ValueError("no real number")
    return value.real
