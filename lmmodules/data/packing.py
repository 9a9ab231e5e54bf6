"""How samples are cut from the stream of tokens.

A packing turns a store into windows: n spans of tokens, each no longer than a block. Windows that follow from
arithmetic are computed when asked for; the others are two integers per sample.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lmmodules.data.randomness import Int64Array
from lmmodules.data.sentences import sentence_ends
from lmmodules.data.store import TokenStore
from lmmodules.data.tokenization import VALIDATION
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import Blocks, TokenArray
from lmmodules.errors import InputError


class Windows(ABC):
    """Spans of tokens, one per sample.

    Attributes:
        length: Tokens of a full block, L.
        num_split: Documents (or sentences) that were longer than a block and had to be cut.
    """

    length: int
    num_split: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def spans(self, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Where samples begin and end.

        Args:
            indices: (B,) samples.

        Returns:
            Starts and ends, both (B,) int64, with ``ends - starts <= length``.
        """

    def sizes(self, indices: Int64Array) -> Int64Array:
        """How many tokens the blocks of samples hold, (B,) int64.

        Args:
            indices: (B,) samples.
        """
        starts, ends = self.spans(indices)
        return ends - starts

    def read(self, tokens: TokenArray, indices: Int64Array, *, pad_id: int, trim: bool = False) -> Blocks:
        """The blocks of samples.

        Args:
            tokens: (N,) those of the store.
            indices: (B,) samples.
            pad_id: What short blocks are filled up with.
            trim: Make blocks as long as the longest of them, and not as long as a full one.
        """
        starts, ends = self.spans(indices)
        sizes = ends - starts
        length = trimmed_length(sizes, self.length) if trim else self.length
        if (sizes == length).all():
            return Blocks(
                np.concatenate([tokens[start : start + length] for start in starts.tolist()]).reshape(-1, length)
            )
        places = starts[:, None] + np.arange(length)
        block = tokens[np.minimum(places, len(tokens) - 1)]
        block[places >= ends[:, None]] = pad_id
        return Blocks(block, sizes)


def trimmed_length(sizes: Int64Array, length: int) -> int:
    """Tokens of the longest block of a batch; at least two, without which nothing is left to predict.

    Args:
        sizes: (B,) tokens of the blocks.
        length: Tokens of a full block.
    """
    return min(length, max(2, int(sizes.max())))


class Packing(ABC):
    """A rule that divides a token store into samples.

    Attributes:
        makes_pairs: Whether a sample is two segments with a `</s>` behind each.
    """

    makes_pairs: ClassVar[bool] = False

    @abstractmethod
    def windows(self, store: TokenStore, tokenizer: Tokenizer, *, length: int, stride: int, seed: int = 0) -> Windows:
        """Divide a store.

        Args:
            store: The tokens.
            tokenizer: The tokenizer they were written with.
            length: Tokens of a block.
            stride: Tokens from the start of one block to the start of the next, where a text is cut; less than
                `length` by the tokens that neighbours share.
            seed: Of what a packing draws at random, if it does.
        """


class StreamPacking(Packing):
    """Blocks of equal length from the whole corpus end to end, without regard to documents.

    Every token is used; only the very last block can be short.
    """

    def windows(self, store: TokenStore, tokenizer: Tokenizer, *, length: int, stride: int, seed: int = 0) -> Windows:
        """One text: the corpus."""
        return _CutTexts(np.array([0, len(store)], dtype=np.int64), length, stride)


class DocumentPacking(Packing):
    """One document per sample.

    Args:
        split_long: Cut documents that are longer than a block into several samples; False refuses them.

    Raises:
        InputError: With `split_long=False`, when a document is longer than the block.
    """

    def __init__(self, split_long: bool = True) -> None:
        self.split_long = split_long

    def windows(self, store: TokenStore, tokenizer: Tokenizer, *, length: int, stride: int, seed: int = 0) -> Windows:
        """As many texts as documents.

        Raises:
            InputError: When a document is longer than a block and may not be split.
        """
        windows = _CutTexts(np.asarray(store.offsets), length, stride)
        if windows.num_split and not self.split_long:
            longest = int(np.diff(store.offsets).max())
            raise InputError(
                f"with `packing.split_long=false` no document may be longer than the block ({length} tokens), but "
                f"{windows.num_split} are, the longest with {longest}; use `packing.split_long=true` or a larger "
                "`data.max_length`"
            )
        return windows


