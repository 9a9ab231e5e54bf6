"""Generated questions: programs print their answers, and what is held out stays so."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from lmmodules.data.math_questions import MathQuestions
from lmmodules.data.math_subjects import SUBJECTS, Draws
from lmmodules.data.math_subjects.problem import Polynomial, choose
from lmmodules.errors import InputError
from lmmodules.evaluation.answers import compare, extract_answer

KINDS = [kind for kinds in SUBJECTS.values() for kind in kinds]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_program_prints_the_answer_that_was_found_without_it(kind) -> None:
    for key in range(6):
        problem = kind(Draws(key))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(problem.program, {})
        verdict = compare(extract_answer(printed.getvalue()).text or "", problem.answer)
        assert verdict.correct, (problem, printed.getvalue(), verdict.reason)
        assert len(set(problem.wordings)) == len(problem.wordings) >= 2


def test_kinds_have_names_of_their_own_in_six_subjects() -> None:
    assert len({kind.__name__ for kind in KINDS}) == len(KINDS)
    assert len(SUBJECTS) == 6
    assert all(len(kinds) >= 8 for kinds in SUBJECTS.values())


def test_questions_follow_from_seed_epoch_and_index_alone() -> None:
    made = MathQuestions(seed=3)
    epochs, indices = np.array([0, 0, 1]), np.array([5, 6, 5])
    first = made.questions(epochs, indices)
    assert made.questions(epochs[::-1].copy(), indices[::-1].copy()) == first[::-1]
    assert len(set(first)) == 3
    assert MathQuestions(seed=4).questions(epochs, indices) != first


def test_no_program_is_both_trained_on_and_held_out() -> None:
    training = MathQuestions(seed=0).first(3000)
    held_out = MathQuestions(seed=1).first(1000, held_out=True)
    assert not {pair.program for pair in training} & {pair.program for pair in held_out}
    assert {pair.kind for pair in held_out} == {pair.kind for pair in training}


def test_subjects_and_kinds_are_chosen_by_name() -> None:
    made = MathQuestions(["number_theory"], ["totient", "inverse"])
    assert {pair.kind for pair in made.first(50)} == {"totient", "inverse"}
    with pytest.raises(InputError, match=r"`data.subjects` must be among calculus, .*, but names algebra"):
        MathQuestions(["algebra"])
    with pytest.raises(InputError, match=r"`data.kinds` must name at least one of"):
        MathQuestions(kinds=[])
    with pytest.raises(InputError, match=r"`held_out_fraction` must be above 0 and below 1, but is 1"):
        MathQuestions(held_out_fraction=1)


def test_draws_cover_both_ends_and_are_distinct() -> None:
    draws = Draws(0)
    assert {draws.integer(-2, 2) for _ in range(200)} == {-2, -1, 0, 1, 2}
    assert {draws.nonzero(2) for _ in range(200)} == {-2, -1, 1, 2}
    assert sorted(draws.distinct(4, 1, 4)) == [1, 2, 3, 4]


def test_a_polynomial_is_said_and_written() -> None:
    polynomial = Polynomial((4, -1, 3))
    assert polynomial.said == "3x^2 - x + 4"
    assert polynomial.written == "3*x**2 - x + 4"
    assert polynomial(2) == 14
    assert polynomial.derivative().said == "6x - 1"
    assert polynomial.integral(0, 2) == 8 - 2 + 8
    assert [choose(5, k) for k in (0, 2, 5, 6)] == [1, 10, 1, 0]
