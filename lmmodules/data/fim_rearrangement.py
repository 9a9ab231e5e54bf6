"""The rearrangement itself: documents in, their parts in a new order out."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lmmodules.batch import Section
from lmmodules.data.fim_documents import Documents, Parts
from lmmodules.data.fim_reencoding import Cuts, Reencoder
from lmmodules.data.fim_sentinels import Pieces, Sentinels
from lmmodules.data.fim_spans import CharacterSpans, Draws, LineSpans, Span, Spans, TokenSpans
from lmmodules.data.fim_spelling import Spelling
from lmmodules.data.randomness import Int64Array
from lmmodules.data.tokenizer import Tokenizer

NUM_DRAWS = 4
"""Random numbers of each document: whether its middle is moved, in which order, and two cuts."""


class Rearrangement:
    """Moves the middles of documents to their ends.

    Args:
        tokenizer: That of the documents.
        sentinels: Mark the pieces.
        span: Where a document may be cut.
        fim_rate: Share of the documents whose middle is moved.
        spm_rate: Share of those in the order suffix, prefix, middle.

    Raises:
        InputError: When cuts within tokens are asked for, and the tokens do not spell the text.
    """

    def __init__(
        self, tokenizer: Tokenizer, sentinels: Sentinels, *, span: Span, fim_rate: float, spm_rate: float
    ) -> None:
        self.sentinels = sentinels
        self.fim_rate = fim_rate
        self.spm_rate = spm_rate
        self.is_special = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        self.is_special[tokenizer.special_ids] = True
        self.spans: Spans = TokenSpans()
        self.reencoder: Reencoder | None = None  # none where pieces are slices
        if span != "token":
            spelling = Spelling(tokenizer)
            self.spans = CharacterSpans(spelling) if span == "character" else LineSpans(spelling)
            self.reencoder = Reencoder(tokenizer, spelling)

    def __call__(self, documents: Documents, draws: Draws) -> list[Parts]:
        """Move middles.

        Args:
            documents: Any.
            draws: (M, 4) uniform in [0, 1).

        Returns:
            The parts of each document in their new order, end tokens included.
        """
        tokens, starts, stops = documents.tokens, documents.starts, documents.stops
        specials = np.append(0, np.cumsum(self.is_special.take(tokens)))
        movable = (stops > starts) & (specials[stops] == specials[starts])
        chosen = np.flatnonzero(movable & (draws[:, 0] < self.fim_rate))
        parts: list[Parts] = [
            [(Section.UNTOUCHED, tokens[start:stop])]
            for start, stop in zip(starts.tolist(), (stops + documents.has_end).tolist(), strict=True)
        ]
        for document, pieces in zip(chosen.tolist(), self._pieces(documents, chosen, draws[chosen, 2:]), strict=True):
            if pieces is None:
                continue
            order: Literal["spm", "psm"] = "spm" if draws[document, 1] < self.spm_rate else "psm"
            end = stops[document]
            parts[document] = self.sentinels.arrange(pieces, order)
            parts[document].append((Section.END, tokens[end : end + documents.has_end[document]]))
        return parts

    def _pieces(self, documents: Documents, chosen: Int64Array, draws: Draws) -> list[Pieces | None]:
        """The pieces of the chosen documents; `None` for one that holds no whole character."""
        tokens, starts, stops = documents.tokens, documents.starts[chosen], documents.stops[chosen]
        if self.reencoder is None:
            places, _ = self.spans.cuts(tokens, starts, stops, draws)
            bounds = np.concatenate([starts[:, None], places, stops[:, None]], axis=1).tolist()
            return [Pieces(tokens[a:b], tokens[b:c], tokens[c:d]) for a, b, c, d in bounds]
        spelling = self.reencoder.spelling
        whole = np.array(
            [spelling.whole_characters(tokens[a:b]) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)],
            dtype=np.int64,
        ).reshape(-1, 2)
        first, last = starts + whole[:, 0], starts + whole[:, 1]
        kept = np.flatnonzero(first < last)
        first, last = first[kept], last[kept]
        places, offsets = self.spans.cuts(tokens, first, last, draws[kept])
        cuts = Cuts(
            np.concatenate([first[:, None], places, last[:, None]], axis=1),
            np.concatenate([np.zeros_like(offsets[:, :1]), offsets, np.zeros_like(offsets[:, :1])], axis=1),
            begins_whole=documents.is_head[chosen][kept] & (first == starts[kept]),
            ends_whole=documents.has_end[chosen][kept] & (last == stops[kept]),
        )
        pieces: list[Pieces | None] = [None] * len(chosen)
        for index, (prefix, middle, suffix) in zip(kept.tolist(), self.reencoder.pieces(tokens, cuts), strict=True):
            begin, end = starts[index], stops[index]
            # What is left of a character that was cut stays where it was: at the beginning and at the end.
            before, behind = tokens[begin : begin + whole[index, 0]], tokens[begin + whole[index, 1] : end]
            pieces[index] = Pieces(np.concatenate([before, prefix]), middle, np.concatenate([suffix, behind]))
        return pieces
