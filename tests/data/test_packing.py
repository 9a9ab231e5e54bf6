from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmmodules.data import (
    CorpusDataModule,
    DocumentPacking,
    Masking,
    SentencePacking,
    StreamPacking,
    Tokenizer,
    TokenStore,
    WordPiece,
)
from lmmodules.data.packing import Windows, fill_blocks
from lmmodules.data.sentences import sentence_ends
from lmmodules.data.tokenization import write_stores
from lmmodules.errors import InputError

# Sentence sizes and blocks of ten tokens, worked out with fairseq's rules; a size of 1 is a blank line.
SIZES = np.array([5, 4, 6, 1, 3, 12, 2, 1, 1, 7])


def spans(windows: Windows) -> list[tuple[int, int]]:
    starts, ends = windows.spans(np.arange(len(windows)))
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def test_stream_vector(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([list(range(4, 45))])
    windows = StreamPacking().windows(store, tokenizer, length=10, stride=10)
    assert spans(windows) == [(0, 10), (10, 20), (20, 30), (30, 40), (40, 42)]


def test_full_sentences_vector() -> None:
    starts, ends = fill_blocks(SIZES, SIZES == 1, 10, cross_documents=True)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [(0, 9), (9, 19), (19, 31), (31, 35), (35, 42)]


def test_doc_sentences_vector() -> None:
    starts, ends = fill_blocks(SIZES, SIZES == 1, 10, cross_documents=False)
    expected = [(0, 9), (9, 15), (16, 19), (19, 31), (31, 33), (35, 42)]
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


@pytest.mark.parametrize("num_tokens", [2, 10, 11, 12, 20, 21, 22, 100])
def test_neighbours_share_one_token_and_each_token_is_predicted_once(
    store_of: Callable, tokenizer: Tokenizer, num_tokens: int
) -> None:
    store = store_of([[5] * (num_tokens - 1)])
    windows = StreamPacking().windows(store, tokenizer, length=11, stride=10)
    predicted = [place for start, end in spans(windows) for place in range(start + 1, end)]
    assert predicted == list(range(1, num_tokens))
    assert max(end - start for start, end in spans(windows)) <= 11


def test_documents(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([[5] * 3, [6] * 24, [7] * 9])  # with </s>: 4, 25, 10
    windows = DocumentPacking().windows(store, tokenizer, length=10, stride=10)
    assert spans(windows) == [(0, 4), (4, 14), (14, 24), (24, 29), (29, 39)]
    assert windows.num_split == 1
    overlapping = DocumentPacking().windows(store, tokenizer, length=10, stride=9)
    assert spans(overlapping) == [(0, 4), (4, 14), (13, 23), (22, 29), (29, 39)]


def test_a_document_longer_than_the_block_can_be_refused(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([[5] * 3, [6] * 24, [7] * 12])
    with pytest.raises(
        InputError, match=r"no document may be longer than the block \(10 tokens\), but 2 are, the longest with 25"
    ):
        DocumentPacking(split_long=False).windows(store, tokenizer, length=10, stride=10)
    windows = DocumentPacking(split_long=False).windows(store, tokenizer, length=25, stride=25)
    assert (len(windows), windows.num_split) == (3, 0)


def line_store(store_of: Callable, tokenizer: Tokenizer, documents: list[str]) -> TokenStore:
    return store_of([tokenizer.encode(text) for text in documents])


def test_full_sentences_cover_the_corpus_and_break_no_line_that_fits(
    store_of: Callable, tokenizer: Tokenizer, prose: Callable
) -> None:
    store = line_store(store_of, tokenizer, prose(30))
    windows = SentencePacking().windows(store, tokenizer, length=64, stride=64)
    found = spans(windows)
    assert found[0][0] == 0
    assert found[-1][1] == len(store)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    ends = set(sentence_ends(store, tokenizer)[0].tolist())
    assert windows.num_split == 0
    assert all(end in ends and end - start <= 64 for start, end in found)


def test_doc_sentences_stay_within_a_document(store_of: Callable, tokenizer: Tokenizer, prose: Callable) -> None:
    store = line_store(store_of, tokenizer, prose(30))
    windows = SentencePacking(cross_documents=False).windows(store, tokenizer, length=64, stride=64)
    covered = np.zeros(len(store), dtype=int)
    for start, end in spans(windows):
        assert tokenizer.eos_id not in store.tokens[start:end]
        covered[start:end] += 1
    assert covered[store.tokens != tokenizer.eos_id].tolist() == [1] * (len(store) - 30)
    assert covered[store.tokens == tokenizer.eos_id].sum() == 0


def test_doc_sentences_of_a_single_document_are_said_to_be_none(
    tmp_path: Path, corpus_of: Callable, tokenizer: Tokenizer, prose: Callable
) -> None:
    one, other = "".join(prose(20)), "".join(prose(20, seed=1))

    def said(*texts: str, cross_documents: bool = False, **options: Any) -> list[str]:
        data = CorpusDataModule(
            corpus_of(texts),
            tokenizer,
            Masking(),
            SentencePacking(cross_documents),
            max_length=64,
            cache_dir=tmp_path,
            **options,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data.prepare()
        return [str(warning.message) for warning in caught]

    (sentence,) = said(one)
    assert sentence == (
        "`packing.cross_documents=false` ends samples where documents end, but the train text has only one; separate "
        'its documents by blank lines and use `data.document_separator=""`, or give more files'
    )
    assert said(one, cross_documents=True) == []
    assert said(one, other, validation_corpus=corpus_of([one])) == []


def test_a_sentence_longer_than_the_block_is_cut(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = line_store(store_of, tokenizer, ["seven dogs\n" + "the cat " * 40 + "\nsat\n"])
    windows = SentencePacking().windows(store, tokenizer, length=16, stride=16)
    assert windows.num_split == 1
    found = spans(windows)
    assert [a[1] for a in found[:-1]] == [b[0] for b in found[1:]]
    assert max(end - start for start, end in found) == 16
    assert found[-1][1] == len(store)


@pytest.mark.parametrize("cross_documents", [True, False])
def test_word_pieces_are_packed_by_line(
    tmp_path: Path, corpus_of: Callable, prose: Callable, cross_documents: bool
) -> None:
    texts = prose(40)
    tokenizer = WordPiece(90).train(corpus_of(texts))
    write_stores(tmp_path / "out", corpus_of(texts), tokenizer)
    store = TokenStore(tmp_path / "out" / "train", tokenizer)
    windows = SentencePacking(cross_documents).windows(store, tokenizer, length=64, stride=64)
    lines = {tuple(tokenizer.encode(line)) for text in texts for line in text.splitlines()}
    ends = {0, *sentence_ends(store, tokenizer)[0].tolist()}
    assert windows.num_split == 0
    for start, end in spans(windows):
        assert {start, end} <= ends
        assert cross_documents or tokenizer.eos_id not in store.tokens[start:end]
    first_start, first_end = spans(windows)[0]
    first = [0, *sorted(end for end in ends if first_start < end <= first_end)]
    assert all(tuple(store.tokens[a:b].tolist()) in lines for a, b in itertools.pairwise(first))
