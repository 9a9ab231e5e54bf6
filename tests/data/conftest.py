from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from lmmodules.data import ByteLevelBPE, Corpus, Tokenizer, TokenStore
from lmmodules.data.store import TokenStoreWriter, token_dtype

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "seven", "dogs", "ran", "over", "green", "hills", "nobody"]


class Documents(Corpus):
    """Texts in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.times_read = 0

    def documents(self) -> Iterator[str]:
        self.times_read += 1
        yield from self.texts

    def fingerprint(self) -> str:
        return hashlib.blake2b(repr(self.texts).encode(), digest_size=8).hexdigest()

    def describe(self) -> str:
        return "texts in memory"


def write_prose(num_documents: int, seed: int = 0, words: tuple[int, int] = (20, 120)) -> list[str]:
    generator = np.random.default_rng(seed)
    texts = []
    for number in range(num_documents):
        count = generator.integers(*words)
        chosen = generator.choice(WORDS, count)
        lines = [" ".join(chosen[start : start + 9]) + "." for start in range(0, count, 9)]
        texts.append(f"number {number}\n" + "\n".join(lines) + "\n")
    return texts


@pytest.fixture(scope="session")
def prose() -> Callable[..., list[str]]:
    return write_prose


@pytest.fixture(scope="session")
def corpus_of() -> Callable[[Sequence[str]], Documents]:
    return Documents


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE(vocab_size=300).train(Documents(write_prose(200)))


@pytest.fixture
def store_of(tmp_path: Path, tokenizer: Tokenizer) -> Callable[[Sequence[Sequence[int]]], TokenStore]:
    """A store with given token ids; `</s>` is put behind each document."""

    def write(documents: Sequence[Sequence[int]]) -> TokenStore:
        path = tmp_path / f"store{len(list(tmp_path.iterdir()))}"
        dtype = token_dtype(tokenizer.vocab_size)
        with TokenStoreWriter(path, tokenizer.vocab_size, tokenizer.eos_id) as writer:
            for document in documents:
                writer.append(np.array(document, dtype=dtype), ends_document=True)
            writer.finish(tokenizer.fingerprint(), "corpus", [])
        return TokenStore(path, tokenizer)

    return write
