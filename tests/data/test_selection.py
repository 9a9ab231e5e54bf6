from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lmmodules.data import BertRounding, IndependentSelection, ProbabilisticRounding, SampleKeys, SelectionRule
from lmmodules.data.selection import Candidates
from lmmodules.errors import InputError

NUMBER = 3000


def candidates(length: int, specials: int = 0) -> Candidates:
    """Samples of so many positions, of which the first few are special tokens that can not be selected."""
    keys = SampleKeys(0, np.zeros(NUMBER, dtype=np.int64), np.arange(NUMBER))
    eligible = np.broadcast_to(np.arange(length) >= specials, (NUMBER, length)) if specials else None
    return Candidates(keys.bits("test", length), eligible, np.full(NUMBER, length), keys)


def counts(rule: SelectionRule, length: int, specials: int = 0, probability: float = 0.15) -> np.ndarray:
    selected = rule.select(candidates(length, specials), probability)
    assert not selected[:, :specials].any()
    rate = selected[:, specials:].mean(axis=0)
    # All candidates are equally likely.
    assert np.abs(rate - rate.mean()).max() < 5 * (rate.mean() * (1 - rate.mean()) / NUMBER) ** 0.5 + 1e-9
    return selected.sum(axis=1)


def test_probabilistic_rounding() -> None:
    assert set(counts(ProbabilisticRounding(), 512).tolist()) == {76, 77}
    assert counts(ProbabilisticRounding(), 512).mean() == pytest.approx(76.8, abs=0.04)
    found = counts(ProbabilisticRounding(), 5)
    assert (found == 0).mean() == pytest.approx(0.25, abs=0.04)
    assert counts(ProbabilisticRounding(), 12, specials=2).mean() == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize(
    ("length", "expected"),
    # round(0.15 * length), halves to even, at least 1: worked out by hand for lengths with [CLS] and [SEP]
    [(128, 19), (512, 77), (10, 2), (30, 4), (70, 10), (3, 1), (4, 1)],
)
def test_bert_rounds_to_the_nearest_of_the_whole_length(length: int, expected: int) -> None:
    assert set(counts(BertRounding(), length, specials=2).tolist()) == {expected}
    assert expected == max(1, round(length * 0.15))


def test_bert_limits_its_predictions() -> None:
    assert set(counts(BertRounding(max_predictions=20), 512, specials=2).tolist()) == {20}
    assert set(counts(BertRounding(max_predictions=20), 128, specials=2).tolist()) == {19}
    # Never more than there are.
    assert set(counts(BertRounding(), 5, specials=3, probability=0.9).tolist()) == {2}
    assert not BertRounding().select(candidates(3, specials=3), 0.15).any()
    with pytest.raises(InputError, match=r"`max_predictions` must be at least 1 .*, but is 0"):
        BertRounding(max_predictions=0)


@pytest.mark.parametrize(("length", "specials", "probability"), [(128, 0, 0.15), (128, 2, 0.15), (40, 0, 0.5)])
def test_independent_selection_is_binomial(length: int, specials: int, probability: float) -> None:
    found = counts(IndependentSelection(), length, specials, probability)
    n = length - specials
    assert found.mean() == pytest.approx(n * probability, abs=5 * (n * probability / NUMBER) ** 0.5)
    assert found.var() == pytest.approx(n * probability * (1 - probability), rel=0.15)


@pytest.mark.parametrize("rule", [ProbabilisticRounding(), BertRounding(), IndependentSelection()])
def test_everything_can_be_selected(rule: Any) -> None:
    assert set(counts(rule, 16, probability=1.0).tolist()) == {16}
