"""Rules, with numbers computed by hand."""

from __future__ import annotations

import math

import pytest

from lmmodules.claims.rules import Below, NotAbove, mean, paired_difference, standard_deviation, standard_error


def seeds(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"a": first, "b": second} for first, second in pairs]


class TestNumbers:
    def test_a_sample(self) -> None:
        values = [2.0, 4.0, 9.0]  # mean 5; squares of the deviations 9, 1, 16: variance 26 / 2
        assert mean(values) == 5.0
        assert standard_deviation(values) == pytest.approx(math.sqrt(13.0))
        assert standard_error(values) == pytest.approx(math.sqrt(13.0 / 3.0))

    def test_one_value_has_no_spread(self) -> None:
        assert standard_deviation([3.0]) is None
        assert standard_error([3.0]) is None

    def test_a_diverged_run_has_no_spread(self) -> None:
        assert mean([1.0, math.inf]) == math.inf
        assert standard_deviation([1.0, math.inf]) is None

    def test_two_diverged_runs_are_equally_bad(self) -> None:
        assert paired_difference(math.inf, math.inf) == 0.0
        assert paired_difference(1.0, math.inf) == -math.inf


class TestBelow:
    def test_differences_are_paired(self) -> None:
        finding = Below("a", "b").judge(seeds((1.0, 2.0), (11.0, 12.5), (21.0, 22.25)))
        # -1, -1.5, -1.25: standard deviation 0.25. Unpaired, the spread of the seeds would have drowned it.
        assert finding.difference == pytest.approx(-1.25)
        assert finding.standard_error == pytest.approx(0.25 / math.sqrt(3))
        assert finding.held

    def test_one_seed_above_is_enough_to_refuse(self) -> None:
        assert not Below("a", "b").judge(seeds((1.0, 9.0), (1.0, 9.0), (1.0, 0.9))).held

    def test_equal_is_not_below(self) -> None:
        assert not Below("a", "b").judge(seeds((1.0, 1.0))).held

    def test_the_mean_must_stand_out(self) -> None:
        pairs = seeds((0.0, 0.1), (0.0, 0.1), (0.0, 3.0))  # mean 1.0667, standard error 0.9667: 1.1 of them
        assert not Below("a", "b").judge(pairs).held
        assert Below("a", "b", standard_errors=1.0).judge(pairs).held

    def test_one_seed_is_judged_by_its_sign(self) -> None:
        finding = Below("a", "b").judge(seeds((1.0, 1.001)))
        assert finding.held
        assert finding.standard_error is None

    def test_a_diverged_run_is_above_all_others(self) -> None:
        assert Below("a", "b").judge(seeds((1.0, math.inf), (1.0, 2.0))).held
        assert not Below("a", "b").judge(seeds((math.inf, 1.0), (1.0, 2.0))).held
        assert not Below("a", "b").judge(seeds((math.inf, math.inf), (1.0, 2.0))).held

    def test_a_margin_must_be_kept_in_every_seed(self) -> None:
        pairs = seeds((1.0, 1.5), (1.0, 1.25), (1.0, 1.5))
        assert Below("a", "b", by=0.2).judge(pairs).held
        assert not Below("a", "b", by=0.25).judge(pairs).held
        assert Below("a", "b", by=0.2).words.startswith("`a` is below `b` by more than 0.2 in every seed, and ")

    def test_it_says_what_it_asks(self) -> None:
        assert Below("a", "b").words == (
            "`a` is below `b` in every seed, and on average by more than 2 standard errors"
        )
        assert "1.5 standard errors" in Below("a", "b", standard_errors=1.5).words


class TestNotAbove:
    @pytest.mark.parametrize(("tolerance", "held"), [(0.5, True), (0.25, True), (0.2, False)])
    def test_the_mean_may_be_above_by_the_tolerance(self, tolerance: float, held: bool) -> None:
        assert NotAbove("a", "b", tolerance=tolerance).judge(seeds((1.0, 0.25), (1.0, 1.25))).held == held

    def test_below_is_not_above(self) -> None:
        assert NotAbove("a", "b", tolerance=0.0).judge(seeds((1.0, 2.0), (1.0, 0.5))).held

    def test_a_diverged_run_is_above(self) -> None:
        assert not NotAbove("a", "b", tolerance=5.0).judge(seeds((math.inf, 1.0))).held

    def test_it_says_what_it_asks(self) -> None:
        assert NotAbove("a", "b", tolerance=0.05).words == "`a` is on average at most 0.05 above `b`"
