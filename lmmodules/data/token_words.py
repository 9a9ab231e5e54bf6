"""Words among tokens: where they begin and end, without going back to text."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lmmodules.data.tokenizer import Tokenizer
from lmmodules.data.transform import TokenArray

_BYTE_LEVEL_SPACE, _METASPACE = "\u0120", "\u2581"
_LETTERS = re.compile(f"(?P<mark>##|{_BYTE_LEVEL_SPACE}|{_METASPACE})?(?P<letters>[A-Za-z]*)")
_BYTE_LEVEL_BLANKS = frozenset(map(chr, range(0x100, 0x122)))
"""How byte-level tokenizers write white space and control characters: as letters."""
_OTHER, _CONTINUES, _BEGINS = 0, 1, 2


class Spans(NamedTuple):
    """Words of a batch of rows, in order."""

    rows: npt.NDArray[np.int64]  # (N,)
    starts: npt.NDArray[np.int64]  # (N,) first column
    ends: npt.NDArray[np.int64]  # (N,) one past the last column
    whole: npt.NDArray[np.bool_]  # (N,) False where a word is cut, or is part of an identifier, a number, a contraction


class TokenWords:
    """Finds runs of ASCII letters among tokens.

    Args:
        tokenizer: Byte-level, WordPiece or SentencePiece.

    Raises:
        InputError: When the kind of the tokenizer does not show where words begin.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        starts = tokenizer.word_starts  # refuses tokenizers that do not tell
        size = tokenizer.vocab_size
        self.texts = [""] * size
        self.spaced = np.zeros(size, dtype=np.bool_)
        self._kinds = np.zeros(size, dtype=np.int8)
        self._is_space = np.zeros(size, dtype=np.bool_)
        self._glues_left = np.zeros(size, dtype=np.bool_)
        self._glues_right = np.zeros(size, dtype=np.bool_)
        special = set(tokenizer.special_ids.tolist())
        vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
        blanks = _BYTE_LEVEL_BLANKS if _BYTE_LEVEL_SPACE in vocabulary else frozenset()
        for token, number in vocabulary.items():
            if number in special:
                continue
            found = _LETTERS.fullmatch(token)
            if token and found is not None:
                self._is_space[number] = not found["letters"]
                self.texts[number] = found["letters"]
                self.spaced[number] = found["mark"] == _BYTE_LEVEL_SPACE
                self._kinds[number] = _BEGINS if starts[number] else _CONTINUES
            else:
                self.texts[number] = token.lstrip(_BYTE_LEVEL_SPACE + _METASPACE + "#") or token
                self._glues_left[number] = _joins(token[0], blanks)
                self._glues_right[number] = _joins(token[-1], blanks)

    def spans(self, tokens: TokenArray, lengths: npt.NDArray[np.int64] | None) -> Spans:
        """The words of rows of tokens.

        Args:
            tokens: (B, L).
            lengths: (B,) tokens of each row; `None` for all.
        """
        num_rows, length = tokens.shape
        kinds = self._kinds[tokens]
        if lengths is not None:
            kinds = np.where(np.arange(length) < lengths[:, None], kinds, _OTHER)
        is_word = np.zeros((num_rows, length + 1), dtype=np.bool_)
        is_word[:, :length] = kinds > _OTHER
        begins = is_word[:, :length].copy()
        begins[:, 1:] &= (kinds[:, 1:] == _BEGINS) | ~is_word[:, : length - 1]
        # A word ends before the next one and before what is no word.
        breaks = np.zeros((num_rows, length + 1), dtype=np.bool_)
        breaks[:, 1:length] = is_word[:, : length - 1] & (begins[:, 1:] | ~is_word[:, 1:length])
        breaks[:, length] = is_word[:, length - 1]
        rows, starts = np.nonzero(begins)
        ends = np.nonzero(breaks)[1]

        before = tokens[rows, np.maximum(starts - 1, 0)]
        cut = (starts == 0) & (kinds[rows, starts] == _CONTINUES)
        cut |= (kinds[rows, starts] == _CONTINUES) & (starts > 0) & self._glues_right[before]
        after = tokens[rows, np.minimum(ends, length - 1)]
        at_end = ends == (length if lengths is None else lengths[rows])
        cut |= at_end | ((ends < length) & self._glues_left[after])
        # A space that is a token of its own begins a word, unless nothing follows.
        lone = (ends - starts == 1) & self._is_space[tokens[rows, starts]]
        return Spans(rows[~lone], starts[~lone], ends[~lone], ~cut[~lone])


def _joins(character: str, blanks: frozenset[str]) -> bool:
    return (character.isalnum() and character not in blanks) or character in "_'"
