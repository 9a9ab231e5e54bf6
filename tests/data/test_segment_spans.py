from __future__ import annotations

import itertools

import numpy as np
import pytest

from lmmodules.data import SampleKeys
from lmmodules.data.segment_spans import PairWindows, SegmentSpans


def keys(count: int, seed: int = 0) -> SampleKeys:
    return SampleKeys(seed, np.zeros(count, dtype=np.int64), np.arange(count))


def truncated(a: list[int], b: list[int], budget: int, seed: int = 0) -> SegmentSpans:
    """Segments of these sizes; A begins at 1000, B at 5000."""
    sizes_a, sizes_b = np.array(a), np.array(b)
    starts_a, starts_b = np.full(len(a), 1000), np.full(len(b), 5000)
    return SegmentSpans.truncated(
        (starts_a, starts_a + sizes_a),
        (starts_b, starts_b + sizes_b),
        np.zeros(len(a), dtype=np.bool_),
        budget,
        keys(len(a), seed),
    )


@pytest.mark.parametrize("budget", [2, 3, 7, 10, 11])
def test_tokens_go_from_the_longer_segment_one_by_one(budget: int) -> None:
    sizes = list(itertools.product(range(1, 15), range(15)))
    expected = []
    for a, b in sizes:
        while a + b > budget:
            if a > b:
                a -= 1
            else:
                b -= 1
        expected.append((a, b))
    found = truncated(*map(list, zip(*sizes, strict=True)), budget)
    assert list(zip(found.a_sizes.tolist(), found.b_sizes.tolist(), strict=True)) == expected
    for (a, b), row in zip(sizes, range(len(found)), strict=True):
        assert 1000 <= found.a_starts[row] <= 1000 + a - found.a_sizes[row]
        assert 5000 <= found.b_starts[row] <= 5000 + b - found.b_sizes[row]


def test_they_go_from_either_end_with_equal_chance() -> None:
    found = truncated([5] * 4000, [105] * 4000, 10)
    assert (found.a_starts == 1000).all()
    in_front = found.b_starts - 5000
    assert in_front.mean() == pytest.approx(50, abs=5 * (25 / 4000) ** 0.5)  # of 100 tosses
    assert in_front.var() == pytest.approx(25, rel=0.15)
    other = truncated([5] * 4000, [105] * 4000, 10, seed=1)
    assert (other.b_starts != found.b_starts).mean() > 0.8
    # The two segments toss coins of their own.
    both = truncated([55] * 4000, [55] * 4000, 10)
    assert abs(np.corrcoef(both.a_starts, both.b_starts)[0, 1]) < 0.08


@pytest.mark.parametrize(("num_separators", "between"), [(2, [2]), (3, [2, 2])])
def test_blocks_are_laid_out_with_their_segments(num_separators: int, between: list[int]) -> None:
    pairs = SegmentSpans(
        np.array([10, 20, 98]),
        np.array([3, 2, 2], dtype=np.int32),
        np.array([50, 60, 0]),
        np.array([4, 1, 0], dtype=np.int32),
        np.array([False, True, False]),
    )
    windows = PairWindows(
        pairs, 11, eos_id=2, num_separators=num_separators, next_sentence=True, token_types=True, num_split=0
    )
    indices = np.array([0, 1, 2])
    rows = [[10, 11, 12, *between, 50, 51, 52, 53, 2], [20, 21, *between, 60, 2], [98, 99, 2]]
    assert windows.sizes(indices).tolist() == [len(row) for row in rows]
    blocks = windows.read(np.arange(100), indices, pad_id=1)
    assert blocks.tokens.tolist() == [row + [1] * (11 - len(row)) for row in rows]
    assert blocks.lengths is not None
    assert blocks.lengths.tolist() == [len(row) for row in rows]
    first = [3 + len(between), 2 + len(between), 3]
    assert blocks.token_type_ids is not None
    types = [[0] * n + [1] * (len(row) - n) + [0] * (11 - len(row)) for n, row in zip(first, rows, strict=True)]
    assert blocks.token_type_ids.tolist() == types
    assert blocks.next_sentence_labels is not None
    assert blocks.next_sentence_labels.tolist() == [0, 1, 0]
    trimmed = windows.read(np.arange(100), indices[1:], pad_id=1, trim=True)
    assert trimmed.tokens.shape == (2, len(rows[1]))
    alone = windows.read(np.arange(100), indices[:1], pad_id=1, trim=True)
    assert alone.lengths is None
