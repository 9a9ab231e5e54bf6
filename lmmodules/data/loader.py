"""Loaders whose order is arithmetic: resumable at any batch, on any number of ranks, with any number of workers.

Global batch k of the training stream holds the positions ``[k * G, (k + 1) * G)``, where G is the batch size of all
ranks together, and rank r takes the r-th contiguous part of it. The stream never ends and drops nothing: an epoch
that is no multiple of G ends within a batch, and the next one begins there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lmmodules.data.order import SampleOrder
from lmmodules.data.randomness import Int64Array
from lmmodules.data.samples import Keys, SampleSource
from lmmodules.errors import InputError

_T = TypeVar("_T")
_BATCHES_AT_ONCE = 256


class _TrainingKeys(Sampler[Keys]):
    """The keys of one rank's batches, pass after pass.

    It knows nothing of the loader that it is part of: workers are only shut down in time if no cycle of references
    leaves that to the garbage collector.
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
        return self.batch_size * self.world_size

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
        return self.order(positions)


class _ValidationKeys(_TrainingKeys):
    """The keys of one rank's part of all samples, filled up with -1 to whole batches."""

    def __len__(self) -> int:
        return -(-self.order.num_samples // self.global_batch_size)

    def look_up(self, positions: Int64Array) -> Keys:
        _, indices = self.order(positions % self.order.num_samples)
        return np.zeros_like(indices), np.where(positions < self.order.num_samples, indices, -1)


class _BatchLoader:
    """What training and validation share: a rank's keys, fetched here or by workers."""

    def __init__(self, samples: SampleSource, keys: _TrainingKeys, num_workers: int, pin_memory: bool) -> None:
        if num_workers < 0:
            raise InputError(f"`data.num_workers` must not be negative, but is {num_workers}")
        self.samples = samples
        self._keys = keys
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._batches = self._build()

    def _build(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            self.samples,
            batch_size=None,
            sampler=self._keys,
            num_workers=self._num_workers,
            collate_fn=_unchanged,
            pin_memory=self._pin_memory,
            persistent_workers=self._num_workers > 0,
            # Without its own generator a loader would move the global one, and dropout with it.
            generator=torch.Generator(),
        )

    def close(self) -> None:
        """Stop the workers, which otherwise wait for the next pass; it would start new ones."""
        self._batches = self._build()

    def set_rank(self, rank: int, world_size: int) -> None:
        """Say which part of every global batch is this process's.

        Args:
            rank: Among the processes that see different data.
            world_size: How many these are.
        """
        self._keys.rank, self._keys.world_size = rank, world_size

    @property
    def global_batch_size(self) -> int:
        """Samples of one batch on all ranks together."""
        return self._keys.global_batch_size

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A generator on purpose: where the stream stands is read when the first batch is asked for, and Lightning may
        # call iter() before it restores a checkpoint.
        with _quiet_fork():
            batches = iter(self._batches)
        yield from batches


class ResumableLoader(_BatchLoader):
    """The training stream.

    A pass yields `len(loader)` batches from wherever the stream stands, and the state is a single integer: the
    samples that all ranks together have been given. It can be taken after any batch and continued with another number
    of ranks or workers, or another batch size.

    Args:
        samples: What to load.
        batch_size: Samples per batch on this rank.
        seed: Of the order.
        shuffle: False goes through the samples as they lie in the store.
        num_workers: Processes that prepare batches ahead; 0 prepares them here.
        pin_memory: Put batches where a GPU can copy them from while it computes.

    Raises:
        InputError: When `batch_size` or `num_workers` is out of range; on the first pass, when the corpus is smaller
            than one global batch.
    """

    def __init__(
        self,
        samples: SampleSource,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        keys = _TrainingKeys(SampleOrder(len(samples), seed, shuffle), batch_size)
        super().__init__(samples, keys, num_workers, pin_memory)

    @property
    def samples_seen(self) -> int:
        """Samples given out on all ranks together, since the stream began."""
        return self._keys.samples_seen

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in super().__iter__():
            self._keys.samples_seen += self.global_batch_size
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands, and what it is a stream of."""
        order = self._keys.order
        return {"samples_seen": self.samples_seen, "seed": order.seed, "num_samples": order.num_samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue a stream.

        Args:
            state: From `state_dict`.

        Raises:
            InputError: When the state is of another stream: another corpus, length of samples, or seed.
        """
        for name, override in (("num_samples", "data"), ("seed", "seed")):
            here = getattr(self._keys.order, name)
            if state[name] != here:
                raise InputError(
                    f"a resumed run must read the data it was started with, but `{name}` was {state[name]} and is now "
                    f"{here}; use the `{override}` settings of the checkpoint"
                )
        self._keys.samples_seen = state["samples_seen"]


class ValidationLoader(_BatchLoader):
    """The same batches every time: one fixed order, epoch 0, the same number of batches on every rank.

    The order is shuffled once and for all, so that validating on the first few batches is validating on a sample of
    the whole. Where samples do not fill the last global batch, rows without any label do, and sums over labels are
    exact.

    Args:
        samples: What to load.
        batch_size: Samples per batch on this rank.
        num_workers: Processes that prepare batches ahead; 0 prepares them here.
        pin_memory: Put batches where a GPU can copy them from while it computes.

    Raises:
        InputError: When `batch_size` or `num_workers` is out of range.
    """

    def __init__(
        self, samples: SampleSource, *, batch_size: int, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        keys = _ValidationKeys(SampleOrder(len(samples), seed=0), batch_size)
        super().__init__(samples, keys, num_workers, pin_memory)


def _unchanged(batch: _T) -> _T:
    return batch


@contextmanager
def _quiet_fork() -> Iterator[None]:
    """Start workers with the threads of `tokenizers` off: forked after use, they warn, and could lock up."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "false"
    try:
        yield
    finally:
        del os.environ[name]
