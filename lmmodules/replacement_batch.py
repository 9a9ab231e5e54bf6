"""Batches with two rewritten views of each text: one that keeps its meaning, and one that changes it."""

# No `from __future__ import annotations` here: a TypedDict could not tell its optional keys from the required.
from torch import Tensor
from typing_extensions import NotRequired

from lmmodules.batch import MaskedBatch


class ReplacementBatch(MaskedBatch):
    """A masked batch with its views. A view is as wide as the batch, padded or cut at the right.

    The labels of a view are 0 at content words that stand as they were, 1 (positive) or 2 (negative) at replaced ones,
    and IGNORED at everything else.
    """

    positive_ids: Tensor  # (B, T) int64, words replaced by synonyms, hypernyms or inflections
    positive_attention_mask: Tensor  # (B, T), 1 = attend
    positive_labels: Tensor  # (B, T) int64 out of {IGNORED, 0, 1}
    positive_document_ids: NotRequired[Tensor]  # (B, T)
    negative_ids: Tensor  # (B, T) int64, words replaced by antonyms or random words
    negative_attention_mask: Tensor  # (B, T)
    negative_labels: Tensor  # (B, T) int64 out of {IGNORED, 0, 2}
    negative_document_ids: NotRequired[Tensor]  # (B, T)
    contrasted: Tensor  # (B,) int64, 1 where both views differ from the text in what its first position sees
    opposed: NotRequired[Tensor]  # (B,) int64, 1 where the negative view has opposites and no random words
