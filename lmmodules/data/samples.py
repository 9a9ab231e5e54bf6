"""The samples of a store, fetched a batch at a time."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lmmodules.data.packing import Packing
from lmmodules.data.randomness import Int64Array, SampleKeys
from lmmodules.data.store import TokenStore
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform

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
    ) -> None:
        self.store = store
        self.seed = seed
        self.document_mask = document_mask
        self.transform = transform.bind(tokenizer)
        self.windows = packing.windows(
            store, tokenizer, length=transform.block_length(max_length), stride=transform.stride(max_length)
        )
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

    def _read(self, indices: Int64Array) -> Blocks:
        length = self.windows.length
        starts, ends = self.windows.spans(indices)
        sizes = ends - starts
        lengths: Int64Array | None = None
        if (sizes == length).all():
            tokens: Any = np.lib.stride_tricks.sliding_window_view(self.store.tokens, length)[starts]
        else:
            places = starts[:, None] + np.arange(length)
            tokens = self.store.tokens[np.minimum(places, len(self.store) - 1)]
            tokens[places >= ends[:, None]] = self._pad_id
            lengths = sizes
        document_ids = None
        if self.document_mask:
            is_end = tokens == self._eos_id
            document_ids = np.cumsum(is_end, axis=1, dtype=np.int64) - is_end
        return Blocks(np.asarray(tokens), lengths, document_ids)
