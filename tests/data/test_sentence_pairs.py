from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lmmodules.data import (
    CorpusDataModule,
    Masking,
    NextToken,
    PairPacking,
    SampleKeys,
    Samples,
    SegmentPairs,
    SentencePairs,
    Tokenizer,
    TokenStore,
    WordPiece,
)
from lmmodules.data import sentence_pairs as module
from lmmodules.data.segment_spans import PairWindows
from lmmodules.data.sentences import Sentences
from lmmodules.errors import InputError

LENGTH = 40  # of a block; the budget is two less
BUDGET = LENGTH - 2


@pytest.fixture
def store(store_of: Callable, tokenizer: Tokenizer) -> TokenStore:
    """300 documents of one to twelve lines with one to twenty tokens."""
    generator = np.random.default_rng(0)
    (newline,) = tokenizer.encode("\n")
    ordinary = np.setdiff1d(np.arange(20, 290), np.flatnonzero(tokenizer.line_ends))
    return store_of(
        [
            [
                token
                for size in generator.integers(1, 21, generator.integers(1, 13))
                for token in [*generator.choice(ordinary, size), newline]
            ]
            for _ in range(300)
        ]
    )


def pairs_of(packing: PairPacking, store: TokenStore, tokenizer: Tokenizer, **options: Any) -> PairWindows:
    windows = packing.windows(store, tokenizer, **{"length": LENGTH, "stride": LENGTH, **options})
    assert isinstance(windows, PairWindows)
    return windows


def documents_of(store: TokenStore, places: np.ndarray) -> np.ndarray:
    return np.searchsorted(store.offsets, places, side="right") - 1


def bert(sentences: Sentences, budget: int, target: int, *, single: bool) -> list[tuple[list[int], list[int], bool]]:
    """The released loop over one copy of the corpus, sentence by sentence, with our draws; A and B by sentences.

    With `single`, a segment is one sentence: chunks have two, and a random B one.
    """
    sizes = sentences.ends - sentences.starts
    draws = SampleKeys(0, np.zeros(len(sizes), dtype=np.int64), np.arange(len(sizes))).uniform("sentence_pairs", 4)
    documents = [list(range(a, b)) for a, b in itertools.pairwise(sentences.first)]
    found = []
    for number, document in enumerate(documents):
        chunk: list[int] = []
        i = 0
        while i < len(document):
            chunk.append(document[i])
            full = len(chunk) == 2 if single else sizes[chunk].sum() >= target
            if full or i == len(document) - 1:
                u = draws[chunk[0]]
                a_end = 1 if len(chunk) == 1 else 1 + int(u[0] * (len(chunk) - 1))
                a, b = chunk[:a_end], chunk[a_end:]
                is_random = len(chunk) == 1 or u[1] < 0.5
                if is_random:
                    others = documents[:number] + documents[number + 1 :]
                    other = others[int(u[2] * len(others))]
                    b = []
                    for sentence in other[int(u[3] * len(other)) :]:
                        b.append(sentence)
                        if single or sizes[b].sum() >= target - sizes[a].sum():
                            break
                    i -= len(chunk) - a_end
                found.append((a, b, bool(is_random)))
                chunk = []
            i += 1
    return found


@pytest.mark.parametrize("at_once", [50, 10**6])
@pytest.mark.parametrize("single", [False, True])
def test_the_released_loop_finds_the_same_pairs(
    store: TokenStore, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, single: bool, at_once: int
) -> None:
    monkeypatch.setattr(module, "_SENTENCES_AT_ONCE", at_once)
    sentences = Sentences.of(store, tokenizer)
    pairs = pairs_of(SentencePairs() if single else SegmentPairs(), store, tokenizer).pairs
    expected = bert(sentences, BUDGET, BUDGET, single=single)
    assert len(pairs) == len(expected)
    for row, (a, b, is_random) in enumerate(expected):
        assert pairs.is_random[row] == is_random
        for start, size, segment in (
            (pairs.a_starts[row], pairs.a_sizes[row], a),
            (pairs.b_starts[row], pairs.b_sizes[row], b),
        ):
            assert sentences.starts[segment[0]] <= start < start + size <= sentences.ends[segment[-1]]
        whole = sum(int(sentences.ends[s[-1]] - sentences.starts[s[0]]) for s in (a, b))
        assert pairs.a_sizes[row] + pairs.b_sizes[row] == min(whole, BUDGET)


