"""What was printed against what is expected; the traps that checkers of LaTeX fall into are among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmmodules.evaluation.answer_parser import parse
from lmmodules.evaluation.answer_spelling import MAX_LENGTH
from lmmodules.evaluation.answer_values import UnreadableError
from lmmodules.evaluation.answers import compare, extract_answer

# (printed, expected)
SAME = [
    ("{3, 2, 1}", "{1,2,3}"),
    ("sqrt(2)/2", r"\sqrt{2}/2"),
    ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}"),
    ("0.333333", "1/3"),
    ("10,000", "10000"),
    ("3.0", "3"),
    ("1/3 + 1/6", "0.5"),
    ("25%", "0.25"),
    ("[[1 2]\n [3 4]]", "[[1, 2], [3, 4]]"),
    ("Matrix([[1, 2], [3, 4]])", "[1, 2; 3, 4]"),
    ("Matrix([[1], [2]])", "(1, 2)"),
    ("v =  [3. 3.]", "(3, 3)"),
    ("[ 1 -2]", "[1, -2]"),
    ("np.float64(2.5)", "5/2"),
    ("array([ 3., 12.])", "[3, 12]"),
    ("(-oo, 5]", r"(-\infty,5]"),
    ("Interval(1, oo)", "[1, oo)"),
    ("Interval.open(0, 1)", "(0, 1)"),
    ("Union(Interval(0, 1), Interval(2, 3))", "[2, 3] U [0, 1]"),
    ("x**2 + 2*x + 1", "(x+1)^2"),
    ("exp(x)*exp(y)", "exp(x + y)"),
    ("sin(x)**2 + cos(x)**2", "1"),
    ("2(x + 1)", "2x + 2"),
    ("y = 2*x + 1", "2x + 1"),
    ("x = 5", "5"),
    ("{x: 3, y: 7}", "y = 7, x = 3"),
    ("The area is 12.5", "25/2"),
    ("binomial(5, 2)", "10"),
    ("{1, 1, 2}", "{1, 2}"),
    ("2*I", "2i"),
    ("(1+2j)", "1+2*I"),
    ("1j", "I"),
    ("(-0-1.5j)", "-3*I/2"),
    ("2j**2", "-4"),
    ("[0.+1.j 0.-1.j]", "[I, -I]"),
    ("[1.5+2.25j 2. +3.j  ]", "[3/2 + 9*I/4, 2 + 3*I]"),
    ("[[0.+1.j 1.+0.j]\n [2.+0.j 0.-1.j]]", "[[I, 1], [2, -I]]"),
    ("array([0.+1.j, 0.-1.j])", "[I, -I]"),
    ("np.complex128(1+2j)", "1 + 2*I"),
    ("[Fraction(1, 3), Fraction(1, 2)]", "[1/3, 1/2]"),
    ("2*atan(x)", r"2\arctan{x}"),
    ("x*log(x**2 + 1)", r"x\log (x^2+1)"),
    ("x <= 5", r"(-\infty,5]"),
    ("5 >= x", r"(-\infty,5]"),
    ("x > 1/2", "(0.5, oo)"),
    ("0 < x <= 5", "(0, 5]"),
    ("5 > x >= 0", "[0, 5)"),
    ("(-oo < x) & (x <= 5)", "x \u2264 5"),
    ("(0 <= x) & (x < 5)", r"0 \leq x < 5"),
    ("(x < 1) | (3 < x)", "(-oo, 1) U (3, oo)"),
    ("[0, 1]", "Interval(0, 1)"),
    ("(0, 1)", "Interval.open(0, 1)"),
    ("The answer is: 5", "5"),
    ("Area (in metres): 5", "5"),
]
DIFFERENT = [
    ("2*x + 3", "3"),
    ("[1, 2, 3]", "3"),
    ("1e10", "1"),
    ("2*x = 5", "5"),
    ("Traceback: line 3", "3"),
    ("array([ 3., 12.])", "12"),
    ("25%", "25"),
    ("0.3333", "1/3"),
    ("12", "13"),
    ("1000001", "1000000"),
    ("nan", "nan"),
    ("oo", "-oo"),
    ("sqrt(x**2)", "x"),
    ("[2, 1]", "[1, 2]"),
    ("{1, 2}", "[1, 2]"),
    ("{1, 2, 3}", "{1, 2}"),
    ("[0, 1]", "[0, 1)"),
    ("x + 1", "x + 2"),
    ("5 apples", "5"),
    ("passed", "5"),
    ("", "5"),
    ("9**9**9**9", "5"),
    ("(" * 500, "5"),
    ("1/0", "5"),
    ("-" * 1500 + "5", "4"),
    ("__import__('os').system('true')", "0"),
    ("(lambda: 5)()", "5"),
    ("[5 for x in (1,)][0]", "5"),
    ("[0, 1]", "Interval.open(0, 1)"),
    ("(0, 1)", "Interval(0, 1)"),
    ("0, 1", "Interval(0, 1)"),
    ("(0, 1)", "Interval.Lopen(0, 1)"),
    ("no: 5", "5"),
    ("No, it is not: 5", "5"),
    ("The answer isn't: 5", "5"),
    ("Error: 5", "5"),
    ("2i + 3j", "5i"),
    ("2j", "2"),
    ("(1+2j)", "1-2*I"),
    ("[0.+1.j 0.-1.j]", "[-I, I]"),
    ("x < 5", r"(-\infty,5]"),
    ("x >= 5", r"(-\infty,5]"),
    ("y <= 5", "x <= 5"),
    ("0 < x > 5", "(0, 5)"),
    ("(0 < x) & (y < 5)", "(0, 5)"),
    ("x <= 5", "5"),
]


# As MATLAB writes matrices: spaces or commas within a row, a semicolon between rows.
SAME_MATRIX = [
    ("[1,0;0,1]", "[[1. 0.]\n [0. 1.]]"),
    ("[1 0; 0 1]", "[[1. 0.]\n [0. 1.]]"),
    ("[1,0;0,1]", "[[ 1. -0.]\n [ 0.  1.]]"),
    ("[0,1; 0 0]", "[[0, 1], [0, 0]]"),
    ("[1 -2; 3 4];", "Matrix([[1, -2], [3, 4]])"),
    ("[1 - 2; 3]", "[[-1], [3]]"),
    ("[1/2,0;\u22121,1/2]", "array([[ 0.5,  0. ],\n       [-1. ,  0.5]])"),
    ("[√2/2 \u2212√2/2; √2/2 √2/2]", "[[ 0.70710678 -0.70710678]\n [ 0.70710678  0.70710678]]"),
    ("[2π 1; x 2*(x + 1)]", "[[2*pi, 1], [x, 2*x + 2]]"),
    ("A = [1,0;0,1]", "[[1. 0.]\n [0. 1.]]"),
    ("[-30/13;-20/13]", "[-2.30769231 -1.53846154]"),
    ("[1;2]", "[[1]\n [2]]"),
]
DIFFERENT_MATRIX = [
    ("[1,0;0,1]", "[[1. 0.]\n [0. 2.]]"),
    ("[1,0;0,1]", "[[1. 0. 0.]\n [0. 1. 0.]]"),
    ("[1,0;0,1]", "[[1. 0.]\n [0. 1.]\n [0. 0.]]"),
    ("[1,0;0,1]", "[1. 0. 0. 1.]"),
    ("[1,2;3,4]", "[[1. 3.]\n [2. 4.]]"),
    ("[1;2]", "[[1 2]]"),
    ("[1,0;0,1]", "1"),
    ("[1,0;0,1]", "{1, 0}"),
    ("[1,0;;0,1]", "[[1. 0.]\n [0. 1.]]"),
    ("[1,0;0,1", "[[1. 0.]\n [0. 1.]]"),
]


@pytest.mark.parametrize(("written", "printed"), SAME_MATRIX, ids=lambda text: text[:20])
def test_the_same_matrix(written: str, printed: str) -> None:
    assert compare(printed, written).correct, compare(printed, written)
    assert compare(written, printed).correct


@pytest.mark.parametrize(("written", "printed"), DIFFERENT_MATRIX, ids=lambda text: text[:20])
def test_different_matrices(written: str, printed: str) -> None:
    assert not compare(printed, written).correct
    assert not compare(written, printed).correct


@pytest.mark.parametrize(("given", "expected"), SAME)
def test_the_same(given: str, expected: str) -> None:
    verdict = compare(given, expected)
    assert verdict.correct, verdict


@pytest.mark.parametrize(("given", "expected"), DIFFERENT, ids=lambda text: text[:20])
def test_different(given: str, expected: str) -> None:
    verdict = compare(given, expected)
    assert not verdict.correct, verdict
    assert verdict.reason


@pytest.mark.parametrize(
    ("given", "expected"), [pair for pair in SAME if not pair[0].startswith(("v =", "The", "Area", "0.333333"))]
)
def test_it_is_symmetric(given: str, expected: str) -> None:
    assert compare(expected, given).correct


def test_an_answer_is_never_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    calls = (f"__import__('os').system('touch {mark}')", f"open('{mark}', 'w')", f"().__class__.f('{mark}')")
    for answer in (*calls, *(f"[{call}, 0; 0 1]" for call in calls), *(f"[1 {call}; 0 1]" for call in calls)):
        assert not compare(answer, "0").correct
        assert not compare("0", answer).correct
        assert not compare("[1 0; 0 1]", answer).correct
    assert not mark.exists()


def test_tolerance() -> None:
    assert not compare("0.5004", "0.5").correct
    assert compare("0.5004", "0.5", tolerance=1e-3).correct
    assert not compare("1001", "1000", tolerance=0.1).correct  # whole numbers are exact


def test_kinds() -> None:
    assert compare("x", "x").kind == "text"
    assert compare("2*x/2", "x").kind == "symbolic"
    assert compare("2.0", "2").kind == "number"
    assert compare("anything at all", "2").kind == "unreadable"


def test_what_is_too_long_is_not_read() -> None:
    with pytest.raises(UnreadableError, match=f"longer than {MAX_LENGTH}"):
        parse("1+" * MAX_LENGTH + "1")


def test_what_is_too_long_is_not_searched_for_words() -> None:
    for filling in (" ", "\t", "a ", "(", "((", "is "):
        verdict = compare("a" + filling * 2**20 + "b", "5")
        assert (verdict.correct, verdict.kind) == (False, "unreadable")
        assert f"longer than {MAX_LENGTH} characters" in verdict.reason


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("1\n2\n\n", "2"),
        ("ANSWER: 5\nthat was it", "5"),
        ("ANSWER: 5\nANSWER: 5", "5"),
        ("first\n[[1 2]\n [3 4]]\n", "[[1 2] [3 4]]"),
    ],
)
def test_where_the_answer_stands(output: str, text: str) -> None:
    assert extract_answer(output).text == text


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "nothing was printed"),
        ("\n \n", "nothing was printed"),
        ("ANSWER: 1\nANSWER: 2", "2 different answers were printed"),
        ("ANSWER:", "the answer is empty"),
    ],
)
def test_there_is_no_answer(output: str, reason: str) -> None:
    found = extract_answer(output)
    assert (found.text, found.reason) == (None, reason)
