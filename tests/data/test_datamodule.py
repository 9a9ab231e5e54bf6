from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest

from lmmodules.batch import CausalBatch, MaskedBatch, check_batch
from lmmodules.data import (
    ByteLevelBPE,
    CorpusDataModule,
    DocumentPacking,
    Masking,
    NextToken,
    SegmentPairs,
    SentencePacking,
    TextFiles,
    Tokenizer,
    text_corpus,
)
from lmmodules.errors import InputError


@pytest.fixture
def make(tmp_path: Path, corpus_of: Callable, prose: Callable) -> Callable[..., CorpusDataModule]:
    def build(**options: Any) -> CorpusDataModule:
        options = {"corpus": corpus_of(prose(150)), "tokenizer": ByteLevelBPE(300), **options}
        return CorpusDataModule(**{"max_length": 32, "batch_size": 4, "cache_dir": tmp_path / "cache", **options})

    return build


def test_text_becomes_batches(make: Callable) -> None:
    data = make().prepare()
    batch = next(iter(data.train_dataloader()))
    check_batch(batch, data.batch_type, "test")
    assert data.batch_type is CausalBatch
    assert batch["input_ids"].shape == (4, 32)
    assert data.vocab_size == 300
    assert data.num_train_samples == len(data.train_samples) == math.ceil((data.train_tokens - 1) / 32)
    assert next(iter(data.val_dataloader()))["input_ids"].shape == (4, 32)


@pytest.mark.slow
def test_all_defaults_are_the_standard_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_CACHE", str(tmp_path / "cache"))
    data = CorpusDataModule()
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == (16, 256)
    assert data.vocab_size == 4096
    assert data.train_tokens > 2_000_000
    assert 5.5 < data.unigram_entropy() < 7.5
    assert data.describe()["corpus"].startswith("standard library of Python")


def test_three_files_are_enough(tmp_path: Path, prose: Callable) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for number, text in enumerate(prose(3, seed=4)):
        (folder / f"{number}.txt").write_text(text)
    data = CorpusDataModule(
        text_corpus(folder), ByteLevelBPE(270), max_length=16, batch_size=2, cache_dir=tmp_path / "cache"
    )
    assert next(iter(data.train_dataloader()))["input_ids"].shape == (2, 16)
    assert len(list(data.val_dataloader())) >= 1


def test_the_second_time_nothing_is_read(make: Callable, corpus_of: Callable, prose: Callable) -> None:
    first, second = corpus_of(prose(150)), corpus_of(prose(150))
    make(corpus=first).prepare().prepare()
    assert first.times_read == 2  # once for the tokenizer, once for the tokens
    again = make(corpus=second).prepare()
    assert second.times_read == 0
    assert again.vocab_size == 300


def test_a_given_tokenizer_is_used(make: Callable, tokenizer: Tokenizer) -> None:
    data = make(tokenizer=tokenizer)
    assert data.tokenizer is tokenizer
    assert data.prepare().tokenizer is tokenizer
    with pytest.raises(InputError, match=r"the tokenizer is trained by `prepare\(\)`"):
        _ = make().tokenizer


def test_options_reach_the_batches(make: Callable) -> None:
    assert make(transform=Masking()).batch_type is MaskedBatch
    masked = next(iter(make(transform=Masking()).train_dataloader()))
    assert (masked["input_ids"][:, 0] == 0).all() or (masked["labels"][:, 0] == 0).any()
    assert "document_ids" in next(iter(make(document_mask=True).train_dataloader()))
    assert "document_ids" not in next(iter(make().train_dataloader()))
    assert "attention_mask" in next(iter(make(packing=DocumentPacking()).train_dataloader()))
    in_order = next(iter(make(shuffle=False).train_dataloader()))["input_ids"]
    assert in_order.flatten().tolist() == make().train_samples.store.tokens[:128].tolist()
    first, other = (next(iter(make(seed=seed).train_dataloader()))["input_ids"] for seed in (0, 1))
    assert first.tolist() != other.tolist()
    assert next(iter(make(max_length=8, batch_size=3).train_dataloader()))["labels"].shape == (3, 8)
    assert make(pin_memory=True).train_dataloader()._batches.pin_memory
    assert make(num_workers=2).train_dataloader()._batches.num_workers == 2