class SentencePacking(Packing):
    """Whole sentences, as many as fit into a block; a sentence is a line.

    Args:
        cross_documents: True lets a block run on into the next document, with `</s>` between them
            (FULL-SENTENCES); False ends it with its document, without the `</s>` (DOC-SENTENCES), and warns where
            there is a single document.

    Source:
        RoBERTa (Liu et al. 2019), section 4.2; fairseq, `data/token_block_utils_fast.pyx`, break modes `complete` and
        `complete_doc`.

    Differences:
        A line keeps its line break and has no `</s>` of its own, so `</s>` stands between documents only, as the
        paper has it. A sentence longer than a block is cut instead of being thrown away.
    """

    def __init__(self, cross_documents: bool = True) -> None:
        self.cross_documents = cross_documents

    def windows(self, store: TokenStore, tokenizer: Tokenizer, *, length: int, stride: int, seed: int = 0) -> Windows:
        """Find the lines, fill the blocks, and cut what is too long."""
        ends, separators = sentence_ends(store, tokenizer)
        if not self.cross_documents and store.header.num_documents == 1 and store.path.name != VALIDATION:
            warnings.warn(
                f"`packing.cross_documents=false` ends samples where documents end, but the {store.path.name} text has "
                'only one; separate its documents by blank lines and use `data.document_separator=""`, or give more '
                "files",
                stacklevel=2,
            )
        sizes = np.diff(ends, prepend=0)
        starts, stops = fill_blocks(sizes, separators, length, cross_documents=self.cross_documents)
        return _FilledBlocks(starts, stops, length)


class _CutTexts(Windows):
    """Texts cut every `stride` tokens into blocks of `length`; offsets (texts + 1,) tell where texts begin."""

    def __init__(self, offsets: Int64Array, length: int, stride: int) -> None:
        self.length, self.stride = length, stride
        sizes = np.diff(offsets)
        shared = length - stride
        counts = np.maximum(-(-(sizes - shared) // stride), 0)  # blocks of each text, rounded up
        self.num_split = int((sizes > length).sum())
        self._starts = offsets[:-1][counts > 0]
        self._ends = offsets[1:][counts > 0]
        self._first = np.concatenate([[0], np.cumsum(counts[counts > 0])])  # sample that a text begins with

    def __len__(self) -> int:
        return int(self._first[-1])

    def spans(self, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
        texts = np.searchsorted(self._first, indices, side="right") - 1
        starts = self._starts[texts] + (indices - self._first[texts]) * self.stride
        return starts, np.minimum(starts + self.length, self._ends[texts])


class _FilledBlocks(Windows):
    """Blocks of whole sentences, cut where one sentence fills more than a block."""

    def __init__(self, starts: Int64Array, stops: Int64Array, length: int) -> None:
        self.length = length
        counts = -(-(stops - starts) // length)
        self.num_split = int((counts > 1).sum())
        parts = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self._starts = np.repeat(starts, counts) + parts * length
        self._ends = np.minimum(self._starts + length, np.repeat(stops, counts))

    def __len__(self) -> int:
        return len(self._starts)

    def spans(self, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
        return self._starts[indices], self._ends[indices]


def fill_blocks(
    sizes: Int64Array, separators: npt.NDArray[np.bool_], block_size: int, *, cross_documents: bool
) -> tuple[Int64Array, Int64Array]:
    """Fill blocks with consecutive sentences: the next one goes in if it fits or if the block is empty.

    Args:
        sizes: (S,) tokens of the sentences.
        separators: (S,) whether a sentence only separates documents.
        block_size: Tokens that a block should not exceed; a longer sentence makes a block of its own.
        cross_documents: False closes a block at a separator, leaves separators out, and drops blocks of one token.

    Returns:
        Starts and ends of the blocks, both (n,) int64.
    """
    edges = np.concatenate([[0], np.cumsum(sizes)])
    # For each sentence, the one that would begin the next block if a block began here.
    following = np.searchsorted(edges, edges[:-1] + block_size, side="right") - 1
    following = np.maximum(following, np.arange(1, len(sizes) + 1))
    if not cross_documents:
        places = np.append(np.flatnonzero(separators), len(sizes))
        following = np.minimum(following, places[np.searchsorted(places, np.arange(len(sizes)))])
    starts: list[int] = []
    stops: list[int] = []
    sentence = 0
    while sentence < len(sizes):
        if not cross_documents and separators[sentence]:
            sentence += 1
            continue
        starts.append(sentence)
        sentence = int(following[sentence])
        stops.append(sentence)
    begin, end = edges[starts], edges[stops]
    kept = np.ones(len(begin), dtype=np.bool_) if cross_documents else end - begin > 1
    return begin[kept], end[kept]
