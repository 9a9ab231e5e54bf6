"""Questions of linear algebra."""

from __future__ import annotations

from fractions import Fraction

from lmmodules.data.math_subjects.problem import Draws, Kind, Polynomial, Problem

Matrix = list[list[int]]


def determinant(draws: Draws) -> Problem:
    """The determinant of a matrix."""
    matrix = _matrix(draws, *(draws.integer(2, 3),) * 2)
    return Problem(
        (
            f"Find the determinant of {matrix}.",
            f"What is the determinant of the matrix A = {matrix}?",
            f"Compute det(A) for A = {matrix}.",
        ),
        f"from sympy import *\nprint(Matrix({matrix}).det())",
        str(_determinant(matrix)),
    )


def trace(draws: Draws) -> Problem:
    """The trace of a matrix."""
    matrix = _matrix(draws, *(draws.integer(2, 3),) * 2)
    return Problem(
        (f"Find the trace of {matrix}.", f"What is the trace of the matrix A = {matrix}?"),
        f"from sympy import *\nprint(Matrix({matrix}).trace())",
        str(sum(row[i] for i, row in enumerate(matrix))),
    )


def rank(draws: Draws) -> Problem:
    """The rank of a matrix whose last row may follow from the others."""
    matrix = _matrix(draws, 2, 3)
    a, b = draws.integer(1, 2), draws.integer(1, 2)
    follows = [a * above + b * below for above, below in zip(*matrix, strict=True)]
    matrix.append(follows if draws.bits() & 1 else [draws.integer(-9, 9) for _ in range(3)])
    return Problem(
        (
            f"What is the rank of {matrix}?",
            f"How many rows of the matrix {matrix} are linearly independent?",
        ),
        f"from sympy import *\nprint(Matrix({matrix}).rank())",
        str(_rank(matrix)),
    )


def linear_system(draws: Draws) -> Problem:
    """Two equations with two unknowns."""
    (a, b), (c, d) = ([draws.nonzero(9) for _ in range(2)] for _ in range(2))
    while a * d == b * c:
        d = draws.nonzero(9)
    x, y = draws.integer(-9, 9), draws.integer(-9, 9)
    e, f = a * x + b * y, c * x + d * y
    first, second = (_sum_of(*pair) for pair in ((a, b), (c, d)))
    return Problem(
        (
            f"Solve {first[0]} = {e} and {second[0]} = {f} for (x, y).",
            f"Find the solution [x, y] of the system {first[0]} = {e}, {second[0]} = {f}.",
            f"Where do the lines {first[0]} = {e} and {second[0]} = {f} meet?",
        ),
        "from sympy import *\nx, y = symbols('x y')\n"
        f"s = solve([Eq({first[1]}, {e}), Eq({second[1]}, {f})], [x, y])\nprint([s[x], s[y]])",
        f"[{x}, {y}]",
    )


def eigenvalues(draws: Draws) -> Problem:
    """The eigenvalues of a matrix, which are whole numbers."""
    first, second = draws.distinct(2, -9, 9)
    shear, other = draws.integer(-3, 3), draws.nonzero(2)
    # S diag S^-1 with S = [[1, s], [o, 1 + o s]], whose determinant is 1.
    gap, corner = second - first, 1 + shear * other
    matrix = [[first * corner - second * shear * other, shear * gap], [-other * corner * gap, 0]]
    matrix[1][1] = first + second - matrix[0][0]
    return Problem(
        (
            f"Find the eigenvalues of {matrix}.",
            f"For which numbers t is {matrix} - tI singular?",
            f"What are the eigenvalues of the matrix A = {matrix}?",
        ),
        f"from sympy import *\nprint(list(Matrix({matrix}).eigenvals()))",
        f"{{{first}, {second}}}",
    )


def matrix_vector(draws: Draws) -> Problem:
    """A matrix times a vector."""
    columns = draws.integer(2, 3)
    matrix, vector = _matrix(draws, 2, columns), _vector(draws, columns)
    return Problem(
        (
            f"Compute the product of the matrix {matrix} and the vector {vector}.",
            f"Let A = {matrix} and x = {vector}. What is Ax?",
        ),
        f"from sympy import *\nprint(list(Matrix({matrix})*Matrix({vector})))",
        str([_dot(row, vector) for row in matrix]),
    )


