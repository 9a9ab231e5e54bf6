from __future__ import annotations

from math import comb

import pytest

from lmmodules.errors import InputError
from lmmodules.evaluation.pass_at_k import pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(5, 2, 1, 0.4), (10, 3, 5, 0.916667), (200, 1, 100, 0.5), (200, 20, 10, 0.660226), (3, 3, 3, 1), (10, 0, 5, 0)],
)
def test_known_values(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, [c], k) == pytest.approx(expected, abs=1e-6)


def test_it_is_the_share_of_choices_that_hold_a_right_one() -> None:
    for n in range(1, 12):
        for k in range(1, n + 1):
            expected = [1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)]
            assert [pass_at_k(n, [c], k) for c in range(n + 1)] == pytest.approx(expected, abs=1e-12)
            assert pass_at_k(n, range(n + 1), k) == pytest.approx(sum(expected) / (n + 1), abs=1e-12)


def test_it_is_not_the_biased_estimate() -> None:
    assert abs(pass_at_k(5, [2], 3) - (1 - (1 - 2 / 5) ** 3)) > 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((5, [1], 6), r"`k` must lie between 1 and the number of samples per task \(5\), but is 6"),
        ((5, [1], 0), "`k` must lie"),
        ((5, [6], 1), "`num_correct` must hold a number between 0 and 5"),
        ((5, [], 1), "`num_correct` must"),
    ],
)
def test_what_can_not_be(arguments: tuple[int, list[int], int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        pass_at_k(*arguments)
