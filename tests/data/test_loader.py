from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lmmodules.batch import IGNORED
from lmmodules.data import Masking, NextToken, ResumableLoader, Samples, StreamPacking, Tokenizer, ValidationLoader
from lmmodules.errors import InputError

NUM_SAMPLES = 37


@pytest.fixture
def samples(store_of: Callable, tokenizer: Tokenizer) -> Samples:
    tokens = np.random.default_rng(0).integers(4, 299, NUM_SAMPLES * 15 - 1).tolist()
    made = Samples(store_of([tokens]), tokenizer, StreamPacking(), Masking(), max_length=16)
    assert len(made) == NUM_SAMPLES
    return made


def rows(batches: list[dict[str, Tensor]]) -> list[list[int]]:
    """Every sample as the list of its inputs and labels."""
    return [
        inputs + labels
        for batch in batches
        for inputs, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
    ]


def stream(loader: ResumableLoader, num_batches: int) -> list[dict[str, Tensor]]:
    """Batches from pass after pass."""
    found: list[dict[str, Tensor]] = []
    while len(found) < num_batches:
        found += itertools.islice(loader, num_batches - len(found))
    return found


def loader(samples: Samples, batch_size: int = 4, **options: int | bool) -> ResumableLoader:
    return ResumableLoader(samples, batch_size=batch_size, **options)  # type: ignore[arg-type]