@pytest.mark.parametrize("packing", [SegmentPairs(), SentencePairs()], ids=["segments", "sentences"])
def test_next_follows_and_random_comes_from_elsewhere(
    store: TokenStore, tokenizer: Tokenizer, packing: PairPacking
) -> None:
    windows = pairs_of(packing, store, tokenizer)
    pairs = windows.pairs
    in_a, in_b = documents_of(store, pairs.a_starts), documents_of(store, pairs.b_starts)
    assert (in_a[pairs.is_random] != in_b[pairs.is_random]).all()
    assert (in_a[~pairs.is_random] == in_b[~pairs.is_random]).all()
    whole = ~pairs.is_random & (pairs.a_sizes + pairs.b_sizes < BUDGET)  # nothing was dropped
    assert whole.any()
    assert (pairs.a_starts + pairs.a_sizes == pairs.b_starts)[whole].all()
    assert (pairs.a_starts + pairs.a_sizes <= pairs.b_starts)[~pairs.is_random].all()
    assert pairs.a_sizes.min() >= 1
    assert pairs.b_sizes.min() >= 1
    assert windows.sizes(np.arange(len(windows))).max() <= LENGTH
    assert pairs.is_random.mean() > 0.5
    # Every document but its own is drawn.
    assert len(set(in_b[pairs.is_random].tolist())) > 150


def test_half_of_the_choices_are_random(store: TokenStore, tokenizer: Tokenizer) -> None:
    pairs = pairs_of(SegmentPairs(num_duplicates=20), store, tokenizer).pairs
    # A chunk of one sentence has no choice: the last of a document, or one as long as a sample (there is none here).
    sentences = Sentences.of(store, tokenizer)
    closing = sentences.ends[sentences.first[1:] - 1]
    begins_last = np.isin(pairs.a_starts, sentences.starts[sentences.first[1:] - 1])
    assert pairs.is_random[begins_last].all()
    free = pairs.is_random[~begins_last & ~np.isin(pairs.a_starts + pairs.a_sizes, closing)]
    assert len(free) > 5000
    assert free.mean() == pytest.approx(0.5, abs=5 * 0.5 / len(free) ** 0.5)


def test_segments_fill_a_sample_and_sentences_do_not(store: TokenStore, tokenizer: Tokenizer) -> None:
    def mean_size(packing: PairPacking) -> float:
        windows = pairs_of(packing, store, tokenizer)
        return float(windows.sizes(np.arange(len(windows))).mean())

    assert mean_size(SegmentPairs()) > 0.85 * LENGTH
    assert mean_size(SentencePairs()) < 0.65 * LENGTH
    assert mean_size(SegmentPairs(short_sequence_probability=1.0)) < 0.75 * LENGTH
    assert len(pairs_of(SegmentPairs(), store, tokenizer)) < len(pairs_of(SentencePairs(), store, tokenizer))


