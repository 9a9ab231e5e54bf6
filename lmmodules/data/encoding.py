"""Documents to token ids at the speed of all cores, in memory that does not grow with the corpus."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodules.data.tokenizer import Tokenizer

PIECE_CHARACTERS = 128 * 1024
"""Longest text that is encoded at once."""
BATCH_CHARACTERS = 1024 * 1024
"""Text that is handed to the tokenizer's threads in one call."""
_BATCHES_AHEAD = 2

# GPT-2's expression (and its successors') starts a new pre-token at white space after a letter or digit, whatever
# stands around: a text cut there is encoded to the same tokens.
_SAFE_CUT = re.compile(r"(?<=[^\W_])[ \n]")


@dataclass(frozen=True)
class Piece:
    """A part of a document.

    Attributes:
        text: The characters.
        num_bytes: Their size in UTF-8.
        ends_document: Whether it is the last part.
        document_hash: 64 bits of the content of the whole document.
        ends_line: Whether it is the end of a line, where documents are taken line by line.
    """

    text: str
    num_bytes: int
    ends_document: bool
    document_hash: int
    ends_line: bool = False


def pieces(documents: Iterable[str], *, by_line: bool = False) -> Iterator[Piece]:
    """Cut long documents where cutting does not change the tokens.

    Empty documents are left out. Without white space in reach a piece is cut at its full length, and the two tokens
    around the cut may differ from those of the whole text. Half a surrogate pair, which no UTF-8 can hold, becomes
    U+FFFD.

    Args:
        documents: Texts.
        by_line: Make every line a piece of its own, for tokenizers that would drop the line breaks. Blank lines are
            left out.
    """
    for document in documents:
        if not document:
            continue
        try:
            encoded = document.encode()
        except UnicodeEncodeError:
            document = document.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            encoded = document.encode()
        document_hash = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
        if by_line:
            lines = [line for line in document.split("\n") if line.strip()] or [""]
            for number, line in enumerate(lines, start=1):
                for text, is_end in _cut(line):
                    yield Piece(text, len(text.encode()), is_end and number == len(lines), document_hash, is_end)
        else:
            for text, is_end in _cut(document):
                yield Piece(text, len(text.encode()), is_end, document_hash)


def _cut(text: str) -> Iterator[tuple[str, bool]]:
    """Parts of a text, and whether each is the last."""
    start, end = 0, -1
    while end < len(text):
        end = _end_of_piece(text, start)
        yield text[start:end], end == len(text)
        start = end


def _end_of_piece(document: str, start: int) -> int:
    furthest = start + PIECE_CHARACTERS
    if furthest >= len(document):
        return len(document)
    cut = _SAFE_CUT.search(document, start + PIECE_CHARACTERS // 2, furthest)
    return cut.start() if cut else furthest


def encode(
    documents: Iterable[str], tokenizer: Tokenizer, dtype: npt.DTypeLike, *, by_line: bool = False
) -> Iterator[tuple[Piece, npt.NDArray[np.integer]]]:
    """Encode documents piece by piece, many pieces in parallel.

    Args:
        documents: Texts.
        tokenizer: Turns them into ids.
        dtype: Type of the ids.
        by_line: See `pieces`.

    Yields:
        Each piece with its ids, in order.
    """
    # While one batch becomes arrays, which holds Python's lock, the tokenizer's threads have the next to work on.
    with ThreadPoolExecutor(max_workers=_BATCHES_AHEAD) as pool:
        ahead: deque[tuple[list[Piece], Future[list[list[int]]]]] = deque()
        for batch in _batches(pieces(documents, by_line=by_line)):
            ahead.append((batch, pool.submit(tokenizer.encode_batch, [piece.text for piece in batch])))
            if len(ahead) > _BATCHES_AHEAD:
                yield from _arrays(*ahead.popleft(), dtype)
        while ahead:
            yield from _arrays(*ahead.popleft(), dtype)


def _batches(parts: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in parts:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _arrays(
    batch: list[Piece], encoded: Future[list[list[int]]], dtype: npt.DTypeLike
) -> Iterator[tuple[Piece, npt.NDArray[np.integer]]]:
    for piece, ids in zip(batch, encoded.result(), strict=True):
        yield piece, np.array(ids, dtype=dtype)
