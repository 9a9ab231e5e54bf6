"""Labelled sequences as batches, padded to the longest of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.data.randomness import Int64Array
from lmmodules.data.samples import Keys, SampleSource
from lmmodules.data.sequence_layout import EncodedSequences


class LabelledSamples(SampleSource):
    """A sample is a sequence, or several of which one is right, and a label.

    Nothing about a sample is random, so its epoch does not matter.

    Args:
        sequences: Token ids; of sample i those from i * `num_choices` on.
        labels: (N,) classes, or scores where the type is a floating one.
        pad_id: Token that fills up short sequences.
        token_types: Whether batches say which tokens are of the second text.
        num_choices: Sequences C of a sample, whose batches then are (B, C, T); `None` for one, and (B, T).
    """

    def __init__(
        self,
        sequences: EncodedSequences,
        labels: npt.NDArray[Any],
        *,
        pad_id: int,
        token_types: bool = False,
        num_choices: int | None = None,
    ) -> None:
        assert len(sequences) == len(labels) * (num_choices or 1)
        self.sequences = sequences
        self.labels = labels
        self.num_choices = num_choices
        self._pad_id = pad_id
        self._token_types = token_types

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self, indices: Int64Array) -> Int64Array:
        """Tokens of samples, or of the longest sequence of each.

        Args:
            indices: (B,) samples.
        """
        lengths: Int64Array = self.sequences.lengths.reshape(len(self), -1)[indices].max(axis=1)
        return lengths

    def __getitem__(self, keys: Keys) -> dict[str, Tensor]:
        fillers = keys[1] < 0
        indices = np.maximum(keys[1], 0)
        choices = self.num_choices or 1
        batch = self._pad((indices[:, None] * choices + np.arange(choices)).ravel())
        if self.num_choices is not None:
            batch = {name: tensor.view(len(indices), choices, -1) for name, tensor in batch.items()}
        labels = self.labels[indices]
        labels[fillers] = IGNORED if np.issubdtype(labels.dtype, np.integer) else np.nan
        return {**batch, "labels": torch.from_numpy(labels)}

    def _pad(self, rows: Int64Array) -> dict[str, Tensor]:
        starts, lengths = self.sequences.offsets[rows], self.sequences.lengths[rows]
        positions = np.arange(lengths.max())
        is_token = positions < lengths[:, None]  # (B, T)
        places = np.where(is_token, starts[:, None] + positions, starts[:, None])
        tokens = np.where(is_token, self.sequences.tokens[places], self._pad_id).astype(np.int64)
        batch = {"input_ids": torch.from_numpy(tokens)}
        if not is_token.all():
            batch["attention_mask"] = torch.from_numpy(is_token.astype(np.int64))
        if self._token_types:
            types = is_token & (positions >= self.sequences.first_lengths[rows][:, None])
            batch["token_type_ids"] = torch.from_numpy(types.astype(np.int64))
        return batch
