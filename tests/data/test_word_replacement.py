"""What words are replaced by, how many, and that draws decide alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lmmodules.data.inflection import Inflection, with_s
from lmmodules.data.parts_of_speech import MostFrequentSense, Spacy
from lmmodules.data.word_replacement import ContentWord, Thesaurus, WordReplacement
from lmmodules.data.wordnet import WordNet
from lmmodules.errors import InputError

DOG, HOT, CHILD, RAN = (
    ContentWord("dog", "noun"),
    ContentWord("hot", "adj"),
    ContentWord("children", "noun"),
    ContentWord("ran", "verb"),
)


@pytest.fixture(scope="module")
def thesaurus(tiny_wordnet: Path) -> Thesaurus:
    return Thesaurus(WordNet(tiny_wordnet))


@pytest.mark.parametrize(
    ("word", "kind", "expected"),
    [
        (DOG, "synonym", ("domestic dog", "hound")),
        (DOG, "hypernym", ("animal", "beast")),
        (DOG, "inflection", ("dogs",)),
        (DOG, "antonym", ()),
        (HOT, "antonym", ("cold",)),
        (ContentWord("warm", "adj"), "antonym", ("cold",)),  # the opposite of a co-synonym
        (HOT, "hypernym", ()),
        (HOT, "inflection", ("hotter",)),
        (CHILD, "synonym", ("kid",)),
        (CHILD, "inflection", ("child",)),
        (RAN, "inflection", ("run", "running", "runs")),
        (RAN, "hypernym", ("go", "move")),
        (DOG, "random", ("cat", "dog")),
    ],
)
def test_replacements(thesaurus: Thesaurus, word: ContentWord, kind: Any, expected: tuple[str, ...]) -> None:
    assert thesaurus.replacements(word, kind) == expected


def test_regular_endings(thesaurus: Thesaurus) -> None:
    assert [with_s(word) for word in ("cat", "box", "fly", "day", "wish")] == [
        "cats",
        "boxes",
        "flies",
        "days",
        "wishes",
    ]
    inflection = Inflection(thesaurus.wordnet)
    assert inflection.forms("move", "verb") == {"moves", "moving", "moved"}
    assert inflection.forms("fast", "adv") == set()


def test_parts_of_speech(thesaurus: Thesaurus) -> None:
    tagger = MostFrequentSense(thesaurus.wordnet)
    words = ["dog", "run", "dogs", "hot", "slowly", "the", "Dog", "x1", "a", "unknown", "children"]
    assert tagger.tag(words) == ["noun", "verb", "noun", "adj", "adv", None, None, None, None, None, "noun"]


def test_spacy_reads_context(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: str, disable: list[str]) -> Any:
        assert (model, "ner" in disable) == ("small", True)
        pipeline: Any = lambda words: [SimpleNamespace(pos_="NOUN" if word == "dog" else "PROPN") for word in words]  # noqa: E731
        return type("Pipeline", (), {"vocab": None, "__call__": staticmethod(pipeline)})()

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "spacy.tokens", SimpleNamespace(Doc=lambda vocab, words: words))
    assert Spacy("small").tag(["dog", "Rex"]) == ["noun", None]


def test_spacy_without_its_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, disable: list[str]) -> None:
        raise OSError(f"[E050] Can't find model '{name}'. It doesn't seem to be a Python package or a valid path.")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    with pytest.raises(
        InputError, match=r"^`transform\.spacy_model` .*`en_core_web_sm` is.*`python -m spacy download en"
    ):
        Spacy()


def test_without_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match=r"lmmodules\[spacy\]"):
        Spacy()


def draws(size: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((2, size))


WORDS = [DOG, HOT, CHILD, RAN]


@pytest.mark.parametrize(("kind", "expected"), [(0.0, "hypernym"), (0.5, "synonym"), (0.9, "inflection")])
def test_one_kind_per_block(thesaurus: Thesaurus, kind: float, expected: str) -> None:
    chosen = WordReplacement(thesaurus).positive(WORDS, 100, kind, draws(4))
    assert {choice.kind for choice in chosen.values()} == {expected}
    for place, choice in chosen.items():
        assert choice.text in thesaurus.replacements(WORDS[place], choice.kind)


def test_falling_back(thesaurus: Thesaurus) -> None:
    replacement = WordReplacement(thesaurus)
    assert replacement.positive([HOT], 9, 0.0, draws(1))[0].kind == "synonym"  # it has no hypernym
    assert replacement.negative([DOG], 9, 0.0, draws(1))[0].kind == "random"  # and this no opposite
    assert replacement.negative(WORDS, 100, 0.4, draws(4)).keys() == {1}
    assert {choice.kind for choice in replacement.negative(WORDS, 100, 0.6, draws(4)).values()} == {"random"}
    assert replacement.positive([], 9, 0.0, draws(0)) == {}


def test_each_word_by_a_kind_of_its_own(thesaurus: Thesaurus) -> None:
    replacement = WordReplacement(thesaurus, mode="per_word")
    kinds = {c.kind for seed in range(20) for c in replacement.positive(WORDS, 100, 0.0, draws(4, seed)).values()}
    assert kinds == {"synonym", "hypernym", "inflection"}
    chosen = replacement.negative(WORDS, 100, 0.9, draws(4))
    assert {place: choice.kind for place, choice in chosen.items()} == {
        0: "random", 1: "antonym", 2: "random", 3: "random",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "share", "most"), [("per_block", 0.5, 4), ("per_block", 0.25, 2), ("per_word", 0.25, 2)]
)
def test_shares(thesaurus: Thesaurus, mode: Any, share: float, most: int) -> None:
    replacement = WordReplacement(thesaurus, mode=mode, positive_share=share, negative_share=share)
    assert len(replacement.positive(WORDS, 8, 0.9, draws(4))) == most
    assert len(replacement.negative(WORDS, 8, 0.9, draws(4))) == most


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "often"}, "`mode` must be one of per_block, per_word"),
        ({"positive_share": 0.0}, "`positive_share` must be above 0"),
        ({"negative_share": 1.5}, r"`negative_share` .* use `transform.negative_share=0.5`"),
    ],
)
def test_refuses(thesaurus: Thesaurus, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        WordReplacement(thesaurus, **options)
