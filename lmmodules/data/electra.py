"""Masks for a network to fill in, as ELECTRA makes them."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lmmodules.batch import DetectionBatch
from lmmodules.data.masking import Masking
from lmmodules.data.randomness import SampleKeys
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform


class DetectionMasking(Transform):
    """Select positions, hide their tokens, and give each position the number that decides what is written there.

    The objective has the network that writes. Which token it draws follows from its distribution and from this number
    in [0, 1), which belongs to (seed, epoch, sample, position), so that the corruption of a sample does not depend on
    ranks, workers, batches or resumes.

    Args:
        mask_probability: Share of the positions that is selected. The large ELECTRA has 0.25.
        keep_probability: Chance that a selected token is shown to the network that writes.
        whole_word: Select words instead of tokens.
        mask_special_tokens: Whether `<s>` and `</s>` can be selected too.

    Raises:
        InputError: When a probability lies outside of [0, 1].

    Source:
        Clark et al. 2020, ELECTRA, section 2; google-research/electra, `pretrain/pretrain_helpers.py`, `mask`.

    Differences:
        The released code draws positions with replacement; here they are as many as `Masking` selects.
    """

    batch_type: ClassVar[type] = DetectionBatch
    takes_pairs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        mask_probability: float = 0.15,
        keep_probability: float = 0.15,
        whole_word: bool = False,
        mask_special_tokens: bool = False,
    ) -> None:
        self.masking = Masking(
            mask_probability=mask_probability,
            random_probability=0.0,
            keep_probability=keep_probability,
            whole_word=whole_word,
            mask_special_tokens=mask_special_tokens,
        )

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Look up `<s>` and `<mask>`."""
        bound = copy.copy(self)
        bound.masking = self.masking.bind(tokenizer)
        return bound

    def block_length(self, max_length: int) -> int:
        """One position is taken by `<s>`."""
        return self.masking.block_length(max_length)

    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make a `DetectionBatch` of (B, L + 1) positions from blocks of (B, L) tokens."""
        batch = self.masking(blocks, keys)
        batch["draws"] = uniform_draws(keys, batch["input_ids"].shape[1])
        return batch

    def ignore(self, batch: dict[str, Tensor], rows: np.ndarray) -> None:
        """Take samples out of the loss, in place: nothing is asked of them, and all of them is padding."""
        super().ignore(batch, rows)
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))[rows] = 0


def uniform_draws(keys: SampleKeys, length: int) -> Tensor:
    """Numbers in [0, 1) of a sample's positions, (B, length) float32.

    Args:
        keys: Identity of the B samples.
        length: Positions.
    """
    bits = keys.bits("auxiliary/tokens", length) >> np.uint64(40)  # as many as float32 holds exactly: never 1
    return torch.from_numpy(bits.astype(np.float32) * np.float32(2.0**-24))
