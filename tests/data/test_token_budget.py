from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.data import (
    DocumentPacking,
    Masking,
    NextToken,
    Packing,
    ResumableLoader,
    Samples,
    SampleSource,
    SegmentPairs,
    SentencePacking,
    SentencePairs,
    StreamPacking,
    Tokenizer,
    TokenStore,
    ValidationLoader,
)
from lmmodules.data.samples import Keys
from lmmodules.data.token_budget import TokenBudget, share_of_rank
from lmmodules.errors import InputError

Batch = dict[str, Tensor]
LENGTH = 64
PACKINGS: dict[str, Packing] = {
    "documents": DocumentPacking(),
    "doc sentences": SentencePacking(cross_documents=False),
    "segment pairs": SegmentPairs(num_token_types=2),
    "sentence pairs": SentencePairs(),
}


@pytest.fixture
def store(store_of: Callable, tokenizer: Tokenizer, prose: Callable) -> TokenStore:
    return store_of([tokenizer.encode(text) for text in prose(80, words=(5, 40))])


@pytest.fixture(params=PACKINGS)
def samples(request: pytest.FixtureRequest, store: TokenStore, tokenizer: Tokenizer) -> Samples:
    return samples_of(store, tokenizer, PACKINGS[request.param])


@pytest.fixture
def documents(store: TokenStore, tokenizer: Tokenizer) -> Samples:
    return samples_of(store, tokenizer, DocumentPacking())


def samples_of(store: TokenStore, tokenizer: Tokenizer, packing: Packing, **options: Any) -> Samples:
    return Samples(store, tokenizer, packing, Masking(), max_length=LENGTH, trim_padding=True, **options)


def loader(samples: SampleSource, batch_tokens: int = 300, **options: Any) -> ResumableLoader:
    return ResumableLoader(samples, batch_size=1, batch_tokens=batch_tokens, **options)


def tokens_in(batch: Batch) -> int:
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()


def rows(batches: list[Batch]) -> list[list[int]]:
    """Every sample as the list of its tokens and labels, without padding and fillers."""
    found = []
    for batch in batches:
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        for ids, labels, inside in zip(batch["input_ids"], batch["labels"], mask, strict=True):
            found.append(ids[inside].tolist() + labels[inside].tolist())
    return found


def stream(made: ResumableLoader, num_batches: int) -> list[Batch]:
    found: list[Batch] = []
    while len(found) < num_batches:
        found += itertools.islice(made, num_batches - len(found))
    return found


def test_batches_are_filled_within_a_sample_of_the_budget(samples: Samples) -> None:
    made = loader(samples)
    num_batches = 3 * len(made)  # over the ends of epochs
    batches = stream(made, num_batches)
    longest = int(samples.lengths(np.arange(len(samples))).max())
    for batch in batches:
        assert 300 - longest < tokens_in(batch) <= 300
        mask = batch.get("attention_mask")
        assert mask is None or mask.any(dim=0).all()  # no longer than its longest row
    assert len({batch["input_ids"].shape for batch in batches}) > 3
    assert made.samples_seen == sum(len(batch["input_ids"]) for batch in batches)