def test_short_pairs_are_drawn_for_whole_documents(store: TokenStore, tokenizer: Tokenizer) -> None:
    packing = SegmentPairs(short_sequence_probability=0.3)
    documents = np.arange(4000)
    targets = packing._targets(documents, 0, 0, BUDGET)
    assert (targets < BUDGET).mean() == pytest.approx(0.3 * (BUDGET - 2) / (BUDGET - 1), abs=0.04)
    assert (targets.min(), targets.max()) == (2, BUDGET)
    assert (targets != packing._targets(documents, 0, 1, BUDGET)).any()
    assert (SegmentPairs()._targets(documents, 0, 0, BUDGET) == BUDGET).all()
    # RoBERTa's pairs are as long as the text allows: a chunk is short only where its document ends.
    sentences = Sentences.of(store, tokenizer)
    pairs = pairs_of(SegmentPairs(next_sentence=False), store, tokenizer).pairs
    short = pairs.a_sizes + pairs.b_sizes < BUDGET
    last = sentences.ends[sentences.first[1:] - 1]
    ends = np.where(pairs.b_sizes > 0, pairs.b_starts + pairs.b_sizes, pairs.a_starts + pairs.a_sizes)
    assert np.isin(ends[short], last).all()


def test_duplicates_and_seeds_divide_the_text_anew(store: TokenStore, tokenizer: Tokenizer) -> None:
    def rows(windows: PairWindows) -> list[tuple[int, int, int, int]]:
        pairs = windows.pairs
        columns = (pairs.a_starts, pairs.a_sizes, pairs.b_starts, pairs.b_sizes)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    once = rows(pairs_of(SegmentPairs(), store, tokenizer))
    assert once == rows(pairs_of(SegmentPairs(), store, tokenizer))
    thrice = rows(pairs_of(SegmentPairs(num_duplicates=3), store, tokenizer))
    assert thrice[: len(once)] == once
    assert len(set(thrice)) > 2.5 * len(once)
    assert len(set(rows(pairs_of(SegmentPairs(), store, tokenizer, seed=1))) & set(once)) < len(once) / 4


def test_without_next_sentence_prediction_b_always_follows(store: TokenStore, tokenizer: Tokenizer) -> None:
    windows = pairs_of(SegmentPairs(next_sentence=False), store, tokenizer, length=200)
    pairs = windows.pairs
    assert not pairs.is_random.any()
    alone = pairs.b_sizes == 0
    assert 0 < alone.mean() < 0.5
    assert (pairs.a_starts + pairs.a_sizes == pairs.b_starts)[(pairs.a_sizes + pairs.b_sizes < 198)].all()
    assert windows.read(store.tokens, np.arange(4), pad_id=1).next_sentence_labels is None
    if not (pairs.a_sizes + pairs.b_sizes == 198).any():  # nothing was dropped: each token is in one segment
        assert pairs.a_sizes.sum() + pairs.b_sizes.sum() == len(store) - 300


def samples_of(store: TokenStore, tokenizer: Tokenizer, packing: PairPacking, **options: Any) -> Samples:
    return Samples(store, tokenizer, packing, Masking(), **{"max_length": LENGTH + 1, **options})


