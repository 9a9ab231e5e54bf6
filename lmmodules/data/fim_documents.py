"""The documents that samples are made of: those within a block, or those of the corpus that a block overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodules.batch import Section
from lmmodules.data.randomness import Int64Array
from lmmodules.data.store import TokenStore
from lmmodules.data.transform import Blocks

Parts = list[tuple[Section, Int64Array]]
"""Tokens in the order in which they come to stand, each part with its section."""


@dataclass(frozen=True)
class Documents:
    """Documents, or parts of documents, one behind the other in one array of tokens.

    Attributes:
        tokens: (n,) tokens of all of them.
        starts: (M,) where each begins.
        stops: (M,) where each ends, its end token not included.
        has_end: (M,) whether an end token follows.
        is_head: (M,) whether it begins where the document begins, as far as one can tell.
        rows: (M,) the sample that it belongs to, ascending.
        numbers: (M,) what tells it from others of its sample, or from others of the corpus.
    """

    tokens: Int64Array
    starts: Int64Array
    stops: Int64Array
    has_end: npt.NDArray[np.bool_]
    is_head: npt.NDArray[np.bool_]
    rows: Int64Array
    numbers: Int64Array


def documents_in_blocks(blocks: Blocks, end: int) -> Documents:
    """Divide blocks at their end tokens.

    What stands behind the last end token of a block is a document without one, and what stands before the first may be
    the rest of a document that began in another block.

    Args:
        blocks: (B, L) tokens.
        end: Id of the end token.
    """
    num_rows, length = blocks.tokens.shape
    row_starts = np.arange(num_rows) * length
    row_stops = row_starts + (length if blocks.lengths is None else blocks.lengths)
    is_end = blocks.tokens == end
    if blocks.lengths is not None:
        is_end &= np.arange(length) < blocks.lengths[:, None]
    end_rows, end_columns = np.nonzero(is_end)
    rows = np.concatenate([np.arange(num_rows), end_rows])
    stops = np.concatenate([row_stops, end_rows * length + end_columns])
    has_end = np.arange(len(rows)) >= num_rows
    order = np.lexsort((stops, rows))
    rows, stops, has_end = rows[order], stops[order], has_end[order]
    is_first = np.diff(rows, prepend=-1) > 0
    starts = np.where(is_first, row_starts[rows], np.append(0, stops[:-1] + 1))
    numbers = np.arange(len(rows)) - np.flatnonzero(is_first)[rows]
    return Documents(blocks.tokens.ravel().astype(np.int64), starts, stops, has_end, ~is_first, rows, numbers)


def documents_in_store(store: TokenStore, starts: Int64Array, stops: Int64Array, end: int) -> Documents:
    """Find the documents that spans of the corpus overlap, whole.

    Args:
        store: The corpus.
        starts: (B,) where the spans begin.
        stops: (B,) where they end.
        end: Id of the end token.
    """
    first = np.searchsorted(store.offsets, starts, side="right") - 1
    last = np.searchsorted(store.offsets, stops, side="left")  # one more than the last document
    rows = np.repeat(np.arange(len(starts)), last - first)
    numbers = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    spans = zip(store.offsets[numbers].tolist(), store.offsets[numbers + 1].tolist(), strict=True)
    texts = [np.asarray(store.tokens[a:b], dtype=np.int64) for a, b in spans]
    ends = np.cumsum([len(text) for text in texts])
    has_end = np.array([text[-1] == end for text in texts])
    begins = np.append(0, ends[:-1])
    return Documents(np.concatenate(texts), begins, ends - has_end, has_end, np.ones_like(has_end), rows, numbers)


def slices_of_stream(
    store: TokenStore, documents: Documents, sizes: Int64Array, starts: Int64Array, stops: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Where samples begin and end in the stream of documents after these changed their lengths.

    A place within a document keeps its share of the document, so that neighbouring samples still meet, whichever
    documents were changed and without knowing those in front of them.

    Args:
        store: The corpus.
        documents: Those that the samples overlap.
        sizes: (M,) new numbers of tokens, end tokens included.
        starts: (B,) where the samples began in the corpus.
        stops: (B,) where they ended.

    Returns:
        Beginnings and ends, (B,) each, counted from the beginning of the first document of a sample.
    """
    begins = store.offsets[documents.numbers]
    before = np.cumsum(sizes) - sizes
    first = np.searchsorted(documents.rows, np.arange(len(starts)), side="left")
    last = np.searchsorted(documents.rows, np.arange(len(starts)), side="right") - 1
    lengths = store.offsets[documents.numbers + 1] - begins

    def place(index: Int64Array, positions: Int64Array) -> Int64Array:
        moved: Int64Array = (positions - begins[index]) * sizes[index] // lengths[index]
        return before[index] - before[first] + moved

    return place(first, starts), place(last, stops)


def lay_out(
    parts: list[Parts], begins: Int64Array, ends: Int64Array, length: int, filling: int
) -> tuple[Int64Array, npt.NDArray[np.uint8], Int64Array]:
    """Write samples, cut or filled up to one length.

    Args:
        parts: Of each sample.
        begins: (B,) tokens at the beginning of the parts that do not belong to the sample.
        ends: (B,) where the sample ends, counted from the beginning of the parts.
        length: Tokens of a sample, L.
        filling: Token to fill up with.

    Returns:
        Tokens (B, L), sections (B, L), and the tokens that each sample really has, (B,).
    """
    tokens = np.full((len(parts), length), filling, dtype=np.int64)
    sections = np.zeros((len(parts), length), dtype=np.uint8)
    lengths = np.minimum(ends - begins, length)
    for row, limit in enumerate(lengths.tolist()):
        place = -int(begins[row])
        for section, piece in parts[row]:
            start, stop = max(place, 0), min(place + len(piece), limit)
            if start < stop:
                tokens[row, start:stop] = piece[start - place : stop - place]
                sections[row, start:stop] = section
            place += len(piece)
    return tokens, sections, lengths
