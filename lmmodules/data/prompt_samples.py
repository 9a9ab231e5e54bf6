"""Rows with prompts as batches, padded to the longest of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.data.prompt_rows import PromptRow
from lmmodules.data.randomness import Int64Array
from lmmodules.data.samples import Keys, SampleSource


class PromptSamples(SampleSource):
    """A sample is a row of a template, or several of which one is right. Nothing about it is random.

    Args:
        rows: Of sample i those from i * `num_choices` on.
        task_ids: (N,) relation or task of each sample.
        pad_id: Token that fills up short rows.
        classes: (N,) class of each sample, where it has one.
        shared: Tensors that every batch holds, such as the tokens that may be answers.
        num_choices: Rows C of a sample, whose batches then are (B, C, T); `None` for one, and (B, T).
    """

    def __init__(
        self,
        rows: Sequence[PromptRow],
        task_ids: Sequence[int],
        *,
        pad_id: int,
        classes: Sequence[int] | None = None,
        shared: Mapping[str, Tensor] | None = None,
        num_choices: int | None = None,
    ) -> None:
        assert len(rows) == len(task_ids) * (num_choices or 1)
        self.rows = list(rows)
        self.task_ids = np.asarray(task_ids, dtype=np.int64)
        self.classes = None if classes is None else np.asarray(classes, dtype=np.int64)
        self.num_choices = num_choices
        self._pad_id = pad_id
        self._shared = dict(shared or {})
        self._lengths = np.array([len(row.input_ids) for row in self.rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.task_ids)

    def lengths(self, indices: Int64Array) -> Int64Array:
        """Tokens of samples, or of the longest row of each.

        Args:
            indices: (B,) samples.
        """
        lengths: Int64Array = self._lengths.reshape(len(self), -1)[indices].max(axis=1)
        return lengths

    def __getitem__(self, keys: Keys) -> dict[str, Tensor]:
        fillers = keys[1] < 0
        indices = np.maximum(keys[1], 0)
        choices = self.num_choices or 1
        batch = self._pad((indices[:, None] * choices + np.arange(choices)).ravel())
        if self.num_choices is not None:
            batch = {name: tensor.view(len(indices), choices, -1) for name, tensor in batch.items()}
        batch["labels"][torch.from_numpy(fillers)] = IGNORED
        batch["task_ids"] = torch.from_numpy(self.task_ids[indices])
        if self.classes is not None:
            batch["classes"] = torch.from_numpy(np.where(fillers, IGNORED, self.classes[indices]))
        return {**batch, **self._shared}

    def _pad(self, places: Int64Array) -> dict[str, Tensor]:
        rows = [self.rows[place] for place in places]
        longest = int(self._lengths[places].max())

        def padded(values: list[list[int]], filler: int) -> Tensor:
            return torch.tensor([row + [filler] * (longest - len(row)) for row in values])

        batch = {
            "input_ids": padded([row.input_ids for row in rows], self._pad_id),
            "prompt_ids": padded([row.prompt_ids for row in rows], -1),
            "labels": padded([row.labels for row in rows], IGNORED),
        }
        if (self._lengths[places] < longest).any():
            batch["attention_mask"] = padded([[1] * len(row.input_ids) for row in rows], 0)
        return batch


def padding_of(tokenizer: Any) -> int:
    """The token that fills up rows: any will do where there is no <pad>, since padding is not attended to.

    Args:
        tokenizer: Of the rows.
    """
    pad: int = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.eos_id
    return pad
