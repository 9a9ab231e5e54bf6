"""Reading what a program printed as mathematics, without evaluating any of it.

The language is small: numbers, names of a fixed table, `+ - * / ^`, functions of a fixed table, lists, sets, matrices,
intervals, inequalities, unions and equations, as Python, numpy, sympy and plain LaTeX write them. Every size is
bounded.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

MAX_LENGTH = 2000
MAX_DEPTH = 40


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
_WRAPPERS = {"array", "Matrix", "ImmutableMatrix", "Float", "Integer", "list", "tuple", "Tuple"}
_WRAPPERS |= {"float64", "float32", "int64", "int32", "complex128", "complex64"}
_FRACTIONS = {"Rational", "Fraction"}
_CONSTRUCTORS = {"Interval", "Eq", "FiniteSet", "Union", "set"} | _FRACTIONS | _WRAPPERS
_INTERVALS = {
    "Interval": (True, True),
    "Interval.open": (False, False),
    "Interval.Lopen": (False, True),
    "Interval.Ropen": (True, False),
}
_LATEX_FUNCTIONS = "sin|cos|tan|ln|log|exp|arctan|arcsin|arccos"
_LATEX = (
    (r"\\(?:left|right|displaystyle|,|;|!|quad)", ""),
    (r"\\(?:d|t)?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\(?:d|t)?frac\s*(\d)\s*(\d)", r"((\1)/(\2))"),
    (r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)"),
    (r"\\sqrt\s*(\w)", r"sqrt(\1)"),
    (r"\\(?:text|mathrm|boxed|mbox)\s*\{([^{}]*)\}", r"\1"),
    (r"\^\s*\{\\circ\}|\^\s*\\circ|\\circ|°", ""),
    (r"\^\s*\{([^{}]*)\}", r"^(\1)"),
    (r"\\(?:cdot|times)", "*"),
    (r"\\infty|∞", "oo"),
    (r"\\cup|\u222a", " U "),
    (r"\\([{}])", r"\1"),
    (rf"\\({_LATEX_FUNCTIONS})\s*\{{([^{{}}]*)\}}", r" \1(\2)"),
    (rf"\\(pi|{_LATEX_FUNCTIONS})\b", r" \1 "),
    (r"\\leq?\b", "<="),
    (r"\\geq?\b", ">="),
)
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00d7": "*", "·": "*", "π": " pi ", "√": " sqrt ", "$": " "})
_SIGNS |= str.maketrans({"\u2264": "<=", "\u2265": ">="})
_NUMBER = r"(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
_TOKEN = re.compile(rf"\s*(?:{_NUMBER}|([A-Za-z_][\w.]*'*)|(\*\*|[<>]=|.))", re.S)
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_OPPOSITE = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_IMAGINARY = re.compile(rf"(?<![\w.]){_NUMBER}j(?!\w)")
"""As Python writes it."""
_OTHER_UNITS = re.compile(r"(?<![A-Za-z_])[iIk](?!\w)")
"""Beside which a `j` is the second of three, or an unknown."""
_MATRIX = re.compile(r"(?:[A-Za-z][\w*]*\s*=\s*)?[\[(]")
"""How one begins, with a name or without."""
_ROWS = re.compile(r"\[([^\[\]]*;[^\[\]]*)\]")
"""A matrix as MATLAB writes it."""


class UnreadableError(ValueError):
    """A text is none of this language."""


def parse(text: str) -> Value:
    """Read a text as a number, an expression, a collection, an interval or an equation.

    Args:
        text: What was printed, or the published answer.

    Raises:
        UnreadableError: When it is none of these, or longer or deeper than is read.
    """
    text = of_bounded_length(text)
    text = _ROWS.sub(lambda rows: f"[{';'.join(map(_with_commas, rows[1].split(';')))}]", text)
    text = text.translate(_SIGNS).strip()
    for pattern, replacement in _LATEX * 2 if "\\" in text or "^" in text or "°" in text or "∞" in text else ():
        text = re.sub(pattern, replacement, text)
    text = text.strip().rstrip(".;") if not re.fullmatch(r".*\d\.", text.strip()) else text.strip()
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    complex_numbers = bool(_IMAGINARY.search(text)) and not _OTHER_UNITS.search(text)
    if _MATRIX.match(text) and "," not in text:  # as numpy prints
        end_of_member = r"[\d.]j" if complex_numbers else r"[\d.\]]"  # in `[2. +3.j]` there is one
        text = re.sub(rf"(?<={end_of_member})\s+(?=[-+\[]?[\d.\[])", ", ", text)
        text = re.sub(r"(?<=\])\s*(?=\[)", ", ", text)
    return _Reader(_IMAGINARY.sub(r"(\1*I)", text) if complex_numbers else text).whole()


def of_bounded_length(text: str) -> str:
    """A text without the spaces around it.

    Args:
        text: Of any length.

    Raises:
        UnreadableError: When it is longer than is read.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise UnreadableError(f"longer than {MAX_LENGTH} characters")
    return text


