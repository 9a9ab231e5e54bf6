"""Next-token prediction."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lmmodules.batch import IGNORED, CausalBatch
from lmmodules.data.randomness import SampleKeys
from lmmodules.data.transform import Blocks, Transform


class NextToken(Transform):
    """Every position predicts the token after it.

    A sample of T positions reads T + 1 tokens and the next one starts T tokens later, so that each token of a
    contiguous stream is predicted exactly once.
    """

    batch_type: ClassVar[type] = CausalBatch

    def block_length(self, max_length: int) -> int:
        """One token more than positions: the last position predicts it."""
        return max_length + 1

    def stride(self, max_length: int) -> int:
        """Neighbouring blocks share the token that one predicts last and the other reads first."""
        return max_length

    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make a `CausalBatch` of (B, L - 1) positions from blocks of (B, L) tokens."""
        batch = {
            "input_ids": torch.from_numpy(blocks.tokens[:, :-1].astype(np.int64)),
            "labels": torch.from_numpy(blocks.tokens[:, 1:].astype(np.int64)),
        }
        attention_mask = blocks.attention_mask()
        if attention_mask is not None:
            mask = torch.from_numpy(attention_mask)
            batch["labels"].masked_fill_(mask[:, 1:] == 0, IGNORED)
            batch["attention_mask"] = mask[:, :-1].contiguous()
        if blocks.document_ids is not None:
            batch["document_ids"] = torch.from_numpy(blocks.document_ids[:, :-1].copy())
        return batch
