"""Which samples make up which batch: the keys of one rank's batches, of a fixed size or of so many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, repeat

import numpy as np
from torch.utils.data import Sampler

from lmmodules.data.order import SampleOrder
from lmmodules.data.randomness import Int64Array
from lmmodules.data.samples import Keys
from lmmodules.data.token_budget import TokenBudget, share_of_rank
from lmmodules.errors import InputError

_BATCHES_AT_ONCE = 256


class TrainingKeys(Sampler[Keys]):
    """The keys of one rank's batches, pass after pass.

    It knows nothing of the loader that it is part of: workers are only shut down in time if no cycle of references
    leaves that to the garbage collector.

    Args:
        order: The stream of samples.
        batch_size: Samples per batch on this rank.

    Attributes:
        rank: Which of the processes that see different data this is.
        world_size: How many these are.
        samples_seen: The position in the stream: samples given out on all ranks together.

    Raises:
        InputError: When `batch_size` is not positive; on the first pass, when the samples do not fill one batch.
    """

    def __init__(self, order: SampleOrder, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"`data.batch_size` must be positive, but is {batch_size}")
        self.order = order
        self.batch_size = batch_size
        self.rank, self.world_size = 0, 1
        self.samples_seen = 0

    @property
    def global_batch_size(self) -> int:
        """Samples of one batch on all ranks together."""
        return self.batch_size * self.world_size

    def global_sizes(self) -> Iterator[int]:
        """Samples of the batches to come, on all ranks together."""
        return repeat(self.global_batch_size)

    def __len__(self) -> int:
        num_samples = self.order.num_samples
        if num_samples < self.global_batch_size:
            fitting = num_samples // self.world_size
            remedy = f"use `data.batch_size={fitting}`" if fitting else "use a smaller `data.max_length`"
            raise InputError(
                f"a corpus must fill at least one batch ({self.batch_size} samples on each of {self.world_size} "
                f"ranks), but this one makes {num_samples} samples; {remedy} or more text"
            )
        return num_samples // self.global_batch_size

    def __iter__(self) -> Iterator[Keys]:
        num_batches = len(self)
        start = self.samples_seen + self.rank * self.batch_size
        for first in range(0, num_batches, _BATCHES_AT_ONCE):
            # Many batches at once, because a permutation costs as many numpy calls for one sample as for thousands.
            batches = np.arange(first, min(first + _BATCHES_AT_ONCE, num_batches))
            positions = start + batches[:, None] * self.global_batch_size + np.arange(self.batch_size)
            epochs, indices = self.look_up(positions.ravel())
            yield from zip(epochs.reshape(positions.shape), indices.reshape(positions.shape), strict=True)

    def look_up(self, positions: Int64Array) -> Keys:
        """Epochs and indices of positions in the stream.

        Args:
            positions: (B,) int64.
        """
        return self.order(positions)


class ValidationKeys(TrainingKeys):
    """The keys of one rank's part of all samples, filled up with -1 to whole batches.

    Args:
        order: Of the samples.
        batch_size: Samples per batch on this rank.
    """

    def __len__(self) -> int:
        return -(-self.order.num_samples // self.global_batch_size)

    def look_up(self, positions: Int64Array) -> Keys:
        """Epoch 0 always; the index -1 behind the last sample."""
        _, indices = self.order(positions % self.order.num_samples)
        return np.zeros_like(indices), np.where(positions < self.order.num_samples, indices, -1)


class TrainingTokenKeys(TrainingKeys):
    """The keys of one rank's batches, filled by tokens.

    A pass has as many batches as the tokens of an epoch fill completely. Since no batch is filled to the last token, it
    ends somewhat before the epoch does, and the next pass goes on from there.

    Args:
        order: The stream of samples.
        budget: Divides it.

    Raises:
        InputError: On the first pass, when all samples together do not fill one batch.
    """

    def __init__(self, order: SampleOrder, budget: TokenBudget) -> None:
        super().__init__(order, batch_size=1)
        self.budget = budget

    def __len__(self) -> int:
        total, wanted = self.budget.total, self.budget.batch_tokens * self.world_size
        if total < wanted:
            fitting = total // self.world_size
            raise InputError(
                f"a corpus must fill at least one batch ({self.budget.batch_tokens} tokens on each of "
                f"{self.world_size} ranks), but this one has {total} tokens; use `data.batch_tokens={fitting}` (and no "
                "longer `data.max_length`) or more text"
            )
        return total // wanted

    def __iter__(self) -> Iterator[Keys]:
        for keys, lengths in islice(self._batches(), len(self)):
            yield share_of_rank(keys, lengths, self.rank, self.world_size)

    def global_sizes(self) -> Iterator[int]:
        """Samples of the batches to come, counted anew: the other iterator may be batches ahead, for workers."""
        return (len(lengths) for _, lengths in self._batches())

    def _batches(self) -> Iterator[tuple[Keys, Int64Array]]:
        return self.budget.divide(self.look_up, self.samples_seen, None, self.world_size)


class ValidationTokenKeys(TrainingTokenKeys):
    """The keys of one rank's part of all samples, once, in batches filled by tokens.

    Args:
        order: Of the samples.
        budget: Divides them.
    """

    def __init__(self, order: SampleOrder, budget: TokenBudget) -> None:
        super().__init__(order, budget)
        self._counted: dict[int, int] = {}  # batches, by the number of ranks that share them

    def __len__(self) -> int:
        if self.world_size not in self._counted:
            self._counted[self.world_size] = sum(1 for _ in self._batches())
        return self._counted[self.world_size]

    def look_up(self, positions: Int64Array) -> Keys:
        """Epoch 0 always."""
        _, indices = self.order(positions)
        return np.zeros_like(indices), indices

    def _batches(self) -> Iterator[tuple[Keys, Int64Array]]:
        return self.budget.divide(self.look_up, 0, self.order.num_samples, self.world_size)
