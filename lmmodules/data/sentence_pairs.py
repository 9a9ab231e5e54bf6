"""Pairs of segments, of which the second follows the first in the text or comes from another document.

What happens to the text from a sentence on depends on that sentence alone: how long a chunk gets, where it is divided
and where its random partner comes from are drawn from a hash of (seed, duplicate, sentence). So all of it is computed
for all sentences at once, and a walk from chunk to chunk picks those where one begins.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lmmodules.data.packing import Packing, Windows
from lmmodules.data.randomness import Int64Array, SampleKeys
from lmmodules.data.segment_spans import PairWindows, SegmentSpans
from lmmodules.data.sentences import Sentences
from lmmodules.data.store import TokenStore
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

_SENTENCES_AT_ONCE = 1024 * 1024


class PairPacking(Packing):
    """Samples `<s> A </s> B </s>`, for next-sentence prediction.

    With probability one half B is what follows A, and otherwise text from another document, drawn uniformly. Where
    nothing follows A, B is always random, so somewhat more than half of the pairs are. Then
    `next_sentence_labels` is 1, and 0 where B follows, as in BERT's code; fairseq has it the other way round. What a
    random B displaced begins the next sample. Pairs that are too long lose tokens at either end of the longer segment.

    Args:
        next_sentence: False lets B follow A always, leaves A alone where nothing follows, and gives no labels.
        num_token_types: Segments that the model tells apart; with two or more, a batch has `token_type_ids`.
        num_duplicates: How often the corpus is divided into pairs, each time with other borders and partners: BERT's
            `dupe_factor`.
        double_separator: Put two `</s>` between A and B, as RoBERTa does with pairs.

    Raises:
        InputError: When `num_duplicates` is less than 1.

    Source:
        BERT (Devlin et al. 2019), section 3.1; google-research/bert, `create_pretraining_data.py`.

    Differences:
        A partner from another document is drawn directly, where the released code tries ten times and then may take
        the same document. Documents are not shuffled before: samples are.
    """

    makes_pairs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        next_sentence: bool = True,
        num_token_types: int = 0,
        num_duplicates: int = 1,
        double_separator: bool = False,
    ) -> None:
        if num_duplicates < 1:
            raise InputError(
                f"`packing.num_duplicates` must be at least 1, but is {num_duplicates}; use `packing.num_duplicates=1`"
            )
        self.next_sentence = next_sentence
        self.num_token_types = num_token_types
        self.num_duplicates = num_duplicates
        self.double_separator = double_separator

    def windows(self, store: TokenStore, tokenizer: Tokenizer, *, length: int, stride: int, seed: int = 0) -> Windows:
        """Find the sentences and pair them.

        Raises:
            InputError: When the text has no sentences that follow each other, or no other document to draw from, or
                a block has no room for two segments.
        """
        num_separators = 3 if self.double_separator else 2
        budget = length - num_separators
        if budget < 2:
            least = num_separators + 3
            raise InputError(
                f"`data.max_length` must leave room for a token of each segment beside {num_separators + 1} special "
                f"tokens, but is {length + 1}; use `data.max_length={least}` or more"
            )
        sentences = Sentences.of(store, tokenizer)
        self._check(sentences, store)
        pairs = [
            self._pairs(sentences, keys, budget)
            for duplicate in range(self.num_duplicates)
            for keys in _by_document(sentences, seed, duplicate)
        ]
        return PairWindows(
            SegmentSpans.joined(pairs),
            length,
            eos_id=tokenizer.eos_id,
            num_separators=num_separators,
            next_sentence=self.next_sentence,
            token_types=self.num_token_types >= 2,
            num_split=int((sentences.ends - sentences.starts > budget).sum()),
        )

    @abstractmethod
    def _targets(self, documents: Int64Array, seed: int, duplicate: int, budget: int) -> Int64Array:
        """Tokens that a pair from each of some documents should have."""

    @abstractmethod
    def _chunk_ends(self, sentences: Sentences, first: Int64Array, targets: Int64Array) -> Int64Array:
        """The last sentence that belongs to A and B together if they begin at `first`, documents not regarded."""

    @abstractmethod
    def _partner_ends(self, sentences: Sentences, first: Int64Array, wanted: Int64Array) -> Int64Array:
        """The last sentence of a random B that begins at `first`, documents not regarded."""

    def _pairs(self, sentences: Sentences, keys: SampleKeys, budget: int) -> SegmentSpans:
        """The pairs of whole documents; keys are those of their sentences."""
        first = keys.indices
        document = np.searchsorted(sentences.first, first, side="right") - 1
        targets = self._targets(document, keys.seed, int(keys.epochs[0]), budget)
        last = np.minimum(self._chunk_ends(sentences, first, targets), sentences.last_of(document))
        draws = keys.uniform("sentence_pairs", 4)
        num_in_a = np.maximum(1, 1 + _draw(draws[:, 0], last - first))  # uniform in 1 ... n - 1
        is_random = ((last == first) | (draws[:, 1] < 0.5)) & self.next_sentence
        following = np.where(is_random, first + num_in_a, last + 1)

        chosen = _walk(following - first[0])
        first, last, num_in_a, is_random = first[chosen], last[chosen], num_in_a[chosen], is_random[chosen]
        document, targets, draws = document[chosen], targets[chosen], draws[chosen]
        a_starts, a_ends = sentences.starts[first], sentences.ends[first + num_in_a - 1]
        b_starts = a_ends.copy()
        b_ends = np.maximum(sentences.ends[last], a_ends)

        other = _draw(draws[is_random, 2], np.full(is_random.sum(), sentences.num_documents - 1))
        other += other >= document[is_random]
        opening = sentences.first[other] + _draw(draws[is_random, 3], np.diff(sentences.first)[other])
        wanted = np.maximum((targets - (a_ends - a_starts))[is_random], 1)
        closing = np.minimum(self._partner_ends(sentences, opening, wanted), sentences.last_of(other))
        b_starts[is_random], b_ends[is_random] = sentences.starts[opening], sentences.ends[closing]

        drawn = SampleKeys(keys.seed, keys.epochs[chosen], first)
        return SegmentSpans.truncated((a_starts, a_ends), (b_starts, b_ends), is_random, budget, drawn)

    def _check(self, sentences: Sentences, store: TokenStore) -> None:
        if len(sentences) == sentences.num_documents:
            raise InputError(
                f"`packing` pairs sentences that follow each other, but each of the {sentences.num_documents:,} "
                f"documents of the {store.path.name} text has a single one (a sentence is a line); use text with a "
                "line per sentence, or `packing=documents`"
            )
        if self.next_sentence and sentences.num_documents == 1:
            raise InputError(
                f"`packing` draws random partners from other documents, but the {store.path.name} text has only one; "
                'separate its documents by blank lines and use `data.document_separator=""`, give more files, or use '
                "`packing.next_sentence=false`"
            )


class SegmentPairs(PairPacking):
    """SEGMENT-PAIR: each segment is as many sentences as fit, so that pairs have nearly the length of a sample.

    Args:
        next_sentence: See `PairPacking`.
        num_token_types: See `PairPacking`.
        num_duplicates: See `PairPacking`.
        double_separator: See `PairPacking`.
        short_sequence_probability: Share of the documents whose pairs are shorter, each by a random amount: 0.1 in
            BERT, none in RoBERTa.

    Raises:
        InputError: When `num_duplicates` or `short_sequence_probability` is out of range.

    Source:
        RoBERTa (Liu et al. 2019), section 4.2; google-research/bert, `create_pretraining_data.py`.
    """

    def __init__(
        self,
        *,
        next_sentence: bool = True,
        num_token_types: int = 0,
        num_duplicates: int = 1,
        double_separator: bool = False,
        short_sequence_probability: float = 0.0,
    ) -> None:
        super().__init__(
            next_sentence=next_sentence,
            num_token_types=num_token_types,
            num_duplicates=num_duplicates,
            double_separator=double_separator,
        )
        if not 0 <= short_sequence_probability <= 1:
            raise InputError(
                "`packing.short_sequence_probability` must be between 0 and 1, but is "
                f"{short_sequence_probability}; use `packing.short_sequence_probability=0.1`"
            )
        self.short_sequence_probability = short_sequence_probability

    def _targets(self, documents: Int64Array, seed: int, duplicate: int, budget: int) -> Int64Array:
        keys = SampleKeys(seed, np.full(len(documents), duplicate), documents)
        draws = keys.uniform("sentence_pairs/short", 2)
        shorter = 2 + _draw(draws[:, 1], np.full(len(documents), budget - 1))  # uniform in 2 ... budget
        return np.where(draws[:, 0] < self.short_sequence_probability, shorter, budget)

    def _chunk_ends(self, sentences: Sentences, first: Int64Array, targets: Int64Array) -> Int64Array:
        return np.searchsorted(sentences.ends, sentences.starts[first] + targets)

    def _partner_ends(self, sentences: Sentences, first: Int64Array, wanted: Int64Array) -> Int64Array:
        return np.searchsorted(sentences.ends, sentences.starts[first] + wanted)


class SentencePairs(PairPacking):
    """SENTENCE-PAIR: each segment is one sentence. Pairs are short: fill batches by `data.batch_tokens`.

    Args:
        next_sentence: See `PairPacking`.
        num_token_types: See `PairPacking`.
        num_duplicates: See `PairPacking`.
        double_separator: See `PairPacking`.

    Source:
        RoBERTa (Liu et al. 2019), section 4.2. There is no released code.
    """

    def _targets(self, documents: Int64Array, seed: int, duplicate: int, budget: int) -> Int64Array:
        return np.full(len(documents), budget)

    def _chunk_ends(self, sentences: Sentences, first: Int64Array, targets: Int64Array) -> Int64Array:
        return first + 1

    def _partner_ends(self, sentences: Sentences, first: Int64Array, wanted: Int64Array) -> Int64Array:
        return first


def _by_document(sentences: Sentences, seed: int, duplicate: int) -> Iterator[SampleKeys]:
    """The keys of all sentences, some whole documents at a time: draws for a large corpus need not fit into memory."""
    document = 0
    while document < sentences.num_documents:
        begin = int(sentences.first[document])
        reached = int(np.searchsorted(sentences.first, begin + _SENTENCES_AT_ONCE, side="right")) - 1
        document = max(document + 1, reached)
        indices = np.arange(begin, sentences.first[document])
        yield SampleKeys(seed, np.full(len(indices), duplicate), indices)


def _draw(uniform: npt.NDArray[np.float64], counts: Int64Array) -> Int64Array:
    """Whole numbers below `counts` from draws in [0, 1)."""
    return (uniform * counts).astype(np.int64)


def _walk(following: Int64Array) -> Int64Array:
    """The places that are reached from 0 when each leads to the one it names."""
    places = following.tolist()
    reached: list[int] = []
    place = 0
    while place < len(places):
        reached.append(place)
        place = places[place]
    return np.array(reached, dtype=np.int64)
