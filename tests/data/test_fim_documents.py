"""Middles moved before blocks are cut, against documents rearranged one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lmmodules.data import (
    Blocks,
    ByteLevelBPE,
    Corpus,
    DocumentPacking,
    Packing,
    SampleKeys,
    Samples,
    StreamPacking,
    Tokenizer,
    TokenStore,
)
from lmmodules.data.fim import FillInTheMiddle
from lmmodules.data.fim_sentinels import Sentinels
from lmmodules.data.fim_spelling import Spelling
from lmmodules.data.store import TokenStoreWriter
from lmmodules.errors import InputError

NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


class Texts(Corpus):
    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def documents(self) -> Iterator[str]:
        yield from self.texts

    def fingerprint(self) -> str:
        return "texts"

    def describe(self) -> str:
        return "texts"


WORDS = ["some", "words", "\u4f60\u597d", "and\n", "others", "=", "code(\u00e9)", ";", "\U0001f642"]
GENERATOR = np.random.default_rng(0)
SHORT = [" ".join(GENERATOR.choice(WORDS, int(GENERATOR.integers(1, 20)))) for _ in range(60)]
LONG = [" ".join(GENERATOR.choice(WORDS, int(GENERATOR.integers(200, 500)))) for _ in range(60)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE(290, special_tokens=NAMES).train(Texts(LONG))


def store_of(path: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> TokenStore:
    with TokenStoreWriter(path / "store", tokenizer.vocab_size, tokenizer.eos_id) as writer:
        for ids in tokenizer.encode_batch(texts):
            writer.append(np.array(ids, dtype=np.uint16), ends_document=True)
        writer.finish(tokenizer.fingerprint(), "corpus", [])
    return TokenStore(path / "store", tokenizer)


def samples_of(store: TokenStore, tokenizer: Tokenizer, packing: Packing, length: int = 48, **options) -> np.ndarray:
    """All samples of epoch 0: tokens with -1 for padding, (n, length + 1)."""
    samples = Samples(store, tokenizer, packing, FillInTheMiddle(**options), max_length=length)
    indices = np.arange(len(samples))
    batch = samples[np.zeros_like(indices), indices]
    tokens = torch.cat([batch["input_ids"], batch["labels"][:, -1:].clamp(min=0)], dim=1)
    if "attention_mask" in batch:
        last = (batch["labels"][:, -1:] >= 0).long()
        tokens[torch.cat([batch["attention_mask"], last], dim=1) == 0] = -1
    return tokens.numpy()


def test_samples_are_cut_from_the_stream_of_rearranged_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = store_of(tmp_path, tokenizer, SHORT + LONG[:6])
    found = samples_of(store, tokenizer, StreamPacking(), level="document", fim_rate=0.6)
    # Every document by itself, with the draws that belong to it, as a sample of its own that nothing is cut from.
    alone = FillInTheMiddle(fim_rate=0.6, level="document").bind(tokenizer)
    number = store.header.num_documents
    windows = DocumentPacking().windows(store, tokenizer, length=4000, stride=4000)
    whole = alone.attach(store, windows)
    blocks = Blocks(np.zeros((number, 4000), dtype=np.uint16))
    batch = whole(blocks, SampleKeys(0, np.zeros(number, dtype=int), np.arange(number)))
    documents = [
        row[: mask.sum()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    spelling, sentinels = Spelling(tokenizer), Sentinels.of(tokenizer)
    texts = [spelling.text(sentinels.restore(np.array(document))).decode() for document in documents]
    assert texts == SHORT + LONG[:6]
    moved = [document for document in documents if document[0] == sentinels.prefix]
    assert 25 < len(moved) < 55
    joined = " ".join(map(str, [token for document in documents for token in document]))
    position = 0
    for row in found:
        part = " ".join(map(str, row[row >= 0].tolist()))
        place = joined.find(part, position)
        assert place >= 0, "a sample is a run of the stream, behind the sample before it"
        position = place
    assert position > 0.97 * (len(joined) - len(part))
    assert (found[:-1] >= 0).all(), "only the last sample can be short"


def test_a_document_is_rearranged_alike_wherever_it_is_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = store_of(tmp_path, tokenizer, LONG[:8])
    samples = Samples(store, tokenizer, StreamPacking(), FillInTheMiddle(level="document"), max_length=48)
    indices = np.arange(len(samples) - 1)
    together = samples[np.zeros_like(indices), indices]["input_ids"]
    alone = [samples[np.zeros(1, dtype=int), np.array([index])]["input_ids"][0] for index in indices]
    assert torch.equal(together, torch.stack(alone))
    later = samples[np.ones_like(indices), indices]["input_ids"]
    assert not torch.equal(together, later)


def test_with_a_document_per_sample_both_levels_keep_documents_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = store_of(tmp_path, tokenizer, SHORT)
    spelling, sentinels = Spelling(tokenizer), Sentinels.of(tokenizer)
    for level in ("context", "document"):
        found = samples_of(store, tokenizer, DocumentPacking(), length=400, level=level, fim_rate=1.0)
        texts = [spelling.text(sentinels.restore(row[row >= 0])).decode() for row in found]
        assert texts == SHORT


def test_long_documents_are_torn_at_the_document_level_only(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Share of the samples that show all three pieces of a document: the paper's effective FIM rate."""
    store = store_of(tmp_path, tokenizer, LONG)
    sentinels = Sentinels.of(tokenizer)
    effective = {}
    for level in ("context", "document"):
        found = samples_of(store, tokenizer, StreamPacking(), length=128, level=level, fim_rate=0.5, span="token")
        shown = np.stack([(found == mark).any(1) for mark in (sentinels.prefix, sentinels.suffix, sentinels.middle)])
        effective[level] = shown.all(0).mean()
    assert effective["context"] > 0.45
    assert effective["document"] < 0.25


def test_without_a_corpus_the_document_level_says_so(tokenizer: Tokenizer) -> None:
    transform = FillInTheMiddle(level="document").bind(tokenizer)
    with pytest.raises(InputError, match=r"`transform\.level=document` moves middles before blocks are cut"):
        transform(Blocks(np.zeros((1, 9), dtype=int)), SampleKeys(0, np.zeros(1, dtype=int), np.zeros(1, dtype=int)))
