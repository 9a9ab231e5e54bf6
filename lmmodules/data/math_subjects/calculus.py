"""Questions of single- and multivariable calculus."""

from __future__ import annotations

from fractions import Fraction

from lmmodules.data.math_subjects.problem import Draws, Kind, Polynomial, Problem, product_of

_SYMPY_X = "from sympy import *\nx = symbols('x')\n"


def derivative_at(draws: Draws) -> Problem:
    """The derivative of a polynomial at a point."""
    f, point = Polynomial.drawn(draws, draws.integer(2, 3)), draws.integer(1, 9)
    return Problem(
        (
            f"Find the derivative of f(x) = {f.said} at x = {point}.",
            f"What is the slope of the tangent line to y = {f.said} at x = {point}?",
            f"Let f(x) = {f.said}. Compute f'({point}).",
            f"How fast does {f.said} change with x where x = {point}?",
        ),
        f"{_SYMPY_X}print(diff({f.written}, x).subs(x, {point}))",
        str(f.derivative()(point)),
    )


def derivative(draws: Draws) -> Problem:
    """The derivative of a polynomial."""
    f = Polynomial.drawn(draws, draws.integer(2, 4))
    return Problem(
        (
            f"Differentiate {f.said} with respect to x.",
            f"Find the derivative of f(x) = {f.said}.",
            f"What is d/dx of {f.said}?",
        ),
        f"{_SYMPY_X}print(diff({f.written}, x))",
        f.derivative().written,
    )


def definite_integral(draws: Draws) -> Problem:
    """The integral of a polynomial."""
    f, low = Polynomial.drawn(draws, draws.integer(1, 3)), draws.integer(0, 4)
    high = low + draws.integer(1, 5)
    return Problem(
        (
            f"Evaluate the integral of {f.said} from x = {low} to x = {high}.",
            f"Integrate f(x) = {f.said} over the interval [{low}, {high}].",
            f"What is the definite integral of {f.said} with respect to x between {low} and {high}?",
        ),
        f"{_SYMPY_X}print(integrate({f.written}, (x, {low}, {high})))",
        str(f.integral(low, high)),
    )


def displacement(draws: Draws) -> Problem:
    """How far something gets that moves at a velocity."""
    velocity, low = Polynomial.drawn(draws, 2, "t"), draws.integer(0, 3)
    high = low + draws.integer(1, 6)
    thing = draws.choice(("particle", "car", "train", "drone"))
    return Problem(
        (
            f"A {thing} moves with velocity v(t) = {velocity.said}. Find its displacement from t = {low} to t = {high}.",
            (
                f"The velocity of a {thing} is {velocity.said} at time t. By how much does its position change between "
                f"t = {low} and t = {high}?"
            ),
        ),
        f"from sympy import *\nt = symbols('t')\nprint(integrate({velocity.written}, (t, {low}, {high})))",
        str(velocity.integral(low, high)),
    )


def wave_derivative(draws: Draws) -> Problem:
    """The derivative of a sine and an exponential."""
    a, b, c, d = (draws.integer(2, 9) for _ in range(4))
    return Problem(
        (
            f"Differentiate {a} sin({b}x) + {c} e^({d}x).",
            f"Find the derivative of f(x) = {a} sin({b}x) + {c} e^({d}x).",
            f"If y = {a} sin({b}x) + {c} e^({d}x), what is dy/dx?",
        ),
        f"{_SYMPY_X}print(diff({a}*sin({b}*x) + {c}*exp({d}*x), x))",
        f"{a * b}*cos({b}*x) + {c * d}*exp({d}*x)",
    )


def removable_limit(draws: Draws) -> Problem:
    """The limit of a quotient where both its parts vanish."""
    root, other = draws.distinct(2, 1, 12)
    numerator = Polynomial((root * other, -root - other, 1))
    return Problem(
        (
            f"Find the limit of ({numerator.said})/(x - {root}) as x approaches {root}.",
            f"What does ({numerator.said})/(x - {root}) tend to when x tends to {root}?",
            f"Evaluate lim x->{root} of ({numerator.said})/(x - {root}).",
        ),
        f"{_SYMPY_X}print(limit(({numerator.written})/(x - {root}), x, {root}))",
        str(root - other),
    )


