from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from lmmodules.batch import IGNORED, MaskedBatch, check_batch
from lmmodules.data import BertRounding, Blocks, IndependentSelection, Masking, SampleKeys, Tokenizer, WordPiece
from lmmodules.errors import InputError

MASK = 299
WHITE = tuple(" \t\n\v\f\r")


def corrupt(
    tokenizer: Tokenizer, length: int, number: int = 4000, epochs: int = 0, seed: int = 0, **options: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Original ids with `<s>` in front and `</s>` behind, corrupted ids and labels, all (number, length)."""
    tokens = np.random.default_rng(length).integers(4, MASK, (number, length - 1)).astype(np.uint16)
    tokens[:, -1] = tokenizer.eos_id
    keys = SampleKeys(seed, np.full(number, epochs), np.arange(number))
    batch = Masking(**options).bind(tokenizer)(Blocks(tokens), keys)
    check_batch(batch, MaskedBatch, "test")
    original = np.concatenate([np.zeros((number, 1), dtype=np.int64), tokens], axis=1)
    return original, batch["input_ids"].numpy(), batch["labels"].numpy()


@pytest.mark.parametrize(
    ("length", "counts", "mean"), [(512, {76, 77}, 76.8), (128, {19, 20}, 19.2), (8, {1, 2}, 1.2), (5, {0, 1}, 0.75)]
)
def test_counts_are_rounded_at_random_and_exact_on_average(
    tokenizer: Tokenizer, length: int, counts: set[int], mean: float
) -> None:
    _, _, labels = corrupt(tokenizer, length)
    found = (labels != IGNORED).sum(axis=1)
    assert set(found.tolist()) == counts
    assert found.mean() == pytest.approx(mean, abs=5 * 0.5 / 4000**0.5)


def test_eighty_ten_ten(tokenizer: Tokenizer) -> None:
    original, ids, labels = corrupt(tokenizer, 512)
    selected = labels != IGNORED
    assert selected.sum() > 300_000
    assert (labels[selected] == original[selected]).all()
    assert (ids[~selected] == original[~selected]).all()
    masked = (ids[selected] == MASK).mean()
    kept = (ids[selected] == original[selected]).mean()
    # A random token is the mask, or the original, once in 296 times.
    assert masked == pytest.approx(0.8 + 0.1 / 296, abs=0.004)
    assert kept == pytest.approx(0.1 + 0.1 / 296, abs=0.004)


def test_all_positions_are_equally_likely(tokenizer: Tokenizer) -> None:
    _, _, labels = corrupt(tokenizer, 128)
    rate = (labels != IGNORED).mean(axis=0)
    assert rate == pytest.approx(np.full(128, 0.15), abs=5 * (0.15 * 0.85 / 4000) ** 0.5)


def test_random_tokens_are_uniform_over_all_but_the_first_four(tokenizer: Tokenizer) -> None:
    original, ids, labels = corrupt(tokenizer, 512, random_probability=1.0, keep_probability=0.0)
    drawn = ids[labels != IGNORED]
    assert drawn.min() == 4
    assert drawn.max() == MASK
    counts = np.bincount(drawn, minlength=300)[4:]
    expected = len(drawn) / 296
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 295 - 5 * 590**0.5 < chi_square < 295 + 5 * 590**0.5
    # And independent of what stood there.
    selected = labels != IGNORED
    assert abs(np.corrcoef(original[selected], ids[selected])[0, 1]) < 0.01


@pytest.mark.parametrize(("random", "keep"), [(0.0, 0.0), (0.0, 1.0), (0.3, 0.2)])
def test_probabilities_of_the_change(tokenizer: Tokenizer, random: float, keep: float) -> None:
    original, ids, labels = corrupt(tokenizer, 128, number=1000, random_probability=random, keep_probability=keep)
    selected = labels != IGNORED
    assert (ids[selected] == original[selected]).mean() == pytest.approx(keep + random / 296, abs=0.02)
    assert (ids[selected] == MASK).mean() == pytest.approx(1 - random - keep + random / 296, abs=0.02)


def test_mask_probability(tokenizer: Tokenizer) -> None:
    _, _, labels = corrupt(tokenizer, 100, number=200, mask_probability=0.4)
    assert set((labels != IGNORED).sum(axis=1).tolist()) == {40}
    _, _, labels = corrupt(tokenizer, 100, number=20, mask_probability=1.0)
    assert (labels != IGNORED).all()


def test_special_tokens_can_be_spared(tokenizer: Tokenizer) -> None:
    _, _, labels = corrupt(tokenizer, 128)
    assert (labels[:, [0, -1]] != IGNORED).mean() == pytest.approx(0.15, abs=0.02)
    original, ids, labels = corrupt(tokenizer, 128, mask_special_tokens=False)
    assert (labels[:, [0, -1]] == IGNORED).all()
    assert (ids[:, [0, -1]] == original[:, [0, -1]]).all()
    assert set((labels != IGNORED).sum(axis=1).tolist()) == {18, 19}  # 0.15 * 126 = 18.9


def test_padding_is_never_selected_and_counts_follow_the_length(tokenizer: Tokenizer) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 2000)
    tokens = np.full((2000, 99), 7, dtype=np.uint16)
    tokens[np.arange(99) >= lengths[:, None]] = tokenizer.pad_id
    keys = SampleKeys(0, np.zeros(2000, dtype=np.int64), np.arange(2000))
    batch = Masking().bind(tokenizer)(Blocks(tokens, lengths=lengths), keys)
    selected = (batch["labels"] != IGNORED).numpy()
    inside = np.arange(100) < lengths[:, None] + 1
    assert batch["attention_mask"].numpy().tolist() == inside.astype(int).tolist()
    assert not selected[~inside].any()
    share = 0.15 * (lengths + 1)
    assert (selected.sum(axis=1) >= np.floor(share)).all()
    assert (selected.sum(axis=1) <= np.floor(share) + 1).all()
    assert selected.sum() == pytest.approx(share.sum(), abs=5 * 0.5 * 2000**0.5)


def test_masks_belong_to_seed_epoch_and_index(tokenizer: Tokenizer) -> None:
    first = corrupt(tokenizer, 128, number=300)
    assert all((a == b).all() for a, b in zip(first, corrupt(tokenizer, 128, number=300), strict=True))
    for other in ({"epochs": 1}, {"seed": 1}):
        labels = corrupt(tokenizer, 128, number=300, **other)[2]
        both = ((first[2] != IGNORED) & (labels != IGNORED)).sum()
        assert both / (labels != IGNORED).sum() == pytest.approx(0.15, abs=0.02)
    # Within one batch too, samples of equal tokens are masked differently.
    tokens = np.full((2, 127), 7, dtype=np.uint16)
    labels = Masking().bind(tokenizer)(Blocks(tokens), SampleKeys(0, np.zeros(2, dtype=int), np.arange(2)))["labels"]
    assert not torch.equal(labels[0], labels[1])


def test_static_masks_repeat_and_dynamic_masks_reach_everything(tokenizer: Tokenizer) -> None:
    def seen(num_epochs: int, num_static_masks: int | None) -> float:
        union = np.zeros((40, 256), dtype=bool)
        for epoch in range(num_epochs):
            union |= corrupt(tokenizer, 256, 40, epochs=epoch, num_static_masks=num_static_masks)[2] != IGNORED
        return float(union.mean())

    assert seen(10, None) == pytest.approx(1 - 0.85**10, abs=0.02)
    assert seen(40, None) == pytest.approx(1 - 0.85**40, abs=0.005)
    assert seen(40, 10) == seen(10, 10) == pytest.approx(1 - 0.85**10, abs=0.02)
    assert seen(40, 1) == pytest.approx(0.15, abs=0.005)
    third, thirteenth = (corrupt(tokenizer, 64, 20, epochs=epoch, num_static_masks=10)[1] for epoch in (3, 13))
    assert (third == thirteenth).all()


def words_of(tokenizer: Tokenizer, row: np.ndarray, *, glue: bool) -> np.ndarray:
    """The number of the word of each token, by reading the text; `<s>` and `</s>` are words."""
    numbers, number = [], -1
    after_special = False
    for token in row.tolist():
        special = token in tokenizer.special_ids
        if not numbers or special or tokenizer.decode([token])[:1] in WHITE or (after_special and not glue):
            number += 1
        numbers.append(number)
        after_special = special
    return np.array(numbers)


@pytest.mark.parametrize("mask_special_tokens", [True, False])
def test_whole_words_are_selected_and_share_their_fate(tokenizer: Tokenizer, mask_special_tokens: bool) -> None:
    original, ids, labels = corrupt(
        tokenizer, 128, number=1500, whole_word=True, mask_special_tokens=mask_special_tokens
    )
    selected = labels != IGNORED
    fates = {"masked": 0, "kept": 0, "random": 0}
    for row in range(0, 1500, 3):
        words = words_of(tokenizer, original[row], glue=mask_special_tokens)
        candidates = set(words.tolist())
        if not mask_special_tokens:
            assert not selected[row][np.isin(original[row], tokenizer.special_ids)].any()
            candidates -= set(words[np.isin(original[row], tokenizer.special_ids)].tolist())
        chosen = set(words[selected[row]].tolist())
        assert math.floor(0.15 * len(candidates)) <= len(chosen) <= math.floor(0.15 * len(candidates)) + 1
        for word in chosen:
            inside = words == word
            assert selected[row][inside].all()
            pieces, originals = ids[row][inside], original[row][inside]
            if (pieces == MASK).all():
                fates["masked"] += 1
            elif (pieces == originals).all():
                fates["kept"] += 1
            else:
                fates["random"] += 1
                assert len(pieces) == 1 or len(set(pieces.tolist())) > 1 or len(pieces) < 4
    total = sum(fates.values())
    spread = 5 * (0.16 / total) ** 0.5
    assert fates["masked"] / total == pytest.approx(0.8, abs=spread)
    assert fates["kept"] / total == pytest.approx(0.1, abs=spread)
    assert selected.mean() == pytest.approx(0.15, abs=0.02)


def test_whole_words_and_tokens_are_selected_differently(tokenizer: Tokenizer) -> None:
    tokens = np.array([tokenizer.encode("zebra quagga zebra quagga zebra quagga zebra")], dtype=np.uint16)
    keys = SampleKeys(0, np.zeros(1, dtype=int), np.zeros(1, dtype=int))
    for whole_word in (True, False):
        labels = Masking(mask_probability=0.3, whole_word=whole_word).bind(tokenizer)(Blocks(tokens), keys)["labels"]
        words = words_of(tokenizer, np.concatenate([[0], tokens[0]]), glue=True)
        selected = (labels[0] != IGNORED).numpy()
        partly = [word for word in set(words.tolist()) if 0 < selected[words == word].mean() < 1]
        assert bool(partly) is not whole_word


def test_documents_are_numbered_with_their_prefix(tokenizer: Tokenizer) -> None:
    tokens = np.array([[5, 2, 6, 7]], dtype=np.uint16)
    keys = SampleKeys(0, np.zeros(1, dtype=int), np.zeros(1, dtype=int))
    batch = Masking().bind(tokenizer)(Blocks(tokens, document_ids=np.array([[0, 0, 1, 1]])), keys)
    assert batch["document_ids"].tolist() == [[0, 0, 0, 1, 1]]
    assert Masking().block_length(512) == Masking().stride(512) == 511


def test_binding_leaves_the_transform_as_it_was(tokenizer: Tokenizer) -> None:
    transform = Masking()
    assert transform.bind(tokenizer) is not transform
    assert transform._mask_id == -1


def test_a_tokenizer_without_a_mask() -> None:
    gpt = Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE({"<|endoftext|>": 0, "a": 1}, [])))
    with pytest.raises(InputError, match="needs a tokenizer with a `mask` token"):
        Masking().bind(gpt)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mask_probability": 0.0}, r"`mask_probability` must be above 0 and at most 1, but is 0\.0"),
        ({"mask_probability": 1.5}, r"but is 1\.5"),
        ({"random_probability": -0.1}, r"must not be negative and sum to at most 1, but are -0\.1 and 0\.1"),
        ({"random_probability": 0.6, "keep_probability": 0.6}, r"but are 0\.6 and 0\.6"),
        ({"num_static_masks": 0}, r"`num_static_masks` must be at least 1 .* but is 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Masking(**options)


def test_random_tokens_can_come_from_the_whole_vocabulary(tokenizer: Tokenizer) -> None:
    _, ids, labels = corrupt(tokenizer, 512, random_probability=1.0, keep_probability=0.0, random_special_tokens=True)
    counts = np.bincount(ids[labels != IGNORED], minlength=300)
    expected = counts.sum() / 300
    assert counts[:4] == pytest.approx(np.full(4, expected), abs=5 * expected**0.5)
    assert 299 - 5 * 598**0.5 < ((counts - expected) ** 2 / expected).sum() < 299 + 5 * 598**0.5


@pytest.mark.parametrize("whole_word", [False, True])
def test_rules_of_selection_give_other_numbers(tokenizer: Tokenizer, whole_word: bool) -> None:
    def spread(**options: Any) -> set[int]:
        labels = corrupt(tokenizer, 128, number=400, whole_word=whole_word, mask_special_tokens=False, **options)[2]
        assert (labels[:, [0, -1]] == IGNORED).all()
        # Words are few here, and rounding to the nearest is far from exact on average.
        assert (labels != IGNORED).mean() == pytest.approx(0.15, abs=0.06 if whole_word else 0.01)
        return set((labels != IGNORED).sum(axis=1).tolist())

    bert, independent = spread(selection=BertRounding()), spread(selection=IndependentSelection())
    assert len(independent) > 15
    if not whole_word:
        assert spread() == {18, 19}  # 0.15 * 126 = 18.9
        assert bert == {19}  # 0.15 * 128 = 19.2
    few = corrupt(tokenizer, 128, number=50, whole_word=whole_word, selection=BertRounding(max_predictions=1))[2]
    assert (few != IGNORED).sum() <= 50 * (20 if whole_word else 1)
    if not whole_word:
        assert ((few != IGNORED).sum(axis=1) == 1).all()


def test_rounding_counts_the_tokens_and_not_the_padding(tokenizer: Tokenizer) -> None:
    tokens = np.full((2, 99), 7, dtype=np.uint16)
    keys = SampleKeys(0, np.zeros(2, dtype=np.int64), np.arange(2))
    blocks = Blocks(tokens, lengths=np.array([39, 99]))
    for whole_word in (False, True):
        masking = Masking(selection=BertRounding(), mask_special_tokens=False, whole_word=whole_word).bind(tokenizer)
        labels = masking(blocks, keys)["labels"]
        expected = [1 * 39, 1 * 99] if whole_word else [6, 15]  # 0.15 of 40 and 100; without a space, one word
        assert (labels != IGNORED).sum(dim=1).tolist() == expected


def test_whole_words_of_word_pieces_share_their_fate(corpus_of: Callable) -> None:
    texts = ["unbelievable believers never believed unbelievers", "disbelieving believable neverland"] * 30
    pieces = WordPiece(50).train(corpus_of(texts))
    ids = pieces.encode(" ".join(texts))[:100]
    tokens = np.array([ids] * 2000, dtype=np.uint16)
    keys = SampleKeys(0, np.zeros(2000, dtype=np.int64), np.arange(2000))
    batch = Masking(whole_word=True, mask_special_tokens=False).bind(pieces)(Blocks(tokens), keys)
    selected, inputs = (batch["labels"] != IGNORED).numpy(), batch["input_ids"].numpy()
    spelt = [str(pieces.backend.id_to_token(token)) for token in ids]
    words = np.cumsum([True, *(not piece.startswith("##") for piece in spelt)]) - 1
    assert 0 < sum(piece.startswith("##") for piece in spelt) < 80
    original = np.array([pieces.bos_id, *ids])
    masked = kept = several = total = 0
    for word in range(1, words.max() + 1):
        inside = words == word
        assert (selected[:, inside].all(axis=1) == selected[:, inside].any(axis=1)).all()
        rows = inputs[selected[:, inside][:, 0]][:, inside]
        total += len(rows)
        all_masked = (rows == pieces.mask_id).all(axis=1)
        all_kept = (rows == original[inside]).all(axis=1)
        masked, kept = masked + all_masked.sum(), kept + all_kept.sum()
        others = rows[~all_masked & ~all_kept]
        several += len(others)
        if inside.sum() > 4:
            assert ((others != original[inside]) & (others != pieces.mask_id)).sum() > 0.9 * others.size
    assert masked / total == pytest.approx(0.8, abs=0.02)
    assert kept / total == pytest.approx(0.1, abs=0.02)
    assert several / total == pytest.approx(0.1, abs=0.02)
    words_per_row = words.max() * 0.15
    assert total / 2000 == pytest.approx(words_per_row, abs=0.1)


def test_segments_and_labels_are_passed_on(tokenizer: Tokenizer) -> None:
    tokens = np.array([[5, 2, 6, 2]], dtype=np.uint16)
    keys = SampleKeys(0, np.zeros(1, dtype=int), np.zeros(1, dtype=int))
    blocks = Blocks(tokens, token_type_ids=np.array([[0, 0, 1, 1]]), next_sentence_labels=np.array([1]))
    batch = Masking().bind(tokenizer)(blocks, keys)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    assert batch["next_sentence_labels"].tolist() == [1]
    check_batch(batch, MaskedBatch, "test")
    Masking().ignore(batch, np.array([0]))
    assert batch["next_sentence_labels"].tolist() == [IGNORED]
