"""The order of samples as arithmetic: which sample stands at a position of the endless training stream.

Position p lies in epoch ``p // n`` and holds sample ``permutation(seed, epoch)[p % n]``. The permutation is never
stored: a Feistel network permutes the smallest sufficient power of four, and positions that land outside of the n
samples walk on along their cycle until they land inside. Seeking costs nothing, memory is constant, and ranks,
workers and resumed runs agree because there is nothing to agree upon.

Source: J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (generalised Feistel and cycle
walking).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmmodules.data.randomness import GOLDEN_GAMMA, Int64Array, UInt64Array, hash_keys, mix

_ROUNDS = 8
# A network on fewer than 8 bits can not reach all permutations evenly; small sets walk through a larger one.
_SMALLEST_HALF = 4


@dataclass(frozen=True)
class SampleOrder:
    """The stream of samples of a run.

    Attributes:
        num_samples: Samples in the corpus, n.
        seed: Seed of the permutations; each epoch has its own.
        shuffle: False keeps the order of the corpus in every epoch.
    """

    num_samples: int
    seed: int
    shuffle: bool = True

    def __call__(self, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Look up samples by position.

        Args:
            positions: (B,) int64 positions in the stream, from 0 without end.

        Returns:
            Epochs (B,) and indices (B,), both int64.
        """
        epochs, offsets = np.divmod(positions, self.num_samples)
        if not self.shuffle:
            return epochs, offsets
        return epochs, permute(offsets, epochs, self.num_samples, self.seed)


def permute(values: Int64Array, epochs: Int64Array, num_values: int, seed: int) -> Int64Array:
    """Apply the permutation of (seed, epoch) to integers below `num_values`.

    Args:
        values: (B,) int64 in [0, num_values).
        epochs: (B,) int64, the permutation that each value goes through.
        num_values: Size of the permuted set.
        seed: Seed of all permutations.

    Returns:
        (B,) int64 in [0, num_values).
    """
    half_bits = max(_SMALLEST_HALF, ((num_values - 1).bit_length() + 1) // 2)
    keys = hash_keys(seed, epochs, np.zeros_like(epochs), "order")
    permuted = _feistel(values.astype(np.uint64), keys, half_bits)
    outside = np.flatnonzero(permuted >= num_values)
    while outside.size:
        permuted[outside] = _feistel(permuted[outside], keys[outside], half_bits)
        outside = outside[permuted[outside] >= num_values]
    return permuted.astype(np.int64)


def _feistel(values: UInt64Array, keys: UInt64Array, half_bits: int) -> UInt64Array:
    shift = np.uint64(half_bits)
    half = np.uint64(2**half_bits - 1)
    left, right = values >> shift, values & half
    for _ in range(_ROUNDS):
        keys = keys + GOLDEN_GAMMA
        left, right = right, left ^ (mix(keys + right) & half)
    joined: UInt64Array = (left << shift) | right
    return joined
