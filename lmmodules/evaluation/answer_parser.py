"""Reading what a program printed as mathematics, without evaluating any of it.

The language is small: numbers, names of a fixed table, `+ - * / ^`, functions of a fixed table, lists, sets, matrices,
intervals, inequalities, unions and equations, as Python, numpy, sympy and plain LaTeX write them. Every size is
bounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

from lmmodules.evaluation.answer_inequalities import OPPOSITE, between, in_both
from lmmodules.evaluation.answer_spelling import NUMBER, spelled_plainly
from lmmodules.evaluation.answer_values import (
    CONSTANTS,
    FUNCTIONS,
    Collection,
    Equation,
    Expression,
    Interval,
    UnreadableError,
    Value,
    plain,
)

MAX_DEPTH = 40
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
_TOKEN = re.compile(rf"\s*(?:{NUMBER}|([A-Za-z_][\w.]*'*)|(\*\*|[<>]=|.))", re.S)
_CLOSING = {"[": "]", "(": ")", "{": "}"}


def parse(text: str) -> Value:
    """Read a text as a number, an expression, a collection, an interval or an equation.

    Args:
        text: What was printed, or the published answer.

    Raises:
        UnreadableError: When it is none of these, or longer or deeper than is read.
    """
    return _Reader(spelled_plainly(text)).whole()


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
        if self.next in OPPOSITE:
            sides, relations = [plain(left)], []
            while self.next in OPPOSITE:
                relations.append(self.take())
                sides.append(plain(self.sum()))
            left = between(sides, relations)
        while self.next == "&" and isinstance(left, Interval):
            self.take()
            left = in_both(left, self.range(self.sum()))
        return left

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError(f"deeper than {MAX_DEPTH}")
        left = self.product()
        while self.next in ("+", "-"):
            left = Expression(self.take(), (plain(left), plain(self.product())))
        self.depth -= 1
        return left

    def product(self) -> Value:
        left = self.signed()
        while True:
            if self.next in ("*", "/"):
                left = Expression(self.take(), (plain(left), plain(self.signed())))
            elif isinstance(left, Expression) and (
                (self.next_kind == "name" and _multiplies(self.next)) or self.next == "("
            ):
                left = Expression("*", (left, plain(self.power())))
            else:
                return left

    def signed(self) -> Value:
        signs = 0
        while self.next in ("+", "-"):
            signs += self.take() == "-"
        value = self.power()
        return Expression("negative", (plain(value),)) if signs % 2 else value

    def power(self) -> Value:
        base = self.atom()
        while self.next == "!":
            self.take()
            base = Expression("factorial", (plain(base),))
        if self.next == "%":
            self.take()
            base = Expression("/", (plain(base), Expression("number", number=Fraction(100))))
        if self.next != "^":
            return base
        self.take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError(f"deeper than {MAX_DEPTH}")
        exponent = self.signed()
        self.depth -= 1
        return Expression("^", (plain(base), plain(exponent)))

    def atom(self) -> Value:
        kind, token = self.next_kind, self.take()
        if kind == "number":
            return Expression("number", number=_fraction(token))
        if kind == "name":
            return self.named(token)
        if token == "|":
            inner = self.sum()
            self.take("|")
            return Expression("abs", (plain(inner),))
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
                return Expression(lower, tuple(map(plain, self.arguments())))
            return Expression(lower, (plain(self.power()),))
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
            return Interval(plain(members[0]), plain(members[1]), *_INTERVALS[name])
        if name == "Interval" and len(members) > 2:
            opened = [isinstance(flag, Expression) and flag.name == "True" for flag in members[2:4]] + [False, False]
            return Interval(plain(members[0]), plain(members[1]), not opened[0], not opened[1])
        if name in _FRACTIONS and len(members) == 2:
            return Expression("/", (plain(members[0]), plain(members[1])))
        if name == "Eq" and len(members) == 2:
            return Equation(plain(members[0]), members[1])
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
                members.append(Equation(plain(members.pop()), self.sum()))
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
                return Interval(plain(members[0]), plain(members[1]), opening == "[", closing == "]")
            raise UnreadableError(f"`{opening}` is closed by `{closing}`")
        if opening == "{":
            return Collection("set", tuple(members))
        if opening == "(" and len(members) == 1 and not last_is_comma:
            return members[0]
        return Collection("list", tuple(members), opening)


def _multiplies(name: str) -> bool:
    """Whether a name behind an expression multiplies it, as in `2x`; words do not, as in `5 apples`."""
    return name != "U" and (len(name) == 1 or name[1:].isdigit() or name in CONSTANTS or name in FUNCTIONS)


def _fraction(token: str) -> Fraction:
    _, _, exponent = token.lower().partition("e")
    if exponent and abs(int(exponent)) > 400:
        raise UnreadableError(f"`{token}` is too large or too small")
    return Fraction(token.rstrip(".") if token.endswith(".") else token.replace(".e", "e").replace(".E", "E"))
