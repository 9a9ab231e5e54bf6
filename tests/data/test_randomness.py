from __future__ import annotations

import numpy as np
import pytest

from lmmodules.data.randomness import SampleKeys, mix, unit_interval


def keys(seed: int = 0, epochs: int = 0, indices: int = 0, number: int = 1) -> SampleKeys:
    return SampleKeys(seed, np.full(number, epochs), np.arange(indices, indices + number))


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    # The first outputs of SplitMix64 seeded with 0, as its authors' C code prints them.
    states = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [int(value) for value in mix(states)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_mix_does_not_change_its_argument() -> None:
    values = np.array([5], dtype=np.uint64)
    mix(values)
    assert values[0] == 5


def test_every_input_bit_moves_half_of_the_output_bits() -> None:
    base = keys(number=500).bits("test", 1)[:, 0]
    for bit in range(64):
        flipped = mix(base) ^ mix(base ^ np.uint64(1 << bit))
        ones = np.unpackbits(flipped.view(np.uint8)).mean()
        assert ones == pytest.approx(0.5, abs=0.02)


def test_draws_are_uniform() -> None:
    draws = keys(number=2000).uniform("test", 100)
    assert draws.shape == (2000, 100)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.bincount((draws * 50).astype(int).ravel(), minlength=50)
    chi_square = ((counts - draws.size / 50) ** 2 / (draws.size / 50)).sum()
    assert 49 - 5 * 98**0.5 < chi_square < 49 + 5 * 98**0.5


def test_the_largest_integer_stays_below_one() -> None:
    assert unit_interval(np.array([2**64 - 1], dtype=np.uint64))[0] < 1


def test_neighbours_are_independent() -> None:
    draws = keys(number=400).uniform("test", 400)
    tolerance = 5 / 400  # five standard errors of a correlation over 160,000 pairs
    for shifted in (np.roll(draws, 1, axis=0), np.roll(draws, 1, axis=1), keys(number=400).uniform("other", 400)):
        assert abs(np.corrcoef(draws.ravel(), shifted.ravel())[0, 1]) < tolerance
    for other in (keys(seed=1, number=400), keys(epochs=1, number=400), keys(indices=1000, number=400)):
        assert abs(np.corrcoef(draws.ravel(), other.uniform("test", 400).ravel())[0, 1]) < tolerance


def test_draws_belong_to_the_sample_and_not_to_the_batch() -> None:
    together = SampleKeys(7, np.array([0, 3, 1]), np.array([5, 2, 9])).bits("test", 8)
    alone = SampleKeys(7, np.array([3]), np.array([2])).bits("test", 8)
    assert (together[1] == alone[0]).all()


def test_a_longer_row_begins_with_the_shorter() -> None:
    assert (keys().bits("test", 20)[:, :5] == keys().bits("test", 5)).all()


def test_samples_hardly_ever_share_a_starting_point() -> None:
    # fairseq's seeds leave 34,415 distinct values for a million samples; 64 bits leave all of them.
    first = SampleKeys(0, np.zeros(10**6, dtype=np.int64), np.arange(10**6)).bits("test", 1)
    assert len(np.unique(first)) == 10**6


@pytest.mark.parametrize("seed", [-1, 2**63, 2**80])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert (keys(seed=seed).bits("test", 4) != keys(seed=seed + 1).bits("test", 4)).all()


def test_a_cycle_repeats() -> None:
    epochs = SampleKeys(0, np.arange(6), np.zeros(6, dtype=np.int64)).cycle(3).bits("test", 2)
    assert (epochs[:3] == epochs[3:]).all()
    assert (epochs[0] != epochs[1]).all()
