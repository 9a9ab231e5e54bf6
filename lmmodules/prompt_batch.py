"""Batches with a prompt: tokens among which pseudo-tokens stand, and an answer to be predicted."""

# No `from __future__ import annotations` here: a TypedDict could not tell its optional keys from the required.
from torch import Tensor
from typing_extensions import NotRequired

from lmmodules.batch import TokenBatch


class PromptBatch(TokenBatch):
    """Sequences with pseudo-tokens. At a pseudo-token `input_ids` holds any token; its embedding is not looked at."""

    prompt_ids: Tensor  # (B, T) int64, row of the table of prompts, -1 at ordinary tokens
    labels: Tensor  # (B, T) int64, the answer at the positions that predict it, IGNORED elsewhere
    task_ids: Tensor  # (B,) int64, the relation or task that a row is of
    candidate_ids: NotRequired[Tensor]  # (C,) int64, the only tokens that may be answers; absent when all may


class VerbalizedBatch(PromptBatch):
    """Such sequences whose answer is a class, said by a word."""

    classes: Tensor  # (B,) int64, IGNORED for a row that does not count
    verbalizer: Tensor  # (C, W) int64, tokens that say each class, -1 where there are fewer


class PromptChoiceBatch(PromptBatch):
    """Questions with C answers: keys of tokens, prompts and labels are (B, C, T), a sequence for each answer."""

    classes: Tensor  # (B,) int64, which answer is right; IGNORED for a question that does not count