def limit_at_infinity(draws: Draws) -> Problem:
    """The limit of a quotient of polynomials of the same degree."""
    degree = draws.integer(1, 2)
    above, below = Polynomial.drawn(draws, degree), Polynomial.drawn(draws, degree)
    return Problem(
        (
            f"Find the limit of ({above.said})/({below.said}) as x goes to infinity.",
            f"What does ({above.said})/({below.said}) approach as x grows without bound?",
        ),
        f"{_SYMPY_X}print(limit(({above.written})/({below.written}), x, oo))",
        str(Fraction(above.coefficients[-1], below.coefficients[-1])),
    )


def vertex(draws: Draws) -> Problem:
    """Where a parabola is lowest."""
    f = Polynomial.drawn(draws, 2, size=19)
    return Problem(
        (
            f"For which x is {f.said} smallest?",
            f"At what x does f(x) = {f.said} have its minimum?",
            f"Find the critical point of f(x) = {f.said}.",
        ),
        f"{_SYMPY_X}print(solve(diff({f.written}, x), x)[0])",
        str(Fraction(-f.coefficients[1], 2 * f.coefficients[2])),
    )


def taylor_coefficient(draws: Draws) -> Problem:
    """A coefficient of the series of an exponential."""
    rate, power = draws.integer(2, 19), draws.integer(2, 6)
    return Problem(
        (
            f"What is the coefficient of x^{power} in the Taylor series of e^({rate}x) around 0?",
            f"Expand e^({rate}x) in powers of x. Which number stands before x^{power}?",
        ),
        f"{_SYMPY_X}print(diff(exp({rate}*x), x, {power}).subs(x, 0)/factorial({power}))",
        str(Fraction(rate**power, product_of(range(1, power + 1)))),
    )


def area_between(draws: Draws) -> Problem:
    """The area between a line and a parabola."""
    slope, stretch = draws.integer(2, 30), draws.integer(1, 6)
    parabola = Polynomial((0, 0, stretch))
    return Problem(
        (
            f"Find the area enclosed by the line y = {slope}x and the parabola y = {parabola.said}.",
            f"What is the area between y = {parabola.said} and y = {slope}x?",
        ),
        f"{_SYMPY_X}print(integrate({slope}*x - {parabola.written}, (x, 0, Rational({slope}, {stretch}))))",
        str(Fraction(slope**3, 6 * stretch**2)),
    )


def geometric_series(draws: Draws) -> Problem:
    """The sum of a geometric series."""
    first, above = draws.integer(1, 40), draws.integer(1, 8)
    below = above + draws.integer(1, 6)
    return Problem(
        (
            f"Find the sum of the infinite geometric series with first term {first} and ratio {above}/{below}.",
            (
                f"A geometric series begins with {first}, and each term is {above}/{below} of the one before. What is its "
                "sum?"
            ),
        ),
        f"from fractions import Fraction\nprint({first}/(1 - Fraction({above}, {below})))",
        str(Fraction(first * below, below - above)),
    )


def partial_derivative(draws: Draws) -> Problem:
    """A partial derivative of a monomial at a point."""
    a, m, n = draws.integer(2, 9), draws.integer(2, 4), draws.integer(2, 4)
    p, q = draws.integer(1, 6), draws.integer(1, 6)
    in_x = bool(draws.bits() & 1)
    name = "x" if in_x else "y"
    f = f"{a}x^{m} y^{n}"
    value = a * (m * p ** (m - 1) * q**n if in_x else n * p**m * q ** (n - 1))
    return Problem(
        (
            f"Find the partial derivative of f(x, y) = {f} with respect to {name} at ({p}, {q}).",
            f"Let f(x, y) = {f}. What is the derivative in {name} at x = {p} and y = {q}?",
        ),
        f"from sympy import *\nx, y = symbols('x y')\nprint(diff({a}*x**{m}*y**{n}, {name}).subs({{x: {p}, y: {q}}}))",
        str(value),
    )


KINDS: tuple[Kind, ...] = (
    derivative_at,
    derivative,
    definite_integral,
    displacement,
    wave_derivative,
    removable_limit,
    limit_at_infinity,
    vertex,
    taylor_coefficient,
    area_between,
    geometric_series,
    partial_derivative,
)
