"""What an answer can be: an expression, several, an interval, an equation; and the arithmetic of expressions."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction


class UnreadableError(ValueError):
    """A text is none of this language."""


@dataclass(frozen=True)
class Expression:
    """An operation on expressions, a number, or a name.

    Attributes:
        operation: `number`, `name`, `+`, `-`, `*`, `/`, `^`, `negative`, or the name of a function.
        parts: What it is applied to.
        number: Of a number.
        name: Of a name.
    """

    operation: str
    parts: tuple[Expression, ...] = ()
    number: Fraction = Fraction(0)
    name: str = ""

    def names(self) -> set[str]:
        """The unknowns in it."""
        own = {self.name} if self.operation == "name" and self.name not in CONSTANTS else set()
        return own.union(*(part.names() for part in self.parts))

    def exact(self) -> Fraction | None:
        """Its value, where it is made of fractions alone."""
        if self.operation == "number":
            return self.number
        values = [part.exact() for part in self.parts]
        if not values or any(value is None for value in values):
            return None
        return _exactly(self.operation, [value for value in values if value is not None])

    def value(self, unknowns: Mapping[str, complex]) -> complex:
        """Its value at a point.

        Args:
            unknowns: The point.

        Raises:
            ArithmeticError: When it has none there, or too large a one.
            ValueError: When it has none there.
        """
        if self.operation == "number":
            return complex(float(self.number))
        if self.operation == "name":
            return CONSTANTS[self.name] if self.name in CONSTANTS else unknowns[self.name]
        values = [part.value(unknowns) for part in self.parts]
        return FUNCTIONS[self.operation](*values)


@dataclass(frozen=True)
class Collection:
    """Several answers: a `list` in order, or a `set`.

    Attributes:
        kind: `list` or `set`.
        members: In the order in which they are written.
        opening: The bracket before them; empty where there is none. Of two numbers it tells what interval is meant.
    """

    kind: str
    members: tuple[Value, ...]
    opening: str = field(default="", compare=False)


@dataclass(frozen=True)
class Interval:
    """All numbers between two, with or without each of them.

    Attributes:
        low: Where it begins.
        high: Where it ends.
        low_closed: Whether its beginning belongs to it.
        high_closed: Whether its end does.
        unknown: What an inequality says to lie in it; empty where it is written as an interval.
    """

    low: Expression
    high: Expression
    low_closed: bool
    high_closed: bool
    unknown: str = ""


@dataclass(frozen=True)
class Equation:
    """Two sides."""

    left: Expression
    right: Value


Value = Expression | Collection | Interval | Equation


def plain(value: Value) -> Expression:
    """A value that must be an expression.

    Args:
        value: As read.

    Raises:
        UnreadableError: When it is a collection, an interval or an equation.
    """
    if not isinstance(value, Expression):
        raise UnreadableError("a collection stands where a number should")
    return value


def _exactly(operation: str, values: list[Fraction]) -> Fraction | None:
    first = values[0]
    if operation == "negative":
        return -first
    if operation not in "+-*/^" or len(values) != 2:
        return None
    second = values[1]
    if operation == "+":
        return first + second
    if operation == "-":
        return first - second
    if operation == "*":
        return first * second
    if operation == "/":
        return None if second == 0 else first / second
    size = max(first.numerator.bit_length(), first.denominator.bit_length())
    if second.denominator != 1 or size * abs(second) > 20000 or (first == 0 and second < 0):
        return None
    return first ** int(second)


def _factorial(value: complex) -> complex:
    if value.imag or value.real < 0 or value.real > 170:
        raise ValueError("factorial")
    return complex(math.gamma(value.real + 1))


def _power(base: complex, exponent: complex) -> complex:
    if abs(exponent) > 1e4:
        raise OverflowError("power")
    return base**exponent


def _logarithm(value: complex, base: complex = math.e) -> complex:
    return cmath.log(value) if base == math.e else cmath.log(value) / cmath.log(base)


def _binomial(top: complex, bottom: complex) -> complex:
    return _factorial(top) / (_factorial(bottom) * _factorial(top - bottom))


CONSTANTS: dict[str, complex] = {
    "pi": math.pi,
    "E": math.e,
    "e": math.e,
    "I": 1j,
    "i": 1j,
    "oo": math.inf,
    "zoo": math.inf,
}
CONSTANTS |= {"inf": math.inf, "infinity": math.inf, "nan": math.nan}
FUNCTIONS: dict[str, Callable[..., complex]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": _power,
    "negative": lambda a: -a,
    "sqrt": cmath.sqrt,
    "exp": cmath.exp,
    "log": _logarithm,
    "ln": _logarithm,
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "sec": lambda a: 1 / cmath.cos(a),
    "csc": lambda a: 1 / cmath.sin(a),
    "cot": lambda a: 1 / cmath.tan(a),
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "abs": lambda a: complex(abs(a)),
    "factorial": _factorial,
    "binomial": _binomial,
}
for _name in ("asin", "acos", "atan"):
    FUNCTIONS[_name] = FUNCTIONS[f"arc{_name[1:]}"] = getattr(cmath, _name)
