from __future__ import annotations

from collections.abc import Callable

import pytest

from lmmodules.data import Tokenizer, WordPiece
from lmmodules.errors import InputError

TEXTS = [
    "Unbelievable! The unbeliever believed (again) in Élan vital.",
    "She believes; he disbelieves. The élan is believable, again and again.",
    "日本 and 日光: believing again, never unbelieving.",
] * 5


@pytest.fixture(scope="module")
def trained(corpus_of: Callable) -> Tokenizer:
    return WordPiece(85).train(corpus_of(TEXTS))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [str(tokenizer.backend.id_to_token(token)) for token in tokenizer.encode(text)]


def test_special_tokens_stand_where_they_are_said_to(trained: Tokenizer) -> None:
    assert [trained.backend.id_to_token(token) for token in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (trained.pad_id, trained.unk_id, trained.bos_id, trained.eos_id, trained.mask_id) == (0, 1, 2, 3, 4)
    assert trained.special_ids.tolist() == [0, 1, 2, 3, 4]
    assert trained.vocab_size == 85
    assert not set(trained.encode("[MASK] [SEP]")) & {3, 4}  # text is only ever text


def test_words_are_cut_and_spelt_as_in_bert(trained: Tokenizer) -> None:
    found = pieces(trained, "The UNBELIEVED Élan,again!")
    joined = " ".join(found).replace(" ##", "")
    assert joined == "the unbelieved elan , again !"
    assert any(piece.startswith("##") for piece in found)
    assert pieces(trained, "日本") == ["日", "本"]
    assert pieces(trained, "again Ω again") == [*pieces(trained, "again"), "[UNK]", *pieces(trained, "again")]
    assert trained.decode(trained.encode("The unbeliever believes")) == "the unbeliever believes"


def test_every_piece_is_a_word_start_or_a_continuation(trained: Tokenizer) -> None:
    for token, token_id in trained.backend.get_vocab().items():
        assert trained.word_starts[token_id] == (not token.startswith("##"))
    # Punctuation and Chinese characters stand alone, so they continue nothing.
    assert not {"##!", "##,", "##日"} & set(trained.backend.get_vocab())


def test_the_same_text_gives_the_same_ids(corpus_of: Callable, trained: Tokenizer) -> None:
    # The library by itself numbers characters as they come out of a hash table, and no two vocabularies are equal.
    for _ in range(4):
        assert WordPiece(85).train(corpus_of(TEXTS)).fingerprint() == trained.fingerprint()


def test_case_and_accents_can_be_kept(corpus_of: Callable, trained: Tokenizer) -> None:
    cased = WordPiece(85, lowercase=False).train(corpus_of(TEXTS))
    assert "".join(pieces(cased, "Élan")).replace("##", "") == "Élan"
    assert "".join(pieces(trained, "Élan")).replace("##", "") == "elan"


def test_rare_characters_can_be_left_out(corpus_of: Callable, trained: Tokenizer) -> None:
    fewer = WordPiece(60, max_characters=20).train(corpus_of(TEXTS))
    single = [token for token in fewer.backend.get_vocab() if len(token) == 1]
    assert len(single) == 20
    assert "[UNK]" in pieces(fewer, "日本")
    assert "[UNK]" not in pieces(trained, "日本")
    assert "[UNK]" not in pieces(fewer, "believe")


def test_further_special_tokens(corpus_of: Callable) -> None:
    trained = WordPiece(85, special_tokens=["[ONE]", "[TWO]"]).train(corpus_of(TEXTS))
    assert [trained.id_of(name) for name in ("[ONE]", "[TWO]")] == [5, 6]
    assert trained.special_ids.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_text_to_learn_from_is_limited(corpus_of: Callable, trained: Tokenizer) -> None:
    texts = [TEXTS[0]] * 20 + ["zzyzx zzyzx"] * 20
    limited = WordPiece(48, max_bytes=500).train(corpus_of(texts))
    assert pieces(limited, "zzyzx") == ["[UNK]"]


def test_recipes_are_told_apart() -> None:
    recipes = [
        WordPiece(),
        WordPiece(91),
        WordPiece(lowercase=False),
        WordPiece(special_tokens=["[A]"]),
        WordPiece(max_characters=5),
        WordPiece(max_bytes=5),
    ]
    assert len({recipe.fingerprint() for recipe in recipes}) == len(recipes)


def test_recipes_that_can_not_be(corpus_of: Callable) -> None:
    with pytest.raises(InputError, match=r"`tokenizer.max_characters` must be positive, but is 0"):
        WordPiece(max_characters=0)
    with pytest.raises(InputError, match=r"`tokenizer.max_bytes` must be positive, but is 0"):
        WordPiece(max_bytes=0)
    with pytest.raises(InputError, match=r"must differ from each other and from \[PAD\]"):
        WordPiece(special_tokens=["[MASK]"])
    with pytest.raises(InputError, match=r"`tokenizer.vocab_size` must be at most \d+, which is what texts in memory"):
        WordPiece(5000).train(corpus_of(TEXTS))
    with pytest.raises(InputError, match=r"`tokenizer.vocab_size` must be at least (\d+) \(5 special") as error:
        WordPiece(20).train(corpus_of(TEXTS))
    least = int(str(error.value).split("`tokenizer.vocab_size=")[1].split("`")[0])
    assert WordPiece(least).train(corpus_of(TEXTS)).vocab_size == least
    with pytest.raises(InputError, match="a corpus must hold text, but texts in memory has none"):
        WordPiece(85).train(corpus_of([]))
