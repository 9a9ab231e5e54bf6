from __future__ import annotations

import errno
import hashlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmmodules.data import ByteLevelBPE, TextFiles, Tokenizer, TokenStore, WordPiece
from lmmodules.data import store as store_module
from lmmodules.data.store import FORMAT
from lmmodules.data.tokenization import prepare_stores, prepare_tokenizer, write_stores
from lmmodules.errors import InputError


def documents(store: TokenStore, tokenizer: Tokenizer) -> list[str]:
    edges = store.offsets
    return [tokenizer.decode(store.tokens[a:b]) for a, b in itertools.pairwise(edges)]


def test_every_document_goes_to_one_side(
    tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable
) -> None:
    texts = [*prose(400), "", prose(1, seed=5)[0]]
    write_stores(tmp_path / "out", corpus_of(texts), tokenizer, validation_fraction=0.2)
    train, validation = (TokenStore(tmp_path / "out" / name, tokenizer) for name in ("train", "validation"))
    assert sorted(documents(train, tokenizer) + documents(validation, tokenizer)) == sorted(
        text for text in texts if text
    )
    # Five standard errors of a share of 0.2 among 401.
    assert validation.header.num_documents / 401 == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 401) ** 0.5)
    for store in (train, validation):
        ends = store.offsets[1:] - 1
        assert (store.tokens[ends] == tokenizer.eos_id).all()
        assert (store.tokens == tokenizer.eos_id).sum() == store.header.num_documents
    # The order of the corpus is kept.
    numbers = [int(text.split()[1]) for text in documents(train, tokenizer)[:-1]]
    assert numbers == sorted(numbers)


def test_equal_documents_stay_together_and_others_do_not_move(
    tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable
) -> None:
    texts = prose(60)

    def held_out(name: str, texts: list[str]) -> set[str]:
        write_stores(tmp_path / name, corpus_of(texts), tokenizer, validation_fraction=0.3)
        train = set(documents(TokenStore(tmp_path / name / "train"), tokenizer))
        validation = set(documents(TokenStore(tmp_path / name / "validation"), tokenizer))
        assert not train & validation
        return validation

    once = held_out("once", texts)
    assert held_out("twice", texts[::-1] + texts) == once
    assert held_out("more", [*texts, *prose(30, seed=1)]) >= once


