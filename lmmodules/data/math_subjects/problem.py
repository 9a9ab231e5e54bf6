"""What a kind of question is made of: numbers that are drawn, wordings, a program and the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

T = TypeVar("T")
_STEP, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


class Draws:
    """Random numbers that follow from a key, the same on every machine and in every version of Python.

    Args:
        key: Any whole number; two keys give independent draws.

    Source:
        SplitMix64, as in `lmmodules.data.randomness`, one number at a time.
    """

    def __init__(self, key: int) -> None:
        self._state = key & _MASK

    def bits(self) -> int:
        """64 random bits."""
        self._state = (self._state + _STEP) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included.

        Args:
            low: The smallest.
            high: The largest.
        """
        return low + (self.bits() * (high - low + 1) >> 64)

    def nonzero(self, size: int) -> int:
        """A whole number that is not 0, of either sign.

        Args:
            size: The largest, and the smallest without its sign.
        """
        drawn = self.integer(1, size)
        return drawn if self.bits() & 1 else -drawn

    def choice(self, options: Sequence[T]) -> T:
        """One of several.

        Args:
            options: At least one.
        """
        return options[self.integer(0, len(options) - 1)]

    def distinct(self, count: int, low: int, high: int) -> list[int]:
        """Several different whole numbers, in the order in which they are drawn.

        Args:
            count: How many.
            low: The smallest.
            high: The largest.
        """
        drawn: list[int] = []
        while len(drawn) < count:
            number = self.integer(low, high)
            if number not in drawn:
                drawn.append(number)
        return drawn


@dataclass(frozen=True)
class Problem:
    """A question in several wordings.

    Attributes:
        wordings: Questions that have the same program and answer.
        program: A Python program that prints the answer.
        answer: Found without the program, as `evaluation.answers.compare` reads it.
    """

    wordings: tuple[str, ...]
    program: str
    answer: str


Kind = Callable[[Draws], Problem]
"""Makes a problem of one kind from numbers that it draws."""


@dataclass(frozen=True)
class Polynomial:
    """A polynomial with whole coefficients.

    Attributes:
        coefficients: From the constant on.
        variable: Its name.
    """

    coefficients: tuple[int, ...]
    variable: str = "x"

    @classmethod
    def drawn(cls, draws: Draws, degree: int, variable: str = "x", size: int = 9) -> Polynomial:
        """A polynomial of a degree.

        Args:
            draws: Where its coefficients come from; none is 0.
            degree: The highest power.
            variable: Its name.
            size: The largest coefficient.
        """
        lower = [draws.nonzero(size) for _ in range(degree)]
        return cls((*lower, draws.integer(1, size)), variable)

    def __call__(self, point: int | Fraction) -> Fraction:
        """Its value at a point."""
        return sum((Fraction(c) * Fraction(point) ** power for power, c in enumerate(self.coefficients)), Fraction(0))

    def derivative(self) -> Polynomial:
        """Its derivative."""
        return Polynomial(tuple(power * c for power, c in enumerate(self.coefficients))[1:], self.variable)

    def integral(self, low: int, high: int) -> Fraction:
        """Its integral between two points.

        Args:
            low: Where it begins.
            high: Where it ends.
        """
        whole = [Fraction(c, power + 1) for power, c in enumerate(self.coefficients)]
        return sum((c * (high ** (power + 1) - low ** (power + 1)) for power, c in enumerate(whole)), Fraction(0))

    @property
    def said(self) -> str:
        """As a question says it: `3x^2 - x + 4`."""
        return self._text("", "^")

    @property
    def written(self) -> str:
        """As a program writes it: `3*x**2 - x + 4`."""
        return self._text("*", "**")

    def _text(self, times: str, to_the: str) -> str:
        terms: list[str] = []
        for power in range(len(self.coefficients) - 1, -1, -1):
            c = self.coefficients[power]
            if c == 0:
                continue
            monomial = "" if power == 0 else self.variable if power == 1 else f"{self.variable}{to_the}{power}"
            size = str(abs(c)) if not monomial else "" if abs(c) == 1 else f"{abs(c)}{times}"
            sign = ("-" if c < 0 else "") if not terms else (" - " if c < 0 else " + ")
            terms.append(f"{sign}{size}{monomial}")
        return "".join(terms) or "0"


def choose(n: int, k: int) -> int:
    """Ways to choose k of n things.

    Args:
        n: Things there are.
        k: Things to choose.
    """
    ways = 1
    for i in range(min(k, n - k)):
        ways = ways * (n - i) // (i + 1)
    return ways if 0 <= k <= n else 0


def product_of(numbers: Sequence[int]) -> int:
    """The product of numbers, 1 where there are none.

    Args:
        numbers: The factors.
    """
    product = 1
    for number in numbers:
        product *= number
    return product