def test_validation_does_not_depend_on_the_seed(make: Callable) -> None:
    first, second = (make(seed=seed, transform=Masking()) for seed in (0, 1))
    for a, b in zip(first.val_dataloader(), second.val_dataloader(), strict=True):
        assert all((a[key] == b[key]).all() for key in a)


def test_a_separate_validation_corpus(make: Callable, corpus_of: Callable) -> None:
    data = make(validation_corpus=corpus_of(["the cat sat on a mat"])).prepare()
    assert data.tokenizer.decode(data.validation_document(100)) == "the cat sat on a mat"
    assert data.train_samples.store.header.num_documents == 150


def test_unigram_entropy_is_that_of_the_validation_tokens(make: Callable, corpus_of: Callable) -> None:
    data = make(validation_corpus=corpus_of(["aaaa " * 3]), tokenizer=ByteLevelBPE(261)).prepare()
    counts = np.array([12, 3, 1])  # letters, spaces, </s>
    expected = -(counts / 16 * np.log(counts / 16)).sum()
    assert data.unigram_entropy() == pytest.approx(expected, abs=1e-12)


def test_a_document_to_continue(make: Callable, corpus_of: Callable) -> None:
    texts = corpus_of(["seven dogs", "the cat sat on a mat while seven dogs ran over green hills"])
    data = make(validation_corpus=texts).prepare()
    tokens = data.tokenizer.encode(texts.texts[1])
    assert data.validation_document(6) == tokens[:6]
    assert data.validation_document(1000) == tokens


def test_nothing_or_everything_held_out(make: Callable) -> None:
    none = make(validation_fraction=0.0).prepare()
    assert none.val_dataloader() == []
    with pytest.raises(InputError, match=r"needs held-out text, but `data.validation_fraction` is 0"):
        none.unigram_entropy()
    every = make(validation_fraction=1.0).prepare()
    assert every.unigram_entropy() > 0
    assert list(every.describe()) == ["corpus", "vocabulary", "validation"]
    with pytest.raises(InputError, match=r"training needs text, but `data.validation_fraction` is 1"):
        every.train_dataloader()


def test_describe_is_short_and_tells_what_was_left_out(tmp_path: Path, make: Callable, prose: Callable) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("\n".join(prose(60)))
    (tmp_path / "text" / "b.bin").write_bytes(b"\xff")
    corpus = TextFiles(tmp_path / "text")
    facts = make(corpus=corpus, packing=DocumentPacking()).prepare().describe()
    assert facts["corpus"] == f"{tmp_path / 'text'} (2 files)"
    assert facts["vocabulary"] == "300 tokens"
    assert facts["training"].endswith("1 too long and cut")
    assert facts["note"].startswith("left out 1 file that is not UTF-8 text: b.bin; too few documents")
    assert "cut" not in make(corpus=corpus).prepare().describe()["training"]


def test_what_was_left_out_is_said_once(tmp_path: Path, make: Callable, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("the cat " * 500)
    (tmp_path / "text" / "b.bin").write_bytes(b"\xff")
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            make(corpus=TextFiles(tmp_path / "text"), tokenizer=ByteLevelBPE(261)).prepare()
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "left out 1 file that is not UTF-8 text: b.bin"
    ]


def test_sentences_are_packed(make: Callable) -> None:
    data = make(packing=SentencePacking(), transform=Masking(), max_length=64).prepare()
    batch = next(iter(data.train_dataloader()))
    lengths = batch["attention_mask"].sum(dim=1)
    last = [int(row[length - 1]) for row, length in zip(batch["input_ids"], lengths, strict=True)]
    labels = [int(row[length - 1]) for row, length in zip(batch["labels"], lengths, strict=True)]
    for token, label in zip(last, labels, strict=True):
        original = token if label == -100 else label
        assert original == data.tokenizer.eos_id or data.tokenizer.line_ends[original]


