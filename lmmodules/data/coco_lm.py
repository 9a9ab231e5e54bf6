"""The two views of COCO-LM: a sample with masks to fill in, and a piece of the sample as it was."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lmmodules.batch import IGNORED, CorrectionBatch
from lmmodules.data.electra import DetectionMasking
from lmmodules.data.randomness import Int64Array, SampleKeys
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, Transform
from lmmodules.errors import InputError


class CorrectionViews(Transform):
    """Mask a sample for an auxiliary model to fill in, and cut a contiguous piece out of the original.

    All selected tokens are hidden. The piece has ``floor(crop_share * n)`` of the n tokens, starts anywhere with equal
    chance, and gets a `<s>` of its own. Where it starts is independent of the mask. Where documents do not see each
    other, `<s>` sees the first of a sample alone, and the piece is one of that.

    Args:
        mask_probability: Share of the positions that is selected.
        mask_start: Whether the `<s>` at the beginning can be selected. Where it can not, it is let go after the
            selection, so that slightly fewer are selected, as in the released code.
        whole_word: Select words instead of tokens.
        crop_share: Share of a sample's tokens that is in the piece.

    Raises:
        InputError: When `mask_probability` lies outside of (0, 1], or `crop_share` does or leaves nothing of a sample.

    Source:
        Meng et al. 2021, COCO-LM, section 3; microsoft/COCO-LM, `fairseq/fairseq/data/mask_tokens_dataset2.py` and
        `span_dataset.py`.

    Differences:
        The released code crops a sample together with its `<s>` and puts another before the piece, so that a piece
        from the beginning has two; here each view has one.
    """

    batch_type: ClassVar[type] = CorrectionBatch

    def __init__(
        self,
        *,
        mask_probability: float = 0.15,
        mask_start: bool = False,
        whole_word: bool = False,
        crop_share: float = 0.9,
    ) -> None:
        if not 0 < crop_share <= 1:
            raise InputError(
                f"`crop_share` must be above 0 and at most 1, but is {crop_share}; use `transform.crop_share=0.9`"
            )
        self.masking = DetectionMasking(
            mask_probability=mask_probability, keep_probability=0.0, whole_word=whole_word, mask_special_tokens=True
        )
        self.mask_start = mask_start
        self.crop_share = crop_share
        self._bos_id = self._pad_id = -1

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Look up `<s>`, `<mask>` and what fills up short pieces."""
        bound = copy.copy(self)
        bound.masking = self.masking.bind(tokenizer)
        bound._bos_id = tokenizer.bos_id
        bound._pad_id = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.bos_id
        return bound

    def block_length(self, max_length: int) -> int:
        """One position is taken by `<s>`.

        Raises:
            InputError: When crops leave nothing.
        """
        length = self.masking.block_length(max_length)
        if int(self.crop_share * length) < 1:
            raise InputError(
                f"`crop_share` must leave something of {length} tokens, but is {self.crop_share}; "
                "use `transform.crop_share=0.9`"
            )
        return length

    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make a `CorrectionBatch` of (B, L + 1) and (B, C) positions from blocks of (B, L) tokens."""
        batch = self.masking(blocks, keys)
        if not self.mask_start:
            batch["input_ids"][:, 0] = self._bos_id
            batch["labels"][:, 0] = IGNORED
        return batch | self._crop(blocks, keys)

    def ignore(self, batch: dict[str, Tensor], rows: np.ndarray) -> None:
        """Take samples out of the loss, in place: nothing is asked of them, and all of them is padding."""
        self.masking.ignore(batch, rows)

    def _crop(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """The pieces; of a sample of few tokens at least one."""
        num_rows, length = blocks.tokens.shape
        lengths = _seen_by_start(blocks)
        sizes = np.clip((self.crop_share * lengths).astype(np.int64), 1, None)
        spare = np.maximum(lengths - sizes, 0)
        starts = (keys.uniform("coco_lm/crop", 1)[:, 0] * (spare + 1)).astype(np.int64)

        within = np.arange(sizes.max())
        places = np.minimum(starts[:, None] + within, length - 1)
        tokens = np.take_along_axis(blocks.tokens, places, axis=1).astype(np.int64)
        padding = within >= sizes[:, None]
        tokens[padding] = self._pad_id
        crop = {"crop_ids": _with_first(tokens, np.full(num_rows, self._bos_id))}
        if blocks.lengths is not None or blocks.document_ids is not None:
            crop["crop_attention_mask"] = _with_first((~padding).astype(np.int64), np.ones(num_rows, dtype=np.int64))
        if blocks.document_ids is not None:
            crop["crop_document_ids"] = torch.zeros_like(crop["crop_ids"])
        return crop


def _seen_by_start(blocks: Blocks) -> Int64Array:
    """Tokens (B,) that the `<s>` of each row sees: all of them, or those of the row's first document."""
    num_rows, length = blocks.tokens.shape
    lengths: Int64Array = np.full(num_rows, length) if blocks.lengths is None else blocks.lengths
    if blocks.document_ids is None:
        return lengths
    in_first = blocks.document_ids == blocks.document_ids[:, :1]
    seen: Int64Array = np.minimum(lengths, np.count_nonzero(in_first, axis=1))
    return seen


def _with_first(row: np.ndarray, first: np.ndarray) -> Tensor:
    """(B, C) with a column (B,) in front."""
    return torch.from_numpy(np.concatenate([first[:, None], row], axis=1))
