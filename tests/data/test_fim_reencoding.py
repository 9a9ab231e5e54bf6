"""Pieces by re-encoding around the cuts are those that one gets by encoding each piece from scratch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lmmodules.data import ByteLevelBPE, Corpus, Tokenizer
from lmmodules.data.fim_reencoding import Cuts, Reencoder
from lmmodules.data.fim_spans import CharacterSpans, LineSpans
from lmmodules.data.fim_spelling import Spelling, byte_alphabet
from lmmodules.errors import InputError

NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
CLASSES = [
    *["abcxyz", "ABC", "0123456789", "_", ".,;:()[]{}<>=+-*/!?'\"#@\\|~`^%&$", " ", " ", "\n", "\t", "\r\n"],
    *["    ", "\n\n", " \n ", "'s", "'ll", " don't", "</s>", "<fim_prefix>", "return ", "def f(x):\n    ", "foo bar"],
    *["\u4f60\u597d\u4e16\u754c", "\u3053\u3093\u306b\u3061\u306f", "\ud55c\uad6d\uc5b4"],
    *["\U0001f642", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44b\U0001f3fd", "\U0001f1e9\U0001f1ea"],
    *["e\u0301", "a\u0308\u0323", "\u00e9\u00df\u00f8", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627"],
    *[
        "\u00a0",
        "\u3000",
        "\u2028",
        "\u200b",
        "\ufeff",
        "\x00",
        "\x1c",
        "\x7f",
        "\x85",
        "\uffff",
        "\U0010ffff",
        "\ufffd",
    ],
    *["\u0660\u0661", "\u00bd\u2167", "\u0130\u0131\u1e9e", "\u01c5"],
]


def nasty(generator: np.random.Generator, longest: int = 40) -> str:
    """Text of all kinds, with runs of one kind."""
    parts = []
    for _ in range(int(generator.integers(0, longest))):
        kind = CLASSES[int(generator.integers(len(CLASSES)))]
        whole = len(kind) < 4 or generator.random() < 0.5
        parts.append(kind if whole else kind[int(generator.integers(len(kind)))])
        if generator.random() < 0.1:
            parts.append(parts[-1] * int(generator.integers(1, 6)))
    return "".join(parts)


class Texts(Corpus):
    """Nasty texts, each of them often enough for merges of all kinds."""

    def documents(self) -> Iterator[str]:
        generator = np.random.default_rng(12)
        for _ in range(600):
            yield nasty(generator)

    def fingerprint(self) -> str:
        return "nasty"

    def describe(self) -> str:
        return "nasty texts"


# That of GPT-4's tokenizer, as a published expression: it keeps line breaks with punctuation and a sign with a word.
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(pre_tokenizer: pre_tokenizers.PreTokenizer, vocab_size: int = 1200) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],  # not in the texts: without pre-tokens, merges could spell it
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(Texts().documents(), trainer)
    return Tokenizer(backend, {"eos": "<|endoftext|>"})


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return ByteLevelBPE(1200, special_tokens=NAMES).train(Texts())


@pytest.fixture(scope="module")
def gpt4() -> Tokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(GPT4), "isolated")
    return train(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))


@pytest.fixture(scope="module")
def undivided() -> Tokenizer:
    """Merges run across words: a text can not be taken apart anywhere."""
    return train(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


def check_pieces(tokenizer: Tokenizer, kind: type, num_texts: int, seed: int) -> int:
    """Cut texts twice in one batch, compare with encoding each piece, and count the cuts within a token."""
    generator = np.random.default_rng(seed)
    spelling = Spelling(tokenizer)
    texts = [text for text in (nasty(generator) for _ in range(num_texts)) if text]
    encoded = tokenizer.encode_batch(texts)
    tokens = np.concatenate([[*ids, tokenizer.eos_id] for ids in encoded]).astype(np.int64)
    stops = np.cumsum([len(ids) + 1 for ids in encoded]) - 1
    starts = stops - [len(ids) for ids in encoded]
    places, offsets = kind(spelling).cuts(tokens, starts, stops, generator.random((len(texts), 2)))
    whole = generator.random((2, len(texts))) < 0.5  # to encode the ends again changes nothing either
    cuts = Cuts(
        np.concatenate([starts[:, None], places, stops[:, None]], axis=1),
        np.pad(offsets, ((0, 0), (1, 1))),
        begins_whole=whole[0],
        ends_whole=whole[1],
    )
    for text, pieces in zip(texts, Reencoder(tokenizer, spelling).pieces(tokens, cuts), strict=True):
        spelt = [spelling.text(piece) for piece in pieces]
        assert b"".join(spelt) == text.encode()
        assert [piece.tolist() for piece in pieces] == tokenizer.encode_batch([part.decode() for part in spelt]), text
    return int((offsets > 0).sum())


def test_pieces_are_those_of_encoding_from_scratch(ours: Tokenizer) -> None:
    assert check_pieces(ours, CharacterSpans, 3000, seed=0) > 1000
    check_pieces(ours, LineSpans, 500, seed=1)


def test_pieces_are_those_of_encoding_from_scratch_where_line_breaks_stay_with_punctuation(gpt4: Tokenizer) -> None:
    assert check_pieces(gpt4, CharacterSpans, 2000, seed=2) > 500
    assert len(Spelling(gpt4).safe_borders(np.array(gpt4.encode("one two\nthree;\nfour ]) x")))) == 5 - 1


def test_where_nothing_can_be_taken_apart_pieces_are_encoded_whole(undivided: Tokenizer) -> None:
    assert not len(Spelling(undivided).safe_borders(np.array(undivided.encode("foo bar foo bar\nfoo"))))
    check_pieces(undivided, CharacterSpans, 500, seed=3)


def test_added_words_make_no_borders(ours: Tokenizer) -> None:
    backend = tokenizers.Tokenizer.from_str(ours.backend.to_str())
    backend.add_tokens(["c foo", "bar d"])
    check_pieces(Tokenizer(backend), CharacterSpans, 300, seed=4)


def test_only_what_stands_around_the_cuts_is_encoded(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "some words = of (code, that) goes on\n    and on # with remarks\n" * 50
    tokens = np.array(ours.encode(text), dtype=np.int64)
    calls: list[list[str]] = []
    encode_batch = Tokenizer.encode_batch
    spelling = Spelling(ours)

    def spy(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
        calls.append(texts)
        return encode_batch(tokenizer, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", spy)
    places = np.array([[0, 400, 900, len(tokens)]] * 3)
    always = np.ones(3, dtype=bool)
    Reencoder(ours, spelling).pieces(tokens, Cuts(places, np.zeros_like(places), always, always))
    assert len(calls) == 1, "one call for the whole batch"
    assert max(map(len, calls[0])) < 30
    assert sum(map(len, calls[0])) < 3 * 100 < len(text)


def test_what_tokens_spell(ours: Tokenizer) -> None:
    spelling = Spelling(ours)
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert not any(spelling.token_bytes[token] for token in ours.special_ids)
    for text in ("e\u0301", "\U0001f642 x", "\n"):
        tokens = np.array(ours.encode(text))
        assert spelling.text(tokens).decode() == text


def test_whole_characters_between_halves() -> None:
    bytewise = ByteLevelBPE(264, special_tokens=NAMES).train(Texts())
    spelling = Spelling(bytewise)
    for text, start, stop, expected in (
        ("a\u4f60b", 0, 5, (0, 5)),
        ("a\u4f60b", 2, 5, (2, 3)),  # two bytes are left of three
        ("a\u4f60b", 0, 3, (0, 1)),
        ("a\u4f60b", 2, 4, (0, 0)),  # within one character
        ("\U0001f642", 0, 3, (0, 0)),
        ("\u4f60\U0001f642", 1, 7, (2, 6)),
        ("\u00e9\u00e9", 0, 3, (0, 2)),
    ):
        tokens = np.array(bytewise.encode(text))[start:stop]
        first, last = spelling.whole_characters(tokens)
        assert (first, last) == expected or (expected == (0, 0) and first == last), (text, start, stop)
        spelling.text(tokens[first:last]).decode()


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(lambda: train(pre_tokenizers.ByteLevel(add_prefix_space=True)).backend, id="prefix space"),
        pytest.param(lambda: lowercase(), id="lower case"),
        pytest.param(lambda: word_piece(), id="WordPiece"),
    ],
)
def test_a_tokenizer_that_changes_text_is_refused(backend) -> None:
    with pytest.raises(InputError, match=r"use `tokenizer=fim` or `transform\.span=token`"):
        Spelling(Tokenizer(backend()))


def lowercase() -> tokenizers.Tokenizer:
    backend = train(pre_tokenizers.ByteLevel(add_prefix_space=False)).backend
    backend.normalizer = normalizers.Replace("\t", " ")
    return backend


def word_piece() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "x": 1, "##x": 2, "</s>": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend
