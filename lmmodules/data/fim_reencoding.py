"""The tokens of the parts of a text from the tokens of the whole, by encoding anew only what a cut can change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodules.data.fim_sentinels import Pieces
from lmmodules.data.fim_spelling import Spelling
from lmmodules.data.randomness import Int64Array
from lmmodules.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Cuts:
    """Texts within one array of tokens, and where they are cut.

    Attributes:
        places: (M, 4) the tokens at which a text begins, is cut, is cut again, and ends.
        offsets: (M, 4) bytes of that token that stand before the cut; zero at beginning and end.
        begins_whole: (M,) whether the tokens are what one gets by encoding from the beginning of the text.
        ends_whole: (M,) the same of its end.
    """

    places: Int64Array
    offsets: Int64Array
    begins_whole: npt.NDArray[np.bool_]
    ends_whole: npt.NDArray[np.bool_]


class Reencoder:
    """Finds the tokens of pieces as they would be, were each piece encoded by itself.

    Tokenizers first divide a text into pre-tokens and encode each alone. Where a pre-token always begins, the text on
    either side can be encoded without the other. So of a piece only what stands before its first and behind its last
    such border is encoded anew, and the tokens between are taken as they are: some characters instead of all. All that
    is to be encoded for a batch goes to the tokenizer in one call.

    Args:
        tokenizer: Encodes.
        spelling: What its tokens spell.
    """

    def __init__(self, tokenizer: Tokenizer, spelling: Spelling) -> None:
        self.tokenizer = tokenizer
        self.spelling = spelling

    def pieces(self, tokens: Int64Array, cuts: Cuts) -> list[Pieces]:
        """Take texts apart.

        Args:
            tokens: (n,) tokens of all texts.
            cuts: Where they begin, are cut, and end.

        Returns:
            The three pieces of each text.
        """
        places, offsets = cuts.places, cuts.offsets
        borders = self.spelling.safe_borders(tokens)
        # Of each piece, the first border at or behind its beginning and the last one at or before its end.
        first = np.append(borders, len(tokens) + 1)[
            np.searchsorted(borders, places[:, :3] + (offsets[:, :3] > 0), side="left")
        ]
        last = np.append(borders, -1)[np.searchsorted(borders, places[:, 1:], side="right") - 1]
        first[:, 0] = np.where(cuts.begins_whole, places[:, 0], first[:, 0])
        last[:, 2] = np.where(cuts.ends_whole, places[:, 3], last[:, 2])

        plans: list[list[str | Int64Array]] = []  # of each piece: texts to encode, and tokens as they are
        texts = zip(places.tolist(), offsets.tolist(), first.tolist(), last.tolist(), strict=True)
        for text_places, text_offsets, starts, stops in texts:
            marks = list(zip(text_places, text_offsets, strict=True))
            for begin, end, start, stop in zip(marks[:3], marks[1:], starts, stops, strict=True):
                if start <= stop:
                    head, tail = self._text(tokens, begin, (start, 0)), self._text(tokens, (stop, 0), end)
                    plans.append([*([head] if head else []), tokens[start:stop], *([tail] if tail else [])])
                else:
                    plans.append([self._text(tokens, begin, end)])
        encoded = iter(self.tokenizer.encode_batch([part for plan in plans for part in plan if isinstance(part, str)]))
        pieces = [
            np.concatenate(
                [np.array(next(encoded), dtype=np.int64) if isinstance(part, str) else part for part in plan]
            )
            for plan in plans
        ]
        return [Pieces(*pieces[index : index + 3]) for index in range(0, len(pieces), 3)]

    def _text(self, tokens: Int64Array, begin: tuple[int, int], end: tuple[int, int]) -> str:
        """The text between two marks, each a token and a number of its bytes."""
        (start, start_offset), (stop, stop_offset) = begin, end
        if start == stop:
            return self.spelling.token_bytes[tokens[start]][start_offset:stop_offset].decode() if stop_offset else ""
        text = self.spelling.text(tokens[start:stop])[start_offset:]
        if stop_offset:
            text += self.spelling.token_bytes[tokens[stop]][:stop_offset]
        return text.decode()