def test_what_the_transform_lacks_is_said_before_anything_is_written(make: Callable, tmp_path: Path) -> None:
    import tokenizers

    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {"<|endoftext|>": 0, **{byte: 1 + place for place, byte in enumerate(sorted(alphabet))}}, []
        )
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    data = make(tokenizer=Tokenizer(backend), transform=Masking())
    with pytest.raises(InputError, match="needs a tokenizer with a `mask` token"):
        data.prepare()
    assert not (tmp_path / "cache").exists()
    assert make(tokenizer=Tokenizer(backend), transform=NextToken()).prepare().vocab_size == 257


def test_bad_input(make: Callable, corpus_of: Callable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`data.max_length` must be a whole number, at least 2, but is 1"):
        make(max_length=1)
    with pytest.raises(InputError, match=r"`data.validation_fraction` must be between 0 and 1, but is 1\.5"):
        make(validation_fraction=1.5)
    with pytest.raises(InputError, match=r"a corpus must fill at least one batch \(10000 samples"):
        make(batch_size=10000).train_dataloader()
    with pytest.raises(InputError, match=r"`tokenizer.vocab_size` must be at most"):
        make(tokenizer=ByteLevelBPE(60000)).prepare()
    with pytest.raises(InputError, match="must hold text, but texts in memory has none"):
        make(corpus=corpus_of([]), tokenizer=ByteLevelBPE(261)).prepare()
    made = {path.suffix for path in (tmp_path / "cache" / "tokenizers").iterdir() if "partial" in path.name}
    assert not made


class Strategy:
    distributed_sampler_kwargs = {"num_replicas": 2, "rank": 1}  # noqa: RUF012


def test_the_strategy_says_who_sees_what(make: Callable) -> None:
    class Trainer:
        strategy = Strategy()
        global_step = 0

    data = make()
    data.trainer = Trainer()  # type: ignore[assignment]
    data.setup("fit")
    whole = make(batch_size=8).train_dataloader()
    ours = next(iter(data.train_dataloader()))["input_ids"]
    assert ours.tolist() == next(iter(whole))["input_ids"][4:].tolist()
    assert (data.val_dataloader()._keys.rank, data.val_dataloader()._keys.world_size) == (1, 2)


def test_it_is_a_lightning_data_module(make: Callable) -> None:
    assert isinstance(make(), L.LightningDataModule)


def test_batches_are_filled_by_tokens(make: Callable) -> None:
    data = make(packing=DocumentPacking(), transform=Masking(), max_length=64, batch_tokens=256)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader)
        tokens = [int(batch["attention_mask"].sum()) if "attention_mask" in batch else 256 for batch in batches]
        assert all(256 - 64 < count <= 256 for count in tokens[:-1])
        assert len({batch["input_ids"].shape for batch in batches}) > 1
    fixed = make(packing=DocumentPacking(), transform=Masking(), max_length=64)
    assert {batch["input_ids"].shape for batch in fixed.train_dataloader()} == {(4, 64)}
    with pytest.raises(InputError, match=r"`data.batch_tokens` must be a whole number, at least 64, but is 63"):
        make(max_length=64, batch_tokens=63)


def test_pairs_do_not_depend_on_the_seed_in_validation(make: Callable) -> None:
    first, second = (make(seed=seed, transform=Masking(), packing=SegmentPairs(), max_length=64) for seed in (0, 1))
    for a, b in zip(first.val_dataloader(), second.val_dataloader(), strict=True):
        assert all((a[key] == b[key]).all() for key in a)
    train = [data.train_samples[np.zeros(4, dtype=np.int64), np.arange(4)] for data in (first, second)]
    assert (train[0]["input_ids"] != train[1]["input_ids"]).any()
