from __future__ import annotations

import tracemalloc
from concurrent.futures import Executor, Future

import numpy as np
import pytest

from lmmodules.data import Tokenizer, encoding
from lmmodules.data.encoding import encode, pieces


def joined(tokenizer: Tokenizer, documents: list[str]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for piece, ids in encode(documents, tokenizer, np.uint16):
        found[-1] += ids.tolist()
        if piece.ends_document:
            found.append([])
    return found[:-1]


@pytest.mark.parametrize("size", [64, 200])
def test_long_documents_are_cut_without_changing_tokens(
    tokenizer: Tokenizer, prose, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    generator = np.random.default_rng(size)
    mixed = "".join(generator.choice(list("ab1 \n\t.,;é語'"), 3000))
    code = "def f(x):\n    return x[0]  # it's\n\n\n" * 40
    documents = [mixed, code, *prose(5)]
    whole = [tokenizer.encode(text) for text in documents]
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", size)
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 5 * size)
    assert max(len(piece.text) for piece in pieces(documents)) <= size
    assert sum(1 for _ in pieces(documents)) > len(documents)
    assert joined(tokenizer, documents) == whole


def test_text_without_any_safe_place_is_cut_anyway(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", 50)
    (ids,) = joined(tokenizer, ["ю" * 333])
    assert tokenizer.decode(ids) == "ю" * 333


def test_pieces_know_their_document() -> None:
    found = list(pieces(["one", "", "two" * 100_000, "one"]))
    assert "".join(piece.text for piece in found) == "one" + "two" * 100_000 + "one"
    assert [piece.ends_document for piece in found] == [True, False, False, True, True]
    assert found[0].document_hash == found[-1].document_hash != found[1].document_hash
    assert found[1].document_hash == found[2].document_hash


def test_sizes_are_bytes() -> None:
    assert [piece.num_bytes for piece in pieces(["é", "abc"])] == [2, 3]


def test_half_a_surrogate_pair_becomes_a_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(joined(tokenizer, ["a\ud83db"])[0]) == "a\ufffdb"
    assert tokenizer.decode(joined(tokenizer, ["\ud83d\ude00"])[0]) == "😀"


class AtOnce(Executor):
    """Has done everything before anybody waits for it: the most memory that threads can ever take."""

    def __init__(self, max_workers: int) -> None:
        pass

    def submit(self, function, /, *arguments) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


def test_memory_does_not_grow_with_the_corpus(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", 1000)
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 10_000)
    monkeypatch.setattr(encoding, "ThreadPoolExecutor", AtOnce)

    def peak(num_documents: int) -> int:
        tracemalloc.start()
        for _ in encode(("the cat sat " * 80 for _ in range(num_documents)), tokenizer, np.uint16):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)  # what is made once and kept
    assert peak(400) < 1.1 * peak(40)


def test_documents_line_by_line(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ["one two\n\n three\r\n", " \n\t\n", "", "four " * 19 + "\nfive"]
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", 40)
    found = list(pieces(documents, by_line=True))
    assert [piece.text for piece in found][:3] == ["one two", " three\r", ""]
    assert [piece.ends_line for piece in found] == [True, True, True, False, False, False, True, True]
    assert [piece.ends_document for piece in found] == [False, True, True, False, False, False, False, True]
    assert "".join(piece.text for piece in found[3:7]) == "four " * 19
    assert not any(piece.ends_line for piece in pieces(documents))
    assert [piece.document_hash for piece in pieces(documents) if piece.ends_document] == [
        piece.document_hash for piece in found if piece.ends_document
    ]
