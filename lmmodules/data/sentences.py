"""Where sentences end in a token store: a sentence is a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodules.data import vocabulary
from lmmodules.data.randomness import Int64Array
from lmmodules.data.store import TokenStore
from lmmodules.data.tokenizer import Tokenizer

_SCANNED_AT_ONCE = 4 * 1024 * 1024


def sentence_ends(store: TokenStore, tokenizer: Tokenizer) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
    """Find the sentences of a store: lines (with their line break, where tokens keep it), and each `</s>` on its own.

    Args:
        store: The tokens.
        tokenizer: Tells which tokens hold a line break, unless the store knows where lines end.

    Returns:
        Ends of the sentences (S,) int64, and whether each is a `</s>` that separates documents, (S,) bool.

    Raises:
        InputError: When neither tells.
    """
    eos_id = tokenizer.eos_id
    if store.sentences is None:
        ends = _scanned_ends(store, tokenizer.line_ends, eos_id)
    else:
        documents = store.offsets[1:]
        closed = documents[store.tokens[documents - 1] == eos_id] - 1
        ends = np.unique(np.concatenate([store.sentences, documents, closed]))
    ends = ends[ends > 0]
    return ends, np.asarray(store.tokens[ends - 1] == eos_id)


def _scanned_ends(store: TokenStore, line_ends: npt.NDArray[np.bool_], eos_id: int) -> Int64Array:
    found: list[Int64Array] = []
    for start in range(0, len(store), _SCANNED_AT_ONCE):
        tokens = store.tokens[start : start + _SCANNED_AT_ONCE]
        is_eos = tokens == eos_id
        ends_here = np.zeros(len(tokens) + 1, dtype=np.bool_)
        ends_here[1:] = line_ends[tokens] | is_eos
        # The line before </s> ends there too, with or without a line break of its own.
        ends_here[:-1] |= is_eos
        found.append(np.flatnonzero(ends_here) + start)
    return np.unique(np.concatenate([*found, [len(store)]]))


@dataclass(frozen=True)
class Sentences:
    """The lines of a store that hold text, by document.

    A blank line belongs to the line before it, or to the one after it where it begins a document, so the sentences of
    a document are contiguous. Documents without text are left out.

    Attributes:
        starts: (S,) int64 first token of each sentence.
        ends: (S,) int64 one more than its last.
        first: (documents + 1,) int64 the sentence that each document begins with, and the number of all.
    """

    starts: Int64Array
    ends: Int64Array
    first: Int64Array

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def num_documents(self) -> int:
        """Documents with at least one sentence."""
        return len(self.first) - 1

    def last_of(self, documents: Int64Array) -> Int64Array:
        """The last sentence of each of some documents."""
        return self.first[documents + 1] - 1

    @classmethod
    def of(cls, store: TokenStore, tokenizer: Tokenizer) -> Sentences:
        """Find them.

        Args:
            store: The tokens.
            tokenizer: The one they were written with.
        """
        ends, separators = sentence_ends(store, tokenizer)
        line_starts = np.concatenate([[0], ends[:-1]])
        documents: Int64Array = np.cumsum(separators) - separators  # (lines,) the document that a line is in
        has_text = ~separators
        if store.sentences is None:
            written = _text_tokens_before(store, ends, vocabulary.white_space(tokenizer.backend, tokenizer.vocab_size))
            has_text &= np.diff(written, prepend=0) > 0
        lines = np.flatnonzero(~separators)  # blank ones too: a document begins and ends with them
        borders = np.searchsorted(documents[lines], np.arange(documents[-1] + 2))

        kept = np.flatnonzero(has_text)
        of_document: Int64Array = documents[kept]
        begins = np.diff(of_document, prepend=-1) > 0
        starts = line_starts[kept]
        starts[begins] = line_starts[lines[borders[of_document[begins]]]]
        closes = np.append(begins[1:], True)[: len(kept)]
        stops = np.append(starts[1:], 0)[: len(kept)]
        stops[closes] = ends[lines[borders[of_document[closes] + 1] - 1]]
        return cls(starts, stops, np.append(np.flatnonzero(begins), len(kept)))


def _text_tokens_before(store: TokenStore, ends: Int64Array, is_blank: npt.NDArray[np.bool_]) -> Int64Array:
    """How many tokens with more than white space stand before each end, (S,)."""
    counts = np.empty(len(ends), dtype=np.int64)
    total = 0
    for start in range(0, len(store), _SCANNED_AT_ONCE):
        tokens = store.tokens[start : start + _SCANNED_AT_ONCE]
        running = np.cumsum(~is_blank[tokens]) + total
        low, high = np.searchsorted(ends, [start + 1, start + len(tokens) + 1])
        counts[low:high] = running[ends[low:high] - start - 1]
        total = int(running[-1])
    return counts
