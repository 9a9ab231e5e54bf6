from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lmmodules.data import Tokenizer, TokenStore, WordPiece
from lmmodules.data import sentences as sentences_module
from lmmodules.data.sentences import Sentences, sentence_ends
from lmmodules.data.store import TokenStoreWriter, token_dtype
from lmmodules.data.tokenization import write_stores


@pytest.fixture
def lines_of(store_of: Callable, tokenizer: Tokenizer) -> Callable[[list[str]], TokenStore]:
    return lambda documents: store_of([tokenizer.encode(text) for text in documents])


@pytest.fixture(params=[3, 10**6])
def scanned_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sentences_module, "_SCANNED_AT_ONCE", request.param)
    return int(request.param)


def texts_between(store: TokenStore, tokenizer: Tokenizer, edges: Sequence[int]) -> list[str]:
    return [tokenizer.decode(store.tokens[a:b]) for a, b in itertools.pairwise(edges)]


@pytest.mark.usefixtures("scanned_at_once")
def test_sentences_are_lines(lines_of: Callable, tokenizer: Tokenizer) -> None:
    store = lines_of(["the cat\nsat on\n", "a mat", "\n", "while\n\nseven"])
    ends, separators = sentence_ends(store, tokenizer)
    texts = texts_between(store, tokenizer, [0, *ends.tolist()])
    found = [text for text, separator in zip(texts, separators, strict=True) if not separator]
    assert found in (
        ["the cat\n", "sat on\n", "a mat", "\n", "while\n\n", "seven"],
        ["the cat\n", "sat on\n", "a mat", "\n", "while\n", "\n", "seven"],
    )
    assert separators.sum() == 4
    assert (store.tokens[ends[separators] - 1] == tokenizer.eos_id).all()
    assert ends[-1] == len(store)


@pytest.mark.usefixtures("scanned_at_once")
def test_blank_lines_belong_to_their_neighbours(lines_of: Callable, tokenizer: Tokenizer) -> None:
    store = lines_of(["\n\nthe cat\n \t\nsat on\n\n\n", "\n \n", "a mat", "seven\n\ndogs"])
    found = Sentences.of(store, tokenizer)
    texts = [tokenizer.decode(store.tokens[a:b]) for a, b in zip(found.starts, found.ends, strict=True)]
    assert texts == ["\n\nthe cat\n \t\n", "sat on\n\n\n", "a mat", "seven\n\n", "dogs"]
    assert found.first.tolist() == [0, 2, 3, 5]  # the document without text is none
    assert found.num_documents == 3
    assert found.last_of(np.array([0, 2])).tolist() == [1, 4]


def test_every_token_but_separators_is_in_one_sentence(
    lines_of: Callable, tokenizer: Tokenizer, prose: Callable
) -> None:
    store = lines_of(prose(30))
    found = Sentences.of(store, tokenizer)
    covered = np.zeros(len(store), dtype=int)
    for start, end in zip(found.starts, found.ends, strict=True):
        covered[start:end] += 1
    assert (covered == (store.tokens != tokenizer.eos_id)).all()
    assert len(found) == sum(len(text.splitlines()) for text in prose(30))


def test_no_text_no_sentences(lines_of: Callable, tokenizer: Tokenizer) -> None:
    found = Sentences.of(lines_of(["\n", " \n"]), tokenizer)
    assert (len(found), found.num_documents) == (0, 0)


@pytest.fixture(scope="module")
def pieces(corpus_of: Callable, prose: Callable) -> Tokenizer:
    return WordPiece(90).train(corpus_of(prose(100)))


def test_lines_are_kept_where_tokens_do_not_tell(
    tmp_path: Path, corpus_of: Callable, prose: Callable, pieces: Tokenizer
) -> None:
    texts = ["The cat\n\n  sat on\n", "a mat", "\n", "while\r\nseven", *prose(5)]
    write_stores(tmp_path / "out", corpus_of(texts), pieces)
    store = TokenStore(tmp_path / "out" / "train", pieces)
    found = Sentences.of(store, pieces)
    said = [pieces.decode(store.tokens[a:b]) for a, b in zip(found.starts, found.ends, strict=True)]
    lines = [line.strip() for text in texts for line in text.split("\n") if line.strip()]
    assert [text.replace(" ", "") for text in said] == [line.lower().replace(" ", "") for line in lines]
    assert found.num_documents == 8
    assert store.header.num_documents == 9
    # A line is encoded as within its document.
    assert store.tokens[: store.offsets[1] - 1].tolist() == pieces.encode(texts[0])
    ends, separators = sentence_ends(store, pieces)
    assert separators.sum() == 9
    assert ends[~separators].tolist() == store.sentences.tolist()  # type: ignore[union-attr]


def test_lines_survive_the_division_of_a_single_document(
    tmp_path: Path, corpus_of: Callable, prose: Callable, pieces: Tokenizer
) -> None:
    (text,) = prose(1, words=(400, 500))
    write_stores(tmp_path / "whole", corpus_of([text]), pieces)
    write_stores(tmp_path / "out", corpus_of([text]), pieces, validation_fraction=0.3)
    whole = TokenStore(tmp_path / "whole" / "train", pieces)
    train, validation = (TokenStore(tmp_path / "out" / name, pieces) for name in ("train", "validation"))
    border = len(train)
    ends = Sentences.of(whole, pieces).ends
    inside = [int(end) for end in ends if end < border]
    assert Sentences.of(train, pieces).ends.tolist() == [*inside, border]
    assert Sentences.of(validation, pieces).ends.tolist() == [int(end) - border for end in ends if end > border]


def test_a_line_without_tokens_is_none(tmp_path: Path, pieces: Tokenizer) -> None:
    dtype = token_dtype(pieces.vocab_size)
    with TokenStoreWriter(tmp_path / "store", pieces.vocab_size, pieces.eos_id, marks_lines=True) as writer:
        for ids, ends_line, ends_document in (([], True, False), ([7], False, False), ([8], True, False)):
            writer.append(np.array(ids, dtype=dtype), ends_line=ends_line, ends_document=ends_document)
        writer.append(np.array([], dtype=dtype), ends_line=True, ends_document=True)
        writer.append(np.array([], dtype=dtype), ends_line=True, ends_document=True)
        writer.finish(pieces.fingerprint(), "corpus", [])
    store = TokenStore(tmp_path / "store", pieces)
    assert store.tokens.tolist() == [7, 8, 3, 3]
    assert store.sentences is not None
    assert store.sentences.tolist() == [2]
