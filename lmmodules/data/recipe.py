"""How a tokenizer is trained: what recipes have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from lmmodules.data.corpora import Corpus
from lmmodules.data.encoding import pieces
from lmmodules.data.randomness import stream_key
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError


class TokenizerRecipe(Protocol):
    """A way to make a tokenizer from a corpus."""

    def fingerprint(self) -> str:
        """Key of the recipe, 16 hexadecimal digits."""
        ...

    def train(self, corpus: Corpus) -> Tokenizer:
        """Learn the vocabulary.

        Args:
            corpus: Text to learn from.
        """
        ...


def training_text(corpus: Corpus, max_bytes: int) -> Iterator[str]:
    """Text to learn a vocabulary from, in parts.

    Args:
        corpus: Where it comes from.
        max_bytes: How much to take. A longer corpus is sampled evenly where its size is known before it is read, and
            otherwise its beginning is taken.

    Yields:
        Documents, or parts of long ones.

    Raises:
        InputError: When there is none.
    """
    size = corpus.num_bytes()
    # One piece in so many is taken, told by its number, so that the sample is spread over the corpus.
    share = 1.0 if size is None else min(1.0, max_bytes / max(size, 1))
    remaining = max_bytes
    for number, piece in enumerate(pieces(corpus.documents())):
        if remaining <= 0:
            return
        if share == 1.0 or stream_key(f"tokenizer/{number}") < share * 2**64:
            remaining -= piece.num_bytes
            yield piece.text
    if remaining == max_bytes:
        left_out = "; ".join(["", *corpus.notes()])
        raise InputError(
            f"a corpus must hold text, but {corpus.describe()} has none{left_out}; use another `data.path`"
        )


def check_filled(possible: int, vocab_size: int, corpus: Corpus) -> None:
    """Refuse a vocabulary that is larger than the corpus can fill.

    Args:
        possible: Ids that there are.
        vocab_size: Ids that were asked for.
        corpus: The text.

    Raises:
        InputError: Saying what to ask for.
    """
    if possible < vocab_size:
        raise InputError(
            f"`tokenizer.vocab_size` must be at most {possible}, which is what {corpus.describe()} can fill, "
            f"but is {vocab_size}; use `tokenizer.vocab_size={possible}`"
        )
