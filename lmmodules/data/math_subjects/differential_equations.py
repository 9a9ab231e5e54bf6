"""Questions of ordinary differential equations."""

from __future__ import annotations

import math
from fractions import Fraction

from lmmodules.data.math_subjects.problem import Draws, Kind, Polynomial, Problem


def growth(draws: Draws) -> Problem:
    """What grows in proportion to itself."""
    rate, start = draws.integer(2, 19), draws.integer(1, 30)
    return Problem(
        (
            f"Solve y' = {rate}y with y(0) = {start}.",
            f"Find y(t) if y'(t) = {rate} y(t) and y(0) = {start}.",
            f"A quantity grows at {rate} times its own size and begins at {start}. What is it at time t?",
        ),
        "from sympy import *\nt = symbols('t')\ny = Function('y')\n"
        f"print(dsolve(y(t).diff(t) - {rate}*y(t), ics={{y(0): {start}}}).rhs)",
        f"{start}*exp({rate}*t)",
    )


def relaxation(draws: Draws) -> Problem:
    """A linear equation of the first order with a constant on the right."""
    a, b, c = draws.integer(2, 9), draws.integer(1, 20), draws.integer(1, 20)
    return Problem(
        (
            f"Solve y' + {a}y = {b} with y(0) = {c}.",
            f"Find the solution y(t) of y' + {a}y = {b} that begins at y(0) = {c}.",
        ),
        "from sympy import *\nt = symbols('t')\ny = Function('y')\n"
        f"print(dsolve(y(t).diff(t) + {a}*y(t) - {b}, ics={{y(0): {c}}}).rhs)",
        f"{Fraction(b, a)} + ({c - Fraction(b, a)})*exp(-{a}*t)",
    )


def characteristic_roots(draws: Draws) -> Problem:
    """The exponents of a linear equation of the second order."""
    first, second = draws.distinct(2, -9, 9)
    p, q = -first - second, first * second
    left = f"y''{_signed(p)}y'{_signed(q)}y" if p and q else f"y''{_signed(p)}y'" if p else f"y''{_signed(q)}y"
    f = Polynomial((q, p, 1), "r")
    return Problem(
        (
            f"Find the roots of the characteristic equation of {left} = 0.",
            f"For which r is e^(rt) a solution of {left} = 0?",
        ),
        f"from sympy import *\nr = symbols('r')\nprint(solve({f.written}, r))",
        f"{{{first}, {second}}}",
    )


def _signed(coefficient: int) -> str:
    size = "" if abs(coefficient) == 1 else str(abs(coefficient))
    return f" {'-' if coefficient < 0 else '+'} {size}"


def euler_steps(draws: Draws) -> Problem:
    """A few steps of Euler's method."""
    a, b, start, steps = draws.integer(1, 5), draws.integer(1, 5), draws.integer(0, 9), draws.integer(2, 5)
    size = draws.choice(("0.1", "0.2", "0.5", "0.25"))
    step, t, y = Fraction(size), Fraction(0), Fraction(start)
    for _ in range(steps):
        t, y = t + step, y + step * (a * t + b * y)
    return Problem(
        (
            f"Apply {steps} steps of Euler's method with step size {size} to y' = {a}t + {b}y, y(0) = {start}.",
            f"Let y' = {a}t + {b}y and y(0) = {start}. What does Euler's method give after {steps} steps of {size}?",
        ),
        f"t, y = 0, {start}\nfor i in range({steps}):\n    t, y = t + {size}, y + {size}*({a}*t + {b}*y)\nprint(y)",
        str(y),
    )


def doubling(draws: Draws) -> Problem:
    """What doubles at regular intervals."""
    interval, times, start = draws.integer(2, 12), draws.integer(2, 6), draws.integer(2, 60) * 10
    what, unit = draws.choice((("bacteria", "hours"), ("rabbits", "months"), ("users", "weeks")))
    end = interval * times
    return Problem(
        (
            f"A population of {start} {what} doubles every {interval} {unit}. How many are there after {end} {unit}?",
            f"{start} {what} double every {interval} {unit}. What is their number after {end} {unit}?",
        ),
        f"print({start}*2**({end}/{interval}))",
        str(start * 2**times),
    )


