from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lmmodules.batch import IGNORED
from lmmodules.data import DocumentPacking, Masking, NextToken, Samples, StreamPacking, Tokenizer


@pytest.fixture
def samples(store_of: Callable, tokenizer: Tokenizer) -> Samples:
    generator = np.random.default_rng(0)
    documents = [generator.integers(4, 299, size).tolist() for size in generator.integers(3, 60, 50)]
    return Samples(store_of(documents), tokenizer, StreamPacking(), Masking(), max_length=32, seed=1)


def zeros(indices: np.ndarray) -> np.ndarray:
    return np.zeros(len(indices), dtype=np.int64)


def test_a_sample_does_not_depend_on_its_batch(samples: Samples) -> None:
    indices = np.array([3, 0, len(samples) - 1, 7])  # the last one is short
    together = samples[zeros(indices), indices]
    for row, index in enumerate(indices):
        alone = samples[np.zeros(1, dtype=np.int64), np.array([index])]
        for key in ("input_ids", "labels"):
            assert torch.equal(alone[key][0], together[key][row])


def test_epochs_differ_in_masks_and_agree_in_text(samples: Samples) -> None:
    indices = np.arange(4)
    first, second = samples[zeros(indices), indices], samples[zeros(indices) + 1, indices]
    assert not torch.equal(first["labels"], second["labels"])

    def text(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])

    assert torch.equal(text(first), text(second))
    assert text(first)[:, 0].tolist() == [0] * 4
    assert text(first)[:, 1:].flatten().tolist() == samples.store.tokens[: 4 * 31].tolist()


def test_only_batches_with_a_short_sample_carry_a_mask(samples: Samples) -> None:
    assert "attention_mask" not in samples[zeros(np.arange(3)), np.arange(3)]
    last = np.array([0, len(samples) - 1])
    mask = samples[zeros(last), last]["attention_mask"]
    assert mask[0].all()
    assert mask[1].sum() == (len(samples.store) - 1) % 31 + 2


def test_fillers_do_not_count(samples: Samples) -> None:
    indices = np.array([2, -1, 4, -1])
    batch = samples[zeros(indices), indices]
    assert (batch["labels"][[1, 3]] == IGNORED).all()
    assert torch.equal(batch["labels"][0], samples[zeros(indices[:1]), indices[:1]]["labels"][0])
    assert (batch["labels"][2] != IGNORED).any()


def test_samples_travel_light(samples: Samples) -> None:
    _ = samples[zeros(np.arange(2)), np.arange(2)]
    copy = pickle.loads(pickle.dumps(samples))
    expected = samples[zeros(np.arange(2)), np.arange(2)]
    assert all(torch.equal(copy[zeros(np.arange(2)), np.arange(2)][key], expected[key]) for key in expected)


def test_document_numbers_follow_the_ends_of_documents(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([[5] * size for size in (3, 9, 4, 20, 1, 6)])
    samples = Samples(store, tokenizer, StreamPacking(), Masking(), max_length=12, document_mask=True)
    indices = np.arange(len(samples))
    ids = samples[zeros(indices), indices]["document_ids"].numpy()
    starts, ends = samples.windows.spans(indices)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        documents = np.searchsorted(store.offsets, np.arange(start, end), side="right")
        assert ids[row, 1 : end - start + 1].tolist() == (documents - documents[0]).tolist()
        assert ids[row, 0] == 0


def test_a_tokenizer_without_padding_pads_with_the_end_token(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([[5, 6], [7, 8, 9, 10]])
    bare = Tokenizer.from_json(tokenizer.to_json())
    del bare._ids["pad"]
    samples = Samples(store, bare, DocumentPacking(), NextToken(), max_length=5)
    batch = samples[np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)]
    assert batch["input_ids"].tolist() == [[5, 6, 2, 2, 2]]
    assert batch["labels"].tolist() == [[6, 2, IGNORED, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
