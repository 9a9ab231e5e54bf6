"""Samples of similar length stand together, and the order stays arithmetic."""

from __future__ import annotations

import numpy as np

from lmmodules.data.length_order import LengthOrder
from lmmodules.data.order import SampleOrder

N = 2500  # two windows and a part of one
LENGTHS = np.random.default_rng(0).integers(3, 100, N)


def padded_share(indices: np.ndarray, batch_size: int = 16) -> float:
    lengths = LENGTHS[indices[: len(indices) // batch_size * batch_size]].reshape(-1, batch_size)
    return 1 - lengths.sum() / (lengths.max(axis=1) * batch_size).sum()


def test_an_epoch_holds_every_sample_once_and_little_padding() -> None:
    order = LengthOrder(N, seed=3, lengths=LENGTHS)
    for epoch in range(3):
        epochs, indices = order(np.arange(epoch * N, (epoch + 1) * N))
        assert (epochs == epoch).all()
        assert sorted(indices.tolist()) == list(range(N))
        assert padded_share(indices) < 0.08
    assert padded_share(SampleOrder(N, seed=3)(np.arange(N))[1]) > 0.4


def test_a_position_tells_its_sample_whoever_asks() -> None:
    order = LengthOrder(N, seed=3, lengths=LENGTHS)
    whole = order(np.arange(2 * N))[1]
    asked = np.array([0, 17, 1023, 1024, N - 1, N, N + 1, 2 * N - 1, 5])
    assert order(asked)[1].tolist() == whole[asked].tolist()
    assert order(asked)[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0]


def test_it_differs_by_epoch_and_seed_and_is_not_sorted_as_a_whole() -> None:
    first = LengthOrder(N, seed=3, lengths=LENGTHS)(np.arange(2 * N))[1]
    assert (first[:N] != first[N:]).mean() > 0.9
    assert (first[:N] != LengthOrder(N, seed=4, lengths=LENGTHS)(np.arange(N))[1]).mean() > 0.9
    batches = LENGTHS[first[:N]][: N // 16 * 16].reshape(-1, 16).mean(axis=1)
    assert (np.diff(batches) < -5).sum() > 3  # runs of short and long batches take turns


def test_without_lengths_or_shuffling_it_is_the_plain_order() -> None:
    positions = np.arange(2 * N)
    assert (LengthOrder(N, seed=3)(positions)[1] == SampleOrder(N, seed=3)(positions)[1]).all()
    kept = LengthOrder(N, seed=3, shuffle=False, lengths=LENGTHS)(positions)[1]
    assert (kept == positions % N).all()
