"""Random numbers that belong to a sample: a hash of (seed, epoch, index, stream), not the state of a generator.

Whoever computes them (a worker, a rank, a resumed run) computes the same numbers, in any order and for a whole batch
at once. The hash is the finaliser of SplitMix64: each sample owns a starting point, and its draws are the outputs of
SplitMix64 from there.

Source: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""The step of SplitMix64: the odd integer nearest to 2**64 over the golden ratio."""

# Arrays of no dimension: numpy takes half a microsecond to make one of a scalar, eight times in each `mix`.
_MULTIPLIER_1, _MULTIPLIER_2, _SHIFT_1, _SHIFT_2, _SHIFT_3 = (
    np.array(value, dtype=np.uint64) for value in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 30, 27, 31)
)
_TWO_TO_MINUS_53 = 2.0**-53


def mix(values: UInt64Array) -> UInt64Array:
    """Scramble 64-bit integers one to one, so that every input bit moves every output bit.

    Args:
        values: Array of at least one dimension (numpy warns of overflow on scalars only).

    Returns:
        A new array of the same shape.
    """
    mixed: UInt64Array = values ^ (values >> _SHIFT_1)
    mixed *= _MULTIPLIER_1
    mixed ^= mixed >> _SHIFT_2
    mixed *= _MULTIPLIER_2
    mixed ^= mixed >> _SHIFT_3
    return mixed


def unit_interval(bits: UInt64Array) -> npt.NDArray[np.float64]:
    """Turn 64 random bits into a float64 in [0, 1), using the upper 53."""
    draws: npt.NDArray[np.float64] = (bits >> np.uint64(11)) * _TWO_TO_MINUS_53
    return draws


@lru_cache(maxsize=256)
def stream_key(stream: str) -> int:
    """The 64-bit number of a named stream; two names give independent draws."""
    return int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")


def hash_keys(seed: int, epochs: Int64Array, indices: Int64Array, stream: str) -> UInt64Array:
    """One 64-bit starting point per sample.

    Args:
        seed: Any integer.
        epochs: (B,) epoch of each sample.
        indices: (B,) index of each sample.
        stream: What the draws are for, for example `"masking/positions"`.

    Returns:
        (B,) unsigned integers.
    """
    keys = mix(epochs.astype(np.uint64) * GOLDEN_GAMMA + np.uint64(_start(seed, stream)))
    return mix(keys + indices.astype(np.uint64) * GOLDEN_GAMMA)


@lru_cache(maxsize=256)
def _start(seed: int, stream: str) -> int:
    start = (seed * int(GOLDEN_GAMMA) + stream_key(stream)) % 2**64
    return int(mix(np.array([start], dtype=np.uint64))[0])


@dataclass(frozen=True)
class SampleKeys:
    """The identity of the samples of a batch, and the random numbers that follow from it.

    Attributes:
        seed: Seed of the run.
        epochs: (B,) int64, how often the corpus had been seen when a sample was taken.
        indices: (B,) int64, which sample of the corpus.
    """

    seed: int
    epochs: Int64Array
    indices: Int64Array

    def __len__(self) -> int:
        return len(self.indices)

    def bits(self, stream: str, length: int) -> UInt64Array:
        """64 random bits for each of `length` positions, (B, length)."""
        keys = hash_keys(self.seed, self.epochs, self.indices, stream)
        steps = np.arange(1, length + 1, dtype=np.uint64) * GOLDEN_GAMMA
        return mix(keys[:, None] + steps)

    def uniform(self, stream: str, length: int) -> npt.NDArray[np.float64]:
        """Uniform draws in [0, 1) for each of `length` positions, (B, length) float64."""
        return unit_interval(self.bits(stream, length))

    def cycle(self, num_epochs: int) -> SampleKeys:
        """The keys of a run whose randomness repeats after `num_epochs` epochs."""
        return replace(self, epochs=self.epochs % num_epochs)
