"""Fill-in-the-middle: documents whose middle is moved to their end."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from lmmodules.batch import IGNORED, FimBatch, Section
from lmmodules.data.causal import NextToken
from lmmodules.data.fim_documents import (
    Documents,
    Parts,
    documents_in_blocks,
    documents_in_store,
    lay_out,
    slices_of_stream,
)
from lmmodules.data.fim_rearrangement import NUM_DRAWS, Rearrangement
from lmmodules.data.fim_sentinels import Sentinels
from lmmodules.data.fim_spans import Span
from lmmodules.data.packing import Windows
from lmmodules.data.randomness import Int64Array, SampleKeys
from lmmodules.data.store import TokenStore
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks
from lmmodules.errors import InputError, check_share

Level = Literal["context", "document"]


class FillInTheMiddle(NextToken):
    """Move the middle of some documents to their end, and predict the next token.

    A document is cut at two places that are drawn uniformly and independently, so that each piece is a third of it on
    average and may be empty. Sentinels mark the pieces; each piece is encoded by itself.

    Args:
        fim_rate: Share of the documents whose middle is moved.
        spm_rate: Share of those in the order suffix, prefix, middle; the others are in the order prefix, suffix,
            middle.
        span: Where a document may be cut: at any `character`, between `token`s, or between `line`s.
        level: `context` takes the parts of documents within a block for documents, so that all three pieces of each
            are seen together. `document` moves the middles of whole documents before blocks are cut from them.
        keep_middle: What to do at the context level with a document that goes on in the next block. False cuts it off
            like any other, where sentinels have made it too long: that is the end of its middle, and no end token
            follows. True takes what is too much from its suffix and ends the middle, so that every sample shows where
            to stop, which short blocks of long documents otherwise hardly ever do.
        mask_sentinels: Do not ask for sentinels.
        prefix_token: Name of <PRE>.
        suffix_token: Name of <SUF>.
        middle_token: Name of <MID>.

    Raises:
        InputError: When a rate lies outside of [0, 1], an option is not one of those named, or two do not go together.

    Source:
        Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle", sections 3, 4.4 and 4.5,
        appendices C and D.

    Differences:
        At the context level, half of a character that a block begins or ends with stays with prefix or suffix, where
        the paper removes it. At the document level, blocks are cut where they would be if no document changed its
        length, to within the tokens that sentinels and new encodings add: the last few of a block can be lost to the
        next. A part without any character, and one that holds a special token other than the end, is left alone.
    """

    batch_type: ClassVar[type] = FimBatch

    def __init__(
        self,
        *,
        fim_rate: float = 0.5,
        spm_rate: float = 0.5,
        span: Span = "character",
        level: Level = "context",
        keep_middle: bool = False,
        mask_sentinels: bool = False,
        prefix_token: str = "<fim_prefix>",
        suffix_token: str = "<fim_suffix>",
        middle_token: str = "<fim_middle>",
    ) -> None:
        for name, rate in (("fim_rate", fim_rate), ("spm_rate", spm_rate)):
            check_share(name, rate, remedy=f"transform.{name}=0.5")
        for name, value, known in (("span", span, get_args(Span)), ("level", level, get_args(Level))):
            if value not in known:
                raise InputError(
                    f"`{name}` must be one of {', '.join(known)}, but is {value!r}; use `transform.{name}={known[0]}`"
                )
        if keep_middle and level != "context":
            raise InputError(
                "`keep_middle` is for the context level, where each part of a document is one, but `level` is "
                f"{level!r}; use `transform.keep_middle=false` or `transform.level=context`"
            )
        self.fim_rate = fim_rate
        self.spm_rate = spm_rate
        self.span = span
        self.level = level
        self.keep_middle = keep_middle
        self.mask_sentinels = mask_sentinels
        self.prefix_token = prefix_token
        self.suffix_token = suffix_token
        self.middle_token = middle_token
        self._sentinels: Sentinels
        self._rearrange: Rearrangement
        self._filling = 0
        self._corpus: tuple[TokenStore, Windows] | None = None

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Look up the sentinels and, unless cuts are between tokens, what every token spells.

        Raises:
            InputError: When the tokenizer lacks a sentinel, or its tokens do not spell the text.
        """
        bound = copy.copy(self)
        bound._sentinels = Sentinels.of(tokenizer, self.prefix_token, self.suffix_token, self.middle_token)
        bound._rearrange = Rearrangement(
            tokenizer, bound._sentinels, span=self.span, fim_rate=self.fim_rate, spm_rate=self.spm_rate
        )
        bound._filling = tokenizer.pad_id if tokenizer.has("pad") else tokenizer.eos_id
        return bound

    def attach(self, store: TokenStore, windows: Windows) -> Self:
        """Keep the corpus at hand: whole documents are read from it at the document level."""
        attached = copy.copy(self)
        attached._corpus = (store, windows)
        return attached

    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make a `FimBatch` of (B, L - 1) positions from blocks of (B, L) tokens."""
        # What sentinels add may grow into the padding, also where that was left out of the block.
        longest = blocks.tokens.shape[1] if self._corpus is None else self._corpus[1].length
        if self.level == "document":
            rows, begins, ends = self._from_documents(keys)
        else:
            rows, begins, ends = self._from_blocks(blocks, keys, longest)
        length = min(longest, max(blocks.tokens.shape[1], int((ends - begins).max())))
        tokens, sections, lengths = lay_out(rows, begins, ends, length, self._filling)
        document_ids: Int64Array | None = None
        if blocks.document_ids is not None:
            is_end = tokens == self._sentinels.end
            document_ids = np.cumsum(is_end, axis=1, dtype=np.int64) - is_end
        rearranged = Blocks(tokens, None if (lengths == length).all() else lengths, document_ids)
        batch = super().__call__(rearranged, keys)
        batch["sections"] = torch.from_numpy(sections[:, 1:].copy())
        if self.mask_sentinels:
            batch["labels"].masked_fill_(batch["sections"] == Section.SENTINEL, IGNORED)
        return batch

    def _from_blocks(
        self, blocks: Blocks, keys: SampleKeys, longest: int
    ) -> tuple[list[Parts], Int64Array, Int64Array]:
        documents = documents_in_blocks(blocks, self._sentinels.end)
        most = int(documents.numbers.max()) + 1
        draws = keys.uniform("fim/context", most * NUM_DRAWS).reshape(len(keys), most, NUM_DRAWS)
        rows = _by_row(documents, self._rearrange(documents, draws[documents.rows, documents.numbers]), len(keys))
        if self.keep_middle:
            for row in rows:
                self._end_middle(row, longest)
        ends = np.array([sum(len(piece) for _, piece in row) for row in rows], dtype=np.int64)
        return rows, np.zeros_like(ends), ends

    def _end_middle(self, row: Parts, longest: int) -> None:
        """End the middle of the last document, if it was moved, and take what is then too much from its suffix."""
        if row[-1][0] != Section.END or len(row[-1][1]):
            return
        row[-1] = (Section.END, np.array([self._sentinels.end]))
        excess = max(sum(len(piece) for _, piece in row) - longest, 0)
        place = max(number for number, (section, _) in enumerate(row) if section == Section.SUFFIX)
        suffix = row[place][1]
        row[place] = (Section.SUFFIX, suffix[: max(len(suffix) - excess, 0)])

    def _from_documents(self, keys: SampleKeys) -> tuple[list[Parts], Int64Array, Int64Array]:
        if self._corpus is None:
            raise InputError(
                "`transform.level=document` moves middles before blocks are cut, which only a data module can do; use "
                "`transform.level=context`"
            )
        store, windows = self._corpus
        starts, stops = windows.spans(keys.indices)
        documents = documents_in_store(store, starts, stops, self._sentinels.end)
        of_documents = SampleKeys(keys.seed, keys.epochs[documents.rows], documents.numbers)
        parts = self._rearrange(documents, of_documents.uniform("fim/document", NUM_DRAWS))
        sizes = np.array([sum(len(piece) for _, piece in document) for document in parts], dtype=np.int64)
        return _by_row(documents, parts, len(keys)), *slices_of_stream(store, documents, sizes, starts, stops)


def _by_row(documents: Documents, parts: list[Parts], num_rows: int) -> list[Parts]:
    """The parts of all documents of each sample, one behind the other."""
    rows: list[Parts] = [[] for _ in range(num_rows)]
    for row, document in zip(documents.rows.tolist(), parts, strict=True):
        rows[row] += document
    return rows
