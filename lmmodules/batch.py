"""The contracts of batches: what a transform yields and what an objective needs.

Keys are those of the Hugging Face ecosystem, with one reading that holds everywhere: `labels[b, t]` is the token
that the output *at position t* has to predict, and `IGNORED` where nothing is asked. For a masked model that is the
original token at t; for a causal model it is the token that follows, so the shift has already been made.
"""

# No `from __future__ import annotations` here: a TypedDict could not tell its optional keys from the required.
from collections.abc import Mapping
from enum import IntEnum

from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from lmmodules.errors import InputError

IGNORED = -100
"""Label of a position at which nothing is predicted."""


class TokenBatch(TypedDict):
    """Token ids and what the backbone may see of them."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: NotRequired[Tensor]  # (B, T), 1 = attend; absent when every position is a token
    document_ids: NotRequired[Tensor]  # (B, T), positions attend only within their own document
    token_type_ids: NotRequired[Tensor]  # (B, T), segment of a sentence pair


class CausalBatch(TokenBatch):
    """A batch for next-token prediction: `labels[b, t]` is the token after position t."""

    labels: Tensor  # (B, T) int64, IGNORED where nothing is predicted


class Section(IntEnum):
    """What a token is to a document whose middle was moved to its end."""

    UNTOUCHED = 0  # of a document left in its order
    PREFIX = 1
    SUFFIX = 2
    MIDDLE = 3
    END = 4  # the end token behind a middle
    SENTINEL = 5  # marks where a piece begins


class FimBatch(CausalBatch):
    """A causal batch in which some documents have their middle at their end."""

    sections: Tensor  # (B, T) uint8, the `Section` of each label


class MaskedBatch(TokenBatch):
    """A batch for masked language modelling: `labels[b, t]` is the original token at a selected position."""

    labels: Tensor  # (B, T) int64, IGNORED at positions that were not selected
    next_sentence_labels: NotRequired[Tensor]  # (B,) int64, 0: the second segment follows the first, 1: a random one


class DetectionBatch(MaskedBatch):
    """A masked batch whose masked tokens a network fills in: what it writes is decided by `draws`."""

    draws: Tensor  # (B, T) float32, uniform in [0, 1)


class CorrectionBatch(DetectionBatch):
    """Such a batch with a second view of each sample: a piece of the original text."""

    crop_ids: Tensor  # (B, C) int64
    crop_attention_mask: NotRequired[Tensor]  # (B, C), 1 = attend; absent when every position is a token
    crop_document_ids: NotRequired[Tensor]  # (B, C), positions attend only within their own document


class LabelledBatch(TokenBatch):
    """Sequences with a class each: `labels[b]` is that of the whole of sequence b."""

    labels: Tensor  # (B,) int64, IGNORED for a sequence that does not count


class ScoredBatch(TokenBatch):
    """Sequences with a score each."""

    labels: Tensor  # (B,) float32, NaN for a sequence that does not count


class ChoiceBatch(TokenBatch):
    """Questions with C options each, every one a sequence: `input_ids` and masks are (B, C, T)."""

    labels: Tensor  # (B,) int64, which option is right; IGNORED for a question that does not count


def check_batch(batch: Mapping[str, object], contract: type, consumer: str) -> None:
    """Compare a batch with the contract its consumer declares.

    Args:
        batch: What the data module yielded.
        contract: A `TypedDict` of this module.
        consumer: Name of the objective, for the error.

    Raises:
        InputError: When a required key is missing.
    """
    missing = sorted(key for key in contract.__required_keys__ if key not in batch)  # type: ignore[attr-defined]
    if missing:
        raise InputError(
            f"`{consumer}` needs {', '.join(f'`{key}`' for key in missing)} in a batch, but the data yields "
            f"{', '.join(f'`{key}`' for key in sorted(batch))}; leave `transform=` to the objective"
        )


def provides(given: type, needed: type) -> bool:
    """Whether a batch of one contract can be read as one of another: it is that, or extends it.

    Args:
        given: A `TypedDict` of this module, of what the data yields.
        needed: A `TypedDict` of this module, of what the objective reads.
    """
    return given is needed or any(provides(base, needed) for base in getattr(given, "__orig_bases__", ()))
