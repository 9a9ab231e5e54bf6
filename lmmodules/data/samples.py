"""The samples of a store, fetched a batch at a time."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lmmodules.data.packing import Packing
from lmmodules.data.randomness import Int64Array, SampleKeys
from lmmodules.data.store import TokenStore
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform
from lmmodules.errors import InputError

Keys = tuple[Int64Array, Int64Array]
"""Epochs and indices of the samples of a batch, both (B,) int64; the index -1 is a sample that does not count."""


class SampleSource(Dataset[dict[str, Tensor]]):
    """Batches by the identity of their samples: ``source[epochs, indices]``."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, keys: Keys) -> dict[str, Tensor]:
        """The batch of the given samples; one with the index -1 fills up a batch and must not count in the loss."""

    def lengths(self, indices: Int64Array) -> Int64Array:
        """Positions of samples without their padding, (B,) int64: what a batch of so many tokens is filled by.

        Args:
            indices: (B,) samples.

        Raises:
            InputError: When samples do not tell.
        """
        raise InputError(
            f"`data.batch_tokens` needs samples whose lengths are known, but those of `{type(self).__name__}` are not; "
            "use `data.batch_tokens=null data.batch_size=16`"
        )


class Samples(SampleSource):
    """Blocks of a token store made into batches: ``samples[epochs, indices]``.

    Args:
        store: The tokens.
        tokenizer: The tokenizer they were written with.
        packing: How the tokens are cut into samples.
        transform: Makes batches of them.
        max_length: Positions of a sample, T.
        seed: Of everything random in the transform.
        document_mask: Give every position the number of its document, so that documents in one block do not see each
            other.
        trim_padding: Make a batch as long as its longest sample, where otherwise all batches have the same shape.

    Raises:
        InputError: When the parts do not go together, or the packing can not divide the store.
    """

    def __init__(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        packing: Packing,
        transform: Transform,
        *,
        max_length: int,
        seed: int = 0,
        document_mask: bool = False,
        trim_padding: bool = False,
    ) -> None:
        check_parts(packing, transform, document_mask=document_mask)
        self.store = store
        self.seed = seed
        self.document_mask = document_mask
        self.trim_padding = trim_padding
        self.transform = transform.bind(tokenizer)
        length, stride = transform.block_length(max_length), transform.stride(max_length)
        self.windows = packing.windows(store, tokenizer, length=length, stride=stride, seed=seed)
        self.transform = self.transform.attach(store, self.windows)
        self._added = max_length - length
        self._eos_id = tokenizer.eos_id
        # Any id will do where there is no <pad>: padding is neither attended to nor predicted.
        self._pad_id = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.eos_id

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, keys: Keys) -> dict[str, Tensor]:
        epochs, indices = keys
        fillers = np.flatnonzero(indices < 0)
        if fillers.size:
            indices = np.maximum(indices, 0)
        batch = self.transform(self._read(indices), SampleKeys(self.seed, epochs, indices))
        if fillers.size:
            self.transform.ignore(batch, fillers)
        return batch

    def lengths(self, indices: Int64Array) -> Int64Array:
        """Positions of samples, what the transform adds included."""
        return np.maximum(self.windows.sizes(indices) + self._added, 1)

    def _read(self, indices: Int64Array) -> Blocks:
        blocks = self.windows.read(self.store.tokens, indices, pad_id=self._pad_id, trim=self.trim_padding)
        if not self.document_mask:
            return blocks
        is_end = blocks.tokens == self._eos_id
        return replace(blocks, document_ids=np.cumsum(is_end, axis=1, dtype=np.int64) - is_end)


def check_parts(packing: Packing, transform: Transform, *, document_mask: bool) -> None:
    """Refuse parts that do not go together.

    Args:
        packing: See `Samples`.
        transform: See `Samples`.
        document_mask: See `Samples`.

    Raises:
        InputError: When the packing makes pairs of sentences, and the transform can not take them or the segments
            would not see each other.
    """
    if not packing.makes_pairs:
        return
    if not transform.takes_pairs:
        raise InputError(
            f"`packing` must not make pairs of sentences for `{type(transform).__name__}`, which reads running text, "
            f"but is `{type(packing).__name__}`; use `transform=masking` or `packing=stream`"
        )
    if document_mask:
        raise InputError(
            "`data.document_mask` must be false with pairs of sentences, or the segments would not see each other, "
            "but is true; use `data.document_mask=false`"
        )
