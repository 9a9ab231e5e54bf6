from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lmmodules.data import ByteLevelBPE, Corpus, Tokenizer
from lmmodules.data.fim_spans import CharacterSpans, LineSpans, Spans, TokenSpans
from lmmodules.data.fim_spelling import Spelling

TEXTS = [
    *["a", "ab", "abc def", "\n", "\n\n", "one\ntwo", "one\ntwo\n", "one\r\ntwo\r\n\r\nthree", " \n x"],
    *["\u4f60\u597d", "\U0001f642", "e\u0301a\u0308", "x\u4f60\ny\U0001f642\n", "abab\nabab abab"],
]


class Texts(Corpus):
    def documents(self) -> Iterator[str]:
        for text in TEXTS:
            yield text * 20

    def fingerprint(self) -> str:
        return "texts"

    def describe(self) -> str:
        return "texts"


@pytest.fixture(scope="module", params=[261, 290], ids=["bytes", "merges"])
def tokenizer(request) -> Tokenizer:
    return ByteLevelBPE(request.param).train(Texts())


def prefixes(tokenizer: Tokenizer, spans: Spans, text: str, number: int) -> list[bytes]:
    """The text before the first cut, for draws that fall on each of `number` places in turn."""
    tokens = np.array([tokenizer.eos_id, *tokenizer.encode(text), tokenizer.eos_id])
    draws = (np.arange(number) + 0.5) / number
    ones = np.ones(number, dtype=np.int64)
    both = np.stack([draws, np.full(number, 1 - 1e-9)], axis=1)
    places, offsets = spans.cuts(tokens, ones, ones * (len(tokens) - 1), both)
    spelling = Spelling(tokenizer)
    assert (places[:, 1] == len(tokens) - 1).all(), "the second cut stands at the end"
    assert not offsets[:, 1].any()
    return [
        spelling.text(tokens[1:place]) + spelling.token_bytes[tokens[place]][:offset]
        for place, offset in zip(places[:, 0].tolist(), offsets[:, 0].tolist(), strict=True)
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_every_place_between_characters(tokenizer: Tokenizer, text: str) -> None:
    expected = [text[:place].encode() for place in range(len(text) + 1)]
    assert prefixes(tokenizer, CharacterSpans(Spelling(tokenizer)), text, len(expected)) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_every_place_between_lines(tokenizer: Tokenizer, text: str) -> None:
    lines = [line for line in text.replace("\n", "\n\v").split("\v") if line]
    expected = ["".join(lines[:place]).encode() for place in range(len(lines) + 1)]
    assert prefixes(tokenizer, LineSpans(Spelling(tokenizer)), text, len(expected)) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_every_place_between_tokens(tokenizer: Tokenizer, text: str) -> None:
    spelling, tokens = Spelling(tokenizer), np.array(tokenizer.encode(text))
    expected = [spelling.text(tokens[:place]) for place in range(len(tokens) + 1)]
    assert prefixes(tokenizer, TokenSpans(), text, len(expected)) == expected


def test_two_cuts_are_uniform_and_independent() -> None:
    """Nine characters: ten places, of the 55 pairs the unequal ones twice as likely as the equal ones."""
    draws = np.random.default_rng(0).random((50_000, 2))
    tokens = np.arange(9)
    places, _ = TokenSpans().cuts(tokens, np.zeros(50_000, dtype=int), np.full(50_000, 9), draws)
    assert (places[:, 0] <= places[:, 1]).all()
    counts = np.bincount(places[:, 0] * 10 + places[:, 1], minlength=100).reshape(10, 10)
    expected = np.triu(np.full((10, 10), 2.0), 1) + np.eye(10)
    expected *= 50_000 / 100
    cells = expected > 0
    assert not counts[~cells].any()
    chi_square = ((counts - expected)[cells] ** 2 / expected[cells]).sum()
    assert chi_square < 54 + 4 * (2 * 54) ** 0.5  # 55 cells
    sizes = np.diff(np.pad(places, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 9))), axis=1)
    # The distance of two draws from N places is (N^2 - 1) / 3N on average; a third of the text as N grows.
    assert sizes.mean(axis=0) == pytest.approx([2.85, 3.3, 2.85], rel=0.01)
    assert (sizes[:, 0] == 0).mean() == pytest.approx(1 - 0.9**2, abs=0.006)
    assert (sizes[:, 1] == 0).mean() == pytest.approx(0.1, abs=0.005)
