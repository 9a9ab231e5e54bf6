"""A byte-level vocabulary in which every digit stands by itself, so that numbers can be copied digit by digit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import tokenizers

from lmmodules.data.byte_level_bpe import ByteLevelBPE
from lmmodules.data.corpora import Corpus
from lmmodules.data.tokenizer import Tokenizer


class SingleDigitBPE(ByteLevelBPE):
    """How to train a tokenizer: as `ByteLevelBPE`, but a number is as many tokens as it has digits.

    A number then is the same tokens wherever it stands, and a number that was never seen is made of tokens that were.
    Takes the arguments of `ByteLevelBPE`.

    Source:
        Touvron et al. 2023, "LLaMA", section 2.1.
    """

    def fingerprint(self) -> str:
        """Key of the recipe, 16 hexadecimal digits."""
        return hashlib.blake2b(f"{super().fingerprint()} single digits".encode(), digest_size=8).hexdigest()

    def train(self, corpus: Corpus) -> Tokenizer:
        """Learn the vocabulary.

        Args:
            corpus: Text to learn from.

        Raises:
            InputError: See `ByteLevelBPE`.
        """
        backend = super().train(_BetweenDigits(corpus)).backend
        digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
        return Tokenizer(backend)


class _BetweenDigits(Corpus):
    """The stretches of a corpus between its digits: all that merges can be learned from."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def documents(self) -> Iterator[str]:
        for document in self.corpus.documents():
            yield from filter(None, re.split(r"\d", document))

    def fingerprint(self) -> str:
        return f"{self.corpus.fingerprint()} between digits"

    def describe(self) -> str:
        return self.corpus.describe()

    def num_bytes(self) -> int | None:
        return self.corpus.num_bytes()

    def notes(self) -> list[str]:
        return self.corpus.notes()