def half_life(draws: Draws) -> Problem:
    """What is left of a substance that decays."""
    life, end, start = draws.integer(2, 30), draws.integer(2, 90), draws.integer(5, 95)
    return Problem(
        (
            f"A substance has a half-life of {life} days. How much of {start} grams is left after {end} days?",
            f"{start} grams of an isotope decay with a half-life of {life} days. What remains after {end} days?",
        ),
        f"print({start}*0.5**({end}/{life}))",
        f"{start}*exp(-log(2)*{Fraction(end, life)})",
    )


def cooling(draws: Draws) -> Problem:
    """Newton's law of cooling."""
    room, hot, minutes = draws.integer(10, 25), draws.integer(60, 99), draws.integer(5, 60)
    rate = f"0.0{draws.integer(1, 9)}"
    thing = draws.choice(("coffee", "soup", "tea", "iron"))
    return Problem(
        (
            (
                f"A cup of {thing} at {hot} degrees cools in a room at {room} degrees with rate constant {rate} per minute. "
                f"How warm is it after {minutes} minutes?"
            ),
            (
                f"By Newton's law with k = {rate}, what is the temperature of {thing} that begins at {hot} degrees after "
                f"{minutes} minutes in a room of {room} degrees?"
            ),
        ),
        f"from math import *\nprint({room} + ({hot} - {room})*exp(-{rate}*{minutes}))",
        repr(room + (hot - room) * math.exp(-float(Fraction(rate) * minutes))),
    )


def equilibrium(draws: Draws) -> Problem:
    """Where logistic growth ends."""
    a, b = draws.integer(2, 60), draws.integer(2, 30)
    return Problem(
        (
            f"Find the positive equilibrium of y' = {a}y - {b}y^2.",
            f"A population follows y' = {a}y - {b}y^2. At which positive size does it stay constant?",
        ),
        f"from sympy import *\ny = symbols('y')\nprint(max(solve({a}*y - {b}*y**2, y)))",
        str(Fraction(a, b)),
    )


def spring_period(draws: Draws) -> Problem:
    """The period of a mass on a spring."""
    mass, stiffness = draws.integer(2, 30), draws.integer(2, 60)
    return Problem(
        (
            f"What is the period of the solutions of {mass}x'' + {stiffness}x = 0?",
            f"A mass of {mass} kg hangs on a spring of stiffness {stiffness} N/m. Find the period of its oscillation.",
        ),
        f"from math import *\nprint(2*pi*sqrt({mass}/{stiffness}))",
        f"2*pi*sqrt({mass})/sqrt({stiffness})",
    )


def mixing(draws: Draws) -> Problem:
    """The salt of a tank in the long run."""
    volume, salt, flow = draws.integer(2, 60) * 10, draws.integer(2, 40), draws.integer(2, 30)
    return Problem(
        (
            (
                f"Brine with {salt} g of salt per liter flows into a well-mixed tank of {volume} liters at {flow} liters per "
                "minute and leaves at the same rate. How much salt is in the tank in the long run?"
            ),
            (
                f"A tank holds {volume} liters. {flow} liters per minute with {salt} g of salt each run in, and as much runs "
                "out. What amount of salt does it tend to?"
            ),
        ),
        f"print({salt}*{volume})",
        str(sum([salt] * volume)),
    )


def initial_value(draws: Draws) -> Problem:
    """An equation whose right side does not hold the unknown."""
    slope, start, end = Polynomial.drawn(draws, 2, "t"), draws.integer(1, 30), draws.integer(1, 6)
    return Problem(
        (
            f"Let y' = {slope.said} and y(0) = {start}. Find y({end}).",
            f"What is y({end}) if y(0) = {start} and dy/dt = {slope.said}?",
        ),
        f"from sympy import *\nt = symbols('t')\nprint({start} + integrate({slope.written}, (t, 0, {end})))",
        str(start + slope.integral(0, end)),
    )


KINDS: tuple[Kind, ...] = (
    growth,
    relaxation,
    characteristic_roots,
    euler_steps,
    doubling,
    half_life,
    cooling,
    equilibrium,
    spring_period,
    mixing,
    initial_value,
)