@pytest.mark.parametrize("fraction", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_of_a_single_document_the_end_is_held_out(
    tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable, seed: int, fraction: float
) -> None:
    text = prose(1, seed=seed)[0]
    write_stores(tmp_path / "out", corpus_of([text]), tokenizer, validation_fraction=fraction)
    train, validation = (TokenStore(tmp_path / "out" / name, tokenizer) for name in ("train", "validation"))
    assert documents(train, tokenizer)[0] + documents(validation, tokenizer)[0] == text
    assert len(validation) == round(fraction * (len(train) + len(validation)))
    assert train.header.notes == [
        f"too few documents to hold any out: the last {len(validation)} tokens are for validation"
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "validation"]


def test_documents_before_the_border_stay_whole(tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable) -> None:
    texts = ["the cat " * 20, "a mat " * 20, "the dogs " * 20]
    write_stores(tmp_path / "out", corpus_of(texts), tokenizer, validation_fraction=0.001)
    train, validation = (TokenStore(tmp_path / "out" / name, tokenizer) for name in ("train", "validation"))
    assert documents(train, tokenizer)[:2] == texts[:2]
    assert train.header.num_documents == 3
    assert len(validation) == 2


def test_all_or_nothing_held_out(tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable) -> None:
    write_stores(tmp_path / "none", corpus_of(prose(9)), tokenizer, validation_fraction=0)
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["train"]
    write_stores(tmp_path / "all", corpus_of(prose(9)), tokenizer, validation_fraction=1)
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["validation"]


def test_a_separate_corpus_to_validate_on(
    tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable
) -> None:
    write_stores(
        tmp_path / "out",
        corpus_of(prose(9)),
        tokenizer,
        validation_fraction=0.5,
        validation_corpus=corpus_of(prose(3, seed=1)),
    )
    assert documents(TokenStore(tmp_path / "out" / "train"), tokenizer) == prose(9)
    assert documents(TokenStore(tmp_path / "out" / "validation"), tokenizer) == prose(3, seed=1)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_an_empty_corpus(
    tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, texts: list[str], fraction: float
) -> None:
    with pytest.raises(InputError, match="a corpus must hold text, but texts in memory has none"):
        prepare_stores(tmp_path, corpus_of(texts), tokenizer, validation_fraction=fraction)
    assert not any(path.is_dir() for path in (tmp_path / "tokens").iterdir())


def test_a_corpus_of_nothing_but_skipped_files_says_so(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"has none; left out 1 file that is not UTF-8 text: a.bin"):
        write_stores(tmp_path / "out", TextFiles(tmp_path / "a.bin"), tokenizer)


def test_a_corpus_too_small_to_divide(tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable) -> None:
    with pytest.raises(InputError, match=r"at least 4 tokens to hold some out .* but this one has 2"):
        write_stores(tmp_path / "out", corpus_of(["x"]), tokenizer, validation_fraction=0.5)


def test_stores_are_kept_by_content(tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable) -> None:
    corpus = corpus_of(prose(20))
    first = prepare_stores(tmp_path, corpus, tokenizer, validation_fraction=0.2)
    assert prepare_stores(tmp_path, corpus_of(prose(20)), tokenizer, validation_fraction=0.2) == first
    assert corpus.times_read == 1
    assert Tokenizer.from_file(first / "tokenizer.json").fingerprint() == tokenizer.fingerprint()
    others = {
        prepare_stores(tmp_path, corpus, tokenizer, validation_fraction=0.3),
        prepare_stores(tmp_path, corpus_of(prose(21)), tokenizer, validation_fraction=0.2),
        prepare_stores(
            tmp_path, corpus, tokenizer, validation_fraction=0.2, validation_corpus=corpus_of(["other text"])
        ),
        prepare_stores(tmp_path, corpus, ByteLevelBPE(261).train(corpus), validation_fraction=0.2),
    }
    assert len(others | {first}) == 5


def test_tokenizers_are_kept_by_content(tmp_path: Path, corpus_of: Callable, prose: Callable) -> None:
    corpus = corpus_of(prose(50))
    first = prepare_tokenizer(tmp_path, corpus, ByteLevelBPE(280))
    again = prepare_tokenizer(tmp_path, corpus_of(prose(50)), ByteLevelBPE(280))
    assert first.fingerprint() == again.fingerprint()
    assert corpus.times_read == 1
    assert prepare_tokenizer(tmp_path, corpus, ByteLevelBPE(281)).vocab_size == 281


class FullDisk:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_disk_that_fills_up_while_the_store_is_written(
    tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = store_module.TokenStoreWriter.__init__

    def on_full_disk(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self._tokens = FullDisk(self._tokens, room=5000)

    monkeypatch.setattr(store_module.TokenStoreWriter, "__init__", on_full_disk)
    with pytest.raises(InputError, match=r"the disk of `.*tokens` is full and nothing was kept"):
        prepare_stores(tmp_path, corpus_of(prose(300)), tokenizer, validation_fraction=0.1)
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".lock"]
    monkeypatch.undo()
    prepare_stores(tmp_path, corpus_of(prose(300)), tokenizer, validation_fraction=0.1)


def test_notes_stay_with_the_store(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("the cat sat on a mat")
    (tmp_path / "text" / "b.bin").write_bytes(b"\xff")
    path = prepare_stores(tmp_path, TextFiles(tmp_path / "text"), tokenizer, validation_fraction=0)
    assert TokenStore(path / "train").header.notes == ["left out 1 file that is not UTF-8 text: b.bin"]


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from lmmodules.data import ByteLevelBPE, CorpusDataModule, TextFiles
print(CorpusDataModule(TextFiles(sys.argv[1]), ByteLevelBPE(400), cache_dir=sys.argv[2]).prepare().train_tokens)
"""


@pytest.mark.slow
def test_two_processes_prepare_the_same_corpus_once(tmp_path: Path, prose: Callable) -> None:
    (tmp_path / "text.txt").write_text("\n".join(prose(20_000)))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "text.txt"), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    finished = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], finished
    assert finished[0][0] == finished[1][0]
    said = finished[0][1] + finished[1][1]
    assert said.count("tokenising") == 1
    assert said.count("training a tokenizer") == 1


def test_line_breaks_of_the_text_decide_what_is_kept(
    tmp_path: Path, tokenizer: Tokenizer, corpus_of: Callable, prose: Callable
) -> None:
    corpus = corpus_of(prose(30))
    pieces = WordPiece(90).train(corpus)
    for given, kept in ((tokenizer, False), (pieces, True)):
        path = prepare_stores(tmp_path, corpus, given, validation_fraction=0)
        assert (TokenStore(path / "train").sentences is not None) is kept
    # A store of the same text and tokenizer that was written before lines were kept lies elsewhere and is left alone.
    key = repr((FORMAT, corpus.fingerprint(), pieces.fingerprint(), 0))
    assert path.name != hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    key = repr((FORMAT, corpus.fingerprint(), tokenizer.fingerprint(), 0))
    assert (tmp_path / "tokens" / hashlib.blake2b(key.encode(), digest_size=8).hexdigest()).is_dir()