def test_the_samples_are_those_of_batches_of_a_fixed_size(samples: Samples) -> None:
    found = rows(stream(loader(samples), 3 * len(loader(samples))))
    fixed = ResumableLoader(samples, batch_size=5)
    expected = rows(stream(fixed, len(found) // 5))
    assert len(found) > len(samples)  # into the second epoch
    assert found[: len(expected)] == expected


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("whole_word", [False, True])
def test_trimming_changes_nothing_but_the_padding(
    store: TokenStore, tokenizer: Tokenizer, packing: Packing, whole_word: bool
) -> None:
    transform = Masking(whole_word=whole_word)
    long, short = (
        Samples(store, tokenizer, packing, transform, max_length=LENGTH, trim_padding=trim) for trim in (False, True)
    )
    indices = np.flatnonzero(short.lengths(np.arange(len(short))) < LENGTH - 8)[:4]
    keys = (np.zeros(4, dtype=np.int64), indices)
    width = int(short.lengths(indices).max())
    assert short[keys]["input_ids"].shape == (4, width)
    assert long[keys]["input_ids"].shape == (4, LENGTH)
    for name, whole in long[keys].items():
        if name in short[keys]:
            assert torch.equal(whole[:, :width] if whole.ndim == 2 else whole, short[keys][name]), name
    assert not long[keys]["attention_mask"][:, width:].any()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_divide_the_same_batches(samples: Samples, world_size: int) -> None:
    alone = loader(samples, 60 * 12)
    num_batches = 2 * len(alone) + 1
    expected = [rows([batch]) for batch in stream(alone, num_batches)]
    ranks = []
    for rank in range(world_size):
        made = loader(samples, 60 * 12 // world_size)
        made.set_rank(rank, world_size)
        assert len(made) == len(alone)
        ranks.append(stream(made, num_batches))
        assert made.samples_seen == alone.samples_seen
    longest = int(samples.lengths(np.arange(len(samples))).max())
    for step, whole in zip(zip(*ranks, strict=True), expected, strict=True):
        assert [row for part in step for row in rows([part])] == whole
        share = sum(map(tokens_in, step)) / world_size
        assert all(abs(tokens_in(part) - share) <= longest for part in step)


def test_a_rank_without_a_sample_gets_one_that_does_not_count(documents: Samples) -> None:
    ranks = []
    for rank in range(5):
        made = loader(documents, 30)  # two or three samples for five ranks
        made.set_rank(rank, 5)
        ranks.append(stream(made, 20))
    idle = [batch for part in ranks for batch in part if (batch["labels"] == IGNORED).all()]
    assert len(idle) > 20
    assert all(len(batch["input_ids"]) == 1 for batch in idle)
    alone = loader(documents, 150)
    counted = sum(int((batch["labels"] != IGNORED).sum()) for batch in stream(alone, 20))
    assert sum(int((batch["labels"] != IGNORED).sum()) for part in ranks for batch in part) == counted


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_goes_on_where_it_was_left(documents: Samples, num_workers: int) -> None:
    made = loader(documents)
    expected = rows(stream(made, 3 * len(made)))
    first = loader(documents, num_workers=num_workers)
    begun = stream(first, len(made) + 2)  # in the second pass; workers have fetched further
    state = first.state_dict()
    assert state["samples_seen"] == len(rows(begun))
    second = loader(documents, num_workers=num_workers)
    second.load_state_dict(state)
    assert rows(begun) + rows(stream(second, 2 * len(made) - 2)) == expected
    first.close()
    second.close()
    # With another budget, on two ranks, and in batches of a fixed size.
    ranks = [loader(documents, 200) for _ in range(2)]
    for rank, other in enumerate(ranks):
        other.load_state_dict(state)
        other.set_rank(rank, 2)
    steps = zip(*(stream(other, 4) for other in ranks), strict=True)
    seen = rows(begun) + [row for step in steps for row in rows(list(step))]
    assert seen == expected[: len(seen)]
    assert len(seen) > len(rows(begun)) + 20
    fixed = ResumableLoader(documents, batch_size=3)
    fixed.load_state_dict(state)
    assert rows(stream(fixed, 5)) == expected[len(rows(begun)) :][:15]


@pytest.mark.parametrize(
    ("batch_tokens", "world_size", "num_workers"), [(300, 1, 0), (100, 3, 0), (64, 7, 0), (300, 1, 2)]
)
def test_validation_counts_every_sample_once_on_any_ranks(
    samples: Samples, batch_tokens: int, world_size: int, num_workers: int
) -> None:
    count = len(samples)
    expected = rows([samples[np.zeros(count, dtype=np.int64), np.arange(count)]])
    found, lengths = [], set()
    for rank in range(world_size):
        made = ValidationLoader(samples, batch_size=1, batch_tokens=batch_tokens, num_workers=num_workers)
        made.set_rank(rank, world_size)
        batches = list(made)
        assert rows(batches) == rows(list(made))
        lengths.add(len(batches))
        assert len(batches) == len(made)
        found += rows(batches)
        made.close()
    assert len(lengths) == 1
    counted = [row for row in found if any(label != IGNORED for label in row[len(row) // 2 :])]
    assert sorted(counted) == sorted(row for row in expected if any(label != IGNORED for label in row[len(row) // 2 :]))


def test_a_pass_is_about_an_epoch(samples: Samples) -> None:
    made = loader(samples)
    total = int(samples.lengths(np.arange(len(samples))).sum())
    assert len(made) == total // 300
    stream(made, len(made))
    assert 0.75 < made.samples_seen / len(samples) <= 1.05


def test_full_blocks_are_counted_as_positions(store: TokenStore, tokenizer: Tokenizer) -> None:
    for transform in (Masking(), NextToken()):
        made = Samples(store, tokenizer, StreamPacking(), transform, max_length=32, trim_padding=True)
        assert made.lengths(np.arange(3)).tolist() == [32, 32, 32]
        batch = next(iter(loader(made, 32 * 5 + 31, shuffle=False)))
        assert batch["input_ids"].shape == (5, 32)


class Fixed(SampleSource):
    """Samples of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = np.array(lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, keys: Keys) -> dict[str, Tensor]:
        return {"indices": torch.from_numpy(keys[1])}

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._lengths[indices])


def test_batches_by_hand() -> None:
    samples = Fixed([4, 3, 3, 1, 9, 12, 2, 8, 5])
    budget = TokenBudget(samples, 10)
    assert budget.total == 47

    def look_up(positions: np.ndarray) -> Keys:
        return np.zeros_like(positions), positions

    batches = [keys[1].tolist() for keys, _ in budget.divide(look_up, 0, 9, world_size=1)]
    assert batches == [[0, 1, 2], [3, 4], [5], [6, 7], [8]]  # the sample of 12 is a batch of its own
    batches = [keys[1].tolist() for keys, _ in budget.divide(look_up, 0, 9, world_size=2)]
    assert batches == [[0, 1, 2, 3, 4], [5, 6], [7, 8]]
    keys, lengths = np.zeros(5, dtype=np.int64), np.array([4, 3, 3, 1, 9])
    parts = [share_of_rank((keys, np.arange(5)), lengths, rank, 2)[1].tolist() for rank in range(2)]
    assert parts == [[0, 1, 2], [3, 4]]  # the middle of the fourth, at 10.5, lies behind the middle of all
    one = [share_of_rank((keys[:1], np.array([7])), lengths[:1], rank, 2)[1].tolist() for rank in range(2)]
    assert one == [[-1], [7]]


def test_shuffle_and_seed_change_the_order() -> None:
    samples = Fixed([3] * 30)

    def order(**options: Any) -> list[int]:
        return [int(i) for batch in stream(loader(samples, 9, **options), 10) for i in batch["indices"]]

    assert order(shuffle=False) == list(range(30))
    assert sorted(order()) == list(range(30)) != order()
    assert order() != order(seed=1)


def test_what_can_not_be_filled() -> None:
    samples = Fixed([4] * 10)
    with pytest.raises(
        InputError, match=r"\(50 tokens on each of 1 ranks\), but this one has 40 tokens; use `data.batch_tokens=40`"
    ):
        len(loader(samples, 50))
    with pytest.raises(InputError, match=r"`data.batch_tokens` must be positive, but is 0"):
        loader(samples, 0)

    class Untold(Fixed):
        lengths = SampleSource.lengths

    with pytest.raises(InputError, match=r"needs samples whose lengths are known, but those of `Untold` are not"):
        len(loader(Untold([1] * 9), 3))
