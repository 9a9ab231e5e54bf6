"""The bytes that tokens spell, and the borders between tokens at which a text can be taken apart."""

from __future__ import annotations

import string
from itertools import pairwise

import numpy as np

from lmmodules.data.randomness import Int64Array
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

_LETTERS_AND_DIGITS = frozenset((string.ascii_letters + string.digits).encode())
_WHITE_SPACE = frozenset(b" \t\n\v\f\r")
_PUNCTUATION = frozenset(range(0x21, 0x7F)) - _LETTERS_AND_DIGITS

# Whether a left and a right neighbour are independent: the sum of their classes is at least 3. A space begins a new
# pre-token behind anything visible; other white space does so behind letters and digits, while behind punctuation the
# expressions since GPT-4's keep a line break with it.
_LEFT = {**dict.fromkeys(_PUNCTUATION, 1), **dict.fromkeys(_LETTERS_AND_DIGITS, 2)}
_RIGHT = {**dict.fromkeys(_WHITE_SPACE, 1), 0x20: 2}

_SAMPLE = (
    "def F(x, y=1):\n\treturn x+y  # sum\r\n\r\n\n  'it''s'  we'll \u00e9t\u00e9 na\u00efve \u4f60\u597d \u4e16\u754c "
    "\U0001f642\U0001f3fd ok...\n\n   trailing   \n 12 345x 6_7 --- a\u00a0b \u3000 c!?\n \n\t\n]) ;\n}"
)


def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write the 256 bytes.

    Source:
        GPT-2 (Radford et al. 2019), the released `encoder.py`: printable Latin-1 stands for itself, the other 68
        bytes are the code points from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + number): byte for number, byte in enumerate(others)}


class Spelling:
    """What a byte-level vocabulary spells.

    Args:
        tokenizer: A byte-level tokenizer that adds nothing to the text it is given.

    Attributes:
        token_bytes: The bytes of every token; none for special tokens.
        starts_inside: (V,) whether a token begins within a character.
        is_special: (V,) whether a token spells no text.

    Raises:
        InputError: When the tokens of a text do not spell the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocab_size = tokenizer.vocab_size
        self.token_bytes = _token_bytes(tokenizer)
        self.is_special = np.zeros(vocab_size, dtype=np.bool_)
        self.is_special[tokenizer.special_ids] = True
        first = np.array([text[0] if text else 0 for text in self.token_bytes])
        self.starts_inside = (first & 0xC0) == 0x80
        self._left = np.array([_LEFT.get(text[-1], 0) if text else 0 for text in self.token_bytes], dtype=np.uint8)
        self._right = np.array([_RIGHT.get(text[0], 0) if text else 0 for text in self.token_bytes], dtype=np.uint8)
        if not self._is_faithful(tokenizer):
            raise InputError(
                "`transform.span=character` and `line` need a byte-level tokenizer whose tokens spell the text and "
                "nothing else, but this one adds, drops or changes some; use `tokenizer=fim` or `transform.span=token`"
            )
        if not self._is_independent(tokenizer):
            # Nothing can be taken apart: every piece is then encoded whole, which is as exact and slower.
            self._left[:] = 0
            self._right[:] = 0

    def safe_borders(self, tokens: Int64Array) -> Int64Array:
        """Find where a sequence can be taken apart: the text on either side has these tokens whatever the other is.

        Args:
            tokens: (n,) token ids; several texts, as long as a special token stands between them.

        Returns:
            Sorted indices of the tokens that begin behind such a border.
        """
        return np.flatnonzero(self._left.take(tokens[:-1]) + self._right.take(tokens[1:]) >= 3) + 1

    def text(self, tokens: Int64Array) -> bytes:
        """The bytes of (n,) tokens."""
        return b"".join([self.token_bytes[token] for token in tokens.tolist()])

    def whole_characters(self, tokens: Int64Array) -> tuple[int, int]:
        """Where whole characters begin and end in a text that may have been cut within one.

        Args:
            tokens: (n,) of the text, at least one.

        Returns:
            Places (first, last) of tokens: those before `first` and from `last` on hold a part of a character that is
            not whole. Equal where that is all there is.
        """
        if not self.starts_inside[tokens[0]] and self.token_bytes[tokens[-1]][-1] < 0x80:
            return 0, len(tokens)
        outside = np.flatnonzero(~self.starts_inside[tokens])
        if not len(outside):
            return 0, 0
        ending = self.text(tokens[outside[-1] :])
        lead = max(place for place, byte in enumerate(ending) if byte & 0xC0 != 0x80)
        is_whole = len(ending) - lead >= _character_length(ending[lead])
        return int(outside[0]), len(tokens) if is_whole else int(outside[-1])

    def _is_faithful(self, tokenizer: Tokenizer) -> bool:
        texts = [_SAMPLE, *_SAMPLE.split(" "), "x", " x", "x ", "\n"]
        return all(
            self.text(np.array(ids, dtype=np.int64)) == text.encode()
            for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)
        )

    def _is_independent(self, tokenizer: Tokenizer) -> bool:
        if any(not token.special for token in tokenizer.backend.get_added_tokens_decoder().values()):
            return False  # found in the text before anything else is, and they may hold a border
        for text in self.token_bytes:
            if any(_LEFT.get(left, 0) + _RIGHT.get(right, 0) >= 3 for left, right in pairwise(text)):
                return False
        tokens = np.array(tokenizer.encode(_SAMPLE), dtype=np.int64)
        parts = np.split(tokens, self.safe_borders(tokens))
        encoded = tokenizer.encode_batch([self.text(part).decode() for part in parts])
        return len(parts) > 1 and all(part.tolist() == ids for part, ids in zip(parts, encoded, strict=True))


def _token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    alphabet = byte_alphabet()
    added = tokenizer.backend.get_added_tokens_decoder()
    spelt = [b""] * tokenizer.vocab_size
    for token, token_id in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        if token_id in added:
            spelt[token_id] = b"" if added[token_id].special else added[token_id].content.encode()
        else:
            spelt[token_id] = bytes(alphabet[letter] for letter in token if letter in alphabet)
    for token_id in tokenizer.special_ids.tolist():
        spelt[token_id] = b""
    return spelt


def _character_length(lead: int) -> int:
    return 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
