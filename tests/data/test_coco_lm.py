"""What ELECTRA and COCO-LM need of data: masks, draws, and a piece of the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from lmmodules.batch import IGNORED, CorrectionBatch, DetectionBatch, MaskedBatch, check_batch, provides
from lmmodules.data import (
    Blocks,
    CorpusDataModule,
    CorrectionViews,
    DetectionMasking,
    SampleKeys,
    Tokenizer,
    Transform,
)
from lmmodules.errors import InputError

MASK = 299


def keys_of(number: int, epoch: int = 0, seed: int = 0) -> SampleKeys:
    return SampleKeys(seed, np.full(number, epoch), np.arange(number))


def tokens_of(length: int, number: int) -> np.ndarray:
    return np.random.default_rng(length).integers(4, MASK, (number, length)).astype(np.uint16)


def batch_of(tokenizer: Tokenizer, transform: Transform, tokens: np.ndarray, **options: Any) -> dict[str, torch.Tensor]:
    keys = keys_of(len(tokens), **{name: options.pop(name) for name in ("epoch", "seed") if name in options})
    batch = transform.bind(tokenizer)(Blocks(tokens, **options), keys)
    check_batch(batch, transform.batch_type, "test")
    return batch


def test_the_contracts() -> None:
    assert DetectionMasking.batch_type is DetectionBatch
    assert CorrectionViews.batch_type is CorrectionBatch
    assert provides(CorrectionBatch, DetectionBatch)
    assert provides(DetectionBatch, MaskedBatch)
    assert not provides(MaskedBatch, DetectionBatch)


class TestDraws:
    def test_they_are_uniform_and_below_one(self, tokenizer: Tokenizer) -> None:
        draws = batch_of(tokenizer, DetectionMasking(), tokens_of(127, 2000))["draws"]
        assert draws.dtype == torch.float32
        assert draws.shape == (2000, 128)
        assert draws.min() >= 0
        assert draws.max() < 1
        counts = torch.histc(draws, 64, 0, 1)
        expected = draws.numel() / 64
        assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * 126**0.5

    @pytest.mark.parametrize("transform", [DetectionMasking(), CorrectionViews()])
    def test_they_belong_to_seed_epoch_and_index(self, tokenizer: Tokenizer, transform: Transform) -> None:
        tokens = tokens_of(31, 20)
        first = batch_of(tokenizer, transform, tokens)["draws"]
        assert torch.equal(first, batch_of(tokenizer, transform, tokens)["draws"])
        bound, keys = transform.bind(tokenizer), SampleKeys(0, np.zeros(2, dtype=int), np.array([7, 3]))
        assert torch.equal(bound(Blocks(tokens[[7, 3]]), keys)["draws"], first[[7, 3]])
        for other in ({"epoch": 1}, {"seed": 1}):
            assert not torch.isclose(first, batch_of(tokenizer, transform, tokens, **other)["draws"]).any(1).all()

    def test_they_do_not_follow_the_masks(self, tokenizer: Tokenizer) -> None:
        batch = batch_of(tokenizer, DetectionMasking(), tokens_of(127, 2000))
        selected = batch["labels"] != IGNORED
        assert batch["draws"][selected].mean().item() == pytest.approx(
            0.5, abs=5 * (1 / 12 / int(selected.sum())) ** 0.5
        )


class TestDetectionMasking:
    def test_shares(self, tokenizer: Tokenizer) -> None:
        tokens = tokens_of(511, 500)
        tokens[:, -1] = tokenizer.eos_id
        batch = batch_of(tokenizer, DetectionMasking(), tokens)
        selected = batch["labels"] != IGNORED
        assert not selected[:, [0, -1]].any()
        assert set(selected.sum(1).tolist()) == {76, 77}  # 0.15 * 510 = 76.5
        hidden = (batch["input_ids"] == MASK)[selected]
        assert hidden.double().mean().item() == pytest.approx(0.85, abs=0.01)
        assert torch.equal(batch["input_ids"][selected][~hidden], batch["labels"][selected][~hidden])

    @pytest.mark.parametrize(
        ("option", "measure"),
        [
            ({"mask_probability": 0.25}, lambda ids, labels: (labels != IGNORED).double().mean()),
            ({"keep_probability": 0.0}, lambda ids, labels: (ids == MASK).double().mean()),
            ({"mask_special_tokens": True}, lambda ids, labels: (labels[:, 0] != IGNORED).double().mean()),
            (
                {"whole_word": True},
                lambda ids, labels: ((labels[:, 1:] != IGNORED) & (labels[:, :-1] != IGNORED)).sum(),
            ),
        ],
    )
    def test_every_option_changes_a_number(
        self, tokenizer: Tokenizer, option: dict[str, Any], measure: Callable[..., torch.Tensor]
    ) -> None:
        text = "zebra quagga okapi " * 40
        tokens = np.array([tokenizer.encode(text)[:100]] * 100, dtype=np.uint16)
        before, after = (
            batch_of(tokenizer, DetectionMasking(**options), tokens) for options in ({}, option)
        )  # fmt: skip
        values = [measure(batch["input_ids"], batch["labels"]).item() for batch in (before, after)]
        assert abs(values[0] - values[1]) > 0.01

    def test_segments_of_pairs_are_passed_on(self, tokenizer: Tokenizer) -> None:
        segments = np.tile((np.arange(20) >= 9).astype(np.int64), (3, 1))
        batch = batch_of(tokenizer, DetectionMasking(), tokens_of(20, 3), token_type_ids=segments)
        assert batch["token_type_ids"].tolist() == [[0, *row] for row in segments.tolist()]
        assert DetectionMasking.takes_pairs
        assert not CorrectionViews.takes_pairs  # a crop would not say which segment it is of

    def test_lengths_and_wrong_input(self) -> None:
        assert DetectionMasking().block_length(128) == DetectionMasking().stride(128) == 127
        with pytest.raises(InputError, match="`mask_probability` must be above 0"):
            DetectionMasking(mask_probability=0)


class TestMasks:
    def test_all_of_the_selection_is_hidden_and_never_the_start(self, tokenizer: Tokenizer) -> None:
        tokens = tokens_of(511, 3000)
        batch = batch_of(tokenizer, CorrectionViews(), tokens)
        selected = batch["labels"] != IGNORED
        assert (batch["input_ids"][:, 0] == tokenizer.bos_id).all()
        assert not selected[:, 0].any()
        assert torch.equal(batch["input_ids"] == MASK, selected)
        original = torch.from_numpy(tokens.astype(np.int64))
        assert torch.equal(batch["labels"][selected], original[selected[:, 1:]])
        assert torch.equal(batch["input_ids"][:, 1:][~selected[:, 1:]], original[~selected[:, 1:]])
        # 76 or 77 of 512, and one fewer where the start had been drawn.
        assert set(selected.sum(1).tolist()) == {75, 76, 77}
        assert selected.sum(1).double().mean().item() == pytest.approx(0.15 * 511, abs=0.06)

    def test_the_start_can_be_masked_too(self, tokenizer: Tokenizer) -> None:
        batch = batch_of(tokenizer, CorrectionViews(mask_start=True), tokens_of(511, 1000))
        selected = batch["labels"] != IGNORED
        assert selected[:, 0].double().mean().item() == pytest.approx(0.15, abs=0.05)
        assert set(selected.sum(1).tolist()) == {76, 77}
        assert (batch["input_ids"][selected] == MASK).all()

    def test_the_end_token_can_be_masked(self, tokenizer: Tokenizer) -> None:
        tokens = np.full((200, 20), tokenizer.eos_id, dtype=np.uint16)
        assert (batch_of(tokenizer, CorrectionViews(), tokens)["labels"] == tokenizer.eos_id).any()

    def test_more_and_whole_words(self, tokenizer: Tokenizer) -> None:
        tokens = tokens_of(99, 50)
        batch = batch_of(tokenizer, CorrectionViews(mask_probability=0.4), tokens)
        assert (batch["labels"] != IGNORED).sum(1).double().mean().item() == pytest.approx(39.6, abs=0.5)
        words = batch_of(tokenizer, CorrectionViews(whole_word=True), tokens)
        assert not torch.equal(words["labels"], batch_of(tokenizer, CorrectionViews(), tokens)["labels"])


def found_at(crop: np.ndarray, original: np.ndarray) -> list[int]:
    return [s for s in range(len(original) - len(crop) + 1) if (original[s : s + len(crop)] == crop).all()]


class TestCrop:
    @pytest.mark.parametrize(("share", "length", "size"), [(0.9, 511, 459), (0.9, 10, 9), (0.5, 7, 3), (1.0, 12, 12)])
    def test_it_is_a_piece_of_the_original(self, tokenizer: Tokenizer, share: float, length: int, size: int) -> None:
        tokens = tokens_of(length, 20)
        batch = batch_of(tokenizer, CorrectionViews(crop_share=share), tokens)
        crops = batch["crop_ids"].numpy()
        assert crops.shape == (20, 1 + size)
        assert (crops[:, 0] == tokenizer.bos_id).all()
        assert (crops != MASK).all()
        assert all(found_at(crop[1:], original) for crop, original in zip(crops, tokens, strict=True))
        assert {"crop_attention_mask", "crop_document_ids"}.isdisjoint(batch)

    def test_it_starts_anywhere_with_equal_chance(self, tokenizer: Tokenizer) -> None:
        tokens = np.tile(np.arange(4, 24, dtype=np.uint16), (6000, 1))
        starts = batch_of(tokenizer, CorrectionViews(), tokens)["crop_ids"][:, 1] - 4
        counts = torch.bincount(starts)
        assert counts.shape == (3,)  # 18 of 20 tokens: from 0, 1 or 2
        assert (counts - 2000).abs().max() < 5 * (6000 * 2 / 9) ** 0.5

    def test_it_belongs_to_the_sample_and_not_to_its_mask(self, tokenizer: Tokenizer) -> None:
        tokens = np.tile(np.arange(4, 104, dtype=np.uint16), (3000, 1))
        batch = batch_of(tokenizer, CorrectionViews(), tokens)
        assert torch.equal(batch["crop_ids"], batch_of(tokenizer, CorrectionViews(), tokens)["crop_ids"])
        assert not torch.equal(batch["crop_ids"], batch_of(tokenizer, CorrectionViews(), tokens, epoch=1)["crop_ids"])
        starts = batch["crop_ids"][:, 1].double()
        first_masked = (batch["labels"][:, 1:6] != IGNORED).any(1).double()
        assert abs(torch.corrcoef(torch.stack([starts, first_masked]))[0, 1]) < 0.1

    def test_short_samples_are_padded(self, tokenizer: Tokenizer) -> None:
        lengths = np.array([1, 2, 10, 30])
        tokens = tokens_of(30, 4)
        tokens[np.arange(30) >= lengths[:, None]] = tokenizer.pad_id
        batch = batch_of(tokenizer, CorrectionViews(), tokens, lengths=lengths)
        assert batch["crop_attention_mask"].sum(1).tolist() == [2, 2, 10, 28]
        assert batch["crop_ids"].shape == (4, 28)
        for row, crop, mask in zip(tokens, batch["crop_ids"].numpy(), batch["crop_attention_mask"].bool(), strict=True):
            assert (crop[~mask] == tokenizer.pad_id).all()
            assert found_at(crop[mask][1:], row)
            assert tokenizer.pad_id not in crop[mask]

    def test_where_documents_are_masked_it_is_a_piece_of_what_the_start_sees(self, tokenizer: Tokenizer) -> None:
        sizes = np.array([1, 7, 10, 15, 20])  # of the first document; the last row has no other
        sizes = np.tile(sizes, 40)
        tokens = tokens_of(20, len(sizes))
        documents = (np.arange(20) >= sizes[:, None]).astype(np.int64)
        batch = batch_of(tokenizer, CorrectionViews(), tokens, document_ids=documents)
        crops, masks = batch["crop_ids"].numpy(), batch["crop_attention_mask"].numpy()
        assert masks.sum(1).tolist() == [1 + {1: 1, 7: 6, 10: 9, 15: 13, 20: 18}[size] for size in sizes.tolist()]
        starts: dict[int, set[int]] = {}
        for crop, mask, size, original in zip(crops, masks, sizes.tolist(), tokens, strict=True):
            (start,) = found_at(crop[mask == 1][1:], original[:size])
            starts.setdefault(size, set()).add(start)
        assert starts == {1: {0}, 7: {0, 1}, 10: {0, 1}, 15: {0, 1, 2}, 20: {0, 1, 2}}
        assert (batch["crop_document_ids"] == 0).all()

    def test_padding_is_of_no_document(self, tokenizer: Tokenizer) -> None:
        documents = np.zeros((3, 20), dtype=np.int64)
        lengths = np.array([20, 10, 2])
        batch = batch_of(tokenizer, CorrectionViews(), tokens_of(20, 3), document_ids=documents, lengths=lengths)
        assert batch["crop_attention_mask"].sum(1).tolist() == [19, 10, 2]

    def test_a_crop_of_nothing(self) -> None:
        for share in (0.0, -1.0, 1.5):
            with pytest.raises(InputError, match="`crop_share` must be above 0 and at most 1"):
                CorrectionViews(crop_share=share)
        with pytest.raises(InputError, match=r"`crop_share` must leave something of 127 tokens, but is 0\.001"):
            CorrectionViews(crop_share=0.001).block_length(128)
        assert CorrectionViews().block_length(128) == 127


@pytest.mark.parametrize("transform", [DetectionMasking(), CorrectionViews()])
class TestBoth:
    def test_a_sample_that_fills_up_a_batch_is_padding(self, tokenizer: Tokenizer, transform: Transform) -> None:
        batch = batch_of(tokenizer, transform, tokens_of(31, 4))
        assert "attention_mask" not in batch
        transform.bind(tokenizer).ignore(batch, np.array([1, 3]))
        assert batch["attention_mask"].sum(1).tolist() == [32, 0, 32, 0]
        assert (batch["labels"][[1, 3]] == IGNORED).all()
        assert (batch["labels"][[0, 2]] != IGNORED).any()

    def test_binding_leaves_it_as_it_was(self, tokenizer: Tokenizer, transform: Transform) -> None:
        assert transform.bind(tokenizer) is not transform
        masking = transform.masking  # type: ignore[attr-defined]
        assert getattr(masking, "masking", masking)._mask_id == -1

    def test_a_tokenizer_without_a_mask(self, tokenizer: Tokenizer, transform: Transform) -> None:
        without = Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE({"<|endoftext|>": 0, "<s>": 1, "a": 2}, [])))
        with pytest.raises(InputError, match="needs a tokenizer with a"):
            transform.bind(without)

    def test_from_text_to_batches(
        self, transform: Transform, corpus_of: Callable[..., Any], prose: Callable[..., list[str]], tokenizer: Tokenizer
    ) -> None:
        data = CorpusDataModule(
            corpus_of(prose(60)), tokenizer=tokenizer, transform=transform, max_length=32, batch_size=4
        ).prepare()
        assert data.batch_type is transform.batch_type
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        check_batch(batch, transform.batch_type, "test")
        assert batch["input_ids"].shape == batch["draws"].shape == (4, 32)