def test_an_epoch_is_every_sample_once_and_nothing_is_dropped(samples: Samples) -> None:
    made = loader(samples)
    assert len(made) == 9
    seen = rows(stream(made, 37))  # four epochs of 37 samples in batches of 4
    for epoch in range(4):
        part = seen[epoch * NUM_SAMPLES : (epoch + 1) * NUM_SAMPLES]
        everything = np.arange(NUM_SAMPLES)
        assert sorted(part) == sorted(rows([samples[np.full(NUM_SAMPLES, epoch), everything]]))
    assert seen[:NUM_SAMPLES] != seen[NUM_SAMPLES : 2 * NUM_SAMPLES]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batch_sizes_cut_the_same_stream(samples: Samples, batch_size: int) -> None:
    expected = rows(stream(loader(samples), 20))
    assert rows(stream(loader(samples, batch_size), 80 // batch_size)) == expected


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_divide_the_same_stream(samples: Samples, world_size: int) -> None:
    expected = rows(stream(loader(samples, 8), 12))
    ranks = []
    for rank in range(world_size):
        made = loader(samples, 8 // world_size)
        made.set_rank(rank, world_size)
        assert len(made) == 4
        ranks.append(stream(made, 12))
        assert made.samples_seen == 96
    assert rows([batch for step in zip(*ranks, strict=True) for batch in step]) == expected


def test_workers_yield_the_same_stream(samples: Samples) -> None:
    expected = rows(stream(loader(samples), 20))
    assert rows(stream(loader(samples, num_workers=2), 20)) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_goes_on_where_it_was_left(samples: Samples, num_workers: int) -> None:
    expected = rows(stream(loader(samples), 24))
    first = loader(samples, num_workers=num_workers)
    begun = rows(stream(first, 11))  # within the second pass and the second epoch; workers have fetched further
    state = first.state_dict()
    assert state == {"samples_seen": 44, "seed": 0, "num_samples": NUM_SAMPLES}
    second = loader(samples, num_workers=num_workers)
    second.load_state_dict(state)
    assert begun + rows(stream(second, 13)) == expected
    # On two ranks with another batch size.
    ranks = [loader(samples, 13) for _ in range(2)]
    for rank, made in enumerate(ranks):
        made.load_state_dict(state)
        made.set_rank(rank, 2)
    other = rows([batch for step in zip(*(stream(made, 2) for made in ranks), strict=True) for batch in step])
    assert begun + other == expected[:44] + rows(stream(loader(samples, 1), 96))[44:96]


def test_the_position_is_read_with_the_first_batch(samples: Samples) -> None:
    made = loader(samples)
    iterator = iter(made)  # as Lightning does before it restores
    made.load_state_dict({"samples_seen": 20, "seed": 0, "num_samples": NUM_SAMPLES})
    assert rows([next(iterator)]) == rows(stream(loader(samples), 6))[20:24]
    assert made.samples_seen == 24


def test_seeds_and_shuffle_change_the_order(samples: Samples) -> None:
    def texts(**options: int | bool) -> list[list[int]]:
        return rows(stream(loader(samples, **options), 9))

    assert texts() != texts(seed=1)
    in_order = texts(shuffle=False)
    assert in_order == rows([samples[np.zeros(36, dtype=np.int64), np.arange(36)]])


def test_the_global_generator_is_left_alone(samples: Samples) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    stream(loader(samples), 3)
    assert torch.equal(torch.rand(3), expected)


def test_workers_do_not_change_the_environment(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    stream(loader(samples, num_workers=1), 1)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    stream(loader(samples, num_workers=1), 1)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_closing_stops_the_workers_and_not_the_stream(samples: Samples) -> None:
    expected = rows(stream(loader(samples), 6))
    made = loader(samples, num_workers=2)
    begun = rows(stream(made, 4))
    assert len(multiprocessing.active_children()) == 2
    made.close()
    assert not multiprocessing.active_children()
    assert begun + rows(stream(made, 2)) == expected
    made.close()


def test_a_corpus_smaller_than_one_batch(samples: Samples) -> None:
    with pytest.raises(
        InputError, match=r"\(50 samples on each of 1 ranks\), but this one makes 37 samples; use `data.batch_size=37`"
    ):
        next(iter(loader(samples, 50)))
    made = loader(samples, 20)
    made.set_rank(0, 2)
    with pytest.raises(InputError, match=r"use `data.batch_size=18`"):
        len(made)
    made.set_rank(0, 40)
    with pytest.raises(InputError, match=r"use a smaller `data.max_length` or more text"):
        len(made)
    assert len(loader(samples, 37)) == 1


def test_a_state_of_another_stream_is_refused(samples: Samples) -> None:
    made = loader(samples, seed=3)
    state = {"samples_seen": 4, "seed": 3, "num_samples": NUM_SAMPLES}
    with pytest.raises(InputError, match=r"`num_samples` was 36 and is now 37; use the `data` settings"):
        made.load_state_dict({**state, "num_samples": 36})
    with pytest.raises(InputError, match=r"`seed` was 4 and is now 3"):
        made.load_state_dict({**state, "seed": 4})


@pytest.mark.parametrize("kind", [ResumableLoader, ValidationLoader])
def test_options_out_of_range(samples: Samples, kind: type) -> None:
    with pytest.raises(InputError, match=r"`data.batch_size` must be positive, but is 0"):
        kind(samples, batch_size=0)
    with pytest.raises(InputError, match=r"`data.num_workers` must not be negative, but is -1"):
        kind(samples, batch_size=1, num_workers=-1)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "num_workers"), [(4, 1, 0), (4, 1, 2), (8, 2, 0), (5, 4, 0), (50, 1, 0), (30, 3, 0)]
)
def test_validation_counts_every_sample_once_on_any_ranks(
    samples: Samples, batch_size: int, world_size: int, num_workers: int
) -> None:
    everything = np.arange(NUM_SAMPLES)
    expected = rows([samples[np.zeros(NUM_SAMPLES, dtype=np.int64), everything]])
    found = []
    for rank in range(world_size):
        made = ValidationLoader(samples, batch_size=batch_size, num_workers=num_workers)
        made.set_rank(rank, world_size)
        batches = list(made)
        assert len(batches) == len(made) == -(-NUM_SAMPLES // (batch_size * world_size))
        assert all(len(batch["input_ids"]) == batch_size for batch in batches)
        assert rows(batches) == rows(list(made))  # the same every time
        found += rows(batches)
    counted = [row for row in found if any(label != IGNORED for label in row[16:])]
    assert sorted(counted) == sorted(row for row in expected if any(label != IGNORED for label in row[16:]))


def test_validation_begins_with_a_sample_of_the_whole(samples: Samples) -> None:
    made = ValidationLoader(samples, batch_size=37)
    ((_, indices),) = made._keys
    assert sorted(indices.tolist()) == list(range(NUM_SAMPLES))
    assert indices.tolist() != list(range(NUM_SAMPLES))


def test_causal_sums_over_validation_are_exact(store_of: Callable, tokenizer: Tokenizer) -> None:
    store = store_of([list(range(4, 254))])
    samples = Samples(store, tokenizer, StreamPacking(), NextToken(), max_length=16)
    made = ValidationLoader(samples, batch_size=7)
    labels = torch.cat([batch["labels"].flatten() for batch in made])
    assert sorted(labels[labels != IGNORED].tolist()) == sorted(store.tokens[1:].tolist())
