from __future__ import annotations

import pytest
import torch

from lmmodules.parallel.totals import Term, Totals


def test_a_mean_is_a_sum_over_a_count_and_not_a_mean_of_means() -> None:
    totals = Totals()
    totals.add({"loss": Term(torch.tensor(8.0), 8)})
    totals.add({"loss": Term(torch.tensor(6.0), 2)})
    assert totals.collect() == {"loss": pytest.approx(1.4)}  # a mean of means would say 2.0


def test_the_loss_of_several_terms_is_their_weighted_sum() -> None:
    totals = Totals()
    for _ in range(3):
        totals.add(
            {
                "masked": Term(torch.tensor(6.0), 2),
                "copy": Term(torch.tensor(1.0), torch.tensor(4), weight=50.0),
                "accuracy": Term(torch.tensor(1.0), 2, weight=0.0),
            }
        )
    means = totals.collect()
    assert means == {"masked": 3.0, "copy": 0.25, "accuracy": 0.5, "loss": 3.0 + 50 * 0.25}
    assert list(means) == ["masked", "copy", "accuracy", "loss"]


def test_collecting_starts_anew_and_nothing_gives_nothing() -> None:
    totals = Totals()
    assert not totals
    assert totals.collect() == {}
    totals.add({"loss": Term(torch.tensor(1.0), 1)})
    assert totals
    totals.collect()
    assert not totals
    totals.add({"loss": Term(torch.tensor(5.0), 1)})
    totals.clear()
    assert totals.collect() == {}


def test_no_target_gives_zero_and_not_nan() -> None:
    totals = Totals()
    totals.add({"loss": Term(torch.tensor(0.0), 0)})
    assert totals.collect() == {"loss": 0.0}


def test_what_is_only_watched_and_had_no_target_is_left_out() -> None:
    totals = Totals()
    totals.add({"loss": Term(torch.tensor(6.0), 2), "end": Term(torch.tensor(0.0), 0, weight=0.0)})
    assert totals.collect() == {"loss": 3.0}
    totals.add({"loss": Term(torch.tensor(6.0), 2), "end": Term(torch.tensor(4.0), 1, weight=0.0)})
    assert totals.collect() == {"loss": 3.0, "end": 4.0}


def test_adding_keeps_no_graph_and_does_not_change_what_was_given() -> None:
    totals = Totals()
    loss = torch.tensor(2.0, requires_grad=True) * 3
    totals.add({"loss": Term(loss, 1)})
    totals.add({"loss": Term(loss, 1)})
    assert loss.item() == 6.0
    assert not any(pair.requires_grad for pair in totals._pairs.values())


def test_float64_keeps_a_long_validation_exact() -> None:
    totals = Totals()
    for _ in range(1000):
        totals.add({"loss": Term(torch.tensor(16777216.0), 1)})
    totals.add({"loss": Term(torch.tensor(1.0), 0)})
    assert totals.collect()["loss"] == (16777216.0 * 1000 + 1) / 1000


def test_a_half_precision_sum_is_added_in_float64() -> None:
    totals = Totals()
    for _ in range(4096):
        totals.add({"loss": Term(torch.tensor(1.0, dtype=torch.bfloat16), 1)})
    assert totals.collect()["loss"] == 1.0
