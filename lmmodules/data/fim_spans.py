"""Where a text may be cut: between any two characters, between tokens, or between lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt

from lmmodules.data.fim_spelling import Spelling
from lmmodules.data.randomness import Int64Array

Span = Literal["character", "token", "line"]
Draws = npt.NDArray[np.float64]


class Spans(ABC):
    """Draws the two cuts of each text, uniformly and independently from all places, both ends included."""

    @abstractmethod
    def cuts(
        self, tokens: Int64Array, starts: Int64Array, stops: Int64Array, draws: Draws
    ) -> tuple[Int64Array, Int64Array]:
        """Cut texts at two places each.

        Args:
            tokens: (n,) tokens of all texts.
            starts: (M,) where the texts begin.
            stops: (M,) where they end.
            draws: (M, 2) uniform in [0, 1).

        Returns:
            The tokens that the cuts fall on, (M, 2) in order, and how many bytes of the token stand before the cut,
            (M, 2), zero for a cut between tokens.

        Source:
            Bavarian et al. 2022, sections 3 and 4.5.
        """


class TokenSpans(Spans):
    """Cuts between tokens: the pieces are slices, and nothing is encoded anew."""

    def cuts(
        self, tokens: Int64Array, starts: Int64Array, stops: Int64Array, draws: Draws
    ) -> tuple[Int64Array, Int64Array]:
        """See `Spans.cuts`; a text of n tokens has n + 1 places."""
        places = starts[:, None] + _choose(stops - starts, draws)
        return places, np.zeros_like(places)


class CharacterSpans(Spans):
    """Cuts between characters, so that a piece may begin and end within a token.

    Args:
        spelling: What the tokens spell.
    """

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self._counts = np.array([_count_characters(text) for text in spelling.token_bytes])

    def cuts(
        self, tokens: Int64Array, starts: Int64Array, stops: Int64Array, draws: Draws
    ) -> tuple[Int64Array, Int64Array]:
        """See `Spans.cuts`; a text of n characters has n + 1 places, each in front of a character but the last."""
        before = np.concatenate([[0], np.cumsum(self._counts.take(tokens))])  # characters that begin before each token
        counts = before[stops] - before[starts]
        chosen = _choose(counts, draws)
        wanted = before[starts, None] + chosen
        places = np.searchsorted(before, wanted, side="right") - 1
        within = wanted - before[places]
        offsets = np.zeros_like(places)
        inside = self.spelling.starts_inside
        at_end = chosen == counts[:, None]
        places = np.where(at_end, stops[:, None], places)
        for index in zip(*np.nonzero(~at_end), strict=True):
            token = tokens[places[index]]
            if within[index] or inside[token]:
                offsets[index] = _start_of_character(self.spelling.token_bytes[token], within[index])
        return places, offsets


class LineSpans(Spans):
    r"""Cuts behind line breaks, at the beginning and at the end; `\r\n` stays with its line.

    Args:
        spelling: What the tokens spell.
    """

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self._counts = np.array([text.count(b"\n") for text in spelling.token_bytes])

    def cuts(
        self, tokens: Int64Array, starts: Int64Array, stops: Int64Array, draws: Draws
    ) -> tuple[Int64Array, Int64Array]:
        """See `Spans.cuts`; a text of n lines has n + 1 places, whether or not its last line has a line break."""
        before = np.concatenate([[0], np.cumsum(self._counts.take(tokens))])  # line breaks before each token
        endings = [self.spelling.token_bytes[token] for token in tokens[stops - 1].tolist()]
        unfinished = np.array([not ending.endswith(b"\n") for ending in endings], dtype=np.int64)
        counts = before[stops] - before[starts] + unfinished
        chosen = _choose(counts, draws)
        wanted = before[starts, None] + chosen - 1  # the number of the line break that the cut stands behind
        places = np.searchsorted(before, wanted, side="right") - 1
        within = wanted - before[places]
        offsets = np.zeros_like(places)
        for index in zip(*np.nonzero((chosen > 0) & (chosen < counts[:, None])), strict=True):
            text = self.spelling.token_bytes[tokens[places[index]]]
            offset = _end_of_line(text, within[index])
            if offset == len(text):
                places[index] += 1
            else:
                offsets[index] = offset
        places = np.where(chosen == 0, starts[:, None], places)
        places = np.where(chosen == counts[:, None], stops[:, None], places)
        return places, offsets


def _choose(counts: Int64Array, draws: Draws) -> Int64Array:
    """Two of the places 0 to n for each n of (M,) counts, in order, (M, 2)."""
    return np.sort((draws * (counts[:, None] + 1)).astype(np.int64), axis=1)


def _count_characters(text: bytes) -> int:
    return sum(byte & 0xC0 != 0x80 for byte in text)


def _start_of_character(text: bytes, number: int) -> int:
    return [place for place, byte in enumerate(text) if byte & 0xC0 != 0x80][number]


def _end_of_line(text: bytes, number: int) -> int:
    end = 0
    for _ in range(number + 1):
        end = text.index(b"\n", end) + 1
    return end
