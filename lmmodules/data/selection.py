"""How many positions of a sample a masking selects: the rules of the released codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodules.data.randomness import Int64Array, SampleKeys, UInt64Array
from lmmodules.errors import InputError

BoolArray = npt.NDArray[np.bool_]
_EXCLUDED = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Candidates:
    """What can be selected of the samples of a batch: tokens, or words.

    Attributes:
        draws: (B, C) 64 random bits for each; whatever the rule, those with the smallest are selected.
        eligible: (B, C) which of them may be, or None when all may.
        num_positions: (B,) how many a sample has without its padding, special tokens included.
        keys: Identity of the samples.
    """

    draws: UInt64Array
    eligible: BoolArray | None
    num_positions: Int64Array
    keys: SampleKeys

    @property
    def num_eligible(self) -> Int64Array:
        """(B,) how many may be selected."""
        if self.eligible is None:
            return np.full(len(self.draws), self.draws.shape[1])
        counts: Int64Array = np.count_nonzero(self.eligible, axis=1)
        return counts


class SelectionRule(ABC):
    """Chooses among candidates."""

    @abstractmethod
    def select(self, candidates: Candidates, probability: float) -> BoolArray:
        """Choose.

        Args:
            candidates: What there is.
            probability: Share to be selected.

        Returns:
            (B, C) whether each is selected.
        """


class CountedSelection(SelectionRule):
    """Selects a certain number of each sample, without replacement."""

    @abstractmethod
    def counts(self, candidates: Candidates, probability: float) -> Int64Array:
        """How many to select, (B,) int64.

        Args:
            candidates: What there is.
            probability: Share to be selected.
        """

    def select(self, candidates: Candidates, probability: float) -> BoolArray:
        """Take the candidates with the smallest draws."""
        counts = self.counts(candidates, probability)
        draws = candidates.draws
        if candidates.eligible is not None:
            draws = np.where(candidates.eligible, draws, _EXCLUDED)
        ranked = np.sort(draws, axis=1)
        last = ranked[np.arange(len(draws)), np.maximum(counts - 1, 0)]
        selected: BoolArray = draws <= np.where(counts > 0, last, np.uint64(0))[:, None]
        return selected


class ProbabilisticRounding(CountedSelection):
    """``floor(probability * n + u)`` of n candidates, with u uniform in [0, 1).

    The expected share is exact. A short sample can have none.

    Source:
        fairseq, `data/mask_tokens_dataset.py`.
    """

    def counts(self, candidates: Candidates, probability: float) -> Int64Array:
        """Round up as often as the fraction says."""
        rounding = candidates.keys.uniform("masking/count", 1)[:, 0]
        return np.floor(probability * candidates.num_eligible + rounding).astype(np.int64)


class BertRounding(CountedSelection):
    """``min(max_predictions, max(1, round(probability * length)))``, where the length includes special tokens.

    Every sample has at least one, and the number follows from the length.

    Args:
        max_predictions: The most that a sample can have; None sets no limit.

    Raises:
        InputError: When `max_predictions` is less than 1.

    Source:
        google-research/bert, `create_pretraining_data.py` (`max_predictions_per_seq`).

    Differences:
        With `whole_word`, words are counted, where the released code fills its number of tokens with whole words.
    """

    def __init__(self, max_predictions: int | None = None) -> None:
        if max_predictions is not None and max_predictions < 1:
            raise InputError(
                f"`max_predictions` must be at least 1 (or null for no limit), but is {max_predictions}; use "
                "`transform.selection.max_predictions=null`"
            )
        self.max_predictions = max_predictions

    def counts(self, candidates: Candidates, probability: float) -> Int64Array:
        """Round to the nearest, halves to even as Python does."""
        counts = np.maximum(np.rint(probability * candidates.num_positions).astype(np.int64), 1)
        if self.max_predictions is not None:
            counts = np.minimum(counts, self.max_predictions)
        fitting: Int64Array = np.minimum(counts, candidates.num_eligible)
        return fitting


class IndependentSelection(SelectionRule):
    """Each candidate by itself, with the same probability: the number in a sample is binomial.

    Source:
        transformers, `data/data_collator.py`, `DataCollatorForLanguageModeling`.
    """

    def select(self, candidates: Candidates, probability: float) -> BoolArray:
        """Compare every draw with the probability."""
        selected: BoolArray = candidates.draws < np.uint64(min(int(probability * 2.0**64), 2**64 - 1))
        return selected if candidates.eligible is None else selected & candidates.eligible
