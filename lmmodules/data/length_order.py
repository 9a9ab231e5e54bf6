"""An order in which samples of similar length stand together, so that batches hold little padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmmodules.data.order import SampleOrder, permute
from lmmodules.data.randomness import Int64Array, hash_keys

WINDOW = 1024
"""Samples that are sorted together; what is further apart stays in random order."""
RUN = 128
"""Samples of a window that keep the order of their lengths; the runs themselves are shuffled."""


@dataclass(frozen=True, eq=False)
class LengthOrder(SampleOrder):
    """The stream of `SampleOrder`, window by window sorted by length and shuffled again in runs.

    An epoch holds every sample once, and what stands at a position follows from seed, epoch and position alone.

    Attributes:
        num_samples: Samples, n.
        seed: Of the permutations.
        shuffle: False keeps the samples as they lie.
        lengths: (n,) tokens of each sample.
    """

    lengths: Int64Array | None = None

    def __call__(self, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Look up samples by position.

        Args:
            positions: (B,) int64 positions in the stream, from 0 without end.

        Returns:
            Epochs (B,) and indices (B,), both int64.
        """
        if not self.shuffle or self.lengths is None:
            return super().__call__(positions)
        epochs, offsets = np.divmod(positions, self.num_samples)
        indices = np.empty_like(offsets)
        windows_per_epoch = -(-self.num_samples // WINDOW)
        windows = epochs * windows_per_epoch + offsets // WINDOW
        for window in np.unique(windows):
            here = windows == window
            epoch, number = divmod(int(window), windows_per_epoch)
            indices[here] = self._window(epoch, number)[offsets[here] % WINDOW]
        return epochs, indices

    def _window(self, epoch: int, number: int) -> Int64Array:
        assert self.lengths is not None
        start = number * WINDOW
        offsets = np.arange(start, min(start + WINDOW, self.num_samples))
        samples = permute(offsets, np.full_like(offsets, epoch), self.num_samples, self.seed)
        samples = samples[np.argsort(self.lengths[samples], kind="stable")]
        runs = np.arange(-(-len(samples) // RUN))
        chances = hash_keys(self.seed, np.full_like(runs, epoch), start + runs, "order/runs")
        places = np.argsort(chances)[np.arange(len(samples)) // RUN]
        return samples[np.argsort(places, kind="stable")]
