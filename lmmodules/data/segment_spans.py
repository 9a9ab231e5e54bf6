"""Pairs of segments as spans of a token store, cut to the length of a block, and read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from lmmodules.data.packing import Windows, trimmed_length
from lmmodules.data.randomness import GOLDEN_GAMMA, Int64Array, SampleKeys, hash_keys, mix
from lmmodules.data.transform import Blocks, TokenArray


@dataclass(frozen=True)
class SegmentSpans:
    """Where the segments of pairs lie, in 25 bytes each.

    Attributes:
        a_starts: (n,) int64 first token of A.
        a_sizes: (n,) int32 its tokens.
        b_starts: (n,) int64 first token of B.
        b_sizes: (n,) int32 its tokens; 0 where there is no B.
        is_random: (n,) whether B comes from another document.
    """

    a_starts: Int64Array
    a_sizes: npt.NDArray[np.int32]
    b_starts: Int64Array
    b_sizes: npt.NDArray[np.int32]
    is_random: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other.

        Args:
            parts: At least one.
        """
        return cls(*(np.concatenate(columns) for columns in zip(*map(astuple, parts), strict=True)))

    @classmethod
    def truncated(
        cls,
        a: tuple[Int64Array, Int64Array],
        b: tuple[Int64Array, Int64Array],
        is_random: npt.NDArray[np.bool_],
        budget: int,
        keys: SampleKeys,
    ) -> Self:
        """Drop tokens of the longer segment (of B where they are equal) until both fit, each time at a random end.

        Args:
            a: Starts and ends of the first segments.
            b: Starts and ends of the second.
            is_random: Whether B comes from another document.
            budget: Tokens that a pair may have.
            keys: Identity of the pairs.
        """
        a_sizes, b_sizes = a[1] - a[0], b[1] - b[0]
        shorter = np.minimum(a_sizes, b_sizes)
        room = np.maximum(budget - shorter, (budget + 1) // 2)  # what the shorter one leaves to the longer
        a_kept = np.where(a_sizes + b_sizes > budget, np.minimum(a_sizes, room), a_sizes)
        b_kept = np.minimum(b_sizes, budget - a_kept)
        a_starts = a[0] + _dropped_in_front(a_sizes - a_kept, keys, "sentence_pairs/front_of_a")
        b_starts = b[0] + _dropped_in_front(b_sizes - b_kept, keys, "sentence_pairs/front_of_b")
        return cls(a_starts, a_kept.astype(np.int32), b_starts, b_kept.astype(np.int32), is_random)

    def __len__(self) -> int:
        return len(self.a_starts)


def _dropped_in_front(dropped: Int64Array, keys: SampleKeys, stream: str) -> Int64Array:
    """How many of the dropped tokens stood at the front: a coin for each."""
    rows = np.repeat(np.arange(len(dropped)), dropped)
    tosses = np.arange(1, len(rows) + 1) - (np.cumsum(dropped) - dropped)[rows]
    starts = hash_keys(keys.seed, keys.epochs, keys.indices, stream)
    heads = mix(starts[rows] + tosses.astype(np.uint64) * GOLDEN_GAMMA) >> np.uint64(63)
    return np.bincount(rows, weights=heads, minlength=len(dropped)).astype(np.int64)


class PairWindows(Windows):
    """Blocks `A </s> B </s>`.

    Args:
        pairs: The segments.
        length: Tokens of a full block.
        eos_id: Id of `</s>`.
        num_separators: Of these tokens, in a block.
        next_sentence: Whether blocks have `next_sentence_labels`.
        token_types: Whether blocks have `token_type_ids`.
        num_split: Sentences that were longer than a block.
    """

    def __init__(
        self,
        pairs: SegmentSpans,
        length: int,
        *,
        eos_id: int,
        num_separators: int,
        next_sentence: bool,
        token_types: bool,
        num_split: int,
    ) -> None:
        self.pairs = pairs
        self.length = length
        self.num_split = num_split
        self._eos_id = eos_id
        self._num_between = num_separators - 1
        self._next_sentence = next_sentence
        self._token_types = token_types

    def __len__(self) -> int:
        return len(self.pairs)

    def spans(self, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Where the first segments begin and end."""
        starts = self.pairs.a_starts[indices]
        return starts, starts + self.pairs.a_sizes[indices]

    def sizes(self, indices: Int64Array) -> Int64Array:
        """Tokens of both segments and of what stands between and behind; a segment alone has one `</s>`."""
        a_sizes, b_sizes = self.pairs.a_sizes[indices].astype(np.int64), self.pairs.b_sizes[indices]
        return a_sizes + np.where(b_sizes > 0, b_sizes + self._num_between, 0) + 1

    def read(self, tokens: TokenArray, indices: Int64Array, *, pad_id: int, trim: bool = False) -> Blocks:
        """The blocks of pairs, with segments and labels where they are asked for."""
        sizes = self.sizes(indices)
        width = trimmed_length(sizes, self.length) if trim else self.length
        columns = np.arange(width)
        a_starts, a_ends = self.pairs.a_starts[indices, None], self.pairs.a_sizes[indices, None].astype(np.int64)
        b_begins = a_ends + self._num_between
        b_ends = b_begins + self.pairs.b_sizes[indices, None]
        last = sizes[:, None] - 1

        in_b = (columns >= b_begins) & (columns < b_ends)
        places = np.where(in_b, self.pairs.b_starts[indices, None] + columns - b_begins, a_starts + columns)
        block = tokens[np.minimum(places, len(tokens) - 1)]
        block[(columns >= a_ends) & ~in_b] = self._eos_id
        block[columns > last] = pad_id
        return Blocks(
            block,
            None if (sizes == width).all() else sizes,
            token_type_ids=((columns >= b_begins) & (columns <= last)).astype(np.int64) if self._token_types else None,
            next_sentence_labels=self.pairs.is_random[indices].astype(np.int64) if self._next_sentence else None,
        )
