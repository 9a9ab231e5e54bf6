from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmmodules.data import ByteLevelBPE, Tokenizer, TokenStore
from lmmodules.data import store as store_module
from lmmodules.data.store import TokenStoreWriter, token_dtype
from lmmodules.errors import InputError


def test_what_is_written_is_read(store_of: Callable) -> None:
    store = store_of([[5, 6, 7], [8], [9, 10]])
    assert store.tokens.tolist() == [5, 6, 7, 2, 8, 2, 9, 10, 2]
    assert store.offsets.tolist() == [0, 4, 6, 9]
    assert len(store) == 9
    assert store.header.num_documents == 3
    assert store.tokens.dtype == np.uint16


def test_the_smallest_type_that_holds_every_id(tmp_path: Path) -> None:
    assert token_dtype(65536).itemsize == 2
    assert token_dtype(65537).itemsize == 4
    with TokenStoreWriter(tmp_path / "wide", 100_000, 2) as writer:
        writer.append(np.array([99_999], dtype=token_dtype(100_000)), ends_document=True)
        writer.finish("tokenizer", "corpus", [])
    assert TokenStore(tmp_path / "wide").tokens.tolist() == [99_999, 2]


def test_tokens_can_not_be_written_to(store_of: Callable) -> None:
    with pytest.raises(ValueError, match="read-only"):
        store_of([[5]]).tokens[0] = 1


def test_a_pickled_store_carries_no_tokens(store_of: Callable) -> None:
    store = store_of([list(range(4, 290)) * 50])
    assert store.tokens[0] == 4  # mapped
    pickled = pickle.dumps(store)
    assert len(pickled) < 2000
    assert (pickle.loads(pickled).tokens == store.tokens).all()


def test_unigram_entropy(store_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    # 5 thrice, 6 once, </s> twice: half, a sixth, a third.
    store = store_of([[5, 5, 5], [6]])
    expected = 0.5 * math.log(2) + math.log(6) / 6 + math.log(3) / 3
    assert store.unigram_entropy() == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(store_module, "_COUNTED_AT_ONCE", 4)
    assert store.unigram_entropy() == pytest.approx(expected, abs=1e-12)


def test_a_tokenizer_that_does_not_match(store_of: Callable, corpus_of: Callable, prose: Callable) -> None:
    store = store_of([[5]])
    other = ByteLevelBPE(vocab_size=300).train(corpus_of(prose(60, seed=9)))
    with pytest.raises(InputError, match=rf"`{store.path}` must be read with the tokenizer that wrote it") as error:
        TokenStore(store.path, other)
    assert other.fingerprint() in str(error.value)


@pytest.mark.parametrize("name", ["tokens.bin", "documents.bin"])
def test_a_truncated_store(store_of: Callable, tokenizer: Tokenizer, name: str) -> None:
    path = store_of([[5, 6, 7], [8]]).path
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-2])
    with pytest.raises(
        InputError, match=rf"{name}` must have {len(data)} bytes, but has {len(data) - 2}: .* truncated"
    ):
        TokenStore(path, tokenizer)
    (path / name).unlink()
    with pytest.raises(InputError, match=rf"{name}` must have {len(data)} bytes, but has 0"):
        TokenStore(path, tokenizer)


def test_a_changed_or_foreign_header(store_of: Callable, tmp_path: Path) -> None:
    path = store_of([[5, 6, 7]]).path
    header = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps({**header, "vocab_size": 999}))
    with pytest.raises(InputError, match=r"store.json` must be as it was written, but was changed; delete"):
        TokenStore(path)
    for content in ("{", "[]", "{}", json.dumps({**header, "surprise": 1})):
        (path / "store.json").write_text(content)
        with pytest.raises(InputError, match=r"must be a token store, but has no readable `store.json`"):
            TokenStore(path)
    with pytest.raises(InputError, match=r"must be a token store"):
        TokenStore(tmp_path / "absent")


def test_another_format_is_refused(store_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store_of([[5]]).path
    monkeypatch.setattr(store_module, "FORMAT", 2)
    with pytest.raises(InputError, match="must have format 2, but has 1"):
        TokenStore(path)


def test_an_unfinished_store_is_none(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "cut", 300, 2) as writer:
        writer.append(np.array([5], dtype=np.uint16), ends_document=True)
    with pytest.raises(InputError, match="must be a token store"):
        TokenStore(tmp_path / "cut")


def test_a_store_of_before_there_were_lines_is_still_one(store_of: Callable) -> None:
    store = store_of([[5, 6], [7]])
    header = store.path / "store.json"
    content = json.loads(header.read_text())
    assert "num_sentences" not in content
    # What was hashed then: every field there was, in the order of their names.
    fields = {name: value for name, value in content.items() if name != "checksum"}
    hashed = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert content["checksum"] == hashed
    assert sorted(fields) == ["corpus", "format", "notes", "num_documents", "num_tokens", "tokenizer", "vocab_size"]
    assert store.sentences is None


def test_ends_of_lines_are_kept_where_asked_for(tmp_path: Path) -> None:
    dtype = token_dtype(300)
    with TokenStoreWriter(tmp_path / "lines", 300, 2, marks_lines=True) as writer:
        writer.append(np.array([5, 6], dtype=dtype), ends_line=True, ends_document=False)
        writer.append(np.array([7], dtype=dtype), ends_line=True, ends_document=True)
        writer.append(np.array([8, 9], dtype=dtype), ends_line=True, ends_document=True)
        writer.finish("tokenizer", "corpus", [])
    store = TokenStore(tmp_path / "lines")
    assert store.sentences is not None
    assert store.sentences.tolist() == [2, 3, 6]
    assert store.tokens.tolist() == [5, 6, 7, 2, 8, 9, 2]
    assert pickle.loads(pickle.dumps(store)).sentences.tolist() == [2, 3, 6]
    (tmp_path / "lines" / "sentences.bin").write_bytes(b"\0" * 16)
    with pytest.raises(InputError, match=r"sentences.bin` must have 24 bytes, but has 16: the token store is trunc"):
        TokenStore(tmp_path / "lines")