def dot_product(draws: Draws) -> Problem:
    """The dot product of two vectors."""
    size = draws.integer(2, 4)
    u, v = _vector(draws, size), _vector(draws, size)
    return Problem(
        (
            f"Find the dot product of {u} and {v}.",
            f"What is the inner product of the vectors {u} and {v}?",
        ),
        f"print(sum(a*b for a, b in zip({u}, {v})))",
        str(_dot(u, v)),
    )


def cross_product(draws: Draws) -> Problem:
    """The cross product of two vectors."""
    u, v = _vector(draws, 3), _vector(draws, 3)
    cross = [u[i - 2] * v[i - 1] - u[i - 1] * v[i - 2] for i in range(3)]
    return Problem(
        (f"Find the cross product of {u} and {v}.", f"Let u = {u} and v = {v}. Compute u x v."),
        f"from sympy import *\nprint(list(Matrix({u}).cross(Matrix({v}))))",
        str(cross),
    )


def vector_length(draws: Draws) -> Problem:
    """The length of a vector."""
    vector = _vector(draws, draws.integer(2, 4), 15)
    return Problem(
        (f"What is the length of the vector {vector}?", f"Find the Euclidean norm of {vector}."),
        f"from math import *\nprint(sqrt(sum(c**2 for c in {vector})))",
        f"sqrt({_dot(vector, vector)})",
    )


def projection(draws: Draws) -> Problem:
    """How much of one vector lies along another."""
    u, v = _vector(draws, 3), _vector(draws, 3)
    while not any(v):
        v = _vector(draws, 3)
    return Problem(
        (
            f"By what number must {v} be multiplied to give the projection of {u} onto it?",
            f"The projection of {u} onto {v} is c times {v}. Find c.",
        ),
        f"from sympy import *\nu, v = Matrix({u}), Matrix({v})\nprint(u.dot(v)/v.dot(v))",
        str(Fraction(_dot(u, v), _dot(v, v))),
    )


def _vector(draws: Draws, size: int, largest: int = 9) -> list[int]:
    return [draws.integer(-largest, largest) for _ in range(size)]


def _matrix(draws: Draws, rows: int, columns: int) -> Matrix:
    return [_vector(draws, columns) for _ in range(rows)]


def _dot(u: list[int], v: list[int]) -> int:
    return sum(a * b for a, b in zip(u, v, strict=True))


def _determinant(matrix: Matrix) -> int:
    """By expansion along the first row."""
    if len(matrix) == 1:
        return matrix[0][0]
    rest = matrix[1:]
    minors = ([row[:column] + row[column + 1 :] for row in rest] for column in range(len(matrix)))
    return sum((-1) ** column * matrix[0][column] * _determinant(minor) for column, minor in enumerate(minors))


def _rank(matrix: Matrix) -> int:
    """By elimination."""
    rows = [[Fraction(entry) for entry in row] for row in matrix]
    found = 0
    for column in range(len(matrix[0])):
        pivot = next((row for row in range(found, len(rows)) if rows[row][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        for below in range(found + 1, len(rows)):
            factor = rows[below][column] / rows[found][column]
            rows[below] = [b - factor * a for a, b in zip(rows[found], rows[below], strict=True)]
        found += 1
    return found


def _sum_of(a: int, b: int) -> tuple[str, str]:
    """``a x + b y`` as it is said and as it is written."""
    x, y = Polynomial((0, a), "x"), Polynomial((0, abs(b)), "y")
    sign = "-" if b < 0 else "+"
    return f"{x.said} {sign} {y.said}", f"{x.written} {sign} {y.written}"


KINDS: tuple[Kind, ...] = (
    determinant,
    trace,
    rank,
    linear_system,
    eigenvalues,
    matrix_vector,
    dot_product,
    cross_product,
    vector_length,
    projection,
)