def test_pairs_become_batches(store: TokenStore, tokenizer: Tokenizer) -> None:
    samples = samples_of(store, tokenizer, SegmentPairs(num_token_types=2))
    indices = np.arange(64)
    batch = samples[np.zeros(64, dtype=np.int64), indices]
    ids = np.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    assert isinstance(samples.windows, PairWindows)
    pairs = samples.windows.pairs
    for row in range(64):
        a = store.tokens[pairs.a_starts[row] :][: pairs.a_sizes[row]].tolist()
        b = store.tokens[pairs.b_starts[row] :][: pairs.b_sizes[row]].tolist()
        expected = [0, *a, 2, *b, 2]
        padding = [1] * (LENGTH + 1 - len(expected))
        assert ids[row].tolist() == expected + padding
        types = [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * len(padding)
        assert batch["token_type_ids"][row].tolist() == types
    assert batch["next_sentence_labels"].tolist() == pairs.is_random[:64].astype(int).tolist()
    assert batch["attention_mask"].sum() == samples.lengths(indices).sum()
    assert {0, 1} == set(batch["next_sentence_labels"].tolist())


def test_options_show_in_batches(store: TokenStore, tokenizer: Tokenizer) -> None:
    keys = (np.zeros(8, dtype=np.int64), np.arange(8))
    assert "token_type_ids" not in samples_of(store, tokenizer, SegmentPairs())[keys]
    assert "token_type_ids" not in samples_of(store, tokenizer, SegmentPairs(num_token_types=1))[keys]
    assert "next_sentence_labels" not in samples_of(store, tokenizer, SegmentPairs(next_sentence=False))[keys]
    doubled = samples_of(store, tokenizer, SentencePairs(double_separator=True))
    batch = doubled[keys]
    ids = np.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    assert ((ids == 2).sum(axis=1) == 3).all()
    assert max(doubled.lengths(np.arange(len(doubled)))) <= LENGTH + 1
    fillers = doubled[np.zeros(2, dtype=np.int64), np.array([3, -1])]
    assert fillers["next_sentence_labels"][1] == -100
    assert fillers["next_sentence_labels"][0] != -100


def test_word_pieces_are_paired_by_line(corpus_of: Callable, prose: Callable, tmp_path: Any) -> None:
    data = CorpusDataModule(
        corpus_of(prose(60)),
        WordPiece(90),
        Masking(mask_special_tokens=False),
        SegmentPairs(num_token_types=2),
        max_length=48,
        batch_size=8,
        cache_dir=tmp_path / "cache",
    ).prepare()
    batch = next(iter(data.train_dataloader()))
    assert (batch["input_ids"][:, 0] == data.tokenizer.bos_id).all()
    assert ((batch["input_ids"] == data.tokenizer.eos_id).sum(dim=1) == 2).all()
    assert data.baseline() is not None


def test_an_over_long_sentence_is_cut_and_counted(
    corpus_of: Callable, prose: Callable, tokenizer: Tokenizer, tmp_path: Any
) -> None:
    texts = [*prose(40), "the cat " * 200 + "\nsat on a mat\n"]
    data = CorpusDataModule(
        corpus_of(texts), tokenizer, Masking(), SegmentPairs(), max_length=64, cache_dir=tmp_path, validation_fraction=0
    )
    assert data.describe()["training"].endswith("1 too long and cut")


@pytest.mark.parametrize("packing", [SegmentPairs(), SentencePairs()], ids=["segments", "sentences"])
def test_text_that_can_not_be_paired(store_of: Callable, tokenizer: Tokenizer, packing: PairPacking) -> None:
    one = store_of([tokenizer.encode("the cat\nsat on\na mat\n")])
    with pytest.raises(InputError, match=r"text has only one; separate its documents by blank lines and use"):
        pairs_of(packing, one, tokenizer)
    single = store_of([tokenizer.encode(text) for text in ("the cat\n", "a mat", "\nseven\n")])
    with pytest.raises(InputError, match=r"each of the 3 documents of the store\d+ text has a single one"):
        pairs_of(packing, single, tokenizer)
    with pytest.raises(InputError, match=r"`data.max_length` must leave room .* 3 special tokens, but is 4; .*=5`"):
        pairs_of(packing, one, tokenizer, length=3)
    assert len(pairs_of(type(packing)(next_sentence=False), one, tokenizer, length=4)) > 0


def test_parts_that_do_not_take_pairs(store: TokenStore, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"pairs of sentences for `NextToken`.*use `transform=masking` or"):
        Samples(store, tokenizer, SegmentPairs(), NextToken(), max_length=32)
    with pytest.raises(InputError, match=r"`data.document_mask` must be false with pairs"):
        samples_of(store, tokenizer, SegmentPairs(), document_mask=True)
    with pytest.raises(InputError, match=r"pairs of sentences for `NextToken`"):
        CorpusDataModule(packing=SentencePairs())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_duplicates": 0}, r"`packing.num_duplicates` must be at least 1, but is 0"),
        ({"short_sequence_probability": 1.1}, r"`packing.short_sequence_probability` must be .*, but is 1\.1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SegmentPairs(**options)
