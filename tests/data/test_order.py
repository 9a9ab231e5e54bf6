from __future__ import annotations

import math

import numpy as np
import pytest

from lmmodules.data.order import SampleOrder


def epoch(order: SampleOrder, number: int) -> list[int]:
    n = order.num_samples
    return order(np.arange(number * n, (number + 1) * n))[1].tolist()


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 15, 16, 17, 100, 255, 256, 257, 5000, 65537])
def test_each_epoch_is_a_permutation(num_samples: int) -> None:
    order = SampleOrder(num_samples, seed=3)
    for number in (0, 1, 7):
        assert sorted(epoch(order, number)) == list(range(num_samples))


def test_epochs_follow_each_other_within_a_batch() -> None:
    epochs, indices = SampleOrder(10, seed=0)(np.arange(8, 13))
    assert epochs.tolist() == [0, 0, 1, 1, 1]
    assert indices[:2].tolist() == epoch(SampleOrder(10, seed=0), 0)[8:]
    assert indices[2:].tolist() == epoch(SampleOrder(10, seed=0), 1)[:3]


def test_unshuffled_is_the_order_of_the_corpus() -> None:
    assert epoch(SampleOrder(100, seed=5, shuffle=False), 4) == list(range(100))
    assert epoch(SampleOrder(100, seed=5), 4) != list(range(100))


def test_epochs_and_seeds_have_their_own_permutations() -> None:
    first = epoch(SampleOrder(1000, seed=0), 0)
    for other in (epoch(SampleOrder(1000, seed=0), 1), epoch(SampleOrder(1000, seed=1), 0)):
        # Two independent permutations agree in one place on average.
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 10


def test_all_permutations_of_four_are_equally_likely() -> None:
    num_epochs = 12000
    orders = SampleOrder(4, seed=1)(np.arange(4 * num_epochs))[1].reshape(num_epochs, 4)
    _, counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(counts) == math.factorial(4)
    chi_square = ((counts - num_epochs / 24) ** 2 / (num_epochs / 24)).sum()
    assert chi_square < 23 + 5 * 46**0.5


@pytest.mark.parametrize("num_samples", [5, 30])
def test_every_sample_is_equally_likely_at_every_place(num_samples: int) -> None:
    num_epochs = 6000
    indices = SampleOrder(num_samples, seed=2)(np.arange(num_samples * num_epochs))[1].reshape(num_epochs, num_samples)
    expected = num_epochs / num_samples
    degrees = (num_samples - 1) ** 2
    counts = np.stack([np.bincount(column, minlength=num_samples) for column in indices.T])
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert degrees - 5 * (2 * degrees) ** 0.5 < chi_square < degrees + 5 * (2 * degrees) ** 0.5


def test_neighbours_in_the_corpus_are_scattered() -> None:
    indices = np.array(epoch(SampleOrder(20000, seed=0), 0))
    places = np.argsort(indices)
    # The mean distance of two places of a uniform permutation is a third of its length.
    assert np.abs(np.diff(places)).mean() == pytest.approx(20000 / 3, rel=0.03)
    assert abs(np.corrcoef(np.arange(20000), indices)[0, 1]) < 5 / 20000**0.5


def test_seeking_far_into_a_huge_corpus_needs_no_table() -> None:
    order = SampleOrder(10**12, seed=0)
    epochs, indices = order(np.array([10**12 * 3 + 5, 10**12 * 3 + 6]))
    assert epochs.tolist() == [3, 3]
    assert 0 <= indices.min() < indices.max() < 10**12
