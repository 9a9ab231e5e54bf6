"""Batches of about so many tokens, for samples of different lengths.

A global batch is as many samples of the stream, in its order, as stay within the budget of all ranks together. The
ranks take contiguous parts of it with nearly equal numbers of tokens. So the stream of samples is that of batches of a
fixed size, on any number of ranks, and where it stands is still one number: the samples given out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lmmodules.data.randomness import Int64Array
from lmmodules.data.samples import Keys, SampleSource
from lmmodules.errors import InputError

_LOOKED_UP_AT_ONCE = 4096
_MEASURED_AT_ONCE = 1024 * 1024


class TokenBudget:
    """How a stream of samples is divided into batches of at most so many tokens.

    Args:
        samples: What tells the lengths.
        batch_tokens: Tokens of a batch on each rank, those of `<s>` and `</s>` included and padding not.

    Raises:
        InputError: When `batch_tokens` is not positive.
    """

    def __init__(self, samples: SampleSource, batch_tokens: int) -> None:
        if batch_tokens < 1:
            raise InputError(f"`data.batch_tokens` must be positive, but is {batch_tokens}")
        self.samples = samples
        self.batch_tokens = batch_tokens
        self._total: int | None = None

    @property
    def total(self) -> int:
        """Tokens of all samples."""
        if self._total is None:
            count = len(self.samples)
            parts = (
                self.samples.lengths(np.arange(start, min(start + _MEASURED_AT_ONCE, count)))
                for start in range(0, count, _MEASURED_AT_ONCE)
            )
            self._total = sum(int(lengths.sum()) for lengths in parts)
        return self._total

    def divide(
        self, look_up: Callable[[Int64Array], Keys], start: int, stop: int | None, world_size: int
    ) -> Iterator[tuple[Keys, Int64Array]]:
        """The global batches from a position of the stream on.

        Args:
            look_up: Epochs and indices of positions.
            start: The first position.
            stop: Where the stream ends; None for one without end.
            world_size: Ranks that share a batch.

        Yields:
            Keys of the samples of a batch, and the lengths of these samples.
        """
        budget = self.batch_tokens * world_size
        epochs, indices, lengths = (np.empty(0, dtype=np.int64) for _ in range(3))
        while True:
            edges = np.concatenate([[0], np.cumsum(lengths)])
            first = 0
            while edges[-1] - edges[first] > budget or (start == stop and first < len(lengths)):
                # A sample that is longer than the budget is a batch of its own.
                last = max(first + 1, int(np.searchsorted(edges, edges[first] + budget, side="right")) - 1)
                yield (epochs[first:last], indices[first:last]), lengths[first:last]
                first = last
            if start == stop:
                return
            further = start + _LOOKED_UP_AT_ONCE if stop is None else min(start + _LOOKED_UP_AT_ONCE, stop)
            more = look_up(np.arange(start, further))
            start = further
            epochs = np.concatenate([epochs[first:], more[0]])
            indices = np.concatenate([indices[first:], more[1]])
            lengths = np.concatenate([lengths[first:], self.samples.lengths(more[1])])


def share_of_rank(keys: Keys, lengths: Int64Array, rank: int, world_size: int) -> Keys:
    """One rank's part of a global batch: contiguous, and within a sample's length of an equal share of its tokens.

    Args:
        keys: Epochs and indices of the samples of the batch.
        lengths: Their tokens.
        rank: Whose part.
        world_size: How many ranks there are.

    Returns:
        Epochs and indices; a single sample that does not count (index -1) for a rank that gets none.
    """
    ends = np.cumsum(lengths)
    owners = (2 * ends - lengths) * world_size // (2 * ends[-1])  # the rank in whose share the middle of a sample lies
    mine = owners == rank
    if not mine.any():
        return np.zeros(1, dtype=np.int64), np.full(1, -1)
    return keys[0][mine], keys[1][mine]