def _with_commas(row: str) -> str:
    """A row of MATLAB, whose members may have spaces between them: `1 -2` are two, `1 - 2` is one."""
    return row if "," in row else re.sub(r"(?<=[\w.)])\s+(?=[-+\u2212]?[\w.√])", ", ", row.strip())


class _Reader:
    """Recursive descent over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        for number, name, sign in _TOKEN.findall(text):
            kind = "number" if number else "name" if name else "sign"
            token = number or name or sign
            if token.strip():
                self.tokens.append((kind, "^" if token == "**" else token))
        self.at = 0
        self.depth = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    @property
    def next_kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next
        if not token or (expected and token != expected):
            raise UnreadableError(f"`{token or 'the end'}` where {expected or 'more'} was expected")
        self.at += 1
        return token

    def whole(self) -> Value:
        members = [self.item()]
        while self.next == ",":
            self.take()
            members.append(self.item())
        if self.next:
            raise UnreadableError(f"`{self.next}` was not expected")
        if len(members) == 1:
            return members[0]
        named = all(isinstance(member, Equation) for member in members)  # `x = 3, y = 7`
        return Collection("set" if named else "list", tuple(members))

    def item(self) -> Value:
        left = self.sum()
        if self.next == "=":
            self.take()
            if self.next == "=":
                self.take()
            if not isinstance(left, Expression):
                raise UnreadableError("a collection is no side of an equation")
            return Equation(left, self.sum())
        parts = [self.range(left)]
        while self.next in ("U", "\u222a") or (self.next == "|" and isinstance(parts[-1], Interval)):
            self.take()
            parts.append(self.range(self.sum()))
        return parts[0] if len(parts) == 1 else Collection("set", tuple(parts))

    def range(self, left: Value) -> Value:
        """What stands to the left, or all inequalities that begin with it: `0 < x <= 5`, `(-oo < x) & (x < 1)`."""
        if self.next in _OPPOSITE:
            sides, relations = [_plain(left)], []
            while self.next in _OPPOSITE:
                relations.append(self.take())
                sides.append(_plain(self.sum()))
            left = _between(sides, relations)
        while self.next == "&" and isinstance(left, Interval):
            self.take()
            left = _in_both(left, self.range(self.sum()))
        return left

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError(f"deeper than {MAX_DEPTH}")
        left = self.product()
        while self.next in ("+", "-"):
            left = Expression(self.take(), (_plain(left), _plain(self.product())))
        self.depth -= 1
        return left

    def product(self) -> Value:
        left = self.signed()
        while True:
            if self.next in ("*", "/"):
                left = Expression(self.take(), (_plain(left), _plain(self.signed())))
            elif isinstance(left, Expression) and (
                (self.next_kind == "name" and _multiplies(self.next)) or self.next == "("
            ):
                left = Expression("*", (left, _plain(self.power())))
            else:
                return left

    def signed(self) -> Value:
        signs = 0
        while self.next in ("+", "-"):
            signs += self.take() == "-"
        value = self.power()
        return Expression("negative", (_plain(value),)) if signs % 2 else value

    def power(self) -> Value:
        base = self.atom()
        while self.next == "!":
            self.take()
            base = Expression("factorial", (_plain(base),))
        if self.next == "%":
            self.take()
            base = Expression("/", (_plain(base), Expression("number", number=Fraction(100))))
        if self.next != "^":
            return base
        self.take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError(f"deeper than {MAX_DEPTH}")
        exponent = self.signed()
        self.depth -= 1
        return Expression("^", (_plain(base), _plain(exponent)))

    def atom(self) -> Value:
        kind, token = self.next_kind, self.take()
        if kind == "number":
            return Expression("number", number=_fraction(token))
        if kind == "name":
            return self.named(token)
        if token == "|":
            inner = self.sum()
            self.take("|")
            return Expression("abs", (_plain(inner),))
        if token in _CLOSING:
            return self.bracket(token)
        raise UnreadableError(f"`{token}` was not expected")

    def named(self, name: str) -> Value:
        if name in _INTERVALS and self.next == "(":
            return self.constructed(name, self.arguments())
        name = name.rsplit(".", 1)[-1]
        lower = "abs" if name == "Abs" else name
        if lower in FUNCTIONS:
            if self.next == "(":
                return Expression(lower, tuple(map(_plain, self.arguments())))
            return Expression(lower, (_plain(self.power()),))
        if self.next == "(" and name in _CONSTRUCTORS:
            return self.constructed(name, self.arguments())
        if self.next == "(" and len(name) > 1:
            raise UnreadableError(f"no function `{name}` is known")
        if len(name) > 12 or "__" in name:
            raise UnreadableError(f"`{name}` is not the name of an unknown")
        return Expression("name", name=name)

    def constructed(self, name: str, members: list[Value]) -> Value:
        if name in ("FiniteSet", "Union"):
            return Collection("set", tuple(members))
        if name == "set" and not members:
            return Collection("set", ())
        if name in _INTERVALS and len(members) == 2:
            return Interval(_plain(members[0]), _plain(members[1]), *_INTERVALS[name])
        if name == "Interval" and len(members) > 2:
            opened = [isinstance(flag, Expression) and flag.name == "True" for flag in members[2:4]] + [False, False]
            return Interval(_plain(members[0]), _plain(members[1]), not opened[0], not opened[1])
        if name in _FRACTIONS and len(members) == 2:
            return Expression("/", (_plain(members[0]), _plain(members[1])))
        if name == "Eq" and len(members) == 2:
            return Equation(_plain(members[0]), members[1])
        if not members:
            raise UnreadableError(f"`{name}` of nothing")
        return members[0]  # array(x, dtype), Float(x, digits)

    def arguments(self) -> list[Value]:
        self.take("(")
        members: list[Value] = []
        while self.next != ")":
            members.append(self.item())
            if self.next != ")":
                self.take(",")
        self.take(")")
        return members

    def bracket(self, opening: str) -> Value:
        members: list[Value] = []
        rows: list[Value] = []
        while self.next not in ("]", ")", "}"):
            members.append(self.item())
            if self.next == ":" and opening == "{":  # as sympy prints what solves equations
                self.take()
                members.append(Equation(_plain(members.pop()), self.sum()))
            if self.next == ";" and opening == "[":  # rows of a matrix
                self.take()
                rows.append(Collection("list", tuple(members)))
                members = []
            elif self.next not in ("]", ")", "}"):
                self.take(",")
        if rows:
            members = [*rows, Collection("list", tuple(members))] if members else rows
        last_is_comma = self.tokens[self.at - 1][1] == ","
        closing = self.take()
        if closing != _CLOSING[opening]:
            if len(members) == 2 and {opening, closing} <= set("[](){}") and "{" not in (opening, closing):
                return Interval(_plain(members[0]), _plain(members[1]), opening == "[", closing == "]")
            raise UnreadableError(f"`{opening}` is closed by `{closing}`")
        if opening == "{":
            return Collection("set", tuple(members))
        if opening == "(" and len(members) == 1 and not last_is_comma:
            return members[0]
        return Collection("list", tuple(members), opening)


def _between(sides: list[Expression], relations: list[str]) -> Interval:
    """The interval in which an inequality says its unknown to lie."""
    if relations[0] in (">", ">="):
        sides, relations = sides[::-1], [_OPPOSITE[relation] for relation in relations[::-1]]
    at = next((at for at, side in enumerate(sides) if side.operation == "name" and side.names()), -1)
    if at < 0 or len(sides) > 3 or (len(sides) == 3 and at != 1) or not set(relations) <= {"<", "<="}:
        raise UnreadableError("an inequality is read between one unknown and one or two ends")
    endless = Expression("name", name="oo")
    low, high = sides[at - 1] if at else Expression("negative", (endless,)), [*sides, endless][at + 1]
    return Interval(
        low, high, at > 0 and relations[at - 1] == "<=", at < len(relations) and relations[at] == "<=", sides[at].name
    )


def _in_both(one: Interval, other: Value) -> Interval:
    """What lies in two intervals, each of which an inequality gave."""
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


def _multiplies(name: str) -> bool:
    """Whether a name behind an expression multiplies it, as in `2x`; words do not, as in `5 apples`."""
    return name != "U" and (len(name) == 1 or name[1:].isdigit() or name in CONSTANTS or name in FUNCTIONS)


def _plain(value: Value) -> Expression:
    if not isinstance(value, Expression):
        raise UnreadableError("a collection stands where a number should")
    return value


def _fraction(token: str) -> Fraction:
    _, _, exponent = token.lower().partition("e")
    if exponent and abs(int(exponent)) > 400:
        raise UnreadableError(f"`{token}` is too large or too small")
    return Fraction(token.rstrip(".") if token.endswith(".") else token.replace(".e", "e").replace(".E", "E"))
