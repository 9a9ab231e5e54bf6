"""Loaders whose order is arithmetic: resumable at any batch, on any number of ranks, with any number of workers.

Global batch k of the training stream holds the positions ``[k * G, (k + 1) * G)``, where G is the batch size of all
ranks together, and rank r takes the r-th contiguous part of it. The stream never ends and drops nothing: an epoch
that is no multiple of G ends within a batch, and the next one begins there. Where batches are filled by tokens
instead (`token_budget.py`), only their borders differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lmmodules.data.batch_keys import TrainingKeys, TrainingTokenKeys, ValidationKeys, ValidationTokenKeys
from lmmodules.data.order import SampleOrder
from lmmodules.data.samples import SampleSource
from lmmodules.data.token_budget import TokenBudget
from lmmodules.errors import InputError

_T = TypeVar("_T")


class _BatchLoader:
    """What training and validation share: a rank's keys, fetched here or by workers."""

    def __init__(self, samples: SampleSource, keys: TrainingKeys, num_workers: int, pin_memory: bool) -> None:
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
        batch_tokens: Fill a batch with samples of so many tokens, whatever `batch_size` is; see `TokenBudget`.
        order: The stream, where it is not the plain one of `seed` and `shuffle`.

    Raises:
        InputError: When `batch_size`, `batch_tokens` or `num_workers` is out of range; on the first pass, when the
            corpus is smaller than one global batch.
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
        batch_tokens: int | None = None,
        order: SampleOrder | None = None,
    ) -> None:
        order = order or SampleOrder(len(samples), seed, shuffle)
        keys = (
            TrainingKeys(order, batch_size)
            if batch_tokens is None
            else TrainingTokenKeys(order, TokenBudget(samples, batch_tokens))
        )
        super().__init__(samples, keys, num_workers, pin_memory)

    @property
    def samples_seen(self) -> int:
        """Samples given out on all ranks together, since the stream began."""
        return self._keys.samples_seen

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch, num_samples in zip(super().__iter__(), self._keys.global_sizes(), strict=False):
            self._keys.samples_seen += num_samples
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
        batch_tokens: Fill a batch with samples of so many tokens, whatever `batch_size` is; see `TokenBudget`.

    Raises:
        InputError: When `batch_size`, `batch_tokens` or `num_workers` is out of range.
    """

    def __init__(
        self,
        samples: SampleSource,
        *,
        batch_size: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        order = SampleOrder(len(samples), seed=0)
        keys = (
            ValidationKeys(order, batch_size)
            if batch_tokens is None
            else ValidationTokenKeys(order, TokenBudget(samples, batch_tokens))
        )
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
