from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lmmodules.batch import CausalBatch, check_batch
from lmmodules.data import Blocks, DocumentPacking, NextToken, SampleKeys, Samples, StreamPacking, Tokenizer

KEYS = SampleKeys(0, np.zeros(2, dtype=np.int64), np.arange(2))


def test_labels_are_the_tokens_that_follow() -> None:
    tokens = np.array([[5, 6, 7, 8], [9, 10, 11, 12]], dtype=np.uint16)
    batch = NextToken()(Blocks(tokens), KEYS)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 10, 11]]
    assert batch["labels"].tolist() == [[6, 7, 8], [10, 11, 12]]
    assert set(batch) == {"input_ids", "labels"}
    check_batch(batch, CausalBatch, "test")
    assert (NextToken().block_length(3), NextToken().stride(3)) == (4, 3)


def test_padding_is_neither_seen_nor_predicted() -> None:
    tokens = np.array([[5, 6, 7, 8], [9, 10, 1, 1]], dtype=np.uint16)
    batch = NextToken()(Blocks(tokens, lengths=np.array([4, 2])), KEYS)
    assert batch["labels"].tolist() == [[6, 7, 8], [10, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_documents_are_numbered_at_the_inputs(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([[5, 6], [7], [8, 9]])  # 5 6 </s> 7 </s> 8 9 </s>
    samples = Samples(store, tokenizer, StreamPacking(), NextToken(), max_length=7, document_mask=True)
    batch = samples[np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)]
    assert batch["input_ids"].tolist() == [[5, 6, 2, 7, 2, 8, 9]]
    assert batch["document_ids"].tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    plain = Samples(store, tokenizer, StreamPacking(), NextToken(), max_length=7)
    assert "document_ids" not in plain[np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)]


def test_every_token_of_the_stream_is_predicted_once(store_of: Callable, tokenizer: Tokenizer) -> None:
    documents = [list(range(5, 5 + size)) for size in (3, 17, 40, 8)]
    store = store_of(documents)
    samples = Samples(store, tokenizer, StreamPacking(), NextToken(), max_length=16)
    everything = np.arange(len(samples))
    batch = samples[np.zeros_like(everything), everything]
    labels = batch["labels"]
    assert labels[labels != -100].tolist() == store.tokens[1:].tolist()


def test_one_document_per_sample(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([[5, 6], [7, 8, 9, 10]])
    samples = Samples(store, tokenizer, DocumentPacking(), NextToken(), max_length=5)
    batch = samples[np.zeros(2, dtype=np.int64), np.arange(2)]
    assert batch["input_ids"].tolist() == [[5, 6, 2, 1, 1], [7, 8, 9, 10, 2]]
    assert batch["labels"].tolist() == [[6, 2, -100, -100, -100], [8, 9, 10, 2, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
